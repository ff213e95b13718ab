//! Round trips, and one test for each attack.

use std::io::Write;

use edgeward_kernels::DType;

use super::*;

/// A file laid out by hand, so that every field can be wrong.
#[derive(Clone)]
struct Raw {
    magic: [u8; 4],
    version: u32,
    n_tensors: Option<u64>,
    n_keys: Option<u64>,
    keys: Vec<Vec<u8>>,
    tensors: Vec<RawTensor>,
    data: Vec<u8>,
}

#[derive(Clone)]
struct RawTensor {
    name: Vec<u8>,
    dims: Vec<u64>,
    type_id: u32,
    offset: u64,
}

impl Raw {
    /// Two tensors of 2 x 4 F32, one key.
    fn valid() -> Raw {
        Raw {
            magic: MAGIC,
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: vec![key("general.architecture", 8, &string(b"llama"))],
            tensors: vec![RawTensor::f32("a", &[4, 2], 0), RawTensor::f32("b", &[4, 2], 32)],
            data: vec![7; 64],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    fn refused(&self) -> GgufError {
        Gguf::from_bytes(self.bytes()).expect_err("this file must be refused")
    }
}

impl RawTensor {
    fn f32(name: &str, dims: &[u64], offset: u64) -> RawTensor {
        RawTensor { name: name.into(), dims: dims.to_vec(), type_id: 0, offset }
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn key(name: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
    [&string(name.as_bytes()), &type_id.to_le_bytes()[..], value].concat()
}

fn array(element_type: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

/// Asserts which error it is, and that it tells its reader something.
macro_rules! assert_refused {
    ($raw:expr, $($pattern:tt)+) => {
        let error = $raw.refused();
        assert!(matches!(error, $($pattern)+), "{error:?}");
        assert!(error.to_string().len() > 20, "{error}");
    };
}

#[test]
fn a_valid_file_is_read() {
    let file = Gguf::from_bytes(Raw::valid().bytes()).unwrap();
    assert_eq!((file.version(), file.alignment()), (3, 32));
    assert_eq!(file.get("general.architecture"), Some(Value::String("llama")));
    assert_eq!(file.get("general.name"), None);
    let names: Vec<_> = file.tensors().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["a", "b"]);
    let b = file.tensor("b").unwrap();
    assert_eq!((b.dims, b.dtype, b.data), (&[4, 2][..], DType::F32, &[7; 32][..]));
    assert_eq!((b.as_matrix().n_rows, b.as_matrix().n_cols), (2, 4));
    assert!(file.tensor("c").is_none());
    let older = Gguf::from_bytes(Raw { version: 2, ..Raw::valid() }.bytes()).unwrap();
    assert_eq!(older.version(), 2);
}

#[test]
fn every_value_type_is_written_and_read() {
    let strings = ArrayBuf::strings(["", "Ġt he", "日本"]);
    let floats = ArrayBuf::f32s([0.5, -1000.0]);
    let integers = ArrayBuf::i32s([-1, 3]);
    let doubles = ArrayBuf::new(ValueType::F64, [Value::F64(0.1)]);
    let nested = ArrayBuf::new(ValueType::Array, [strings.value(), integers.value()]);
    let empty = ArrayBuf::new(ValueType::U64, []);
    let values = [
        Value::U8(255),
        Value::I8(-128),
        Value::U16(65535),
        Value::I16(-32768),
        Value::U32(u32::MAX),
        Value::I32(i32::MIN),
        Value::F32(1e-5),
        Value::Bool(true),
        Value::Bool(false),
        Value::String("<|im_start|>"),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-0.1),
        strings.value(),
        floats.value(),
        integers.value(),
        doubles.value(),
        nested.value(),
        empty.value(),
    ];
    let mut writer = GgufWriter::new();
    for (i, &value) in values.iter().enumerate() {
        writer.key(&format!("key.{i}"), value).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, |_, _| Ok(())).unwrap();

    let file = Gguf::from_bytes(bytes.clone()).unwrap();
    let read: Vec<_> = file.metadata().map(|(_, value)| value).collect();
    assert_eq!(read, values);
    let array = |i: usize| file.get(&format!("key.{i}")).unwrap().as_array().unwrap();
    let texts: Result<Vec<_>, _> = array(13).strings().unwrap().collect();
    assert_eq!(texts.unwrap(), ["", "Ġt he", "日本"]);
    assert_eq!(array(14).floats().unwrap().collect::<Vec<_>>(), [0.5, -1000.0]);
    assert_eq!(array(15).integers().unwrap().collect::<Vec<_>>(), [-1, 3]);
    assert_eq!(array(16).floats().unwrap().collect::<Vec<_>>(), [0.1]);
    let inner: Result<Vec<_>, _> = array(17).values().collect();
    assert_eq!(inner.unwrap(), [strings.value(), integers.value()]);
    assert!(array(18).is_empty() && array(18).strings().is_none() && array(15).floats().is_none());

    let mut copy = GgufWriter::new();
    for (key, value) in file.metadata() {
        copy.key(key, value).unwrap();
    }
    let mut copied = Vec::new();
    copy.write_to(&mut copied, |_, _| Ok(())).unwrap();
    assert_eq!(copied, bytes);
}

#[test]
fn numbers_are_read_as_what_fits() {
    assert_eq!(Value::I32(7).as_u64(), Some(7));
    assert_eq!(Value::I32(-7).as_u64(), None);
    assert_eq!(Value::U64(u64::MAX).as_i64(), None);
    assert_eq!(Value::U64(u64::MAX).as_u64(), Some(u64::MAX));
    assert_eq!(Value::U8(3).as_f64(), Some(3.0));
    assert_eq!(Value::F32(0.5).as_u64(), None);
    assert_eq!(Value::Bool(true).as_u64(), None);
    assert_eq!(Value::String("1").as_f64(), None);
}

#[test]
fn every_element_type_is_written_and_read() {
    let mut writer = GgufWriter::new();
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        writer.tensor(dtype.name(), &[256, 1 + i], dtype).unwrap();
    }
    let fill = |name: &str, out: &mut dyn Write| {
        let i = DType::ALL.iter().position(|dtype| dtype.name() == name).unwrap();
        let row = vec![i as u8; DType::ALL[i].row_bytes(256).unwrap()];
        (0..=i).try_for_each(|_| out.write_all(&row))
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.gguf");
    writer.write_file(&path, fill).unwrap();

    let file = Gguf::open(&path).unwrap();
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        let tensor = file.tensor(dtype.name()).unwrap();
        assert_eq!((tensor.dims, tensor.dtype), (&[256, 1 + i][..], dtype));
        assert_eq!(tensor.data.len(), (1 + i) * dtype.row_bytes(256).unwrap());
        assert!(tensor.data.iter().all(|&byte| byte == i as u8));
        assert_eq!(tensor.offset % 32, 0);
    }
    let mut again = Vec::new();
    writer.write_to(&mut again, fill).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), again, "the same calls give the same bytes");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
}

