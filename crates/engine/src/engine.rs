//! The forward pass of a decoder-only transformer, for any mix of sequences.
//!
//! The four families differ in details that [`Config`] and the presence of tensors tell, so one pass serves all:
//!
//! ```text
//! x = embedding[token] * embed_scale                                [n_tokens, hidden_dim]
//! for each layer:
//!     q, k, v = linear(rms_norm(x))                                 (+ bias: qwen2)
//!     q, k = rope(q, k)                                             (of rms_norm(q), rms_norm(k): qwen3, gemma3)
//!     a = o(attention(q, k, v))                                     (over a window: gemma3, mistral)
//!     x = x + a                                                     (rms_norm(a): gemma3)
//!     f = down(activation(gate(rms_norm(x))) * up(rms_norm(x)))
//!     x = x + f                                                     (rms_norm(f): gemma3)
//! logits = output(rms_norm(x))                                      [n_tokens, vocab_size]
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edgeward_kernels::attention::{self, Heads, Plan, Prepare, Scratch, Segment};
use edgeward_kernels::kv::{KvPages, KvShape, KvType, PAGE_LEN};
use edgeward_kernels::math::{self, rms_norm};
use edgeward_kernels::{Activations, Form, Isa, Linear, Matrix, Mode, Pool, gated_linear, linear};
use edgeward_model::Model;
use edgeward_model::config::{Activation, Config, RopeLayout};
use edgeward_model::tensor::{LayerSlot, Slot};

use crate::adapter::{self, Group, Target, groups, touches};
use crate::error::Error;
use crate::rope::RopeTable;
use crate::sequence::Sequence;
use crate::weights::{Layer, Weights};

/// Tokens computed at once: enough to use each weight often, few enough that activations stay in the cache.
const BATCH_TOKENS: usize = 256;
/// Positions whose logits are computed at once when all are wanted: they take `vocab_size` floats each.
const LOGITS_ROWS: usize = 32;

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Threads, the caller's included.
    pub n_threads: usize,
    /// Element type of cached keys and values.
    pub kv_type: KvType,
    /// Positions of the longest sequence; 0 for the model's own context.
    pub context_len: usize,
    /// Instruction set; results do not depend on it.
    pub isa: Isa,
    /// How finely the inputs of quantised matrices are rounded.
    pub precision: Precision,
}

/// How finely the inputs of quantised matrices are rounded: eight bits for each value cost the least, fifteen cost up
/// to twice the time and leave no error to speak of.
///
/// Measured on SmolLM2 135M against float inputs, mean KL divergence on WikiText-2: see docs/benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Eight bits everywhere.
    Fast,
    /// Fifteen bits where they matter most for their price: in the output, and in the block with the largest value of
    /// what is read from the residual stream; eight elsewhere.
    #[default]
    Balanced,
    /// Fifteen bits everywhere.
    Exact,
}

/// Forms of the inputs of the four groups of matrices.
#[derive(Clone, Copy, Debug)]
struct Forms {
    qkv: Form,
    o: Form,
    gate_up: Form,
    down: Form,
    output: Form,
}

impl Precision {
    fn forms(self) -> Forms {
        let all = |form| Forms { qkv: form, o: form, gate_up: form, down: form, output: form };
        match self {
            Precision::Fast => all(Form::Int8),
            Precision::Balanced => {
                Forms { qkv: Form::Peak, gate_up: Form::Peak, output: Form::Int16, ..all(Form::Int8) }
            }
            Precision::Exact => all(Form::Int16),
        }
    }
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        EngineOptions {
            n_threads,
            kv_type: KvType::F16,
            context_len: 0,
            isa: Isa::best(),
            precision: Precision::Balanced,
        }
    }
}

/// Stops a computation from another thread, or a signal handler.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }
    /// Asks for a stop, as soon as the present batch is computed.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    /// Takes the request back.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
    /// Whether a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Logits of some positions.
#[derive(Clone, Debug)]
pub struct Logits {
    vocab_size: usize,
    /// `[n_rows, vocab_size]`
    data: Vec<f32>,
}

impl Logits {
    /// Logits of one position, `[vocab_size]`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.vocab_size..][..self.vocab_size]
    }
    /// Positions.
    pub fn n_rows(&self) -> usize {
        self.data.len() / self.vocab_size
    }
    /// The logits of all positions, one after the other.
    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }
}

