//! From a teacher and a choice of types to a file.
//!
//! Calibration text goes through the network twice, layer by layer and side by side: as the teacher computes it, and
//! as the student does with all layers before rounded. The inputs that the student's layer will really see decide how
//! its matrices are rounded ([`crate::rounding`]). Only one layer is in memory at a time, and of the text the residual
//! streams.
//!
//! Each rounded matrix goes to a work folder beside the output at once. A job that was stopped finds them there and goes
//! on: it computes the layers before again, which is quick, and rounds only what is missing. The output appears whole,
//! under its name, when all of it is on the disk.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_engine::{CancelToken, Engine, EngineOptions, Isa, KvType, MatrixInput, Precision};
use edgeward_kernels::{DType, FloatMatrix, Matrix, PackedMatrix, dequantize};
use edgeward_model::gguf::{Gguf, GgufWriter, Value};
use edgeward_model::tensor::{LayerSlot, Slot, Tensor};
use edgeward_model::{Model, TensorBytes};
use half::f16;

use crate::equalize::Scales;
use crate::error::Error;
use crate::eval::Windows;
use crate::hessian::{Factor, Hessian};
use crate::rounding::{self, Effort};

/// Part of the mean of H's diagonal that is added to it. GPTQ's own value.
pub(crate) const DAMPING: f64 = 0.01;
/// The key that says of which type most of a file's weights are, and what it says of a mixture it has no name for
/// (`enum llama_ftype` in `llama.h`: "guessed").
const FILE_TYPE: (&str, u32) = ("general.file_type", 1024);
/// Names the way in which a work folder's files were made, and what is measured: those of another way are of no use.
pub const WORK_VERSION: u32 = 2;

/// The type of each matrix; other tensors stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment(pub BTreeMap<Slot, DType>);

impl Assignment {
    /// Every matrix in one type; those whose rows are no whole number of its blocks in half floats.
    pub fn uniform(model: &Model, dtype: DType) -> Assignment {
        let matrices = model.tensors().filter(|(slot, _)| is_matrix(*slot));
        Assignment(matrices.map(|(slot, tensor)| (slot, fitting(dtype, tensor.n_cols))).collect())
    }

    /// Bytes of all matrices.
    pub fn size_bytes(&self, model: &Model) -> u64 {
        let bytes = |(slot, dtype): (&Slot, &DType)| {
            let tensor = model.tensor(*slot)?;
            Some((dtype.row_bytes(tensor.n_cols)? * tensor.n_rows) as u64)
        };
        self.0.iter().filter_map(bytes).sum()
    }
}

/// `dtype`, or half floats where rows are no whole number of its blocks.
pub fn fitting(dtype: DType, n_cols: usize) -> DType {
    if n_cols.is_multiple_of(dtype.block_len()) { dtype } else { DType::F16 }
}

/// Whether a slot holds a matrix, which can be rounded, and not a vector.
pub fn is_matrix(slot: Slot) -> bool {
    use LayerSlot::{Down, Gate, K, O, Q, Up, V};
    match slot {
        Slot::TokenEmbedding | Slot::Output => true,
        Slot::OutputNorm => false,
        Slot::Layer(_, slot) => matches!(slot, Q | K | V | O | Gate | Up | Down),
    }
}

/// How a model is compressed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads.
    pub n_threads: usize,
    /// How much care is taken in rounding.
    pub effort: Effort,
}

/// What is being done, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// In a few words.
    pub what: &'static str,
    /// Parts done.
    pub n_done: usize,
    /// Parts in all.
    pub n_all: usize,
}

/// Compresses GGUF models of one teacher.
pub struct Compressor<'a> {
    pub(crate) teacher: &'a Arc<Model>,
    gguf: &'a Gguf,
    pub(crate) windows: &'a Windows,
    pub(crate) options: Options,
    cancel: &'a CancelToken,
    watch: &'a mut dyn FnMut(Step),
    /// Of the output matrix's inputs, as the teacher computes them: the same for every choice of types.
    of_output: Option<Factor>,
    /// Of the teacher's matrices ([`Compressor::equalize`]).
    pub(crate) scales: Scales,
}

