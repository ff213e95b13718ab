//! The forward pass of a BERT encoder: texts in, a vector of each out; or pairs of texts in, and how well they go together.
//!
//! ```text
//! x = layer_norm(word[token] + position[i] + type[t])               [n_tokens, hidden_dim]; t is 1 in the second text
//! for each layer:
//!     a = o(softmax(q(x) k(x)^T / sqrt(head_dim)) v(x))             (every token sees all of its text)
//!     x = layer_norm(x + a)
//!     x = layer_norm(x + down(activation(up(x))))
//! vector = pool(x)                                                  [hidden_dim]
//! score = head(tanh(pooler(x[0])))                                  of a pair, perhaps its sigmoid
//! ```
//!
//! Texts of different lengths share a pass without padding: maps and norms see tokens only, and attention is computed
//! for each text and head apart. A text's vector has the same bits in any company, whatever the threads and the
//! instruction set. All is computed in floats, so that vectors compare with those that others have stored.

use std::sync::{Arc, Mutex};

use edgeward_kernels::{
    Activations, FloatMatrix, Form, Isa, Linear, Matrix, Mode, Pool, Vectorized, dequantize, linear,
};
use edgeward_model::encoder::{
    EncoderActivation, EncoderBytes, EncoderConfig, EncoderLayerSlot, EncoderModel, EncoderPart, EncoderSlot,
    Pooling, Score,
};

use crate::error::Error;
use crate::weights::all_finite;

/// Tokens computed at once, as long as no text alone has more: as many as the decoder's.
const BATCH_TOKENS: usize = 256;
/// Floats that are computed side by side.
const LANES: usize = 16;
/// Rows of the state that make a piece of work.
const ROWS_PER_PIECE: usize = 8;

/// An encoder, ready to compute.
pub struct Encoder {
    config: EncoderConfig,
    weights: Weights,
    pool: Pool,
    isa: Isa,
    buffers: Buffers,
}

/// Memory of the forward pass, kept from call to call.
#[derive(Default)]
struct Buffers {
    /// States, `[n_tokens, hidden_dim]`.
    x: Vec<f32>,
    /// Queries, keys and values, `[n_tokens, 3 * hidden_dim]`.
    qkv: Vec<f32>,
    /// Attention's result, for each text `[n_heads, n_tokens, head_dim]`.
    mixed: Vec<f32>,
    /// Between the feed-forward maps, `[n_tokens, ffn_dim]`.
    wide: Vec<f32>,
    input: Activations,
    wide_input: Activations,
}

struct Weights {
    words: Matrix,
    positions: Matrix,
    /// Of the first text and of the second.
    kinds: [Vec<f32>; 2],
    norm: Norm,
    layers: Vec<Layer>,
    scorer: Option<Scorer>,
}

/// What makes a score of the first token's state.
struct Scorer {
    pooler: Linear,
    head: Linear,
    score: Score,
}

/// A text's tokens, and how many of them belong to the first text where it is a pair; all where it is not.
type Text<'a> = (&'a [u32], usize);

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Layer {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    attn_norm: Norm,
    up: Linear,
    down: Linear,
    ffn_norm: Norm,
}

impl Encoder {
    /// Tokens of a pass, if no text alone has more: whoever has many texts hands them over in such portions.
    pub const PASS_TOKENS: usize = BATCH_TOKENS;