/// One sequence's part of a [step](Engine::step).
#[derive(Debug)]
pub struct StepPart<'a> {
    /// What is continued.
    pub sequence: &'a mut Sequence,
    /// By what; at least one token.
    pub tokens: &'a [u32],
    /// After how many of the last of these tokens logits are wanted.
    pub n_logits: usize,
}

/// A model, ready to compute.
pub struct Engine {
    config: Config,
    context_len: usize,
    weights: Weights,
    pool: Pool,
    isa: Isa,
    forms: Forms,
    kv_shape: KvShape,
    kv_pages: KvPages,
    rope: RopeTable,
    rope_local: RopeTable,
    buffers: Buffers,
    /// Which tokens of the last pass have which adapters.
    groups: Vec<Group>,
}

/// Memory of the forward pass, kept from call to call.
#[derive(Default)]
struct Buffers {
    /// Residual stream, `[n_tokens, hidden_dim]`.
    x: Vec<f32>,
    /// Queries, keys and values, `[n_tokens, (n_heads + 2 * n_kv_heads) * head_dim]`.
    qkv: Vec<f32>,
    /// What is to be normed before it is added to `x`.
    branch: Vec<f32>,
    /// Normed `x`.
    normed: Activations,
    /// Attention's result, `[n_tokens, n_heads * head_dim]`.
    attn: Activations,
    /// Gated features, `[n_tokens, ffn_dim]`.
    ffn: Activations,
    /// Cosines and sines of each token's position.
    angles: Vec<f32>,
    angles_local: Vec<f32>,
    scratch: Scratch,
    /// Gates and features before they are gated, where adapters add to these: `[n_tokens, 2 * ffn_dim]`.
    gate_up: Vec<f32>,
    adapters: adapter::Scratch,
}

/// New tokens of one sequence in a batch.
type Item<'a, 'b> = (&'a mut Sequence, &'b [u32]);

impl Engine {
    /// Tokens of a [step](Engine::step), at most.
    pub const MAX_STEP_TOKENS: usize = BATCH_TOKENS;

    /// Brings the model's weights into shape. Takes little more memory than the file: see [`crate`].
    pub fn new(model: &Arc<Model>, options: EngineOptions) -> Result<Engine, Error> {
        let config = model.config().clone();
        if options.n_threads == 0 || options.n_threads > edgeward_kernels::pool::MAX_THREADS {
            let most = edgeward_kernels::pool::MAX_THREADS;
            return Err(Error::BadOption(format!("the number of threads must be 1 to {most}")));
        }
        if options.kv_type == KvType::Q8_0 && !config.head_dim.is_multiple_of(32) {
            let dim = config.head_dim;
            return Err(Error::BadOption(format!(
                "keys and values of {dim} coordinates cannot be kept in q8_0: use f16"
            )));
        }
        let mut pool = Pool::new(options.n_threads);
        let weights = Weights::load(model, &mut pool)?;
        let kv_shape = KvShape {
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            kv_type: options.kv_type,
        };
        let context_len = match options.context_len {
            0 => config.context_len,
            len => len,
        };
        Ok(Engine {
            rope: RopeTable::new(&config.rope, false),
            rope_local: RopeTable::new(&config.rope, true),
            config,
            context_len,
            weights,
            pool,
            isa: options.isa,
            forms: options.precision.forms(),
            kv_shape,
            kv_pages: KvPages::new(kv_shape),
            buffers: Buffers::default(),
            groups: Vec::new(),
        })
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Positions of the longest sequence.
    pub fn context_len(&self) -> usize {
        self.context_len
    }

    /// Threads.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Bytes of keys and values that a sequence of `n_tokens` takes.
    pub fn kv_bytes(&self, n_tokens: usize) -> usize {
        n_tokens.div_ceil(PAGE_LEN) * self.kv_shape.page_bytes()
    }

    /// What keys and values depend on besides the model and the tokens, in words: who keeps them elsewhere compares it.
    pub fn kv_id(&self) -> String {
        format!("{:?} {:?}", self.kv_shape, self.forms)
    }

    /// Appends to a sequence of whole pages one that was computed before and kept elsewhere, whole or only begun: what
    /// [`Sequence::page`] gave, by an engine of the same model and [`Engine::kv_id`], for these tokens after the same others. That this is so is
    /// the caller's word: other bytes give other answers.
    ///
    /// # Errors
    /// If the page is of another size, there are more tokens than it holds, the sequence has a page that is not full, or a
    /// token or the length is out of range. The sequence is then as it was.
    pub fn restore_page(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        page: &[u8],
    ) -> Result<(), Error> {
        self.check(sequence, tokens)?;
        let fits = tokens.len() <= PAGE_LEN && sequence.len().is_multiple_of(PAGE_LEN);
        if !fits || page.len() != self.kv_shape.page_bytes() {
            return Err(Error::BadOption("keys and values are kept and restored by pages".to_owned()));
        }
        let mut restored = self.kv_pages.page();
        restored.bytes_mut().copy_from_slice(page);
        sequence.push_page(tokens, restored);
        Ok(())
    }

    /// An empty sequence for this engine.
    pub fn new_sequence(&self) -> Sequence {
        Sequence::new(self.kv_shape)
    }

    /// Appends `tokens` to a sequence; the logits after the last, `[vocab_size]`.
    ///
    /// # Errors
    /// If a token or the length is out of range, the computation was cancelled (the sequence then holds what was
    /// complete), or the model gave something that is not a number.
    pub fn prefill(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        cancel: &CancelToken,
    ) -> Result<Vec<f32>, Error> {
        self.in_batches(sequence, tokens, cancel, |_, _| Ok(()))?;
        let last = (tokens.len() - 1) % BATCH_TOKENS;
        Ok(self.new_logits(&[last])?.into_vec())
    }

    /// Makes `sequence` hold exactly `tokens`, keeping what it has of them already; the logits after the last.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn prefill_to(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        cancel: &CancelToken,
    ) -> Result<Vec<f32>, Error> {
        // The last token is computed in any case: its logits are wanted.
        let n_kept = sequence.common_prefix_len(tokens).min(tokens.len().saturating_sub(1));
        sequence.truncate(n_kept);
        self.prefill(sequence, &tokens[n_kept..], cancel)
    }

