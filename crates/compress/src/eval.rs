//! How well a model predicts a text, and how far its predictions are from its teacher's.
//!
//! The protocol is that of llama-perplexity, so that figures compare: the text is cut into windows of equal length,
//! each is read afresh, and the tokens of its second half but the first are scored, given all before them in the
//! window. A model with a beginning token sees it in place of the first token of every window. What remains after the
//! last whole window is left out. Perplexity is e to the mean of the negative log-probabilities.
//!
//! Divergence is that of Kullback and Leibler from the teacher's distribution to the student's at each scored position,
//! natural logarithms. Both models go through the text side by side, a few positions at a time, so no file of logits
//! is needed and memory does not grow with the text.
//!
//! A model whose vocabulary was trimmed ([`crate::vocabulary`]) is compared with its teacher in two ways. Divergence is
//! from the teacher's distribution over the tokens that are left, given that it is one of them, on the text as the model
//! cuts it. And since both cut a text differently, each also reads the same passages its own way: what these cost each in
//! all, by byte and by word, is comparable whatever the tokens are ([`PassageScores`]).

use std::ops::Range;

use edgeward_engine::{CancelToken, Engine, Isa, Sequence, log_probability};
use edgeward_kernels::{Pool, Vectorized};
use edgeward_model::Model;
use edgeward_model::tensor::Slot;
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Positions of which both models' logits are in memory at once.
const ROWS_AT_ONCE: usize = 32;

/// A text in windows of equal length.
#[derive(Clone, Debug)]
pub struct Windows {
    tokens: Vec<u32>,
    window_len: usize,
    bos: Option<u32>,
}

impl Windows {
    /// Cuts `text` into windows of `window_len` tokens, at least 4.
    ///
    /// # Errors
    /// If the text is shorter than a window, or cannot be cut into tokens.
    pub fn new(tokenizer: &Tokenizer, text: &str, window_len: usize) -> Result<Windows, Error> {
        assert!(window_len >= 4, "a window has something to score");
        let tokens = tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::No)?;
        // Whether the model wants a beginning token shows in what it was given.
        let bos = tokenizer.bos().filter(|bos| tokens.first() == Some(bos));
        if tokens.len() < window_len {
            return Err(Error::TextTooShort { n_tokens: tokens.len(), needed: window_len });
        }
        Ok(Windows { tokens, window_len, bos })
    }

    /// Windows.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.tokens.len() / self.window_len
    }

    /// Tokens of a window.
    pub fn window_len(&self) -> usize {
        self.window_len
    }

    /// The positions of a window whose logits are scored: those at a position are of the next token, and the last
    /// position has none.
    pub fn scored(&self) -> Range<usize> {
        self.window_len / 2..self.window_len - 1
    }

    /// The tokens of window `idx`.
    ///
    /// # Panics
    /// If there is none.
    pub fn window(&self, idx: usize) -> Vec<u32> {
        let mut window = self.tokens[idx * self.window_len..][..self.window_len].to_vec();
        if let Some(bos) = self.bos {
            window[0] = bos;
        }
        window
    }

    /// `n_wanted` of the windows, evenly spread over the text; all if there are fewer.
    pub fn part(&self, n_wanted: usize) -> Windows {
        self.chosen(&self.spread(n_wanted))
    }

    /// What [`Windows::part`] leaves; none if that is nothing.
    pub fn rest(&self, n_wanted: usize) -> Option<Windows> {
        let chosen = self.spread(n_wanted);
        let others: Vec<usize> = (0..self.len()).filter(|idx| chosen.binary_search(idx).is_err()).collect();
        (!others.is_empty()).then(|| self.chosen(&others))
    }

    fn chosen(&self, idxs: &[usize]) -> Windows {
        let tokens = idxs.iter().flat_map(|&idx| self.window(idx)).collect();
        Windows { tokens, window_len: self.window_len, bos: self.bos }
    }

    /// Indices of `n_wanted` windows, evenly spread over the text, the first and the last among them; all if there are
    /// fewer.
    pub fn spread(&self, n_wanted: usize) -> Vec<usize> {
        spread(self.len(), n_wanted)
    }
}