    /// Makes an encoder of an open model, on `n_threads` threads, the caller's included. Weights stay in their file.
    ///
    /// # Errors
    /// If a tensor holds something that is not a finite number.
    pub fn new(model: &Arc<EncoderModel>, n_threads: usize, isa: Isa) -> Result<Encoder, Error> {
        let config = model.config().clone();
        let loader = Loader(model);
        let layers = (0..config.n_layers).map(|i| loader.layer(i)).collect::<Result<_, _>>()?;
        let types = loader.matrix(EncoderSlot::TypeEmbedding)?;
        let kinds = std::array::from_fn(|i| {
            let mut kind = vec![0.0; config.hidden_dim];
            types.dequantize_row(i.min(config.n_types - 1), &mut kind);
            kind
        });
        let scorer = match config.score {
            None => None,
            Some(score) => Some(Scorer {
                pooler: loader.linear(EncoderSlot::Pooler)?,
                head: loader.linear(EncoderSlot::Head)?,
                score,
            }),
        };
        let weights = Weights {
            words: loader.matrix(EncoderSlot::TokenEmbedding)?,
            positions: loader.matrix(EncoderSlot::PositionEmbedding)?,
            kinds,
            norm: loader.norm(EncoderSlot::EmbeddingNorm)?,
            layers,
            scorer,
        };
        Ok(Encoder { config, weights, pool: Pool::new(n_threads), isa, buffers: Buffers::default() })
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The vectors of texts, `[hidden_dim]` each. A text is what its tokenizer makes of it, with the tokens that the
    /// model wants around it. Texts of up to [`Encoder::PASS_TOKENS`] tokens together are computed in one pass, more in several.
    ///
    /// # Errors
    /// If a text is empty or longer than the model can take, or a token is beyond the vocabulary (nothing is computed
    /// then); or if the model gives something that is not a number.
    pub fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, Error> {
        let texts: Vec<Text> = texts.iter().map(|text| (*text, text.len())).collect();
        let mut vectors = Vec::with_capacity(texts.len());
        self.in_passes(&texts, |encoder, batch| {
            encoder.pool_states(batch, &mut vectors);
            Ok(())
        })?;
        Ok(vectors)
    }

    /// How well the two texts of each pair go together, by a model with a head for that. A pair is the first text with the
    /// tokens around it and how many these are, and then the second with the token that ends it. Passes are as of
    /// [`Encoder::embed`].
    ///
    /// # Errors
    /// As [`Encoder::embed`]; also if the model has no such head.
    pub fn score(&mut self, pairs: &[(&[u32], usize)]) -> Result<Vec<f32>, Error> {
        if self.weights.scorer.is_none() {
            return Err(Error::BadOption("the model makes vectors and scores no pairs".to_owned()));
        }
        let mut scores = Vec::with_capacity(pairs.len());
        self.in_passes(pairs, |encoder, batch| encoder.score_states(batch, &mut scores))?;
        Ok(scores)
    }

    /// Computes the states of texts, as many at a time as a pass takes, and calls `then` after each pass with its texts.
    fn in_passes(
        &mut self,
        texts: &[Text],
        mut then: impl FnMut(&mut Encoder, &[Text]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        texts.iter().try_for_each(|(text, _)| self.check(text))?;
        let mut rest = texts;
        while !rest.is_empty() {
            let mut n_tokens = 0;
            let fits = |(text, _): &&Text| {
                n_tokens += text.len();
                n_tokens <= BATCH_TOKENS
            };
            let n_texts = rest.iter().take_while(fits).count().max(1);
            let (batch, later) = rest.split_at(n_texts);
            self.forward(batch)?;
            then(self, batch)?;
            rest = later;
        }
        Ok(())
    }

    /// Makes one number of each text's first state.
    fn score_states(&mut self, texts: &[Text], scores: &mut Vec<f32>) -> Result<(), Error> {
        let Encoder { config, weights, pool, isa, buffers: b } = self;
        let (isa, hidden_dim) = (*isa, config.hidden_dim);
        let Some(Scorer { pooler, head, score }) = &weights.scorer else { return Ok(()) };
        let firsts: Vec<usize> = texts
            .iter()
            .scan(0, |next, (text, _)| Some(std::mem::replace(next, *next + text.len())))
            .collect();
        b.input.fill(pool, isa, (texts.len(), hidden_dim), Form::Float, |t, row| {
            row.copy_from_slice(&b.x[firsts[t] * hidden_dim..][..hidden_dim]);
        });
        let mut pooled = vec![0.0; texts.len() * hidden_dim];
        linear(pool, isa, &[pooler], &b.input, Mode::Store, &mut pooled);
        b.input.fill(pool, isa, (texts.len(), hidden_dim), Form::Float, |t, row| {
            let pooled = &pooled[t * hidden_dim..][..hidden_dim];
            row.iter_mut().zip(pooled).for_each(|(y, x)| *y = x.tanh());
        });
        let mut logits = vec![0.0; texts.len()];
        linear(pool, isa, &[head], &b.input, Mode::Store, &mut logits);
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(Error::NotFinite);
        }
        scores.extend(logits.iter().map(|&logit| match score {
            Score::Logit => logit,
            Score::Sigmoid => (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32,
        }));
        Ok(())
    }

    /// Whether a text can be computed.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn check(&self, text: &[u32]) -> Result<(), Error> {
        let EncoderConfig { vocab_size, max_tokens, .. } = self.config;
        if text.is_empty() {
            return Err(Error::NoTokens);
        }
        if let Some(&token) = text.iter().find(|token| **token as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        if text.len() > max_tokens {
            return Err(Error::TextTooLong { n_tokens: text.len(), max_tokens });
        }
        Ok(())
    }

    /// Computes the states of a batch into `buffers.x`.
    fn forward(&mut self, texts: &[Text]) -> Result<(), Error> {
        let Encoder { config, weights, pool, isa, buffers: b } = self;
        let isa = *isa;
        let EncoderConfig { hidden_dim, ffn_dim, n_heads, layer_norm_eps: eps, activation, .. } = *config;
        let n_tokens: usize = texts.iter().map(|(text, _)| text.len()).sum();

        b.x.resize(n_tokens * hidden_dim, 0.0);
        let tokens = texts.iter().flat_map(|(text, n_first)| {
            text.iter().enumerate().map(move |(i, token)| (i, token, i >= *n_first))
        });
        let mut position = vec![0.0; hidden_dim];
        for (row, (i, token, is_second)) in b.x.chunks_exact_mut(hidden_dim).zip(tokens) {
            weights.words.dequantize_row(*token as usize, row);
            weights.positions.dequantize_row(i, &mut position);
            let added = position.iter().zip(&weights.kinds[usize::from(is_second)]);
            row.iter_mut().zip(added).for_each(|(x, (position, kind))| *x += position + kind);
        }
        layer_norm(pool, isa, &mut b.x, &weights.norm, eps);

        b.qkv.resize(n_tokens * 3 * hidden_dim, 0.0);
        b.mixed.resize(n_tokens * hidden_dim, 0.0);
        b.wide.resize(n_tokens * ffn_dim, 0.0);
        let places = places(texts);
        let head_dim = hidden_dim / n_heads;
        for layer in &weights.layers {
            b.input.fill(pool, isa, (n_tokens, hidden_dim), Form::Float, |t, row| {
                row.copy_from_slice(&b.x[t * hidden_dim..][..hidden_dim]);
            });
            linear(pool, isa, &[&layer.q, &layer.k, &layer.v], &b.input, Mode::Store, &mut b.qkv);
            attend(pool, isa, (n_heads, head_dim), texts, &b.qkv, &mut b.mixed);
            b.input.fill(pool, isa, (n_tokens, hidden_dim), Form::Float, |t, row| {
                let Place { first, i, len } = places[t];
                for (head, row) in row.chunks_exact_mut(head_dim).enumerate() {
                    let at = first * hidden_dim + (head * len + i) * head_dim;
                    row.copy_from_slice(&b.mixed[at..][..head_dim]);
                }
            });
            linear(pool, isa, &[&layer.o], &b.input, Mode::Add, &mut b.x);
            layer_norm(pool, isa, &mut b.x, &layer.attn_norm, eps);

            b.input.fill(pool, isa, (n_tokens, hidden_dim), Form::Float, |t, row| {
                row.copy_from_slice(&b.x[t * hidden_dim..][..hidden_dim]);
            });
            linear(pool, isa, &[&layer.up], &b.input, Mode::Store, &mut b.wide);
            b.wide_input.fill(pool, isa, (n_tokens, ffn_dim), Form::Float, |t, row| {
                isa.vectorize(Activate { activation, x: &b.wide[t * ffn_dim..][..ffn_dim], out: row });
            });
            linear(pool, isa, &[&layer.down], &b.wide_input, Mode::Add, &mut b.x);
            layer_norm(pool, isa, &mut b.x, &layer.ffn_norm, eps);
        }
        if b.x.iter().any(|x| !x.is_finite()) { Err(Error::NotFinite) } else { Ok(()) }
    }

    /// Makes one vector of each text's states.
    fn pool_states(&self, texts: &[Text], vectors: &mut Vec<Vec<f32>>) {
        let EncoderConfig { hidden_dim, pooling, normalizes, .. } = self.config;
        let mut states = &self.buffers.x[..];
        for (text, _) in texts {
            let (own, rest) = states.split_at(text.len() * hidden_dim);
            states = rest;
            let rows = own.chunks_exact(hidden_dim);
            let mut vector = vec![0.0f64; hidden_dim];
            match pooling {
                Pooling::Mean => {
                    for row in rows {
                        vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                    }
                    vector.iter_mut().for_each(|sum| *sum /= text.len() as f64);
                }
                Pooling::Cls => vector.iter_mut().zip(own).for_each(|(y, x)| *y = f64::from(*x)),
                Pooling::Max => {
                    vector.fill(f64::NEG_INFINITY);
                    for row in rows {
                        vector.iter_mut().zip(row).for_each(|(max, x)| *max = max.max(f64::from(*x)));
                    }
                }
            }
            if normalizes {
                let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|x| *x /= norm);
            }
            vectors.push(vector.into_iter().map(|x| x as f32).collect());
        }
    }
}

/// Where a token of a batch is.
#[derive(Clone, Copy)]
struct Place {
    /// Where its text begins in the batch.
    first: usize,
    /// Position in the text.
    i: usize,
    /// Tokens of the text.
    len: usize,
}

fn places(texts: &[Text]) -> Vec<Place> {
    let mut first = 0;
    let mut places = Vec::new();
    for (text, _) in texts {
        let len = text.len();
        places.extend((0..len).map(|i| Place { first, i, len }));
        first += len;
    }
    places
}

/// Attention of every text and head: `qkv` is `[n_tokens, 3 * n_heads * head_dim]`, `mixed` for each text
/// `[n_heads, n_tokens, head_dim]`.
fn attend(
    pool: &mut Pool,
    isa: Isa,
    (n_heads, head_dim): (usize, usize),
    texts: &[Text],
    qkv: &[f32],
    mixed: &mut [f32],
) {
    struct Job<'a> {
        qkv: &'a [f32],
        head: usize,
        out: &'a mut [f32],
    }
    let mut jobs = Vec::new();
    let (mut rest, mut out) = (qkv, mixed);
    for (text, _) in texts {
        let (qkv, later) = rest.split_at(text.len() * 3 * n_heads * head_dim);
        rest = later;
        for head in 0..n_heads {
            let (now, later) = out.split_at_mut(text.len() * head_dim);
            out = later;
            // Each lock is taken once, by whoever does that piece.
            jobs.push(Mutex::new(Job { qkv, head, out: now }));
        }
    }
    pool.run(jobs.len(), |_, i| {
        let mut job = jobs[i].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Job { qkv, head, out } = &mut *job;
        isa.vectorize(AttendHead { qkv, head: *head, n_heads, head_dim, out });
    });
}