impl<'a> Compressor<'a> {
    /// With `windows` of calibration text. Steps are told to `watch`; `cancel` stops between two of them.
    ///
    /// # Errors
    /// If the teacher is no GGUF file.
    pub fn new(
        teacher: &'a Arc<Model>,
        windows: &'a Windows,
        options: Options,
        cancel: &'a CancelToken,
        watch: &'a mut dyn FnMut(Step),
    ) -> Result<Compressor<'a>, Error> {
        let gguf = teacher.gguf().ok_or_else(|| Error::NotGguf { path: teacher.path().to_owned() })?;
        let (of_output, scales) = (None, Scales::default());
        Ok(Compressor { teacher, gguf, windows, options, cancel, watch, of_output, scales })
    }

    /// The teacher.
    pub fn model(&self) -> &'a Arc<Model> {
        self.teacher
    }

    /// Whoever is told of steps: for steps between those of a compressor.
    pub fn watch(&mut self) -> &mut dyn FnMut(Step) {
        self.watch
    }

    /// Writes the teacher with its matrices in the types of `assignment` to `path`. `job` says what else the result
    /// depends on: a work folder of the same job is gone on with.
    ///
    /// # Errors
    /// Those of reading, computing and writing; nothing is at `path` then that was not there before.
    pub fn write(&mut self, assignment: &Assignment, path: &Path, job: &str) -> Result<(), Error> {
        let work = WorkFolder::open(path, &format!("{WORK_VERSION} {job} {assignment:?}"))?;
        self.round_all(assignment, &work)?;
        let writer = self.describe(assignment)?;
        (self.watch)(Step { what: "writing", n_done: 0, n_all: 1 });
        let slots: BTreeMap<&str, Slot> =
            self.teacher.tensors().map(|(slot, tensor)| (tensor.name, slot)).collect();
        writer.write_file(path, |name, out| {
            let tensor = self.gguf.tensor(name).expect("tensors of the writer are those of the file");
            match slots.get(name) {
                Some(slot) if assignment.0.contains_key(slot) => out.write_all(&work.read(*slot)?),
                Some(slot) if self.scales.of_norm(*slot).is_some() => {
                    out.write_all(&floats(tensor.dtype, &self.scaled_norm(*slot, &tensor.as_matrix())))
                }
                _ => out.write_all(tensor.data),
            }
        })?;
        work.remove()?;
        (self.watch)(Step { what: "writing", n_done: 1, n_all: 1 });
        Ok(())
    }

    /// Writes a file that takes the space, the memory and the time of what [`Compressor::write`] would write, and says
    /// nothing: its quantised matrices are zeros.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_hollow(
        &self,
        assignment: &Assignment,
        path: &Path,
        metadata: &[(&str, Value<'_>)],
    ) -> Result<(), Error> {
        let mut writer = self.describe(assignment)?;
        for (key, value) in metadata {
            writer.key(key, *value)?;
        }
        let types = self.types(assignment);
        Ok(writer.write_file(path, |name, out| {
            let tensor = self.gguf.tensor(name).expect("tensors of the writer are those of the file");
            let n_weights: usize = tensor.dims.iter().product();
            match types.get(name).and_then(|dtype| dtype.row_bytes(n_weights)) {
                Some(n_bytes) => {
                    io::copy(&mut io::repeat(0).take(n_bytes as u64), out)?;
                    Ok(())
                }
                None => out.write_all(tensor.data),
            }
        })?)
    }

    /// Bytes of the file that [`Compressor::write`] would write.
    ///
    /// # Errors
    /// If a tensor cannot be stored.
    pub fn file_bytes(&self, assignment: &Assignment) -> Result<u64, Error> {
        Ok(self.describe(assignment)?.file_bytes())
    }

    fn describe(&self, assignment: &Assignment) -> Result<GgufWriter, Error> {
        let mut writer = GgufWriter::new();
        for (key, value) in self.gguf.metadata() {
            // The alignment is the writer's own.
            if key != "general.alignment" {
                writer.key(key, if key == FILE_TYPE.0 { Value::U32(FILE_TYPE.1) } else { value })?;
            }
        }
        let types = self.types(assignment);
        for tensor in self.gguf.tensors() {
            let dtype = types.get(tensor.name).copied().unwrap_or(tensor.dtype);
            writer.tensor(tensor.name, tensor.dims, dtype)?;
        }
        Ok(writer)
    }

    /// Of the tensors that change, by their names.
    fn types(&self, assignment: &Assignment) -> BTreeMap<&str, DType> {
        let tensors = self.teacher.tensors();
        tensors.filter_map(|(slot, tensor)| Some((tensor.name, *assignment.0.get(&slot)?))).collect()
    }

    /// Rounds every matrix that the work folder does not hold yet.
    fn round_all(&mut self, assignment: &Assignment, work: &WorkFolder) -> Result<(), Error> {
        let mut engine = self.exact_engine()?;
        let n_layers = self.teacher.config().n_layers;
        let windows: Vec<Vec<u32>> = (0..self.windows.len()).map(|i| self.windows.window(i)).collect();
        let ends = [Slot::TokenEmbedding, Slot::Output];
        let ends: Vec<Slot> = ends.into_iter().filter(|slot| assignment.0.contains_key(slot)).collect();

        if ends.iter().any(|slot| !work.has(*slot)) {
            let factor = match self.of_output.take() {
                Some(factor) => factor,
                None => {
                    let hessian = self.output_hessian(&mut engine, &windows)?;
                    factor_of(&mut engine, &hessian, DAMPING)?
                }
            };
            for &slot in &ends {
                self.check()?;
                let factor = self.factor_of_end(&mut engine, slot, &factor);
                self.round_one(&mut engine, slot, assignment, &factor, work)?;
            }
            self.of_output = Some(factor);
        }
        self.place(&mut engine, Slot::TokenEmbedding, assignment, work)?;
        let mut streams = embed_all(&engine, &windows)?;
        for layer_idx in 0..n_layers {
            self.tell("rounding layers", layer_idx, n_layers)?;
            let slots: Vec<Slot> = layer_matrices(layer_idx).collect();
            self.place_norms(&mut engine, layer_idx)?;
            if slots.iter().any(|slot| !work.has(*slot)) {
                for &slot in &slots {
                    self.place_teacher(&mut engine, slot)?;
                }
                let mut hessians: BTreeMap<MatrixInput, Hessian> = BTreeMap::new();
                for stream in &streams {
                    self.check()?;
                    let mut rows = Vec::new();
                    engine.run_layer(layer_idx, &mut stream.clone(), &mut |input, x| {
                        rows.push((input, x.to_vec()))
                    })?;
                    self.add_inputs(&mut engine, &mut hessians, stream, rows);
                }
                for (input, of_input) in LAYER_MATRICES {
                    let Some(hessian) = hessians.remove(&input) else { continue };
                    let factor = factor_of(&mut engine, &hessian, DAMPING)?;
                    for slot in of_input.iter().map(|slot| Slot::Layer(layer_idx, *slot)) {
                        self.check()?;
                        self.round_one(&mut engine, slot, assignment, &factor, work)?;
                    }
                }
            }
            for &slot in &slots {
                self.place(&mut engine, slot, assignment, work)?;
            }
            for stream in &mut streams {
                self.check()?;
                engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
            for &slot in &slots {
                self.take_away(&mut engine, slot)?;
            }
        }
        self.tell("rounding layers", n_layers, n_layers)
    }

    /// For the embedding or the output, whose inputs `of_output` describes. An embedding that does not serve as output
    /// too is multiplied with nothing: its rows are read as they are.
    pub(crate) fn factor_of_end<'f>(
        &self,
        engine: &mut Engine,
        slot: Slot,
        of_output: &'f Factor,
    ) -> Cow<'f, Factor> {
        let is_read_only = slot == Slot::TokenEmbedding && self.teacher.tensor(Slot::Output).is_some();
        if is_read_only { Cow::Owned(identity(engine, of_output.n_cols())) } else { Cow::Borrowed(of_output) }
    }

    /// Of the output matrix's inputs, as the teacher computes them.
    fn output_hessian(&mut self, engine: &mut Engine, windows: &[Vec<u32>]) -> Result<Hessian, Error> {
        let config = self.teacher.config();
        let mut streams = embed_all(engine, windows)?;
        for layer_idx in 0..config.n_layers {
            self.tell("reading the calibration text", layer_idx, config.n_layers)?;
            self.place_norms(engine, layer_idx)?;
            for slot in layer_matrices(layer_idx) {
                self.place_teacher(engine, slot)?;
            }
            for stream in &mut streams {
                self.check()?;
                engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
            for slot in layer_matrices(layer_idx) {
                self.take_away(engine, slot)?;
            }
        }
        let mut hessian = Hessian::new(config.hidden_dim);
        for stream in &streams {
            let inputs = engine.output_input(stream);
            hessian.add(engine.pool(), Isa::best(), &inputs);
        }
        Ok(hessian)
    }

    /// The teacher, computed as exactly as can be: what is measured shall be the weights' errors alone.
    pub(crate) fn exact_engine(&self) -> Result<Engine, Error> {
        self.exact_engine_with(KvType::F32)
    }

    /// The same with other keys and values.
    pub(crate) fn exact_engine_with(&self, kv_type: KvType) -> Result<Engine, Error> {
        let options = EngineOptions {
            n_threads: self.options.n_threads,
            kv_type,
            precision: Precision::Exact,
            ..EngineOptions::default()
        };
        let engine = Engine::new(self.teacher, options)?;
        self.teacher.release_all();
        Ok(engine)
    }

    /// The same with all matrices of the teacher in eight bits ([`Compressor::place_teacher`]).
    pub(crate) fn eight_bit_engine(&self) -> Result<Engine, Error> {
        let mut engine = self.exact_engine()?;
        for (slot, tensor) in self.teacher.tensors().filter(|(slot, _)| is_matrix(*slot)) {
            self.place_teacher(&mut engine, slot)?;
            self.teacher.release(&tensor);
        }
        for layer_idx in 0..self.teacher.config().n_layers {
            self.place_norms(&mut engine, layer_idx)?;
        }
        Ok(engine)
    }

    fn round_one(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        assignment: &Assignment,
        factor: &Factor,
        work: &WorkFolder,
    ) -> Result<(), Error> {
        let Some(&dtype) = assignment.0.get(&slot).filter(|_| !work.has(slot)) else { return Ok(()) };
        let weights = self.weights(slot)?;
        let bytes = if dtype.is_quantized() {
            rounding::round(engine.pool(), Isa::best(), dtype, &weights, factor, self.options.effort).bytes
        } else {
            floats(dtype, &weights)
        };
        work.write(slot, &bytes)
    }

    /// Adds the inputs that a layer's matrices had, a stream's.
    pub(crate) fn add_inputs(
        &self,
        engine: &mut Engine,
        hessians: &mut BTreeMap<MatrixInput, Hessian>,
        stream: &[f32],
        inputs: Vec<(MatrixInput, Vec<f32>)>,
    ) {
        let n_tokens = stream.len() / self.teacher.config().hidden_dim;
        for (input, x) in inputs {
            let hessian = hessians.entry(input).or_insert_with(|| Hessian::new(x.len() / n_tokens));
            hessian.add(engine.pool(), Isa::best(), &x);
        }
    }

    /// Puts a rounded matrix into the engine.
    fn place(
        &self,
        engine: &mut Engine,
        slot: Slot,
        assignment: &Assignment,
        work: &WorkFolder,
    ) -> Result<(), Error> {
        let Some(&dtype) = assignment.0.get(&slot) else { return Ok(()) };
        let tensor = self.tensor(slot)?;
        let bytes = work.read(slot).map_err(|source| Error::Io { path: work.path(slot), source })?;
        Ok(engine.set_matrix(slot, matrix(&tensor, dtype, bytes)?)?)
    }

    /// Puts a matrix of the teacher into the engine in eight bits: so near to it that it makes no difference to second
    /// moments, and several times as fast as floats.
    pub(crate) fn place_teacher(&self, engine: &mut Engine, slot: Slot) -> Result<(), Error> {
        let tensor = self.tensor(slot)?;
        if tensor.dtype.is_quantized() {
            return Ok(());
        }
        Ok(engine.set_matrix(slot, in_eight_bits(&tensor, &self.weights(slot)?)?)?)
    }

    /// Divides the norms before a layer's matrices by what these are multiplied by.
    fn place_norms(&self, engine: &mut Engine, layer_idx: usize) -> Result<(), Error> {
        for slot in [LayerSlot::AttnNorm, LayerSlot::FfnNorm].map(|slot| Slot::Layer(layer_idx, slot)) {
            if self.scales.of_norm(slot).is_some() {
                let mut weights = self.scaled_norm(slot, &self.tensor(slot)?);
                let offset = self.teacher.config().norm_weight_offset;
                weights.iter_mut().for_each(|w| *w += offset);
                engine.set_norm(slot, weights)?;
            }
        }
        Ok(())
    }

    /// As the file has it.
    fn scaled_norm(&self, slot: Slot, tensor: &Tensor) -> Vec<f32> {
        let mut weights = widened(tensor);
        let offset = self.teacher.config().norm_weight_offset;
        for (w, scale) in weights.iter_mut().zip(self.scales.of_norm(slot).unwrap_or_default()) {
            *w = (*w + offset) / scale - offset;
        }
        weights
    }

    /// A matrix of the teacher, scaled, row after row. Its pages are given back.
    pub(crate) fn weights(&self, slot: Slot) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(slot)?;
        let mut weights = widened(&tensor);
        self.teacher.release(&tensor);
        self.scales.scale(slot, tensor.n_cols, &mut weights);
        Ok(weights)
    }

    /// Puts the teacher's matrix, which is in its file, in the place of a copy.
    fn take_away(&self, engine: &mut Engine, slot: Slot) -> Result<(), Error> {
        let tensor = self.tensor(slot)?;
        if !tensor.dtype.is_quantized() {
            let bytes = Arc::new(TensorBytes::new(self.teacher, slot));
            let float = FloatMatrix::new(tensor.dtype, tensor.n_rows, tensor.n_cols, bytes)
                .expect("an open model's tensors have the bytes of their shape");
            engine.set_matrix(slot, Matrix::Float(float))?;
        }
        self.teacher.release(&tensor);
        Ok(())
    }

    pub(crate) fn tensor(&self, slot: Slot) -> Result<Tensor<'a>, Error> {
        self.teacher.tensor(slot).ok_or(Error::Engine(edgeward_engine::Error::MissingTensor(slot)))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn tell(&mut self, what: &'static str, n_done: usize, n_all: usize) -> Result<(), Error> {
        (self.watch)(Step { what, n_done, n_all });
        self.check()
    }
}