    /// Appends one token to each sequence of a batch; row i of the result are the logits after the i-th.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn decode(&mut self, batch: &mut [(&mut Sequence, u32)]) -> Result<Logits, Error> {
        if batch.is_empty() {
            return Err(Error::NoTokens);
        }
        // All before any is computed: an error leaves every sequence as it was.
        for (sequence, token) in batch.iter() {
            self.check(sequence, &[*token])?;
        }
        let vocab_size = self.config.vocab_size;
        let mut data = vec![0.0; batch.len() * vocab_size];
        let parts = batch.chunks_mut(BATCH_TOKENS).zip(data.chunks_mut(BATCH_TOKENS * vocab_size));
        for (batch, logits) in parts {
            let mut items: Vec<Item> = batch
                .iter_mut()
                .map(|(sequence, token)| (&mut **sequence, std::slice::from_ref(token)))
                .collect();
            let rows: Vec<usize> = (0..items.len()).collect();
            self.forward(&mut items)?;
            self.logits_of(&rows, logits)?;
        }
        Ok(Logits { vocab_size, data })
    }

    /// Appends tokens to several sequences in one pass, as many to each as its part says: what a server needs, whose
    /// prompts arrive while others' answers are being decoded. The rows of the result are those that the parts ask
    /// for, in order.
    ///
    /// # Errors
    /// As [`Engine::prefill`]; also if the parts have more tokens than [`Engine::MAX_STEP_TOKENS`] together, or a part
    /// asks for logits of more tokens than it has.
    pub fn step(&mut self, parts: &mut [StepPart]) -> Result<Logits, Error> {
        let mut rows = Vec::new();
        let mut n_tokens = 0;
        for part in parts.iter() {
            self.check(part.sequence, part.tokens)?;
            n_tokens += part.tokens.len();
            if part.n_logits > part.tokens.len() {
                return Err(Error::BadOption("logits are asked for of more tokens than are computed".into()));
            }
            rows.extend(n_tokens - part.n_logits..n_tokens);
        }
        if n_tokens == 0 {
            return Err(Error::NoTokens);
        }
        if n_tokens > Engine::MAX_STEP_TOKENS {
            let most = Engine::MAX_STEP_TOKENS;
            return Err(Error::BadOption(format!("a step computes at most {most} tokens, not {n_tokens}")));
        }
        let mut items: Vec<Item> = parts.iter_mut().map(|part| (&mut *part.sequence, part.tokens)).collect();
        self.forward(&mut items)?;
        let logits = self.new_logits(&rows);
        if logits.is_err() {
            // Who fails alone must not leave others with tokens that nobody has answered.
            parts.iter_mut().for_each(|part| part.sequence.truncate(part.sequence.len() - part.tokens.len()));
        }
        logits
    }

    /// Appends `tokens` to a sequence; the mean of the last layer's normed states over them, `[hidden_dim]`: what the
    /// model makes of a text as a whole.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn mean_state(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        cancel: &CancelToken,
    ) -> Result<Vec<f32>, Error> {
        let Config { hidden_dim, rms_norm_eps, .. } = self.config;
        let mut sum = vec![0.0f64; hidden_dim];
        let mut state = vec![0.0; hidden_dim];
        self.in_batches(sequence, tokens, cancel, |engine, batch| {
            for row in engine.buffers.x.chunks_exact(hidden_dim).take(batch.len()) {
                rms_norm(engine.isa, row, &engine.weights.output_norm, rms_norm_eps, &mut state);
                sum.iter_mut().zip(&state).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            Ok(())
        })?;
        Ok(sum.iter().map(|sum| (sum / tokens.len() as f64) as f32).collect())
    }

    /// Appends `tokens` to a sequence and hands the logits after each, from the `first`-th on, to `row` (called
    /// with the index into `tokens` and the logits).
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn score(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        first: usize,
        cancel: &CancelToken,
        mut row: impl FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        let vocab_size = self.config.vocab_size;
        let mut logits = vec![0.0; LOGITS_ROWS.min(tokens.len()) * vocab_size];
        self.in_batches(sequence, tokens, cancel, |engine, batch| {
            let wanted: Vec<usize> = (first.saturating_sub(batch.start)..batch.len()).collect();
            for rows in wanted.chunks(LOGITS_ROWS) {
                let logits = &mut logits[..rows.len() * vocab_size];
                engine.logits_of(rows, logits)?;
                rows.iter().zip(logits.chunks_exact(vocab_size)).for_each(|(i, x)| row(batch.start + i, x));
            }
            Ok(())
        })
    }

    /// Appends `tokens` to a sequence, batch by batch, and calls `then` after each with the part of `tokens` that it
    /// was: the residual stream of these is in `buffers.x`.
    fn in_batches(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        cancel: &CancelToken,
        mut then: impl FnMut(&mut Engine, Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.check(sequence, tokens)?;
        for start in (0..tokens.len()).step_by(BATCH_TOKENS) {
            let batch = start..tokens.len().min(start + BATCH_TOKENS);
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            self.forward(&mut [(&mut *sequence, &tokens[batch.clone()])])?;
            then(self, batch)?;
        }
        Ok(())
    }

    fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), Error> {
        let vocab_size = self.config.vocab_size;
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        if sequence.shape() != self.kv_shape {
            return Err(Error::BadOption("the sequence belongs to another engine".to_owned()));
        }
        let needed = sequence.len() + tokens.len();
        if needed > self.context_len {
            return Err(Error::ContextFull { needed, context_len: self.context_len });
        }
        Ok(())
    }

    /// The residual stream before the first layer, `[tokens.len(), hidden_dim]`: the beginning of a computation layer
    /// by layer, which [`Engine::run_layer`] goes on with and [`Engine::logits`] ends.
    ///
    /// # Errors
    /// If a token is beyond the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let vocab_size = self.config.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        let mut x = vec![0.0; tokens.len() * self.config.hidden_dim];
        embed(&self.weights, &self.config, tokens.iter(), &mut x);
        Ok(x)
    }

    /// Runs one layer over a whole sequence, from its first token on, in place on the residual stream `x`,
    /// `[n_tokens, hidden_dim]`. `observe` sees the inputs of the layer's matrices, row after row.
    ///
    /// Whoever goes layer by layer over many sequences needs the memory of one layer and not of the model, and may
    /// change the weights in between ([`Engine::set_matrix`]).
    ///
    /// # Errors
    /// If there is no such layer, the sequence is longer than the context, or the result is not a number.
    pub fn run_layer(
        &mut self,
        layer_idx: usize,
        x: &mut Vec<f32>,
        observe: &mut dyn FnMut(MatrixInput, &[f32]),
    ) -> Result<(), Error> {
        let hidden_dim = self.config.hidden_dim;
        let n_tokens = x.len() / hidden_dim;
        let Some(layer) = self.weights.layers.get(layer_idx) else {
            let n_layers = self.config.n_layers;
            return Err(Error::BadOption(format!(
                "the model has {n_layers} layers, and none is {layer_idx}"
            )));
        };
        if n_tokens == 0 || !x.len().is_multiple_of(hidden_dim) {
            return Err(Error::NoTokens);
        }
        if n_tokens > self.context_len {
            return Err(Error::ContextFull { needed: n_tokens, context_len: self.context_len });
        }
        let b = &mut self.buffers;
        std::mem::swap(&mut b.x, x);
        let shape = KvShape { n_layers: 1, ..self.kv_shape };
        let mut sequence = Sequence::new(shape);
        sequence.reserve(n_tokens, &mut KvPages::new(shape));
        b.angles.clear();
        b.angles_local.clear();
        self.rope.extend(0..n_tokens, &mut b.angles);
        if self.config.sliding_window.is_some() {
            self.rope_local.extend(0..n_tokens, &mut b.angles_local);
        }
        let mut segments = [sequence.segment(n_tokens)];
        let plans = Plans::new(&self.config, &segments, self.pool.n_threads());
        let mut pass = LayerPass {
            config: &self.config,
            pool: &mut self.pool,
            isa: self.isa,
            forms: self.forms,
            layer_idx,
            kv_layer_idx: 0,
            layer,
            groups: &[],
            n_tokens,
            plans: &plans,
            buffers: b,
            observe: Some(observe),
        };
        pass.attention(&mut segments);
        pass.feed_forward();
        std::mem::swap(&mut b.x, x);
        if x.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(Error::NotFinite) }
    }

    /// The input of the output matrix for rows of the residual stream after the last layer: `rms_norm(x)`.
    pub fn output_input(&self, x: &[f32]) -> Vec<f32> {
        let Config { hidden_dim, rms_norm_eps, .. } = self.config;
        let mut normed = vec![0.0; x.len()];
        for (row, normed) in x.chunks_exact(hidden_dim).zip(normed.chunks_exact_mut(hidden_dim)) {
            rms_norm(self.isa, row, &self.weights.output_norm, rms_norm_eps, normed);
        }
        normed
    }

    /// Logits of rows of the residual stream after the last layer, `[n, hidden_dim]`.
    ///
    /// # Errors
    /// If the result is not a number.
    pub fn logits(&mut self, x: &[f32]) -> Result<Logits, Error> {
        self.buffers.x.clear();
        self.buffers.x.extend_from_slice(x);
        self.groups.clear();
        let rows: Vec<usize> = (0..x.len() / self.config.hidden_dim).collect();
        self.new_logits(&rows)
    }

    /// The matrix of a slot; none for vectors, and for the output where the embedding serves for it.
    pub fn matrix(&self, slot: Slot) -> Option<&Matrix> {
        self.weights.matrix(slot)
    }

    /// Puts another matrix in the place of a slot's: what would this model be with these weights? Sequences computed
    /// so far keep what they hold. Where embedding and output are tied, both change.
    ///
    /// # Errors
    /// If the slot has no matrix, or one of another shape.
    pub fn set_matrix(&mut self, slot: Slot, matrix: Matrix) -> Result<(), Error> {
        let old = self.weights.matrix(slot).ok_or(Error::MissingTensor(slot))?;
        let (found, expected) = ((matrix.n_rows(), matrix.n_cols()), (old.n_rows(), old.n_cols()));
        if found != expected {
            return Err(Error::BadOption(format!(
                "a matrix of {} x {} does not fit {slot:?}, which is {} x {}",
                found.0, found.1, expected.0, expected.1
            )));
        }
        self.weights.set_matrix(slot, matrix);
        Ok(())
    }

    /// Puts other weights, `[hidden_dim]`, in the place of those of the norm before a layer's attention or its feed-forward
    /// network.
    ///
    /// # Errors
    /// If the slot is another, or the weights are not as many.
    pub fn set_norm(&mut self, slot: Slot, weights: Vec<f32>) -> Result<(), Error> {
        let old = self.weights.norm(slot).ok_or(Error::MissingTensor(slot))?;
        if weights.len() != old.len() {
            let (found, expected) = (weights.len(), old.len());
            return Err(Error::BadOption(format!(
                "{found} weights do not fit {slot:?}, which has {expected}"
            )));
        }
        self.weights.set_norm(slot, weights);
        Ok(())
    }

    /// The threads, for other work between two computations.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Runs all layers over a batch; leaves the residual stream of its tokens in `buffers.x`.
    fn forward(&mut self, items: &mut [Item]) -> Result<(), Error> {
        let b = &mut self.buffers;
        let hidden_dim = self.config.hidden_dim;
        let n_tokens = items.iter().map(|(_, tokens)| tokens.len()).sum();

        b.x.resize(n_tokens * hidden_dim, 0.0);
        let tokens = items.iter().flat_map(|(_, tokens)| tokens.iter());
        embed(&self.weights, &self.config, tokens, &mut b.x);
        self.groups = groups(items);
        if !self.groups.is_empty() {
            let tokens: Vec<u32> = items.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
            let threads = (&mut self.pool, self.isa);
            b.adapters.add_embedding(threads, &self.groups, &tokens, self.config.embed_scale, &mut b.x);
        }

        b.angles.clear();
        b.angles_local.clear();
        let has_windows = self.config.sliding_window.is_some();
        for (sequence, tokens) in items.iter_mut() {
            let positions = sequence.len()..sequence.len() + tokens.len();
            self.rope.extend(positions.clone(), &mut b.angles);
            if has_windows {
                self.rope_local.extend(positions, &mut b.angles_local);
            }
            sequence.reserve(tokens.len(), &mut self.kv_pages);
        }
        {
            let mut segments: Vec<Segment> =
                items.iter_mut().map(|(sequence, tokens)| sequence.segment(tokens.len())).collect();
            let plans = Plans::new(&self.config, &segments, self.pool.n_threads());
            for (i, layer) in self.weights.layers.iter().enumerate() {
                let mut pass = LayerPass {
                    config: &self.config,
                    pool: &mut self.pool,
                    isa: self.isa,
                    forms: self.forms,
                    layer_idx: i,
                    kv_layer_idx: i,
                    layer,
                    groups: &self.groups,
                    n_tokens,
                    plans: &plans,
                    buffers: b,
                    observe: None,
                };
                pass.attention(&mut segments);
                pass.feed_forward();
            }
        }
        // An overflow anywhere has reached the residual stream by now, and must not be remembered.
        if b.x.iter().any(|x| !x.is_finite()) {
            items.iter_mut().for_each(|(sequence, _)| sequence.shrink());
            return Err(Error::NotFinite);
        }
        items.iter_mut().for_each(|(sequence, tokens)| sequence.push(tokens));
        Ok(())
    }

    /// Logits of some rows of the residual stream.
    fn new_logits(&mut self, rows: &[usize]) -> Result<Logits, Error> {
        let vocab_size = self.config.vocab_size;
        let mut data = vec![0.0; rows.len() * vocab_size];
        self.logits_of(rows, &mut data)?;
        Ok(Logits { vocab_size, data })
    }

    /// Logits of some rows of the residual stream into `logits`, `[rows.len(), vocab_size]`.
    fn logits_of(&mut self, rows: &[usize], logits: &mut [f32]) -> Result<(), Error> {
        let Config { hidden_dim, vocab_size, rms_norm_eps, .. } = self.config;
        let Buffers { x, normed, adapters, .. } = &mut self.buffers;
        let output = &self.weights.output;
        let (isa, norm) = (self.isa, &self.weights.output_norm);
        let form = form_for(&[output], self.forms.output);
        normed.fill(&mut self.pool, isa, (rows.len(), hidden_dim), form, |i, row| {
            rms_norm(isa, &x[rows[i] * hidden_dim..][..hidden_dim], norm, rms_norm_eps, row);
        });
        linear(&mut self.pool, isa, &[output], normed, Mode::Store, logits);
        adapters.add_output((&mut self.pool, isa), &self.groups, rows, normed, logits);
        if logits.iter().step_by(vocab_size).any(|logit| !logit.is_finite()) {
            return Err(Error::NotFinite);
        }
        Ok(())
    }
}