/// One head of one text.
struct AttendHead<'a> {
    /// `[n_tokens, 3 * n_heads * head_dim]`
    qkv: &'a [f32],
    head: usize,
    n_heads: usize,
    head_dim: usize,
    /// `[n_tokens, head_dim]`
    out: &'a mut [f32],
}

impl Vectorized for AttendHead<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let AttendHead { qkv, head, n_heads, head_dim, out } = self;
        let width = n_heads * head_dim;
        let n_tokens = out.len() / head_dim;
        let row = |i: usize, part: usize| &qkv[(3 * i + part) * width + head * head_dim..][..head_dim];
        let n_padded = n_tokens.next_multiple_of(LANES);
        // Keys as columns, so that a query meets sixteen of them at once.
        let mut keys = vec![0.0f32; head_dim * n_padded];
        for i in 0..n_tokens {
            row(i, 1).iter().enumerate().for_each(|(d, x)| keys[d * n_padded + i] = *x);
        }
        let mut scores = vec![0.0f32; n_padded];
        let scale = (head_dim as f32).sqrt().recip();
        for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let query = row(i, 0);
            for (at, scores) in scores.chunks_exact_mut(LANES).enumerate() {
                let mut sums = [0.0f32; LANES];
                for (d, q) in query.iter().enumerate() {
                    let keys: &[f32; LANES] =
                        keys[d * n_padded + at * LANES..].first_chunk().expect("keys are padded");
                    (0..LANES).for_each(|lane| sums[lane] = q.mul_add(keys[lane], sums[lane]));
                }
                (0..LANES).for_each(|lane| scores[lane] = sums[lane] * scale);
            }
            // Padding counts for next to nothing in the sum, 1e-38 beside at least one, and is left out below.
            scores[n_tokens..].fill(f32::NEG_INFINITY);
            let max = scores.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
            let mut sums = [0.0f32; LANES];
            for scores in scores.as_chunks_mut::<LANES>().0 {
                for lane in 0..LANES {
                    scores[lane] = exp(scores[lane] - max);
                    sums[lane] += scores[lane];
                }
            }
            let inverse = 1.0 / sums.iter().sum::<f32>();
            for (part, out) in out.chunks_mut(LANES).enumerate() {
                let mut sums = [0.0f32; LANES];
                for (j, p) in scores[..n_tokens].iter().enumerate() {
                    let value = &row(j, 2)[part * LANES..][..out.len()];
                    match value.first_chunk::<LANES>() {
                        Some(value) => {
                            (0..LANES).for_each(|lane| sums[lane] = p.mul_add(value[lane], sums[lane]))
                        }
                        None => sums.iter_mut().zip(value).for_each(|(sum, v)| *sum = p.mul_add(*v, *sum)),
                    }
                }
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * inverse);
            }
        }
    }
}