#[test]
fn truncated_anywhere() {
    let mut raw = Raw::valid();
    raw.keys.push(key("list", 9, &array(8, 2, &[string(b"one"), string(b"two")].concat())));
    let bytes = raw.bytes();
    for len in 0..bytes.len() {
        let error = Gguf::from_bytes(bytes[..len].to_vec()).expect_err("a part of a file must be refused");
        assert!(
            matches!(
                error,
                GgufError::Truncated { .. }
                    | GgufError::TooManyKeys { .. }
                    | GgufError::TooManyTensors { .. }
                    | GgufError::StringTooLong { .. }
                    | GgufError::ArrayTooLong { .. }
                    | GgufError::TensorPastEnd { .. }
            ),
            "{len}: {error:?}"
        );
    }
    assert!(matches!(Gguf::from_bytes(bytes[..20].to_vec()), Err(GgufError::Truncated { offset: 16, .. })));
}

#[test]
fn wrong_magic() {
    assert_refused!(
        Raw { magic: *b"GGML", ..Raw::valid() },
        GgufError::WrongMagic { found: [b'G', b'G', b'M', b'L'] }
    );
}

#[test]
fn big_endian() {
    assert_refused!(Raw { version: 3u32.swap_bytes(), ..Raw::valid() }, GgufError::BigEndian);
}

#[test]
fn unsupported_version() {
    for version in [0, 1, 4, u32::MAX] {
        assert_refused!(Raw { version, ..Raw::valid() }, GgufError::UnsupportedVersion { version: v } if v == version);
    }
}

#[test]
fn absurd_number_of_keys() {
    for n in [1 << 20, u64::MAX] {
        assert_refused!(Raw { n_keys: Some(n), ..Raw::valid() }, GgufError::TooManyKeys { found, max } if found == n && max < 100);
    }
    // A large file does not raise the absolute limit.
    let raw = Raw { n_keys: Some(MAX_KEYS as u64 + 1), data: vec![0; MAX_KEYS * 20], ..Raw::valid() };
    assert_refused!(raw, GgufError::TooManyKeys { max: MAX_KEYS, .. });
}