/// How attention is shared out, in layers that see everything and in those that see a window.
struct Plans {
    global: (Heads, Plan),
    windowed: Option<(Heads, Plan)>,
}

impl Plans {
    fn new(config: &Config, segments: &[Segment], n_threads: usize) -> Plans {
        let Config { n_heads, n_kv_heads, head_dim, .. } = *config;
        let heads = |window_len| Heads { n_heads, n_kv_heads, head_dim, window_len };
        let windowed = config.sliding_window.as_ref().map(|window| heads(Some(window.window_len)));
        Plans {
            global: (heads(None), Plan::new(heads(None), segments, n_threads)),
            windowed: windowed.map(|heads| (heads, Plan::new(heads, segments, n_threads))),
        }
    }
}

/// Rows of the embedding into the rows of `x`.
fn embed<'a>(weights: &Weights, config: &Config, tokens: impl Iterator<Item = &'a u32>, x: &mut [f32]) {
    for (row, &token) in x.chunks_exact_mut(config.hidden_dim).zip(tokens) {
        weights.embedding.dequantize_row(token as usize, row);
        if config.embed_scale != 1.0 {
            row.iter_mut().for_each(|x| *x *= config.embed_scale);
        }
    }
}

/// An input that matrices of one layer have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatrixInput {
    /// Of the query, key and value projections, `hidden_dim` wide.
    Qkv,
    /// Of attention's output projection, `n_heads * head_dim` wide.
    O,
    /// Of the gate and up projections, `hidden_dim` wide.
    GateUp,
    /// Of the down projection, `ffn_dim` wide.
    Down,
}