/// In place, for each row: (x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016, arXiv:1607.06450).
fn layer_norm(pool: &mut Pool, isa: Isa, x: &mut [f32], norm: &Norm, eps: f32) {
    let dim = norm.weight.len();
    pool.run_chunks(x, ROWS_PER_PIECE * dim, |_, rows| {
        isa.vectorize(LayerNorm { rows, norm, eps });
    });
}

struct LayerNorm<'a> {
    rows: &'a mut [f32],
    norm: &'a Norm,
    eps: f32,
}

impl Vectorized for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let LayerNorm { rows, norm, eps } = self;
        let dim = norm.weight.len();
        for row in rows.chunks_exact_mut(dim) {
            let mean = sum(row, |x| x) / dim as f32;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / dim as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for ((x, weight), bias) in row.iter_mut().zip(&norm.weight).zip(&norm.bias) {
                *x = (*x - mean) * scale * weight + bias;
            }
        }
    }
}

/// Sixteen partial sums, then one.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (parts, rest) = row.as_chunks::<LANES>();
    for part in parts {
        (0..LANES).for_each(|lane| sums[lane] += f(part[lane]));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += f(*x));
    sums.iter().sum()
}

struct Activate<'a> {
    activation: EncoderActivation,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorized for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let each = self.x.iter().zip(self.out);
        match self.activation {
            EncoderActivation::Relu => each.for_each(|(x, out)| *out = x.max(0.0)),
            EncoderActivation::Gelu => {
                each.for_each(|(x, out)| *out = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)))
            }
            EncoderActivation::GeluTanh => each.for_each(|(x, out)| {
                // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u), u = sqrt(2 / pi) * (x + 0.044715 x^3)
                let u = x * (1.0 + 0.044_715 * x * x) * 0.797_884_6;
                *out = x / (1.0 + exp(-2.0 * u));
            }),
        }
    }
}