fn spread(n_all: usize, n_wanted: usize) -> Vec<usize> {
    match n_wanted {
        0 | 1 => (0..n_wanted.min(n_all)).collect(),
        _ if n_wanted >= n_all => (0..n_all).collect(),
        _ => {
            let step = (n_all - 1) as f64 / (n_wanted - 1) as f64;
            (0..n_wanted).map(|i| (i as f64 * step).round_ties_even() as usize).collect()
        }
    }
}

/// Numbers, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// How many.
    pub n: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Sums {
    /// Adds a number.
    pub fn push(&mut self, x: f64) {
        self.n += 1;
        self.sum += x;
        self.sum_of_squares += x * x;
    }

    /// Their mean; NaN of none.
    pub fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    /// The standard error of the mean: the sample's standard deviation by the root of the number.
    pub fn standard_error(&self) -> f64 {
        let variance = (self.sum_of_squares / self.n as f64 - self.mean().powi(2)).max(0.0);
        (variance / (self.n.max(2) - 1) as f64).sqrt()
    }
}

/// Perplexity of what was scored so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    nll: Sums,
}

impl Perplexity {
    /// Adds a token of this natural log-probability.
    pub fn push(&mut self, log_probability: f64) {
        self.nll.push(-log_probability);
    }

    /// Tokens.
    pub fn n(&self) -> usize {
        self.nll.n
    }

    /// e to the mean of the negative log-probabilities.
    pub fn value(&self) -> f64 {
        self.nll.mean().exp()
    }

    /// Of the value, by first-order propagation from that of the mean.
    pub fn standard_error(&self) -> f64 {
        self.value() * self.nll.standard_error()
    }
}

/// Divergence of a student from its teacher, position by position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    kl: Vec<f32>,
    n_same: usize,
}

/// What there is to say of a [`Divergence`]. Natural logarithms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DivergenceSummary {
    /// Mean over the positions.
    pub mean: f64,
    /// Of the mean.
    pub standard_error: f64,
    /// Half of the positions are below.
    pub median: f64,
    /// 90 of 100 positions are below.
    pub p90: f64,
    /// 95 of 100 positions are below.
    pub p95: f64,
    /// 99 of 100 positions are below.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// Share of positions at which teacher and student find the same token likeliest.
    pub top1_agreement: f64,
    /// Of that share.
    pub top1_standard_error: f64,
}

impl Divergence {
    /// Adds a position.
    pub fn push(&mut self, kl: f32, is_same_top1: bool) {
        self.kl.push(kl);
        self.n_same += usize::from(is_same_top1);
    }

    /// Positions.
    pub fn n(&self) -> usize {
        self.kl.len()
    }

    /// Mean divergence; NaN of no positions.
    pub fn mean(&self) -> f64 {
        self.kl.iter().map(|&kl| f64::from(kl)).sum::<f64>() / self.kl.len() as f64
    }

    /// The figures; none of no positions.
    pub fn summary(&self) -> Option<DivergenceSummary> {
        let mut sorted = self.kl.clone();
        sorted.sort_by(f32::total_cmp);
        let max = f64::from(*sorted.last()?);
        let n = sorted.len();
        // Linear between the two nearest ranks.
        let quantile = |q: f64| {
            let at = q * (n - 1) as f64;
            let (low, high) = (f64::from(sorted[at as usize]), f64::from(sorted[at.ceil() as usize]));
            low + (high - low) * at.fract()
        };
        let mut sums = Sums::default();
        self.kl.iter().for_each(|&kl| sums.push(f64::from(kl)));
        let share = self.n_same as f64 / n as f64;
        Some(DivergenceSummary {
            mean: sums.mean(),
            standard_error: sums.standard_error(),
            median: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            max,
            top1_agreement: share,
            top1_standard_error: (share * (1.0 - share) / (n.max(2) - 1) as f64).sqrt(),
        })
    }
}