#[test]
fn absurd_number_of_tensors() {
    for n in [1 << 20, u64::MAX] {
        assert_refused!(Raw { n_tensors: Some(n), ..Raw::valid() }, GgufError::TooManyTensors { found, .. } if found == n);
    }
    let raw =
        Raw { n_tensors: Some(MAX_TENSORS as u64 + 1), data: vec![0; MAX_TENSORS * 40], ..Raw::valid() };
    assert_refused!(raw, GgufError::TooManyTensors { max: MAX_TENSORS, .. });
}

#[test]
fn absurd_string_length() {
    for len in [1 << 20, u64::MAX, u64::MAX - 7] {
        let mut raw = Raw::valid();
        raw.keys.push(key("k", 8, &len.to_le_bytes()));
        assert_refused!(raw, GgufError::StringTooLong { len: l, .. } if l == len);
        raw.keys[1] = key("k", 9, &array(8, 1, &len.to_le_bytes()));
        assert_refused!(raw, GgufError::StringTooLong { len: l, .. } if l == len);
    }
}

#[test]
fn absurd_array_length() {
    for element_type in 0..13 {
        for len in [1 << 20, 1 << 61, u64::MAX] {
            let mut raw = Raw::valid();
            raw.keys.push(key("k", 9, &array(element_type, len, &[])));
            assert_refused!(raw, GgufError::ArrayTooLong { len: l, .. } if l == len);
        }
    }
}

#[test]
fn arrays_nested_too_deep() {
    let nested = |depth| (1..depth).fold(array(0, 1, &[9]), |inner, _| array(9, 1, &inner));
    let mut raw = Raw::valid();
    raw.keys.push(key("k", 9, &nested(MAX_ARRAY_DEPTH)));
    let file = Gguf::from_bytes(raw.bytes()).unwrap();
    let mut value = file.get("k").unwrap();
    for _ in 0..MAX_ARRAY_DEPTH {
        value = value.as_array().unwrap().values().next().unwrap().unwrap();
    }
    assert_eq!(value, Value::U8(9));

    for depth in [MAX_ARRAY_DEPTH + 1, 10_000] {
        raw.keys[1] = key("k", 9, &nested(depth));
        assert_refused!(raw, GgufError::NestedTooDeep { .. });
    }
}

#[test]
fn unknown_value_type() {
    let mut raw = Raw::valid();
    raw.keys.push(key("k", 13, &[0; 8]));
    assert_refused!(raw, GgufError::UnknownValueType { id: 13, .. });
    raw.keys[1] = key("k", 9, &array(99, 0, &[]));
    assert_refused!(raw, GgufError::UnknownValueType { id: 99, .. });
}

#[test]
fn neither_true_nor_false() {
    let mut raw = Raw::valid();
    raw.keys.push(key("k", 7, &[2]));
    assert_refused!(raw, GgufError::InvalidBool { found: 2, .. });
    raw.keys[1] = key("k", 9, &array(7, 2, &[1, 255]));
    assert_refused!(raw, GgufError::InvalidBool { found: 255, .. });
}

#[test]
fn not_utf8() {
    let mut raw = Raw::valid();
    raw.keys.push(key("k", 8, &string(b"\xff")));
    assert_refused!(raw, GgufError::InvalidUtf8 { .. });
    raw.keys[1] = [&string(b"\xc3")[..], &0u32.to_le_bytes(), &[0]].concat();
    assert_refused!(raw, GgufError::InvalidUtf8 { .. });
    let mut raw = Raw::valid();
    raw.tensors[0].name = vec![0x80];
    assert_refused!(raw, GgufError::InvalidUtf8 { .. });

    // In an array it shows when it is read.
    let mut raw = Raw::valid();
    raw.keys.push(key("k", 9, &array(8, 2, &[string(b"fine"), string(b"\xff")].concat())));
    let file = Gguf::from_bytes(raw.bytes()).unwrap();
    let strings: Vec<_> = file.get("k").unwrap().as_array().unwrap().strings().unwrap().collect();
    assert!(matches!(strings[..], [Ok("fine"), Err(GgufError::InvalidUtf8 { .. })]));
}

