//! What the property tests and the fuzz targets do with bytes that claim to be a file: read all there is to read, where
//! they are accepted, and hold the reader to what it promises.

use std::path::Path;
use std::sync::LazyLock;

use edgeward_model::gguf::{Gguf, Value};
use edgeward_model::safetensors::Safetensors;
use edgeward_model::{Adapter, Config, Model};

/// Of the model that adapters are read for.
static TINY: LazyLock<Config> = LazyLock::new(|| {
    let bytes = include_bytes!("../../../../testdata/tiny/llama.gguf").to_vec();
    Model::from_gguf(Gguf::from_bytes(bytes).unwrap(), Path::new("llama.gguf")).unwrap().config().clone()
});

/// Reads a GGUF file.
pub fn read_gguf(bytes: Vec<u8>) {
    let Ok(file) = Gguf::from_bytes(bytes) else { return };
    for (key, value) in file.metadata() {
        assert_eq!(file.get(key).map(|value| value.value_type()), Some(value.value_type()));
        if let Some(array) = value.as_array() {
            read_array(array.values(), array.len());
        }
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor(tensor.name).map(|tensor| tensor.offset), Some(tensor.offset));
        let matrix = tensor.as_matrix();
        assert_eq!(matrix.data.len(), matrix.n_rows * matrix.dtype.row_bytes(matrix.n_cols).unwrap());
    }
    if let Ok(adapter) = Adapter::from_gguf(&file, Path::new("damaged.gguf"), &TINY) {
        for pair in adapter.pairs() {
            assert!(pair.scale.is_finite() && !pair.a.data.is_empty() && !pair.b.data.is_empty());
        }
    }
    if let Ok(model) = Model::from_gguf(file, Path::new("damaged.gguf")) {
        assert!(model.config().check().is_ok());
    }
}

fn read_array<'a, E>(values: impl Iterator<Item = Result<Value<'a>, E>>, len: usize) {
    let mut n = 0;
    for value in values {
        n += 1;
        if let Ok(Value::Array(inner)) = value {
            read_array(inner.values(), inner.len());
        }
    }
    assert_eq!(n, len);
}

/// Reads a safetensors file.
pub fn read_safetensors(bytes: Vec<u8>) {
    let n_bytes = bytes.len();
    let Ok(file) = Safetensors::from_bytes(bytes) else { return };
    for tensor in file.tensors() {
        assert_eq!(file.tensor(tensor.name).map(|tensor| tensor.shape), Some(tensor.shape));
        let matrix = tensor.as_matrix();
        assert_eq!(matrix.data.len(), matrix.n_rows * matrix.dtype.row_bytes(matrix.n_cols).unwrap());
    }
    assert!(file.tensors().map(|tensor| tensor.data.len()).sum::<usize>() < n_bytes);
}