/// What has been measured on a text so far: can be kept, and gone on with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TextScores {
    /// Windows done.
    pub n_windows: usize,
    /// Of the model.
    pub perplexity: Perplexity,
    /// From the teacher, if there is one.
    pub divergence: Divergence,
}

/// The model that others are compared with.
pub struct Teacher {
    /// It.
    pub engine: Engine,
    /// For each token of the others, its own; none if they are the same.
    ids: Option<Vec<u32>>,
    /// For each window that was read ahead, the residual stream after the last layer at the scored positions.
    read_ahead: Vec<Vec<f32>>,
}

impl Teacher {
    /// For students of a vocabulary of `vocab_size` tokens that `student` encodes: the teacher's own, or a part of it.
    ///
    /// # Errors
    /// If it is neither.
    pub fn new(
        engine: Engine,
        tokenizer: &Tokenizer,
        student: &Tokenizer,
        vocab_size: usize,
    ) -> Result<Teacher, Error> {
        let n_rows = engine.config().vocab_size;
        if n_rows == vocab_size {
            return Ok(Teacher { engine, ids: None, read_ahead: Vec::new() });
        }
        let ids = ids_in(student, tokenizer).filter(|ids| ids.len() == vocab_size);
        let mismatch = Error::VocabularyMismatch { student: vocab_size, teacher: n_rows };
        Ok(Teacher { engine, ids: Some(ids.ok_or(mismatch)?), read_ahead: Vec::new() })
    }

    /// Whether the students' vocabulary is a part of its own.
    pub fn has_more_tokens(&self) -> bool {
        self.ids.is_some()
    }

    fn vocab_size(&self) -> usize {
        self.ids.as_ref().map_or(self.engine.config().vocab_size, Vec::len)
    }