/// The error function to within 2e-7: Abramowitz and Stegun 1964, 7.1.26.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let mut p = 1.061_405_4f32;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p.mul_add(t, c);
    }
    (1.0 - p * t * exp(-x * x)).copysign(x)
}

/// e^x to within some units in the last place, on [-87, 88]; beyond it is cut there. In operations that exist for whole
/// vectors: x = n ln 2 + r, e^r by a polynomial whose largest relative error is least, 2^n by its bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Added and taken away again, this rounds to a whole number, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 0.001_381_453_5f32;
    for c in [0.008_368_745, 0.041_668_393, 0.166_665_21, 0.499_999_94, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// Reads an encoder's tensors.
struct Loader<'a>(&'a Arc<EncoderModel>);

impl Loader<'_> {
    fn layer(&self, i: usize) -> Result<Layer, Error> {
        use EncoderLayerSlot::{AttnNorm, Down, FfnNorm, K, O, Q, Up, V};
        let map = |slot| self.linear(|part| EncoderSlot::Layer(i, slot, part));
        let norm = |slot| self.norm(|part| EncoderSlot::Layer(i, slot, part));
        Ok(Layer {
            q: map(Q)?,
            k: map(K)?,
            v: map(V)?,
            o: map(O)?,
            attn_norm: norm(AttnNorm)?,
            up: map(Up)?,
            down: map(Down)?,
            ffn_norm: norm(FfnNorm)?,
        })
    }

    fn linear(&self, slot: impl Fn(EncoderPart) -> EncoderSlot) -> Result<Linear, Error> {
        let matrix = self.matrix(slot(EncoderPart::Weight))?;
        Ok(Linear { matrix, bias: Some(self.vector(slot(EncoderPart::Bias))?) })
    }

    fn norm(&self, slot: impl Fn(EncoderPart) -> EncoderSlot) -> Result<Norm, Error> {
        let weight = self.vector(slot(EncoderPart::Weight))?;
        Ok(Norm { weight, bias: self.vector(slot(EncoderPart::Bias))? })
    }

    fn matrix(&self, slot: EncoderSlot) -> Result<Matrix, Error> {
        let tensor = self.0.tensor(slot).expect("an open encoder has all tensors");
        if !all_finite(tensor.dtype, tensor.data) {
            return Err(not_finite(tensor.name));
        }
        let bytes = Arc::new(EncoderBytes::new(self.0, slot));
        let matrix = FloatMatrix::new(tensor.dtype, tensor.n_rows, tensor.n_cols, bytes);
        Ok(Matrix::Float(matrix.expect("safetensors hold floats, as many as their shape says")))
    }

    fn vector(&self, slot: EncoderSlot) -> Result<Vec<f32>, Error> {
        let tensor = self.0.tensor(slot).expect("an open encoder has all tensors");
        let mut values = vec![0.0; tensor.n_rows * tensor.n_cols];
        dequantize(tensor.dtype, tensor.data, &mut values);
        if values.iter().any(|x| !x.is_finite()) {
            return Err(not_finite(tensor.name));
        }
        Ok(values)
    }
}

fn not_finite(name: &str) -> Error {
    let reason = "it holds a value that is not a finite number".to_owned();
    Error::BadTensor { name: name.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_and_error_function() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        // From tables: Abramowitz and Stegun, 7.1.
        for (x, exact) in
            [(0.0, 0.0), (0.1, 0.112_462_92), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3)]
        {
            assert!((erf(x) - exact).abs() < 4e-7 && (erf(-x) + exact).abs() < 4e-7, "{x}: {}", erf(x));
        }
    }
}