/// The two branches of a transformer block.
#[derive(Clone, Copy)]
enum Branch {
    Attention,
    FeedForward,
}

/// Sees the inputs of a layer's matrices.
type Observer<'a> = &'a mut dyn FnMut(MatrixInput, &[f32]);

/// One layer's part of the forward pass.
struct LayerPass<'a> {
    config: &'a Config,
    pool: &'a mut Pool,
    isa: Isa,
    forms: Forms,
    layer_idx: usize,
    /// Where in the sequences' pages this layer's keys and values are.
    kv_layer_idx: usize,
    layer: &'a Layer,
    groups: &'a [Group],
    n_tokens: usize,
    plans: &'a Plans,
    buffers: &'a mut Buffers,
    observe: Option<Observer<'a>>,
}

impl LayerPass<'_> {
    /// x += o(attention(rms_norm(x)))
    fn attention(&mut self, segments: &mut [Segment]) {
        let LayerPass { config, layer, isa, forms, layer_idx, kv_layer_idx, .. } = *self;
        let is_windowed = config.is_windowed(layer_idx);
        let windowed = self.plans.windowed.as_ref().filter(|_| is_windowed);
        let &(heads, ref plan) = windowed.unwrap_or(&self.plans.global);
        self.norm_input(&layer.attn_norm, form_for(&[&layer.q, &layer.k, &layer.v], forms.qkv));
        let b = &mut *self.buffers;
        if let Some(observe) = &mut self.observe {
            observe(MatrixInput::Qkv, b.normed.rows());
        }
        b.qkv.resize(self.n_tokens * heads.row_len(), 0.0);
        linear(self.pool, isa, &[&layer.q, &layer.k, &layer.v], &b.normed, Mode::Store, &mut b.qkv);
        let Heads { n_heads, n_kv_heads, head_dim, .. } = heads;
        let targets = [
            Target { slot: LayerSlot::Q, first_col: 0 },
            Target { slot: LayerSlot::K, first_col: n_heads * head_dim },
            Target { slot: LayerSlot::V, first_col: (n_heads + n_kv_heads) * head_dim },
        ];
        b.adapters.add((self.pool, isa), self.groups, layer_idx, &targets, &b.normed, &mut b.qkv);
        let prepare = Prepare {
            norms: layer.qk_norms.as_ref().map(|(q, k)| (&q[..], &k[..], config.rms_norm_eps)),
            angles: if is_windowed { &b.angles_local } else { &b.angles },
            is_interleaved: config.rope.layout == RopeLayout::Interleaved,
            scale: config.attn_scale,
        };
        attention::prepare(self.pool, isa, heads, prepare, &mut b.qkv);
        attention::store(self.pool, isa, kv_layer_idx, heads, &b.qkv, segments);
        let out = (form_for(&[&layer.o], forms.o), &mut b.attn);
        attention::attend(self.pool, isa, kv_layer_idx, &b.qkv, (plan, segments), out, &mut b.scratch);
        if let Some(observe) = &mut self.observe {
            observe(MatrixInput::O, b.attn.rows());
        }
        self.add_branch(Branch::Attention);
    }

    /// x += down(activation(gate(rms_norm(x))) * up(rms_norm(x)))
    fn feed_forward(&mut self) {
        let LayerPass { config, layer, isa, forms, layer_idx, .. } = *self;
        let activation = match config.activation {
            Activation::Silu => math::Activation::Silu,
            Activation::GeluTanh => math::Activation::GeluTanh,
        };
        self.norm_input(&layer.ffn_norm, form_for(&[&layer.gate, &layer.up], forms.gate_up));
        let b = &mut *self.buffers;
        if let Some(observe) = &mut self.observe {
            observe(MatrixInput::GateUp, b.normed.rows());
        }
        let form = form_for(&[&layer.down], forms.down);
        if touches(self.groups, layer_idx, &[LayerSlot::Gate, LayerSlot::Up]) {
            // The same sums as below, one step at a time, as something is added in between.
            let ffn_dim = config.ffn_dim;
            b.gate_up.resize(self.n_tokens * 2 * ffn_dim, 0.0);
            linear(self.pool, isa, &[&layer.gate, &layer.up], &b.normed, Mode::Store, &mut b.gate_up);
            let targets = [
                Target { slot: LayerSlot::Gate, first_col: 0 },
                Target { slot: LayerSlot::Up, first_col: ffn_dim },
            ];
            b.adapters.add((self.pool, isa), self.groups, layer_idx, &targets, &b.normed, &mut b.gate_up);
            let gate_up = &b.gate_up;
            b.ffn.fill(self.pool, isa, (self.n_tokens, ffn_dim), form, |t, row| {
                let (gates, ups) = gate_up[t * 2 * ffn_dim..][..2 * ffn_dim].split_at(ffn_dim);
                math::gated(isa, activation, gates, ups, row);
            });
        } else {
            let maps = (&layer.gate, &layer.up);
            gated_linear(self.pool, isa, maps, activation, &b.normed, form, &mut b.ffn);
        }
        if let Some(observe) = &mut self.observe {
            observe(MatrixInput::Down, b.ffn.rows());
        }
        self.add_branch(Branch::FeedForward);
    }

    /// x += map(branch's result), normed before it is added where the family does so.
    fn add_branch(&mut self, branch: Branch) {
        let Buffers { x, branch: added, attn, ffn, adapters, .. } = &mut *self.buffers;
        let (map, slot, input, post_norm) = match branch {
            Branch::Attention => (&self.layer.o, LayerSlot::O, attn, &self.layer.post_attn_norm),
            Branch::FeedForward => (&self.layer.down, LayerSlot::Down, ffn, &self.layer.post_ffn_norm),
        };
        let mut adapt = |pool: &mut Pool, out: &mut [f32]| {
            let targets = [Target { slot, first_col: 0 }];
            adapters.add((pool, self.isa), self.groups, self.layer_idx, &targets, input, out);
        };
        let Some(weight) = post_norm else {
            linear(self.pool, self.isa, &[map], input, Mode::Add, x);
            return adapt(self.pool, x);
        };
        added.resize(x.len(), 0.0);
        linear(self.pool, self.isa, &[map], input, Mode::Store, added);
        adapt(self.pool, added);
        math::add_rms_norm(self.pool, self.isa, x, added, weight, self.config.rms_norm_eps);
    }

    /// normed = rms_norm(x)
    fn norm_input(&mut self, weight: &[f32], form: Form) {
        let Config { hidden_dim, rms_norm_eps, .. } = *self.config;
        let (isa, b) = (self.isa, &mut *self.buffers);
        b.normed.fill(self.pool, isa, (self.n_tokens, hidden_dim), form, |t, row| {
            rms_norm(isa, &b.x[t * hidden_dim..][..hidden_dim], weight, rms_norm_eps, row);
        });
    }
}

/// The form in which maps get their common input: floats unless one is quantised.
fn form_for(maps: &[&Linear], quantized: Form) -> Form {
    if maps.iter().any(|map| map.matrix.is_quantized()) { quantized } else { Form::Float }
}