    /// Reads all of `windows` now, layer by layer, and gives the memory of each layer back: for [`score_window`] of these
    /// windows only the output matrix is needed after that, however many students there are. `model` is the engine's.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn read(
        &mut self,
        model: &Model,
        windows: &Windows,
        cancel: &CancelToken,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<(), Error> {
        model.release_all();
        let mut streams = Vec::new();
        for idx in 0..windows.len() {
            streams.push(self.engine.embed(&self.own_tokens(&windows.window(idx)))?);
        }
        let n_layers = self.engine.config().n_layers;
        for layer_idx in 0..n_layers {
            watch(layer_idx, n_layers);
            for stream in &mut streams {
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                self.engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
            let of_layer = |slot: &Slot| matches!(slot, Slot::Layer(of, _) if *of == layer_idx);
            model.tensors().filter(|(slot, _)| of_layer(slot)).for_each(|(_, tensor)| model.release(&tensor));
        }
        watch(n_layers, n_layers);
        let hidden_dim = self.engine.config().hidden_dim;
        let scored = windows.scored();
        let of_scored =
            |stream: Vec<f32>| stream[scored.start * hidden_dim..scored.end * hidden_dim].to_vec();
        self.read_ahead = streams.into_iter().map(of_scored).collect();
        Ok(())
    }

    /// What a student's tokens are to the teacher.
    fn own_tokens(&self, tokens: &[u32]) -> Vec<u32> {
        match &self.ids {
            None => tokens.to_vec(),
            Some(ids) => tokens.iter().map(|id| ids[*id as usize]).collect(),
        }
    }

    /// The logits of the students' tokens among the teacher's, appended to `out`.
    fn push_logits(ids: Option<&[u32]>, logits: &[f32], out: &mut Vec<f32>) {
        match ids {
            None => out.extend_from_slice(logits),
            Some(ids) => out.extend(ids.iter().map(|id| logits[*id as usize])),
        }
    }

    /// Appends the logits after `piece` from the `first`-th token on to `out`: of the students' tokens.
    fn score(
        &mut self,
        sequence: &mut Sequence,
        piece: &[u32],
        first: usize,
        cancel: &CancelToken,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let piece = self.own_tokens(piece);
        let ids = self.ids.as_deref();
        self.engine
            .score(sequence, &piece, first, cancel, |_, logits| Teacher::push_logits(ids, logits, out))?;
        Ok(())
    }

    /// The same of a window that was read ahead, for scored positions by their number; `None` if it was not.
    fn score_read(
        &mut self,
        idx: usize,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Option<Result<(), Error>> {
        let hidden_dim = self.engine.config().hidden_dim;
        let rows = &self.read_ahead.get(idx)?[rows.start * hidden_dim..rows.end * hidden_dim];
        let logits = match self.engine.logits(rows) {
            Ok(logits) => logits,
            Err(error) => return Some(Err(error.into())),
        };
        (0..logits.n_rows()).for_each(|i| Teacher::push_logits(self.ids.as_deref(), logits.row(i), out));
        Some(Ok(()))
    }
}

/// For each token of `part` its id in `whole`, if all are there, in the same order.
fn ids_in(part: &Tokenizer, whole: &Tokenizer) -> Option<Vec<u32>> {
    let mut others = 0..whole.vocab_size() as u32;
    let id_of = |id: u32| {
        let (kind, bytes) = (part.kind(id), part.token_bytes(id).ok()?);
        others.find(|&other| whole.kind(other) == kind && whole.token_bytes(other).is_ok_and(|b| b == bytes))
    };
    (0..part.vocab_size() as u32).map(id_of).collect()
}

/// Scores one window of one or several models, each with what it has shown so far; the teacher, which costs the most,
/// reads it once for all. `row` sees each scored position's logits of each model. On an error nothing is added.
///
/// # Errors
/// Those of the engine, or if a model and the teacher have different vocabularies.
pub fn score_window(
    windows: &Windows,
    idx: usize,
    students: &mut [(&mut Engine, &mut TextScores)],
    mut teacher: Option<&mut Teacher>,
    cancel: &CancelToken,
    row: &mut dyn FnMut(&[f32]),
) -> Result<(), Error> {
    for (student, _) in students.iter() {
        let (student, teacher) = (student.config().vocab_size, teacher.as_ref().map(|t| t.vocab_size()));
        if let Some(teacher) = teacher.filter(|teacher| *teacher != student) {
            return Err(Error::VocabularyMismatch { student, teacher });
        }
    }
    let window = windows.window(idx);
    let scored = windows.scored();
    let mut sequences: Vec<_> = students.iter().map(|(student, _)| student.new_sequence()).collect();
    let mut teacher_sequence = teacher.as_ref().map(|teacher| teacher.engine.new_sequence());
    let mut scores = vec![TextScores::default(); students.len()];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first piece is the unscored beginning and some rows; then a few rows at a time.
    let mut at = 0;
    while at < scored.end {
        let all_at_once = teacher.is_none();
        let end =
            if all_at_once { scored.end } else { (at.max(scored.start) + ROWS_AT_ONCE).min(scored.end) };
        let first = scored.start.saturating_sub(at);
        let piece = &window[at..end];
        if let (Some(teacher), Some(sequence)) = (&mut teacher, &mut teacher_sequence) {
            theirs.clear();
            let rows = at.max(scored.start) - scored.start..end - scored.start;
            match teacher.score_read(idx, rows, &mut theirs) {
                Some(read) => read?,
                None => teacher.score(sequence, piece, first, cancel, &mut theirs)?,
            }
        }
        for (((student, _), sequence), scores) in students.iter_mut().zip(&mut sequences).zip(&mut scores) {
            ours.clear();
            student.score(sequence, piece, first, cancel, |i, logits| {
                scores.perplexity.push(log_probability(logits, window[at + i + 1]));
                row(logits);
                if teacher.is_some() {
                    ours.extend_from_slice(logits);
                }
            })?;
            let vocab_size = student.config().vocab_size;
            compare_rows(student.pool(), Isa::best(), &theirs, &ours, vocab_size, &mut scores.divergence);
        }
        at = end;
    }
    for ((_, total), scores) in students.iter_mut().zip(scores) {
        total.n_windows += 1;
        total.perplexity.nll = merged(total.perplexity.nll, scores.perplexity.nll);
        total.divergence.kl.extend(scores.divergence.kl);
        total.divergence.n_same += scores.divergence.n_same;
    }
    Ok(())
}

/// Bytes of a passage, about: some hundred tokens, so that most have much before them.
const PASSAGE_BYTES: usize = 2048;

/// Cuts a text into passages of about 2 KB, between lines or else words.
pub fn passages(text: &str) -> Vec<&str> {
    let mut passages = Vec::new();
    let mut rest = text;
    while rest.len() > PASSAGE_BYTES {
        let bytes = rest.as_bytes();
        let ends = PASSAGE_BYTES..bytes.len().min(2 * PASSAGE_BYTES);
        let at = ends.clone().find(|&end| bytes[end - 1] == b'\n');
        let at = at.or_else(|| ends.clone().find(|&end| bytes[end] == b' '));
        let at = at.or_else(|| ends.clone().find(|&end| rest.is_char_boundary(end)));
        let (passage, after) = rest.split_at(at.unwrap_or(rest.len()));
        passages.push(passage);
        rest = after;
    }
    if !rest.is_empty() {
        passages.push(rest);
    }
    passages
}

/// What passages cost two models, each of which cuts them into its own tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PassageScores {
    /// Passages read.
    pub n_passages: usize,
    /// Bytes in them.
    pub n_bytes: usize,
    /// Words in them, as white space divides them.
    pub n_words: usize,
    /// Tokens, as the student cuts them and as the teacher does.
    pub n_tokens: [usize; 2],
    nats: [f64; 2],
    /// For each passage, how much more it costs the student.
    differences: Sums,
}

impl PassageScores {
    /// Lets both read a passage, from its first token on. On an error nothing is added.
    ///
    /// # Errors
    /// Those of engines and tokenizers.
    pub fn read(
        &mut self,
        passage: &str,
        student: (&mut Engine, &Tokenizer),
        teacher: (&mut Engine, &Tokenizer),
        cancel: &CancelToken,
    ) -> Result<(), Error> {
        let (ours, n_ours) = nats_of(passage, student.0, student.1, cancel)?;
        let (theirs, n_theirs) = nats_of(passage, teacher.0, teacher.1, cancel)?;
        self.n_passages += 1;
        self.n_bytes += passage.len();
        self.n_words += passage.split_whitespace().count();
        self.n_tokens = [self.n_tokens[0] + n_ours, self.n_tokens[1] + n_theirs];
        self.nats = [self.nats[0] + ours, self.nats[1] + theirs];
        self.differences.push(ours - theirs);
        Ok(())
    }