/// Adds metadata to the GGUF file at `path`, or changes it. The file is replaced whole or not at all.
///
/// # Errors
/// Those of reading and writing.
pub fn add_metadata(path: &Path, metadata: &[(&str, Value<'_>)]) -> Result<(), Error> {
    let gguf = Gguf::open(path)?;
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        if key != "general.alignment" && !metadata.iter().any(|(new, _)| *new == key) {
            writer.key(key, value)?;
        }
    }
    for (key, value) in metadata {
        writer.key(key, *value)?;
    }
    for tensor in gguf.tensors() {
        writer.tensor(tensor.name, tensor.dims, tensor.dtype)?;
    }
    let data = |name: &str| gguf.tensor(name).expect("tensors of the writer are those of the file").data;
    Ok(writer.write_file(path, |name, out| out.write_all(data(name)))?)
}

/// The matrices of a layer by their inputs.
pub(crate) const LAYER_MATRICES: [(MatrixInput, &[LayerSlot]); 4] = [
    (MatrixInput::Qkv, &[LayerSlot::Q, LayerSlot::K, LayerSlot::V]),
    (MatrixInput::O, &[LayerSlot::O]),
    (MatrixInput::GateUp, &[LayerSlot::Gate, LayerSlot::Up]),
    (MatrixInput::Down, &[LayerSlot::Down]),
];

/// The slots of a layer's matrices.
pub(crate) fn layer_matrices(layer_idx: usize) -> impl Iterator<Item = Slot> {
    LAYER_MATRICES.iter().flat_map(|(_, slots)| *slots).map(move |slot| Slot::Layer(layer_idx, *slot))
}

/// The residual streams of windows before the first layer.
pub(crate) fn embed_all(engine: &Engine, windows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
    Ok(windows.iter().map(|tokens| engine.embed(tokens)).collect::<Result<_, _>>()?)
}

/// The factor of what a text's inputs were.
pub(crate) fn factor_of(engine: &mut Engine, hessian: &Hessian, damping: f64) -> Result<Factor, Error> {
    Factor::new(engine.pool(), Isa::best(), &hessian.damped(damping), hessian.n_cols())
        .ok_or(Error::BadCalibration { reason: "the model's activations on it are not finite" })
}

/// Of inputs that know nothing of each other.
fn identity(engine: &mut Engine, n_cols: usize) -> Factor {
    let identity: Vec<f64> =
        (0..n_cols * n_cols).map(|i| f64::from(u8::from(i % (n_cols + 1) == 0))).collect();
    Factor::new(engine.pool(), Isa::best(), &identity, n_cols).expect("the identity is positive definite")
}

pub(crate) fn widened(tensor: &Tensor) -> Vec<f32> {
    let mut weights = vec![0.0; tensor.n_rows * tensor.n_cols];
    dequantize(tensor.dtype, tensor.data, &mut weights);
    weights
}

/// A matrix of a tensor's shape in eight bits, or in floats where rows are no whole number of blocks.
pub(crate) fn in_eight_bits(tensor: &Tensor, weights: &[f32]) -> Result<Matrix, Error> {
    if tensor.n_cols.is_multiple_of(DType::Q8_0.block_len()) {
        matrix(tensor, DType::Q8_0, rounding::to_eight_bits(weights))
    } else {
        matrix(tensor, DType::F32, floats(DType::F32, weights))
    }
}

pub(crate) fn floats(dtype: DType, weights: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect(),
        DType::BF16 => weights.iter().flat_map(|w| half::bf16::from_f32(*w).to_le_bytes()).collect(),
        _ => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
    }
}