#[test]
fn duplicate_key() {
    let mut raw = Raw::valid();
    raw.keys.push(key("z", 0, &[1]));
    raw.keys.push(raw.keys[0].clone());
    assert_refused!(raw, GgufError::DuplicateKey { ref key } if key == "general.architecture");
}

#[test]
fn duplicate_tensor() {
    let mut raw = Raw::valid();
    raw.tensors[1].name = b"a".to_vec();
    assert_refused!(raw, GgufError::DuplicateTensor { ref name } if name == "a");
}

#[test]
fn names_empty_or_too_long() {
    let mut raw = Raw::valid();
    raw.keys.push(key("", 0, &[1]));
    assert_refused!(raw, GgufError::EmptyName { .. });
    raw.keys[1] = key(&"k".repeat(MAX_KEY_BYTES + 1), 0, &[1]);
    assert_refused!(raw, GgufError::NameTooLong { max: MAX_KEY_BYTES, .. });
    let mut raw = Raw::valid();
    raw.tensors[0].name = vec![b't'; MAX_TENSOR_NAME_BYTES + 1];
    assert_refused!(raw, GgufError::NameTooLong { max: MAX_TENSOR_NAME_BYTES, .. });
    raw.tensors[0].name = Vec::new();
    assert_refused!(raw, GgufError::EmptyName { .. });
}

#[test]
fn bad_alignment() {
    for value in [0u32, 1, 4, 24, 1 << 17, u32::MAX] {
        let mut raw = Raw::valid();
        raw.keys.push(key(ALIGNMENT_KEY, 4, &value.to_le_bytes()));
        assert_refused!(raw, GgufError::BadAlignment { .. });
    }
    let mut raw = Raw::valid();
    raw.keys.push(key(ALIGNMENT_KEY, 8, &string(b"32")));
    assert_refused!(raw, GgufError::BadAlignment { .. });
}

#[test]
fn another_alignment_is_obeyed() {
    let mut raw = Raw::valid();
    raw.keys.push(key(ALIGNMENT_KEY, 4, &64u32.to_le_bytes()));
    assert_refused!(raw, GgufError::MisalignedTensor { offset: 32, alignment: 64, .. });
    raw.tensors[1].offset = 64;
    raw.data = vec![7; 192];
    let file = Gguf::from_bytes(raw.bytes()).unwrap();
    assert!(file.tensors().all(|tensor| tensor.offset.is_multiple_of(64)));
}

#[test]
fn number_of_dimensions() {
    let mut raw = Raw::valid();
    raw.tensors[0].dims = vec![];
    assert_refused!(raw, GgufError::BadDimCount { n_dims: 0, .. });
    raw.tensors[0].dims = vec![1; 5];
    assert_refused!(raw, GgufError::BadDimCount { n_dims: 5, .. });
    raw.tensors[0].dims = vec![2; 3];
    assert_eq!(Gguf::from_bytes(raw.bytes()).unwrap().tensor("a").unwrap().as_matrix().n_rows, 4);
}

#[test]
fn dimension_of_zero() {
    for dims in [[0, 2], [4, 0]] {
        let mut raw = Raw::valid();
        raw.tensors[0].dims = dims.to_vec();
        assert_refused!(raw, GgufError::ZeroDim { .. });
    }
}

#[test]
fn dimensions_overflow() {
    for dims in [vec![u64::MAX], vec![1 << 32, 1 << 32], vec![1 << 62, 2], vec![1 << 21; 4], vec![1 << 62]] {
        let mut raw = Raw::valid();
        raw.tensors[0].dims = dims;
        assert_refused!(raw, GgufError::TensorOverflow { .. });
    }
}

#[test]
fn row_of_no_whole_block() {
    let mut raw = Raw::valid();
    raw.tensors[0].type_id = type_id(DType::Q4_0);
    raw.tensors[0].dims = vec![33];
    assert_refused!(raw, GgufError::PartialBlock { n_cols: 33, dtype: DType::Q4_0, .. });
}

#[test]
fn unsupported_types_are_refused_by_name() {
    for (id, type_name) in UNSUPPORTED_TYPES {
        let mut raw = Raw::valid();
        raw.tensors[0].type_id = id;
        assert_refused!(raw, GgufError::UnsupportedTensorType { type_name: t, .. } if t == type_name);
        assert!(raw.refused().to_string().contains(type_name));
    }
    for id in [42, 1000, u32::MAX] {
        let mut raw = Raw::valid();
        raw.tensors[0].type_id = id;
        assert_refused!(raw, GgufError::UnknownTensorType { id: i, .. } if i == id);
    }
}