    /// Bits by byte, of student and teacher.
    pub fn bits_per_byte(&self) -> [f64; 2] {
        self.nats.map(|nats| nats / std::f64::consts::LN_2 / self.n_bytes as f64)
    }

    /// e to the mean cost of a word, of student and teacher.
    pub fn word_perplexity(&self) -> [f64; 2] {
        self.nats.map(|nats| (nats / self.n_words as f64).exp())
    }

    /// Perplexity by token of the teacher: by how much the student's is larger, as a share; and the standard error.
    pub fn perplexity_increase(&self) -> (f64, f64) {
        let by_token = self.differences.n as f64 / self.n_tokens[1] as f64;
        let ratio = (self.differences.mean() * by_token).exp();
        (ratio - 1.0, ratio * self.differences.standard_error() * by_token)
    }
}

/// What a passage costs a model, nats, and its tokens.
fn nats_of(
    passage: &str,
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    cancel: &CancelToken,
) -> Result<(f64, usize), Error> {
    let tokens = tokenizer.encode(passage, AddSpecial::No, ParseSpecial::No)?;
    // The first token follows on something too: a beginning, or the end of another text.
    let start = tokenizer.bos().or(tokenizer.eos()).unwrap_or_default();
    let mut nats = 0.0;
    for piece in tokens.chunks(engine.context_len()) {
        let read: Vec<u32> = [start].iter().chain(&piece[..piece.len() - 1]).copied().collect();
        let mut sequence = engine.new_sequence();
        engine.score(&mut sequence, &read, 0, cancel, |i, logits| {
            nats -= log_probability(logits, piece[i]);
        })?;
    }
    Ok((nats, tokens.len()))
}

fn merged(a: Sums, b: Sums) -> Sums {
    Sums { n: a.n + b.n, sum: a.sum + b.sum, sum_of_squares: a.sum_of_squares + b.sum_of_squares }
}

/// Adds the divergences of rows of logits, `[n, vocab_size]` each.
pub(crate) fn compare_rows(
    pool: &mut Pool,
    isa: Isa,
    teacher: &[f32],
    student: &[f32],
    vocab_size: usize,
    divergence: &mut Divergence,
) {
    let n_rows = teacher.len() / vocab_size;
    let mut results = vec![(0.0f32, false); n_rows];
    pool.run_chunks(&mut results, 1, |i, result| {
        let (teacher, student) =
            (&teacher[i * vocab_size..][..vocab_size], &student[i * vocab_size..][..vocab_size]);
        let kl = isa.vectorize(Compare { teacher, student }) as f32;
        let is_same = argmax(teacher) == argmax(student);
        result[0] = (kl, is_same);
    });
    for (kl, is_same) in results {
        divergence.push(kl, is_same);
    }
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best
}

/// Divergence from the distribution of one row of logits to that of another, natural logarithms.
///
/// With p the teacher's probabilities, d the differences of the logits and m = sum p d, the divergence is
/// ln(sum p e^(d - m)) = ln(1 + sum p (e^(d - m) - 1 - (d - m))): a sum of what is never negative, so that small
/// divergences lose no digits.
pub fn kl_divergence(teacher: &[f32], student: &[f32]) -> f64 {
    Isa::best().vectorize(Compare { teacher, student })
}

struct Compare<'a> {
    teacher: &'a [f32],
    student: &'a [f32],
}

