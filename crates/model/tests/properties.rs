//! Properties of the readers that no list of cases exhausts: what is written is read back, and no damage makes them
//! panic.

mod reading;

use std::io::Write;

use edgeward_kernels::DType;
use edgeward_model::gguf::{ArrayBuf, Gguf, GgufWriter, Value, ValueType};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use reading::{read_gguf, read_safetensors};

/// A metadata value that owns what it holds.
#[derive(Clone, Debug)]
enum Owned {
    Scalar(ValueType, u64),
    Text(String),
    Array(ArrayBuf),
}

impl Owned {
    fn view(&self) -> Value<'_> {
        match self {
            Owned::Scalar(value_type, bits) => scalar(*value_type, *bits),
            Owned::Text(text) => Value::String(text),
            Owned::Array(array) => array.value(),
        }
    }
}

/// A value of that type made of those bits. NaN is left out, for it is not equal to itself.
fn scalar(value_type: ValueType, bits: u64) -> Value<'static> {
    match value_type {
        ValueType::U8 => Value::U8(bits as u8),
        ValueType::I8 => Value::I8(bits as i8),
        ValueType::U16 => Value::U16(bits as u16),
        ValueType::I16 => Value::I16(bits as i16),
        ValueType::U32 => Value::U32(bits as u32),
        ValueType::I32 => Value::I32(bits as i32),
        ValueType::F32 => {
            Value::F32(Some(f32::from_bits(bits as u32)).filter(|v| !v.is_nan()).unwrap_or(0.5))
        }
        ValueType::Bool => Value::Bool(bits & 1 == 1),
        ValueType::U64 => Value::U64(bits),
        ValueType::I64 => Value::I64(bits as i64),
        ValueType::F64 => Value::F64(Some(f64::from_bits(bits)).filter(|v| !v.is_nan()).unwrap_or(0.5)),
        ValueType::String | ValueType::Array => unreachable!("not scalars"),
    }
}

fn scalar_type() -> impl Strategy<Value = ValueType> {
    let scalars = ValueType::ALL.into_iter().filter(|t| !matches!(t, ValueType::String | ValueType::Array));
    select(scalars.collect::<Vec<_>>())
}

fn flat_array() -> impl Strategy<Value = ArrayBuf> {
    let scalars = (scalar_type(), prop::collection::vec(any::<u64>(), 0..20))
        .prop_map(|(t, all)| ArrayBuf::new(t, all.into_iter().map(move |bits| scalar(t, bits))));
    let strings = prop::collection::vec(any::<String>(), 0..10)
        .prop_map(|all| ArrayBuf::strings(all.iter().map(String::as_str)));
    prop_oneof![scalars, strings]
}

fn value() -> impl Strategy<Value = Owned> {
    let array = flat_array().prop_recursive(3, 16, 4, |inner| {
        prop::collection::vec(inner, 0..4)
            .prop_map(|all| ArrayBuf::new(ValueType::Array, all.iter().map(ArrayBuf::value)))
    });
    prop_oneof![
        (scalar_type(), any::<u64>()).prop_map(|(t, bits)| Owned::Scalar(t, bits)),
        any::<String>().prop_map(Owned::Text),
        array.prop_map(Owned::Array),
    ]
}