pub(crate) fn matrix(tensor: &Tensor, dtype: DType, bytes: Vec<u8>) -> Result<Matrix, Error> {
    let bad = |reason: String| {
        Error::Engine(edgeward_engine::Error::BadTensor { name: tensor.name.to_owned(), reason })
    };
    if dtype.is_quantized() {
        let packed = PackedMatrix::pack(dtype, tensor.n_rows, tensor.n_cols, &bytes);
        packed.map(Matrix::Packed).map_err(|error| bad(error.to_string()))
    } else {
        let float = FloatMatrix::new(dtype, tensor.n_rows, tensor.n_cols, Arc::new(bytes));
        float.map(Matrix::Float).ok_or_else(|| bad("its bytes do not match its shape".to_owned()))
    }
}

/// Rounded matrices, one file each, beside the output.
struct WorkFolder {
    path: PathBuf,
}

impl WorkFolder {
    /// The folder of that output; what another job left in it is removed.
    fn open(output: &Path, job: &str) -> Result<WorkFolder, Error> {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".work");
        let path = output.with_file_name(name);
        let at = |source| Error::Io { path: path.clone(), source };
        if fs::read_to_string(path.join("job")).is_ok_and(|old| old != job) {
            fs::remove_dir_all(&path).map_err(at)?;
        }
        fs::create_dir_all(&path).and_then(|()| fs::write(path.join("job"), job)).map_err(at)?;
        Ok(WorkFolder { path })
    }

    fn path(&self, slot: Slot) -> PathBuf {
        let name = match slot {
            Slot::Layer(layer_idx, slot) => format!("{layer_idx}-{slot:?}"),
            slot => format!("{slot:?}"),
        };
        self.path.join(name)
    }

    fn has(&self, slot: Slot) -> bool {
        self.path(slot).is_file()
    }

    fn read(&self, slot: Slot) -> io::Result<Vec<u8>> {
        fs::read(self.path(slot))
    }

    /// Whole or not at all.
    fn write(&self, slot: Slot, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(slot);
        let partial = path.with_extension("partial");
        let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &path));
        written.map_err(|source| Error::Io { path, source })
    }

    fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.path).map_err(|source| Error::Io { path: self.path, source })
    }
}