/// Floats that are computed on side by side.
const LANES: usize = 16;
/// Vectors whose sum stays in single precision.
const VECTORS_PER_SUM: usize = 64;

impl Vectorized for Compare<'_> {
    type Output = f64;
    #[inline(always)]
    fn run(self) -> f64 {
        let Compare { teacher, student } = self;
        let max = teacher.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max });
        // sum e^(t - max), and with the differences.
        let (mut total, mut weighted) = (0.0f64, 0.0f64);
        for (t, s) in teacher.chunks(LANES * VECTORS_PER_SUM).zip(student.chunks(LANES * VECTORS_PER_SUM)) {
            let (mut p_sum, mut d_sum) = ([0.0f32; LANES], [0.0f32; LANES]);
            for (t, s) in t.chunks(LANES).zip(s.chunks(LANES)) {
                let (t, s) = (padded(t, f32::NEG_INFINITY), padded(s, f32::NEG_INFINITY));
                for l in 0..LANES {
                    let p = exp(t[l] - max);
                    p_sum[l] += p;
                    d_sum[l] += if p > 0.0 { p * (s[l] - t[l]) } else { 0.0 };
                }
            }
            total += p_sum.iter().map(|&x| f64::from(x)).sum::<f64>();
            weighted += d_sum.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        let mean = (weighted / total) as f32;
        let mut excess = 0.0f64;
        for (t, s) in teacher.chunks(LANES * VECTORS_PER_SUM).zip(student.chunks(LANES * VECTORS_PER_SUM)) {
            let mut sum = [0.0f32; LANES];
            for (t, s) in t.chunks(LANES).zip(s.chunks(LANES)) {
                let (t, s) = (padded(t, f32::NEG_INFINITY), padded(s, f32::NEG_INFINITY));
                for l in 0..LANES {
                    let p = exp(t[l] - max);
                    let d = s[l] - t[l] - mean;
                    // The two halves of p e^d go into one exponent: p may be tiny where e^d is huge.
                    let far = exp(s[l] - mean - max) - p - p * d;
                    let near = p * near_excess(d);
                    sum[l] += if p == 0.0 && s[l] == f32::NEG_INFINITY {
                        0.0
                    } else if d.abs() < 0.5 {
                        near
                    } else {
                        far
                    };
                }
            }
            excess += sum.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        // The mean was rounded: what it left out of sum p d is added.
        let rest = weighted / total - f64::from(mean);
        (excess / total + rest).ln_1p() - rest
    }
}

