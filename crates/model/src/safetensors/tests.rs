//! One test for each attack.

use super::*;

/// A file of that header (any text) and that many bytes of data.
fn file(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data_bytes, 7);
    out
}

fn tensor(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn refused(header: &str, data_bytes: usize) -> SafetensorsError {
    let error = Safetensors::from_bytes(file(header, data_bytes)).expect_err("this file must be refused");
    assert!(error.to_string().len() > 20, "{error}");
    error
}

/// Asserts which error it is.
macro_rules! assert_refused {
    ($tensors:expr, $data_bytes:expr, $($pattern:tt)+) => {
        let error = refused(&format!("{{{}}}", $tensors.join(",")), $data_bytes);
        assert!(matches!(&error, $($pattern)+), "{error:?}");
    };
}

#[test]
fn a_valid_file_is_read() {
    let tensors = [
        tensor("m", "F32", "[2,3]", 0, 24),
        r#""__metadata__":{"format":"pt","a":"é"}"#.to_owned(),
        tensor("v", "BF16", "[5]", 24, 34),
        tensor("number", "F16", "[]", 34, 36),
        tensor("cube", "F16", "[2,3,4]", 36, 84),
    ];
    let file = Safetensors::from_bytes(file(&format!("{{{}}}   ", tensors.join(",")), 84)).unwrap();
    assert_eq!(file.metadata().collect::<Vec<_>>(), [("format", "pt"), ("a", "é")]);
    assert_eq!(file.tensors().map(|tensor| tensor.name).collect::<Vec<_>>(), ["cube", "m", "number", "v"]);
    let shape = |name| {
        let matrix = file.tensor(name).unwrap().as_matrix();
        assert_eq!(matrix.data.len(), matrix.n_rows * matrix.dtype.row_bytes(matrix.n_cols).unwrap());
        (matrix.dtype, matrix.n_rows, matrix.n_cols)
    };
    assert_eq!(shape("m"), (DType::F32, 2, 3));
    assert_eq!(shape("v"), (DType::BF16, 1, 5));
    assert_eq!(shape("number"), (DType::F16, 1, 1));
    assert_eq!(shape("cube"), (DType::F16, 6, 4));
    assert!(file.tensor("w").is_none());
    assert_eq!(Safetensors::from_bytes(file_of_nothing()).unwrap().tensors().len(), 0);
}

fn file_of_nothing() -> Vec<u8> {
    file("{}", 0)
}

#[test]
fn truncated_anywhere() {
    let bytes = file(&format!("{{{}}}", tensor("m", "F32", "[2,3]", 0, 24)), 24);
    for len in 0..bytes.len() {
        let error =
            Safetensors::from_bytes(bytes[..len].to_vec()).expect_err("a part of a file must be refused");
        let expected = match len {
            0..8 => matches!(error, SafetensorsError::Truncated { file_bytes } if file_bytes == len),
            _ if len < bytes.len() - 24 => matches!(error, SafetensorsError::HeaderPastEnd { .. }),
            _ => matches!(error, SafetensorsError::TensorPastEnd { .. }),
        };
        assert!(expected, "{len}: {error:?}");
    }
}

#[test]
fn absurd_header_length() {
    for len in [MAX_HEADER_BYTES as u64 + 1, 1 << 40, u64::MAX] {
        let error = Safetensors::from_bytes([&len.to_le_bytes()[..], b"{}"].concat()).unwrap_err();
        assert!(matches!(error, SafetensorsError::HeaderTooLong { len: l } if l == len), "{error:?}");
    }
    let error = Safetensors::from_bytes([&99u64.to_le_bytes()[..], b"{}"].concat()).unwrap_err();
    assert!(matches!(error, SafetensorsError::HeaderPastEnd { len: 99, file_bytes: 10 }), "{error:?}");
}

#[test]
fn header_that_is_no_json_or_not_the_right_json() {
    let good = tensor("m", "F32", "[1]", 0, 4);
    for header in [
        "",
        "[]",
        "null",
        "{",
        "{} {}",
        "\u{0}",
        r#"{"m":1}"#,
        r#"{"m":{"dtype":"F32","shape":[1]}}"#,
        r#"{"m":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#,
        r#"{"m":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"m":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"m":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"m":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}"#,
        r#"{"m":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}"#,
        r#"{"m":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        &format!("{{{good},}}"),
    ] {
        let error = refused(header, 4);
        assert!(matches!(error, SafetensorsError::HeaderNotJson(_)), "{header}: {error:?}");
        assert!(std::error::Error::source(&error).is_some());
    }
    let mut bytes = file(&format!("{{{good}}}"), 4);
    bytes[10] = 0xff;
    assert!(matches!(Safetensors::from_bytes(bytes), Err(SafetensorsError::HeaderNotJson(_))));
}

#[test]
fn deep_json() {
    for open in ["{\"a\":", "["] {
        let error = refused(&format!("{{\"m\":{{\"shape\":{}", open.repeat(1_000_000)), 0);
        assert!(matches!(error, SafetensorsError::HeaderNotJson(_)), "{error:?}");
        let error = refused(&open.repeat(1_000_000), 0);
        assert!(matches!(error, SafetensorsError::HeaderNotJson(_)), "{error:?}");
    }
}

#[test]
fn too_many_tensors() {
    let tensors: Vec<_> =
        (0..=MAX_TENSORS as u64).map(|i| tensor(&i.to_string(), "F16", "[1]", 2 * i, 2 * i + 2)).collect();
    let data_bytes = 2 * tensors.len();
    assert_refused!(tensors, data_bytes, SafetensorsError::TooManyTensors { found } if *found == MAX_TENSORS + 1);
    let last = format!("{{{}}}", tensors[..MAX_TENSORS].join(","));
    assert_eq!(Safetensors::from_bytes(file(&last, 2 * MAX_TENSORS)).unwrap().tensors().len(), MAX_TENSORS);
}

#[test]
fn duplicate_tensor() {
    let tensors =
        [tensor("m", "F32", "[1]", 0, 4), tensor("n", "F32", "[1]", 4, 8), tensor("m", "F32", "[1]", 8, 12)];
    assert_refused!(tensors, 12, SafetensorsError::DuplicateTensor { name } if name == "m");
    let escaped = [tensor("m", "F32", "[1]", 0, 4), tensor("\\u006d", "F32", "[1]", 4, 8)];
    assert_refused!(escaped, 8, SafetensorsError::DuplicateTensor { name } if name == "m");
}

#[test]
fn shapes_that_cannot_be() {
    assert_refused!([tensor("m", "F32", "[0,4]", 0, 0)], 0, SafetensorsError::ZeroDim { .. });
    let many = format!("[{}1]", "1,".repeat(MAX_DIMS));
    assert_refused!([tensor("m", "F32", &many, 0, 4)], 4, SafetensorsError::TooManyDims { n_dims, .. } if *n_dims == 9);
    for shape in ["[18446744073709551615]", "[4294967296,4294967296]", "[4611686018427387904]"] {
        assert_refused!([tensor("m", "F32", shape, 0, 4)], 4, SafetensorsError::TensorOverflow { .. });
    }
}

#[test]
fn unsupported_types_are_refused_by_name() {
    for name in ["BOOL", "U8", "I8", "I16", "I32", "I64", "F64", "F8_E4M3", "F8_E5M2", "f32", ""] {
        let error = refused(&format!("{{{}}}", tensor("m", name, "[1]", 0, 4)), 4);
        assert!(
            matches!(&error, SafetensorsError::UnsupportedDType { dtype, .. } if dtype == name),
            "{error:?}"
        );
        assert!(error.to_string().contains(name));
    }
    let long = "x".repeat(100_000);
    assert!(refused(&format!("{{{}}}", tensor("m", &long, "[1]", 0, 4)), 4).to_string().len() < 300);
}

#[test]
fn offsets_that_cannot_be() {
    assert_refused!(
        [tensor("m", "F32", "[1]", 4, 0)],
        4,
        SafetensorsError::ReversedOffsets { start: 4, end: 0, .. }
    );
    for (start, end) in [(1, 5), (4, 8), (u64::MAX - 4, u64::MAX)] {
        assert_refused!([tensor("m", "F32", "[1]", start, end)], 4, SafetensorsError::TensorPastEnd { .. });
    }
    assert_refused!(
        [tensor("m", "F32", "[2]", 0, 4)],
        4,
        SafetensorsError::WrongSize { expected: 8, found: 4, .. }
    );
    assert_refused!(
        [tensor("m", "F16", "[1]", 0, 4)],
        4,
        SafetensorsError::WrongSize { expected: 2, found: 4, .. }
    );
}

#[test]
fn overlapping_tensors() {
    let tensors = [tensor("a", "F32", "[2]", 0, 8), tensor("b", "F32", "[2]", 4, 12)];
    assert_refused!(tensors, 12, SafetensorsError::OverlappingTensors { first, second } if first == "a" && second == "b");
    let same = [tensor("a", "F32", "[1]", 0, 4), tensor("b", "F32", "[1]", 0, 4)];
    assert_refused!(same, 4, SafetensorsError::OverlappingTensors { .. });
}

#[test]
fn holes() {
    let at = |start| [tensor("a", "F32", "[1]", 0, 4), tensor("b", "F32", "[1]", start, start + 4)];
    assert_refused!(at(8), 12, SafetensorsError::Hole { start: 4, end: 8 });
    assert_refused!(at(4), 9, SafetensorsError::Hole { start: 8, end: 9 });
    assert_refused!([tensor("a", "F32", "[1]", 4, 8)], 8, SafetensorsError::Hole { start: 0, end: 4 });
    assert_refused!([""; 0], 1, SafetensorsError::Hole { start: 0, end: 1 });
}

/// A folder with an index of that text and the two files `one` (tensor a) and `two` (tensors b, c).
fn folder(index: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let one = format!("{{{}}}", tensor("a", "F32", "[1]", 0, 4));
    let two = format!("{{{},{}}}", tensor("b", "F32", "[1]", 0, 4), tensor("c", "F32", "[1]", 4, 8));
    std::fs::write(folder.path().join("one.safetensors"), file(&one, 4)).unwrap();
    std::fs::write(folder.path().join("two.safetensors"), file(&two, 8)).unwrap();
    std::fs::write(folder.path().join("index.json"), index).unwrap();
    folder
}

fn open(index: &str) -> Result<Shards, LoadError> {
    Shards::open_index(&folder(index).path().join("index.json"))
}

fn refused_index(weight_map: &str) -> SafetensorsError {
    match open(&format!(r#"{{"weight_map":{{{weight_map}}}}}"#)) {
        Err(LoadError::Safetensors { source, .. }) => source,
        other => panic!("this index must be refused: {other:?}"),
    }
}

const AB: &str = r#""a":"one.safetensors","b":"two.safetensors""#;

#[test]
fn several_files_are_one_model() {
    let index = format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{{AB},"c":"two.safetensors"}}}}"#);
    let shards = open(&index).unwrap();
    assert_eq!(shards.files().len(), 2);
    assert_eq!(shards.tensors().map(|tensor| tensor.name).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn index_and_files_that_disagree() {
    let error = refused_index(AB);
    assert!(matches!(&error, SafetensorsError::NotInIndex { name, .. } if name == "c"), "{error:?}");
    let error = refused_index(&format!(r#"{AB},"c":"one.safetensors""#));
    assert!(matches!(&error, SafetensorsError::NotInIndex { name, .. } if name == "c"), "{error:?}");
    let error = refused_index(&format!(r#"{AB},"c":"two.safetensors","d":"one.safetensors""#));
    assert!(matches!(&error, SafetensorsError::NotInShard { name, .. } if name == "d"), "{error:?}");
    let error = refused_index(&format!(r#"{AB},"c":"two.safetensors","a":"two.safetensors""#));
    assert!(matches!(&error, SafetensorsError::DuplicateInIndex { name } if name == "a"), "{error:?}");
    let error = refused_index(&format!(r#"{AB},"c":"three.safetensors""#));
    assert!(matches!(error, SafetensorsError::NotInIndex { .. } | SafetensorsError::Io(_)), "{error:?}");
}

#[test]
fn paths_out_of_the_folder() {
    let long = format!("{}.safetensors", "x".repeat(1 << 20));
    for name in [
        "../one.safetensors",
        "/etc/one.safetensors",
        "..\\\\one.safetensors",
        "C:one.safetensors",
        "sub/one.safetensors",
        ".safetensors",
        "..safetensors",
        "",
        ".",
        "..",
        "one.safetensors\\u0000",
        "one.bin",
        "one.safetensors/",
        "/",
    ] {
        let error = refused_index(&format!(r#""a":"{name}""#));
        assert!(matches!(error, SafetensorsError::BadShardName { .. }), "{name}: {error:?}");
    }
    assert!(matches!(refused_index(&format!(r#""a":"{long}""#)), SafetensorsError::Io(_)));
    assert!(refused_index(&format!(r#""a":"/{long}""#)).to_string().len() < 300);
}

#[test]
fn too_many_files() {
    let map: Vec<_> = (0..=MAX_SHARDS).map(|i| format!(r#""t{i}":"{i}.safetensors""#)).collect();
    assert!(
        matches!(refused_index(&map.join(",")), SafetensorsError::TooManyShards { found } if found == MAX_SHARDS + 1)
    );
}

#[test]
fn index_that_is_no_json_or_not_the_right_json() {
    let deep = "[".repeat(1_000_000);
    for index in ["", "[]", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, &deep] {
        match open(index) {
            Err(LoadError::Safetensors { source: SafetensorsError::IndexNotJson(_), .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_small_file_that_is_large() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, [b' '; 100]).unwrap();
    assert_eq!(read_limited(&path, 100).unwrap().len(), 100);
    match read_limited(&path, 99) {
        Err(LoadError::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::FileTooLarge),
        other => panic!("{other:?}"),
    }
}