/// Dimensions in blocks for the first, type, and the byte that fills it.
fn tensor() -> impl Strategy<Value = (Vec<usize>, DType, u8)> {
    let dims = prop::collection::vec(1usize..4, 1..=4);
    (dims, select(DType::ALL.to_vec()), any::<u8>()).prop_map(|(mut dims, dtype, fill)| {
        dims[0] *= dtype.block_len();
        (dims, dtype, fill)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        metadata in prop::collection::btree_map("[a-z]{1,8}(\\.[a-z_é]{1,8}){0,3}", value(), 0..12),
        tensors in prop::collection::btree_map("\\PC{1,12}", tensor(), 0..8),
    ) {
        let mut writer = GgufWriter::new();
        for (key, value) in &metadata {
            writer.key(key, value.view()).unwrap();
        }
        for (name, (dims, dtype, _)) in &tensors {
            writer.tensor(name, dims, *dtype).unwrap();
        }
        let mut bytes = Vec::new();
        let bytes_of = |dims: &[usize], dtype: DType| dtype.row_bytes(dims[0]).unwrap() * dims[1..].iter().product::<usize>();
        let fill = |name: &str, out: &mut dyn Write| {
            let (dims, dtype, byte) = &tensors[name];
            out.write_all(&vec![*byte; bytes_of(dims, *dtype)])
        };
        writer.write_to(&mut bytes, fill).unwrap();

        let file = Gguf::from_bytes(bytes).unwrap();
        prop_assert_eq!(file.metadata().len(), metadata.len());
        for (key, value) in &metadata {
            prop_assert_eq!(file.get(key), Some(value.view()));
        }
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (name, (dims, dtype, byte)) in &tensors {
            let tensor = file.tensor(name).unwrap();
            prop_assert_eq!((tensor.dims, tensor.dtype), (&dims[..], *dtype));
            prop_assert_eq!(tensor.data.len(), bytes_of(dims, *dtype));
            prop_assert!(tensor.data.iter().all(|b| b == byte));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_gguf([&b"GGUF\x03\0\0\0"[..], &bytes].concat());
        read_gguf(bytes.clone());
        read_safetensors(bytes);
    }

    #[test]
    fn damage_is_read_or_refused(damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..8), cut in any::<Index>()) {
        for (original, read) in files() {
            let mut bytes = original;
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            read(bytes.clone());
            bytes.truncate(cut.index(bytes.len()));
            read(bytes);
        }
    }
}

/// A valid file, and what reads it.
type Sample = (Vec<u8>, fn(Vec<u8>));

fn files() -> [Sample; 3] {
    let adapter = include_bytes!("../../../testdata/adapter/few.gguf").to_vec();
    [(gguf_file(), read_gguf), (adapter, read_gguf), (safetensors_file(), read_safetensors)]
}

#[test]
fn every_single_damaged_byte_is_read_or_refused() {
    for (original, read) in files() {
        for at in 0..original.len() {
            for change in [0x00, 0x01, 0x7f, 0x80, 0xff, original[at] ^ 1, original[at] ^ 0x80, b'"', b'}'] {
                let mut bytes = original.clone();
                bytes[at] = change;
                read(bytes);
            }
        }
    }
}

/// Two keys of each shape and three tensors.
fn gguf_file() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    let tokens = ArrayBuf::strings(["<s>", "Ġa", "é"]);
    let scores = ArrayBuf::f32s([0.0, -1.0, -2.0]);
    let nested = ArrayBuf::new(ValueType::Array, [tokens.value(), scores.value()]);
    writer
        .key("general.architecture", Value::String("llama"))
        .and_then(|writer| writer.key("llama.block_count", Value::U32(1)))
        .and_then(|writer| writer.key("llama.embedding_length", Value::U32(4)))
        .and_then(|writer| writer.key("llama.attention.head_count", Value::U16(2)))
        .and_then(|writer| writer.key("llama.context_length", Value::U64(8)))
        .and_then(|writer| writer.key("flag", Value::Bool(true)))
        .and_then(|writer| writer.key("tokenizer.ggml.tokens", tokens.value()))
        .and_then(|writer| writer.key("tokenizer.ggml.scores", scores.value()))
        .and_then(|writer| writer.key("nested", nested.value()))
        .and_then(|writer| writer.tensor("token_embd.weight", &[4, 3], DType::F32))
        .and_then(|writer| writer.tensor("output_norm.weight", &[4], DType::F32))
        .and_then(|writer| writer.tensor("blk.0.attn_q.weight", &[32, 2], DType::Q4_0))
        .unwrap();
    let sizes = [48, 16, 36];
    let mut sizes = sizes.into_iter();
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, |_, out| out.write_all(&vec![1; sizes.next().unwrap()])).unwrap();
    bytes
}

fn safetensors_file() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[1; 22]].concat()
}