#[inline(always)]
fn padded(x: &[f32], filler: f32) -> [f32; LANES] {
    let mut lanes = [filler; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// e^d - 1 - d for |d| < 0.5, by its Taylor polynomial: the remainder is below 1e-9 of it.
#[inline(always)]
fn near_excess(d: f32) -> f32 {
    let mut p = 1.0f32 / 40_320.0;
    for c in [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        p = p.mul_add(d, c);
    }
    p * d * d
}

/// e^x to 2 units in the last place, zero below -87, cut at 88. As `edgeward_kernels::math`'s, in plain Rust.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Added and subtracted, 1.5 * 2^23 leaves the nearest integer, which its bits hold too.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, clamped));
    let mut p = 1.0f32 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) << 23;
    let y = f32::from_bits(p.to_bits().wrapping_add(exponent));
    if x < -87.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use edgeward_engine::{EngineOptions, Precision};

    #[test]
    fn windows_are_evenly_spread() {
        assert_eq!(spread(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(spread(3, 9), [0, 1, 2]);
        assert_eq!(spread(10, 4), [0, 3, 6, 9]);
        assert_eq!(spread(10, 1), [0]);
        assert_eq!(spread(117, 30).last(), Some(&116));
    }

    #[test]
    fn a_part_and_the_rest_are_the_whole() {
        let windows = Windows { tokens: (0..42).collect(), window_len: 4, bos: None };
        let starts =
            |windows: &Windows| (0..windows.len()).map(|i| windows.window(i)[0] / 4).collect::<Vec<_>>();
        assert_eq!(starts(&windows.part(4)), [0, 3, 6, 9]);
        assert_eq!(starts(&windows.rest(4).unwrap()), [1, 2, 4, 5, 7, 8]);
        assert!(windows.rest(10).is_none() && windows.rest(99).is_none());
    }

    /// A teacher that has read ahead says what one that reads along does.
    #[test]
    fn reading_ahead_changes_nothing() {
        let load = |name: &str| {
            let path =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny").join(name);
            Arc::new(Model::load(&path).unwrap())
        };
        for name in ["llama.gguf", "gemma3.gguf"] {
            let model = load(name);
            let tokenizer = model.tokenizer().unwrap();
            let options = EngineOptions { n_threads: 2, ..EngineOptions::default() };
            let mut student = Engine::new(&model, options.clone()).unwrap();
            let vocab_size = student.config().vocab_size as u32;
            let tokens = (0..200).map(|i| i * 7 % vocab_size).collect();
            let windows = Windows { tokens, window_len: 90, bos: None };
            let exact = EngineOptions { precision: Precision::Exact, ..options };
            let engine = Engine::new(&model, exact).unwrap();
            let mut teacher = Teacher::new(engine, &tokenizer, &tokenizer, vocab_size as usize).unwrap();
            let cancel = CancelToken::new();
            let mut score = |teacher: &mut Teacher| {
                let mut scores = TextScores::default();
                for idx in 0..windows.len() {
                    let students = &mut [(&mut student, &mut scores)];
                    score_window(&windows, idx, students, Some(teacher), &cancel, &mut |_| {}).unwrap();
                }
                scores
            };
            let along = score(&mut teacher);
            teacher.read(&model, &windows, &cancel, &mut |_, _| {}).unwrap();
            assert_eq!(along.divergence.n(), 2 * windows.scored().len(), "{name}");
            assert_eq!(score(&mut teacher), along, "{name}");
        }
    }

    #[test]
    fn perplexity_of_known_probabilities() {
        let mut perplexity = Perplexity::default();
        for probability in [0.5f64, 0.125] {
            perplexity.push(probability.ln());
        }
        assert!((perplexity.value() - 4.0).abs() < 1e-12);
        // Deviations of ln 2 from the mean of ln 4, on both sides.
        assert!((perplexity.standard_error() - 4.0 * 2f64.ln()).abs() < 1e-12);
    }

    /// In double precision, from the definition.
    fn kl_ref(teacher: &[f32], student: &[f32]) -> f64 {
        let log_softmax = |x: &[f32]| {
            let max = x.iter().fold(f64::MIN, |m, &x| m.max(f64::from(x)));
            let total = x.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln() + max;
            x.iter().map(|&x| f64::from(x) - total).collect::<Vec<_>>()
        };
        let (t, s) = (log_softmax(teacher), log_softmax(student));
        t.iter().zip(&s).map(|(t, s)| t.exp() * (t - s)).sum()
    }

    #[test]
    fn divergence_is_exact_at_every_size() {
        let logits = |n: usize, seed: u32, spread: f32| -> Vec<f32> {
            (0..n as u32)
                .map(|i| {
                    (i.wrapping_mul(2_654_435_761).wrapping_add(seed).wrapping_mul(40_503) >> 8 & 0xffff)
                        as f32
                })
                .map(|x| (x / 32_768.0 - 1.0) * spread)
                .collect()
        };
        for n in [1, 2, 15, 16, 17, 1000, 5000] {
            let teacher = logits(n, 1, 12.0);
            for noise in [0.0f32, 1e-3, 0.1, 1.0, 20.0] {
                let student: Vec<f32> =
                    teacher.iter().zip(logits(n, 99, noise)).map(|(t, d)| t + d + 3.0).collect();
                let (got, want) = (kl_divergence(&teacher, &student), kl_ref(&teacher, &student));
                assert!(
                    (got - want).abs() <= 1e-3 * want + 2e-9,
                    "{n} logits, noise {noise}: {got}, not {want}"
                );
            }
        }
        // The student all but rules out what the teacher expects.
        let (got, want) = (kl_divergence(&[80.0, 0.0], &[-80.0, 0.0]), 80.0);
        assert!((got - want).abs() < 1e-4 * want, "{got}");
    }

    #[test]
    fn exp_is_accurate() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= 3e-7 * want, "e^{x}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-88.0), 0.0);
    }

    #[test]
    fn summary_of_known_divergences() {
        let mut divergence = Divergence::default();
        assert_eq!(divergence.summary(), None);
        for i in 0..=100 {
            divergence.push(i as f32, i % 4 == 0);
        }
        let summary = divergence.summary().unwrap();
        assert_eq!(
            (summary.mean, summary.median, summary.p90, summary.p99, summary.max),
            (50.0, 50.0, 90.0, 99.0, 100.0)
        );
        assert!((summary.top1_agreement - 26.0 / 101.0).abs() < 1e-12);
        assert!((summary.standard_error - 29.300_170_647_967_22 / 101f64.sqrt()).abs() < 1e-9);
    }
}
