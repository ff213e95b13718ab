//! A float model to test with, of a quantised one.
//!
//! A quantised model lies on the grid of its type: requantising it to that type is lossless and proves nothing. So the
//! weights are widened, moved by uniform noise of half a local quantisation step (as far as rounding moved them when
//! the model was made, which leaves no grid), and stored as BF16. Vectors stay what they are.

use std::path::Path;

use edgeward_kernels::block::steps;
use edgeward_kernels::{DType, dequantize};
use edgeward_model::gguf::{Gguf, GgufWriter, Value};
use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::Error;

/// The key that says of which type most of a file's weights are.
const FILE_TYPE_KEY: &str = "general.file_type";
/// "Mostly BF16" (`enum llama_ftype` in `llama.h`).
const MOSTLY_BF16: u32 = 32;

/// Writes the float teacher of the GGUF file `source` to `path`; the same `seed` gives the same file.
///
/// # Errors
/// If the source cannot be read, or the file not be written.
pub fn make_teacher(source: &Path, path: &Path, seed: u64) -> Result<(), Error> {
    let gguf = Gguf::open(source)?;
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        let value = if key == FILE_TYPE_KEY { Value::U32(MOSTLY_BF16) } else { value };
        // The alignment is the writer's own.
        if key != "general.alignment" {
            writer.key(key, value)?;
        }
    }
    for tensor in gguf.tensors() {
        let dtype = if tensor.dtype.is_quantized() { DType::BF16 } else { tensor.dtype };
        writer.tensor(tensor.name, tensor.dims, dtype)?;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    writer.write_file(path, |name, out| {
        let tensor = gguf.tensor(name).expect("tensors of the writer are those of the file");
        if !tensor.dtype.is_quantized() {
            return out.write_all(tensor.data);
        }
        let matrix = tensor.as_matrix();
        let mut weights = vec![0.0; matrix.n_cols];
        let mut noise = vec![0.0; matrix.n_cols];
        let mut bytes = Vec::with_capacity(2 * matrix.n_cols);
        for row in tensor.data.chunks_exact(tensor.data.len() / matrix.n_rows) {
            dequantize(tensor.dtype, row, &mut weights);
            steps(tensor.dtype, row, &mut noise);
            bytes.clear();
            for (weight, step) in weights.iter().zip(&noise) {
                // Twenty-four bits: a uniform number in -1/2..1/2.
                let uniform = (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
                bytes.extend(bf16::from_f32(weight + uniform * step).to_le_bytes());
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Two Q4_1 blocks, of steps 0.5 and 4, and a vector.
    fn source() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.gguf");
        let mut writer = GgufWriter::new();
        writer.key("general.architecture", Value::String("llama")).unwrap();
        writer.key(FILE_TYPE_KEY, Value::U32(3)).unwrap();
        writer.tensor("w", &[64, 1], DType::Q4_1).unwrap();
        writer.tensor("v", &[2], DType::F32).unwrap();
        let fill = |name: &str, out: &mut dyn Write| match name {
            "w" => {
                for d in [0x3800u16, 0x4400] {
                    out.write_all(&d.to_le_bytes())?;
                    out.write_all(&0x3c00u16.to_le_bytes())?;
                    out.write_all(&[0x35; 16])?;
                }
                Ok(())
            }
            _ => out.write_all(&[1, 2, 3, 4, 5, 6, 7, 0x40]),
        };
        writer.write_file(&path, fill).unwrap();
        (dir, path)
    }

    #[test]
    fn weights_move_by_at_most_half_a_step_and_leave_the_grid() {
        let (dir, source) = source();
        let path = dir.path().join("teacher.gguf");
        make_teacher(&source, &path, 7).unwrap();
        let (old, new) = (Gguf::open(&source).unwrap(), Gguf::open(&path).unwrap());
        assert_eq!(new.get(FILE_TYPE_KEY).unwrap().as_u64(), Some(32));
        assert_eq!(new.tensor("v").unwrap().data, old.tensor("v").unwrap().data);
        let tensor = new.tensor("w").unwrap();
        assert_eq!(tensor.dtype, DType::BF16);
        let (mut before, mut after) = (vec![0.0; 64], vec![0.0; 64]);
        dequantize(DType::Q4_1, old.tensor("w").unwrap().data, &mut before);
        dequantize(DType::BF16, tensor.data, &mut after);
        for (block, step) in [(0, 0.5f32), (32, 4.0)] {
            let moved: Vec<f32> = (block..block + 32).map(|i| after[i] - before[i]).collect();
            // The rounding to BF16 adds a little: 2^-9 of the weight at most, which is below 21.
            assert!(moved.iter().all(|m| m.abs() <= step / 2.0 + 0.05), "{moved:?}");
            assert!(moved.iter().filter(|m| m.abs() > step / 8.0).count() > 16, "{moved:?}");
        }
    }

    #[test]
    fn a_seed_gives_one_file() {
        let (dir, source) = source();
        let make = |name: &str, seed| {
            let path = dir.path().join(name);
            make_teacher(&source, &path, seed).unwrap();
            std::fs::read(path).unwrap()
        };
        assert_eq!(make("a", 1), make("b", 1));
        assert_ne!(make("a", 1), make("c", 2));
    }
}