#[test]
fn types_are_numbered_once() {
    let mut ids: Vec<u32> = DType::ALL.into_iter().map(type_id).collect();
    ids.extend(UNSUPPORTED_TYPES.map(|(id, _)| id));
    ids.sort_unstable();
    // ggml's, then ours.
    assert_eq!(ids, (0..=41).chain((2..=6).map(|i| 0x4557_0000 + i)).collect::<Vec<_>>());
}

#[test]
fn misaligned_tensor() {
    let mut raw = Raw::valid();
    raw.tensors[1].offset = 33;
    assert_refused!(raw, GgufError::MisalignedTensor { offset: 33, alignment: 32, .. });
}

#[test]
fn tensor_past_the_end() {
    for offset in [64, 1 << 40, u64::MAX - 31] {
        let mut raw = Raw::valid();
        raw.tensors[1].offset = offset;
        assert_refused!(raw, GgufError::TensorPastEnd { .. });
    }
    let mut raw = Raw::valid();
    raw.tensors[1].dims = vec![1 << 40];
    assert_refused!(raw, GgufError::TensorPastEnd { .. });
}

#[test]
fn overlapping_tensors() {
    let mut raw = Raw::valid();
    raw.tensors[1].offset = 0;
    assert_refused!(raw, GgufError::OverlappingTensors { .. });
    raw = Raw::valid();
    raw.tensors[0].dims = vec![9];
    assert_refused!(raw, GgufError::OverlappingTensors { ref first, ref second } if first == "a" && second == "b");
}

#[test]
fn a_file_that_is_not_there() {
    let error = Gguf::open("no such folder/model.gguf".as_ref()).unwrap_err();
    assert!(matches!(error, GgufError::Io { .. }));
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = GgufWriter::new();
    writer.key("k", Value::U8(1)).unwrap().tensor("t", &[32], DType::Q8_0).unwrap();
    assert!(matches!(writer.key("k", Value::U8(1)), Err(GgufError::DuplicateKey { .. })));
    assert!(matches!(writer.key("", Value::U8(1)), Err(GgufError::EmptyName { .. })));
    assert!(matches!(writer.key(ALIGNMENT_KEY, Value::U32(32)), Err(GgufError::ReservedKey { .. })));
    let deep = (0..MAX_ARRAY_DEPTH)
        .fold(ArrayBuf::new(ValueType::U8, []), |inner, _| ArrayBuf::new(ValueType::Array, [inner.value()]));
    assert!(matches!(writer.key("deep", deep.value()), Err(GgufError::NestedTooDeep { .. })));
    assert!(matches!(writer.tensor("t", &[32], DType::F32), Err(GgufError::DuplicateTensor { .. })));
    assert!(matches!(writer.tensor("u", &[], DType::F32), Err(GgufError::BadDimCount { .. })));
    assert!(matches!(writer.tensor("u", &[33], DType::Q8_0), Err(GgufError::PartialBlock { .. })));
    assert!(matches!(writer.tensor("u", &[32, 0], DType::F32), Err(GgufError::ZeroDim { .. })));
    assert!(matches!(writer.tensor("u", &[usize::MAX], DType::F32), Err(GgufError::TensorOverflow { .. })));
    let long = "u".repeat(MAX_TENSOR_NAME_BYTES + 1);
    assert!(matches!(writer.tensor(&long, &[1], DType::F32), Err(GgufError::NameTooLong { .. })));
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, |_, out| out.write_all(&[0; 34])).unwrap();
    assert_eq!(Gguf::from_bytes(bytes).unwrap().tensors().len(), 1, "what was refused left no trace");
}

#[test]
fn a_tensor_of_too_few_or_too_many_bytes_leaves_no_file() {
    let mut writer = GgufWriter::new();
    writer.tensor("t", &[4], DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for n in [0, 15, 17] {
        let error = writer.write_file(&path, |_, out| out.write_all(&vec![0; n])).unwrap_err();
        assert!(
            matches!(error, GgufError::WrongTensorBytes { expected: 16, written, .. } if written == n),
            "{error:?}"
        );
    }
    let failing = |_: &str, _: &mut dyn Write| Err(std::io::Error::other("no weights today"));
    let error = writer.write_file(&path, failing).unwrap_err();
    assert!(matches!(&error, GgufError::Io { path: at, .. } if *at == path), "{error:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
