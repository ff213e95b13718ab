//! y = W x for many tokens: the product that nearly all time goes into.
//!
//! Work is cut by rows of W: a piece is a few tiles of sixteen rows, for all tokens. Quantised weights meet
//! activations quantised to eight bits ([`Acts`]); float weights meet float activations.
//!
//! The arithmetic is fixed, whatever the instruction set, the number of threads and the number of tokens:
//! - quantised: for each block of 32 columns (16 where scales are finer), in order, the integer dot product, exact,
//!   is converted and added as `fma(dot, d_w * d_x, y)`; minima are summed apart as `fma(m_w, d_x * sum_x, z)`; the
//!   result is `y + z`. What a peak's second bytes add comes last.
//! - float: sixteen partial sums, of every sixteenth column, by fused multiply-adds; then lane i and i + 8 are
//!   added, and so on to one.
//!
//! So a token's result does not depend on which others are computed with it, and every instruction set gives the
//! same bits.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use crate::acts::{Acts, ActsWriter, BLOCK, Form, Meta, PANEL};
use crate::dtype::DType;
use crate::isa::{Isa, Kernel, LANES, Simd, unroll};
use crate::math;
use crate::packed::{
    BLOCK_COLS, Format, PackedMatrix, Scales, formats, load_codes, load_scales, with_quantized_types,
};
use crate::pool::Pool;

/// Up to this many tokens, work on single rows stays on the calling thread: handing it out would cost more.
const SERIAL_TOKENS: usize = 4;
/// How far ahead of the arithmetic weights are asked for, bytes, when they are first used: what a core reads while memory
/// answers (some 40 GB/s for 120 ns), and a little more. Half as far costs a tenth, twice as far nothing.
const PREFETCH_BYTES: usize = 6144;

/// Bytes with an owner, such as a tensor in a memory-mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A matrix of plain floats, row after row, where its file put it.
#[derive(Clone)]
pub struct FloatMatrix {
    dtype: DType,
    n_rows: usize,
    n_cols: usize,
    data: SharedBytes,
}

impl FloatMatrix {
    /// `None` if the type is not a float, or `data` is not `n_rows * n_cols` of it.
    pub fn new(dtype: DType, n_rows: usize, n_cols: usize, data: SharedBytes) -> Option<FloatMatrix> {
        let expected = dtype.row_bytes(n_cols)?.checked_mul(n_rows)?;
        let is_valid = !dtype.is_quantized() && (*data).as_ref().len() == expected;
        is_valid.then_some(FloatMatrix { dtype, n_rows, n_cols, data })
    }
}

impl std::fmt::Debug for FloatMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FloatMatrix({} x {} {})", self.n_rows, self.n_cols, self.dtype)
    }
}

/// The weights of a linear map.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Quantised, in tiles.
    Packed(PackedMatrix),
    /// Plain floats, row-major.
    Float(FloatMatrix),
}

impl Matrix {
    /// Rows: outputs.
    pub fn n_rows(&self) -> usize {
        match self {
            Matrix::Packed(m) => m.n_rows(),
            Matrix::Float(m) => m.n_rows,
        }
    }

    /// Columns: inputs.
    pub fn n_cols(&self) -> usize {
        match self {
            Matrix::Packed(m) => m.n_cols(),
            Matrix::Float(m) => m.n_cols,
        }
    }

    /// Whether the activations it is multiplied with must be quantised.
    pub fn is_quantized(&self) -> bool {
        matches!(self, Matrix::Packed(_))
    }

    /// Row `row`, widened to `f32`.
    ///
    /// # Panics
    /// If `row` is out of range or `dst` is not `n_cols` long.
    pub fn dequantize_row(&self, row: usize, dst: &mut [f32]) {
        match self {
            Matrix::Packed(m) => m.dequantize_row(row, dst),
            Matrix::Float(m) => {
                let row_bytes = m.dtype.row_bytes(m.n_cols).expect("checked when made");
                crate::block::dequantize(m.dtype, &(*m.data).as_ref()[row * row_bytes..][..row_bytes], dst);
            }
        }
    }

    fn n_tiles(&self) -> usize {
        self.n_rows().div_ceil(LANES)
    }
}

/// A linear map: a matrix, and perhaps a bias.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub matrix: Matrix,
    /// `[out]`, added to the product.
    pub bias: Option<Vec<f32>>,
}

/// The input of linear maps: rows of `n_cols` values, one for each token, as floats and, where a map needs it, in
/// eight bits.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    n_tokens: usize,
    n_cols: usize,
    form: Form,
    rows: Vec<f32>,
    acts: Acts,
}

impl Activations {
    /// Makes room; what was there is lost. Codes need `n_cols` to be a multiple of 32.
    pub(crate) fn resize(&mut self, n_tokens: usize, n_cols: usize, form: Form) {
        (self.n_tokens, self.n_cols, self.form) = (n_tokens, n_cols, form);
        self.rows.resize(n_tokens * n_cols, 0.0);
        if form != Form::Float {
            self.acts.resize(n_tokens, n_cols, form);
        }
    }

    /// Fills `n_tokens` rows by `fill(token, row)`, in parallel where it pays, and brings them into
    /// the form that is asked for.
    pub fn fill(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        (n_tokens, n_cols): (usize, usize),
        form: Form,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.resize(n_tokens, n_cols, form);
        let parts = self.parts();
        for_each_token(pool, n_tokens, |token| {
            // SAFETY: each token's row and blocks are touched by one piece.
            unsafe {
                fill(token, parts.part_mut(token, 0, n_cols));
                if form != Form::Float {
                    parts.quantize(isa, token, 0, n_cols);
                }
            }
        });
    }

    /// A handle through which threads write disjoint parts of rows.
    pub(crate) fn parts(&mut self) -> Parts<'_> {
        Parts { rows: Rows::new(&mut self.rows, self.n_cols), writer: self.acts.writer() }
    }

    /// The rows as floats.
    pub fn rows(&self) -> &[f32] {
        &self.rows[..self.n_tokens * self.n_cols]
    }

    /// Tokens.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }
}

/// Calls `f(token)` for every token: on this thread for a few, in parallel for many.
pub(crate) fn for_each_token(pool: &mut Pool, n_tokens: usize, f: impl Fn(usize) + Sync) {
    if n_tokens <= SERIAL_TOKENS {
        (0..n_tokens).for_each(f);
        return;
    }
    let per_piece = n_tokens.div_ceil(pool.n_threads() * 8).max(1);
    pool.run(n_tokens.div_ceil(per_piece), |_, piece| {
        (piece * per_piece..n_tokens.min((piece + 1) * per_piece)).for_each(&f);
    });
}

/// Writes parts of the rows of [`Activations`] from several threads.
pub(crate) struct Parts<'a> {
    rows: Rows<'a>,
    writer: ActsWriter<'a>,
}

impl Parts<'_> {
    /// Columns `from..from + len` of a token's row.
    ///
    /// # Safety
    /// Nobody else touches this part meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part_mut(&self, token: usize, from: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's.
        unsafe { self.rows.row_mut(token, from, len) }
    }

    /// Quantises columns `from..from + len` of a token's row, whole blocks.
    ///
    /// # Safety
    /// As [`Parts::part_mut`], and the activations have codes.
    pub unsafe fn quantize(&self, isa: Isa, token: usize, from: usize, len: usize) {
        // SAFETY: the caller's.
        let row = unsafe { self.rows.row_mut(token, from, len) };
        isa.run(Quantize { writer: &self.writer, token, first_block: from / BLOCK, row });
    }
}

struct Quantize<'a> {
    writer: &'a ActsWriter<'a>,
    token: usize,
    first_block: usize,
    row: &'a [f32],
}

impl Kernel for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: whoever made this kernel holds the token's blocks.
        unsafe { self.writer.write(s, self.token, self.first_block, self.row) };
    }
}

/// Rows of floats that several threads write at once, each its own part.
pub(crate) struct Rows<'a> {
    ptr: *mut f32,
    len: usize,
    n_cols: usize,
    _borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: parts that overlap are not written at once, as `row_mut` demands.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    pub fn new(data: &'a mut [f32], n_cols: usize) -> Rows<'a> {
        Rows { ptr: data.as_mut_ptr(), len: data.len(), n_cols, _borrow: PhantomData }
    }

    /// Columns `from..from + len` of a row.
    ///
    /// # Safety
    /// Nobody else touches this part meanwhile.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn row_mut(&self, row: usize, from: usize, len: usize) -> &mut [f32] {
        let at = row * self.n_cols + from;
        assert!(at + len <= self.len);
        // SAFETY: in range, and ours.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(at), len) }
    }
}

/// What happens to the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They replace what was there.
    Store,
    /// They are added to what was there (a residual stream).
    Add,
}

/// Applies `maps`, which share the input, and puts their outputs side by side in the rows of `out`:
/// `[n_tokens, sum of the maps' rows]`.
///
/// # Panics
/// If shapes do not fit, or a quantised map meets activations without codes.
pub fn linear(pool: &mut Pool, isa: Isa, maps: &[&Linear], input: &Activations, mode: Mode, out: &mut [f32]) {
    let n_out: usize = maps.iter().map(|map| map.matrix.n_rows()).sum();
    assert_eq!(out.len(), input.n_tokens * n_out, "the output has a row for each token");
    let mut jobs = Vec::new();
    let n_tiles: usize = maps.iter().map(|map| map.matrix.n_tiles()).sum();
    let tiles_per_piece = units_per_piece(n_tiles, 1, pool.n_threads(), input.n_tokens);
    let mut first_row = 0;
    for map in maps {
        check(map, input);
        let n_tiles = map.matrix.n_tiles();
        for tile in (0..n_tiles).step_by(tiles_per_piece) {
            jobs.push((*map, tile..n_tiles.min(tile + tiles_per_piece), first_row));
        }
        first_row += map.matrix.n_rows();
    }
    let out = Rows::new(out, n_out);
    pool.run(jobs.len(), |_, piece| {
        let (map, tiles, first_row) = &jobs[piece];
        let mut products = Products::new();
        for_each_panel(input.n_tokens, |tokens| {
            products.compute(isa, &map.matrix, tiles.clone(), input, tokens.clone());
            let rows = tiles.start * LANES..map.matrix.n_rows().min(tiles.end * LANES);
            isa.run(Finish {
                products: &products,
                map,
                rows,
                mode,
                tokens,
                out: &out,
                first_col: *first_row,
            });
        });
    });
}

/// Brings the products of some tiles with one panel to where they belong.
struct Finish<'a> {
    products: &'a Products,
    map: &'a Linear,
    /// Rows of the map: the tiles' rows that exist.
    rows: Range<usize>,
    mode: Mode,
    tokens: Range<usize>,
    out: &'a Rows<'a>,
    /// Column of `out` where the map's outputs begin.
    first_col: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_tokens = self.tokens.len();
        for (t, token) in self.tokens.enumerate() {
            // SAFETY: the rows of a tile belong to one piece.
            let out = unsafe { self.out.row_mut(token, self.first_col + self.rows.start, self.rows.len()) };
            for at in (0..out.len()).step_by(LANES) {
                let mut y = self.products.load(s, at / LANES, n_tokens, t);
                if let Some(bias) = &self.map.bias {
                    y = s.add(y, math::load_part(s, &bias[..self.rows.end], self.rows.start + at));
                }
                if self.mode == Mode::Add {
                    y = s.add(math::load_part(s, out, at), y);
                }
                math::store_part(s, out, at, y);
            }
        }
    }
}

/// `out = activation(gate x) * (up x)`, ready to be the input of the next map.
///
/// # Panics
/// If shapes do not fit, a quantised map meets activations without codes, or codes are asked of rows that are no
/// multiple of 32.
pub fn gated_linear(
    pool: &mut Pool,
    isa: Isa,
    (gate, up): (&Linear, &Linear),
    activation: math::Activation,
    input: &Activations,
    form: Form,
    out: &mut Activations,
) {
    check(gate, input);
    check(up, input);
    let n_out = gate.matrix.n_rows();
    assert_eq!(up.matrix.n_rows(), n_out, "gate and up have as many rows");
    out.resize(input.n_tokens, n_out, form);
    let parts = out.parts();
    // Pairs of tiles: a pair makes whole blocks of 32, which can be quantised on the spot.
    let n_pairs = gate.matrix.n_tiles().div_ceil(2);
    let pairs_per_piece = units_per_piece(n_pairs, 2, pool.n_threads(), input.n_tokens);
    pool.run(n_pairs.div_ceil(pairs_per_piece), |_, piece| {
        let first_tile = piece * pairs_per_piece * 2;
        let tiles = first_tile..gate.matrix.n_tiles().min(first_tile + pairs_per_piece * 2);
        let (first_row, end_row) = (tiles.start * LANES, n_out.min(tiles.end * LANES));
        let (mut gates, mut ups) = (Products::new(), Products::new());
        for_each_panel(input.n_tokens, |tokens| {
            gates.compute(isa, &gate.matrix, tiles.clone(), input, tokens.clone());
            ups.compute(isa, &up.matrix, tiles.clone(), input, tokens.clone());
            let products = [(&gates, gate), (&ups, up)];
            isa.run(FinishGated {
                products,
                rows: first_row..end_row,
                activation,
                tokens,
                form,
                out: &parts,
            });
        });
    });
}

/// Gates the products of some pairs of tiles with one panel, and quantises the result.
struct FinishGated<'a> {
    /// Of the gate's and of the up map.
    products: [(&'a Products, &'a Linear); 2],
    rows: Range<usize>,
    activation: math::Activation,
    tokens: Range<usize>,
    form: Form,
    out: &'a Parts<'a>,
}

impl Kernel for FinishGated<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_tokens = self.tokens.len();
        let [gate, up] = self.products;
        for (t, token) in self.tokens.enumerate() {
            // SAFETY: the rows of a tile belong to one piece, and so do the blocks that they fill.
            let row = unsafe { self.out.part_mut(token, self.rows.start, self.rows.len()) };
            for at in (0..row.len()).step_by(LANES) {
                let mut g = gate.0.load(s, at / LANES, n_tokens, t);
                let mut u = up.0.load(s, at / LANES, n_tokens, t);
                if let Some(bias) = &gate.1.bias {
                    g = s.add(g, math::load_part(s, &bias[..self.rows.end], self.rows.start + at));
                }
                if let Some(bias) = &up.1.bias {
                    u = s.add(u, math::load_part(s, &bias[..self.rows.end], self.rows.start + at));
                }
                math::store_part(s, row, at, math::gate(s, self.activation, g, u));
            }
            if self.form != Form::Float {
                let writer = &self.out.writer;
                Quantize { writer, token, first_block: self.rows.start / BLOCK, row }.run(s);
            }
        }
    }
}

fn check(map: &Linear, input: &Activations) {
    assert_eq!(map.matrix.n_cols(), input.n_cols, "the map's columns are the input's");
    assert!(
        input.form != Form::Float || !map.matrix.is_quantized(),
        "a quantised map needs quantised activations"
    );
    assert!(map.bias.as_ref().is_none_or(|bias| bias.len() == map.matrix.n_rows()));
}

/// How many units (of `tiles_per_unit` tiles) make a piece: few enough that whoever is late holds up the others only
/// a little, many enough to be worth taking.
fn units_per_piece(n_units: usize, tiles_per_unit: usize, n_threads: usize, n_tokens: usize) -> usize {
    let pieces_per_thread = if n_tokens > PANEL { 16 } else { 8 };
    let most = MAX_PRODUCTS / n_tokens.clamp(4, PANEL) / tiles_per_unit;
    n_units.div_ceil(n_threads * pieces_per_thread).clamp(1, most)
}

fn for_each_panel(n_tokens: usize, mut f: impl FnMut(Range<usize>)) {
    for first in (0..n_tokens).step_by(PANEL) {
        f(first..n_tokens.min(first + PANEL));
    }
}

/// Tiles times tokens of which a piece holds the products at a time.
const MAX_PRODUCTS: usize = 4 * PANEL;

/// Products of a few tiles with the tokens of one panel: `[tile][token][16 rows]`.
///
/// Left uninitialised until computed: a piece of decoding is so short that clearing this would show.
struct Products([MaybeUninit<[f32; LANES]>; MAX_PRODUCTS]);

impl Products {
    fn new() -> Products {
        Products([MaybeUninit::uninit(); MAX_PRODUCTS])
    }

    fn compute(
        &mut self,
        isa: Isa,
        matrix: &Matrix,
        tiles: Range<usize>,
        input: &Activations,
        tokens: Range<usize>,
    ) {
        let out = &mut self.0[..tiles.len() * tokens.len()];
        match matrix {
            Matrix::Float(matrix) => isa.run(FloatTiles { matrix, tiles, rows: &input.rows, tokens, out }),
            Matrix::Packed(matrix) => {
                macro_rules! each {
                    ($($name:ident)*) => {
                        match matrix.dtype() {
                            $(DType::$name => isa.run(PackedTiles::<formats::$name> {
                                matrix, tiles, acts: &input.acts, tokens, out, format: std::marker::PhantomData,
                            }),)*
                            DType::F32 | DType::F16 | DType::BF16 => unreachable!("a packed matrix is quantised"),
                        }
                    };
                }
                with_quantized_types!(each)
            }
        }
    }

    /// Products of the `tile`th tile with the `t`th of `n_tokens` tokens.
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, tile: usize, n_tokens: usize, t: usize) -> S::F {
        // SAFETY: `compute` has written all products of its tiles and tokens.
        unsafe { s.load(self.0[tile * n_tokens + t].as_ptr().cast()) }
    }
}

struct PackedTiles<'a, F: Format> {
    matrix: &'a PackedMatrix,
    tiles: Range<usize>,
    acts: &'a Acts,
    /// Within one panel.
    tokens: Range<usize>,
    /// Every element is written.
    out: &'a mut [MaybeUninit<[f32; LANES]>],
    format: PhantomData<F>,
}

impl<F: Format> Kernel for PackedTiles<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.acts.form() == Form::Int16 {
            self.multiply::<S, 2>(s);
        } else {
            self.multiply::<S, 1>(s);
        }
    }
}

impl<F: Format> PackedTiles<'_, F> {
    /// `W` is the number of bytes of an activation.
    #[inline(always)]
    fn multiply<S: Simd, const W: usize>(self, s: S) {
        let n_tokens = self.tokens.len();
        assert!(self.acts.n_cols() == self.matrix.n_cols() && self.tokens.end <= self.acts.n_tokens());
        assert!(self.tokens.is_empty() || self.tokens.start / PANEL == (self.tokens.end - 1) / PANEL);
        assert!(self.out.len() == self.tiles.len() * n_tokens);
        let n_blocks = self.matrix.n_cols() / BLOCK_COLS;
        for (tile, out) in self.tiles.clone().zip(self.out.chunks_exact_mut(n_tokens)) {
            let mut panel = PanelPart {
                tile: self.matrix.tile(tile).as_ptr(),
                n_blocks,
                codes: self.acts.codes()[self.acts.block_idx(self.tokens.start, 0) * W * BLOCK..].as_ptr(),
                metas: self.acts.metas()[self.acts.block_idx(self.tokens.start, 0)..].as_ptr(),
                stride: self.acts.panel_len(self.tokens.start),
                is_first: self.tokens.start == 0,
            };
            let mut out = out;
            // As many tokens at once as fit into registers, then the rest by halves.
            macro_rules! take {
                ($n:literal) => {
                    while const { S::MAX_TOKENS >= $n } && out.len() >= $n {
                        let (now, later) = out.split_at_mut($n);
                        s.call(Multiply::<F, W, $n> { part: &panel, out: now, format: PhantomData });
                        out = later;
                        // SAFETY: not beyond the panel's end.
                        unsafe { panel.skip::<W>($n) };
                    }
                };
            }
            take!(16);
            take!(8);
            take!(4);
            take!(2);
            take!(1);
        }
        if self.acts.form() == Form::Peak {
            self.add_peaks(s, n_blocks);
        }
    }

    /// Adds the products with the second bytes of each token's peak, the same block for nearly all tokens.
    #[inline(always)]
    fn add_peaks<S: Simd>(self, s: S, n_blocks: usize) {
        let peaks = &self.acts.peaks()[self.tokens.clone()];
        for (tile, out) in self.tiles.zip(self.out.chunks_exact_mut(peaks.len())) {
            let tile = self.matrix.tile(tile).as_ptr();
            let mut at = peaks[0].block;
            // SAFETY: peaks are of blocks below `n_blocks`, and all products are written.
            unsafe {
                let mut block = load_block::<S, F>(s, tile, n_blocks, at);
                for (peak, out) in peaks.iter().zip(out) {
                    if peak.block != at {
                        at = peak.block;
                        block = load_block::<S, F>(s, tile, n_blocks, at);
                    }
                    let out = out.as_mut_ptr().cast();
                    let (codes, scales) = &block;
                    let y = [s.load(out)];
                    let [mut y] =
                        dot_block::<S, F, 1, 1>(s, codes, &scales.d, peak.codes.as_ptr(), &[peak.meta], y);
                    if const { F::SHAPE.has_min } {
                        y = add_minima::<S, F>(s, &scales.m, &peak.meta, y);
                    }
                    s.store(out, y);
                }
            }
        }
    }
}

/// Codes and scales of a block of a tile in registers.
///
/// # Safety
/// `tile` points to a tile of `n_blocks` blocks of format `F`, of which `block` is one.
#[inline(always)]
unsafe fn load_block<S: Simd, F: Format>(
    s: S,
    tile: *const u8,
    n_blocks: usize,
    block: usize,
) -> ([S::B; 8], Scales<S::F>) {
    // SAFETY: the offsets are those of the layout.
    unsafe {
        let planes = tile.add(F::LAYOUT.scale_bytes(n_blocks) + block * F::LAYOUT.plane_bytes);
        (load_codes::<S, F>(s, planes), load_scales::<S, F>(s, tile, block))
    }
}

/// A tile's products with the first `N` tokens of a part of a panel, which has so many; `out` is as long.
struct Multiply<'a, F, const W: usize, const N: usize> {
    part: &'a PanelPart,
    /// Every element is written.
    out: &'a mut [MaybeUninit<[f32; LANES]>],
    format: PhantomData<F>,
}

impl<F: Format, const W: usize, const N: usize> Kernel for Multiply<'_, F, W, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the part's tile is of format `F`, and the panel has at least `N` tokens from there.
        unsafe { self.part.multiply::<S, F, W, N>(s, self.out) };
    }
}

/// One tile of weights, and some tokens of one panel of activations.
struct PanelPart {
    tile: *const u8,
    n_blocks: usize,
    codes: *const i8,
    metas: *const Meta,
    /// Tokens in the panel: blocks from one block of a token to its next.
    stride: usize,
    /// Nobody has asked for this tile yet: the next ones will have to come from memory as well.
    is_first: bool,
}

impl PanelPart {
    /// # Safety
    /// The panel has so many more tokens.
    #[inline(always)]
    unsafe fn skip<const W: usize>(&mut self, n_tokens: usize) {
        // SAFETY: the caller's; one past the end is fine.
        unsafe {
            self.codes = self.codes.add(n_tokens * W * BLOCK);
            self.metas = self.metas.add(n_tokens);
        }
        self.is_first = false;
    }

    /// # Safety
    /// The tile has `n_blocks` blocks of format `F`; the panel has `N` tokens from here; `out` is `N` long.
    #[inline(always)]
    unsafe fn multiply<S: Simd, F: Format, const W: usize, const N: usize>(
        &self,
        s: S,
        out: &mut [MaybeUninit<[f32; LANES]>],
    ) {
        // Minima are summed within the loop while registers last, in a second one else. Same sums either way.
        // SAFETY: the caller's; every offset below is of a block below `n_blocks` and a token below `N`.
        unsafe {
            let planes = self.tile.add(F::LAYOUT.scale_bytes(self.n_blocks));
            let mut y = [s.splat(0.0); N];
            let mut z = [s.splat(0.0); N];
            for block in 0..self.n_blocks {
                let planes = planes.add(block * F::LAYOUT.plane_bytes);
                if self.is_first {
                    // A block's share of the tile, scales and all: no byte of the next tiles is left out.
                    let share = F::LAYOUT.plane_bytes + F::LAYOUT.head_bytes + F::LAYOUT.group_bytes;
                    let ahead = self.tile.wrapping_add(PREFETCH_BYTES + block * share);
                    for line in 0..share.div_ceil(64) {
                        s.prefetch(ahead.wrapping_add(64 * line));
                    }
                }
                let codes = load_codes::<S, F>(s, planes);
                let scales = load_scales::<S, F>(s, self.tile, block);
                let at = block * self.stride;
                let metas = &*self.metas.add(at).cast::<[Meta; N]>();
                y = dot_block::<S, F, W, N>(s, &codes, &scales.d, self.codes.add(at * W * BLOCK), metas, y);
                if const { F::SHAPE.has_min && N <= 4 } {
                    unroll!(t in 0..N {
                        z[t] = add_minima::<S, F>(s, &scales.m, &metas[t], z[t]);
                    });
                }
            }
            if const { F::SHAPE.has_min && N > 4 } {
                for block in 0..self.n_blocks {
                    let scales = load_scales::<S, F>(s, self.tile, block);
                    unroll!(t in 0..N {
                        let meta = &*self.metas.add(block * self.stride + t);
                        z[t] = add_minima::<S, F>(s, &scales.m, meta, z[t]);
                    });
                }
            }
            for t in 0..N {
                let y = if const { F::SHAPE.has_min } { s.add(y[t], z[t]) } else { y[t] };
                s.store(out[t].as_mut_ptr().cast(), y);
            }
        }
    }
}

/// y + d_w * d_x * (dot product of a block), for `N` tokens.
///
/// # Safety
/// `W` bytes for each of the 32 activations of each token are readable at `x`.
#[inline(always)]
unsafe fn dot_block<S: Simd, F: Format, const W: usize, const N: usize>(
    s: S,
    codes: &[S::B; 8],
    d: &[S::F; 2],
    x: *const i8,
    metas: &[Meta; N],
    mut y: [S::F; N],
) -> [S::F; N] {
    // SAFETY: the caller's.
    unsafe {
        if const { F::SHAPE.group_len == 16 } {
            let [a0, a1, a2, a3, b0, b1, b2, b3] = *codes;
            let (mut neg_low, mut neg_high) = ([0; N], [0; N]);
            unroll!(t in 0..N {
                neg_low[t] = metas[t].neg_codes_low;
                neg_high[t] = metas[t].neg_codes - metas[t].neg_codes_low;
            });
            let low = dot_groups::<S, F, W, N, 4>(s, &[a0, a1, a2, a3], x, neg_low);
            y = add_scaled(s, low, d[0], metas, y);
            let high = dot_groups::<S, F, W, N, 4>(s, &[b0, b1, b2, b3], x.add(LANES), neg_high);
            add_scaled(s, high, d[1], metas, y)
        } else {
            let mut neg = [0; N];
            unroll!(t in 0..N {
                neg[t] = metas[t].neg_codes;
            });
            add_scaled(s, dot_groups::<S, F, W, N, 8>(s, codes, x, neg), d[0], metas, y)
        }
    }
}

#[inline(always)]
fn add_scaled<S: Simd, const N: usize>(
    s: S,
    dots: [S::I; N],
    d: S::F,
    metas: &[Meta; N],
    mut y: [S::F; N],
) -> [S::F; N] {
    unroll!(t in 0..N {
        y[t] = s.fma(s.to_f(dots[t]), s.mul(d, s.splat(metas[t].d)), y[t]);
    });
    y
}

/// The dot products of `4 * G` columns of a block, zero point and all.
///
/// # Safety
/// As [`dot_block`]; `x` points to the first of these columns.
#[inline(always)]
unsafe fn dot_groups<S: Simd, F: Format, const W: usize, const N: usize, const G: usize>(
    s: S,
    codes: &[S::B; G],
    x: *const i8,
    neg_codes: [i32; N],
) -> [S::I; N] {
    let (bits, zero) = match !F::SHAPE.table.is_empty() || F::SHAPE.bits == 8 {
        true => (8, S::BYTE_ZERO),
        false => (F::SHAPE.bits, F::SHAPE.zero),
    };
    let mut acc = [s.splat_i(0); N];
    let mut bytes = [x; N];
    unroll!(t in 0..N {
        // The zero point's share, - zero * (sum of x), comes first: one broadcast and one shift.
        let neg = s.splat_i(neg_codes[t]);
        acc[t] = match zero {
            0 => acc[t],
            4 => s.shl_i::<2>(neg),
            8 => s.shl_i::<3>(neg),
            16 => s.shl_i::<4>(neg),
            32 => s.shl_i::<5>(neg),
            _ => s.shl_i::<7>(neg),
        };
        bytes[t] = x.wrapping_add(t * W * BLOCK);
    });
    // SAFETY: the caller's.
    unsafe {
        // An activation is its only byte, or 128 * first + second: at most 255 * 127 * 128 * 32 < 2^28 in all.
        if const { W == 2 } {
            let first = s.dot([s.splat_i(0); N], codes, bits, bytes);
            unroll!(t in 0..N {
                acc[t] = s.add_i(acc[t], s.shl_i::<7>(first[t]));
                bytes[t] = bytes[t].wrapping_add(BLOCK);
            });
        }
        s.dot(acc, codes, bits, bytes)
    }
}

/// z + m_w * (sum of the activations of a block).
#[inline(always)]
fn add_minima<S: Simd, F: Format>(s: S, m: &[S::F; 2], meta: &Meta, z: S::F) -> S::F {
    if const { F::SHAPE.group_len == 16 } {
        let low = meta.d * -meta.neg_codes_low as f32;
        let high = meta.d * (meta.neg_codes_low - meta.neg_codes) as f32;
        s.fma(m[1], s.splat(high), s.fma(m[0], s.splat(low), z))
    } else {
        s.fma(m[0], s.splat(meta.sum), z)
    }
}

struct FloatTiles<'a> {
    matrix: &'a FloatMatrix,
    tiles: Range<usize>,
    rows: &'a [f32],
    tokens: Range<usize>,
    /// Every element is written.
    out: &'a mut [MaybeUninit<[f32; LANES]>],
}

impl Kernel for FloatTiles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.matrix.dtype {
            DType::F32 => self.multiply(s, 4, |s, src| {
                // SAFETY: see `multiply`.
                unsafe { s.load(src.cast()) }
            }),
            DType::F16 => self.multiply(s, 2, |s, src| {
                // SAFETY: see `multiply`.
                unsafe { s.load_f16(src.cast()) }
            }),
            _ => self.multiply(s, 2, |s, src| {
                // SAFETY: see `multiply`.
                unsafe { s.load_bf16(src.cast()) }
            }),
        }
    }
}

impl FloatTiles<'_> {
    /// `load` is called with pointers to sixteen readable elements of `width` bytes.
    #[inline(always)]
    fn multiply<S: Simd>(self, s: S, width: usize, load: impl Fn(S, *const u8) -> S::F) {
        let n_cols = self.matrix.n_cols;
        let row_bytes = n_cols * width;
        let data = (*self.matrix.data).as_ref();
        let x = &self.rows[self.tokens.start * n_cols..self.tokens.end * n_cols];
        for (tile, out) in self.tiles.zip(self.out.chunks_exact_mut(self.tokens.len())) {
            // Rows beyond the last have products too: zeros.
            let mut out: Vec<&mut [f32; LANES]> = out.iter_mut().map(|out| out.write([0.0; LANES])).collect();
            let n_rows = LANES.min(self.matrix.n_rows - tile * LANES);
            let mut lane = 0;
            while lane < n_rows {
                let weights = &data[(tile * LANES + lane) * row_bytes..];
                // As many rows and tokens at once as there are registers for their sums.
                macro_rules! take {
                    ($n_rows:literal x $($n_tokens:literal)*) => {
                        if const { $n_rows == 1 || S::FLOAT_VECTORS >= 2 * $n_rows * $n_rows } && n_rows - lane >= $n_rows {
                            let rows = FloatRows::<$n_rows>::new(weights, n_cols, width);
                            let (mut x, mut out) = (x, &mut out[..]);
                            $(while out.len() >= $n_tokens {
                                let y = rows.dot::<S, $n_tokens>(s, &load, x);
                                let (now, later) = out.split_at_mut($n_tokens);
                                now.iter_mut().zip(y).for_each(|(out, y)| out[lane..][..$n_rows].copy_from_slice(&y));
                                (x, out) = (&x[$n_tokens * n_cols..], later);
                            })*
                            lane += $n_rows;
                            continue;
                        }
                    };
                }
                take!(4 x 4 2 1);
                take!(2 x 2 1);
                take!(1 x 1);
            }
        }
    }
}

/// `R` rows of a float matrix, one after the other.
struct FloatRows<'a, const R: usize> {
    weights: [&'a [u8]; R],
    /// The columns beyond the last whole vector, padded with zeros, which change no sum.
    tails: [[u8; 4 * LANES]; R],
    n_cols: usize,
    /// Bytes of an element.
    width: usize,
}

impl<'a, const R: usize> FloatRows<'a, R> {
    /// The first of `weights`.
    #[inline(always)]
    fn new(weights: &'a [u8], n_cols: usize, width: usize) -> FloatRows<'a, R> {
        let n_whole = n_cols / LANES * LANES;
        let weights: [&[u8]; R] = std::array::from_fn(|r| &weights[r * n_cols * width..][..n_cols * width]);
        let mut tails = [[0; 4 * LANES]; R];
        for (tail, weights) in tails.iter_mut().zip(&weights) {
            tail[..(n_cols - n_whole) * width].copy_from_slice(&weights[n_whole * width..]);
        }
        FloatRows { weights, tails, n_cols, width }
    }

    /// Products of each row with the first `N` tokens of `x`: `[token][row]`.
    #[inline(always)]
    fn dot<S: Simd, const N: usize>(
        &self,
        s: S,
        load: &impl Fn(S, *const u8) -> S::F,
        x: &[f32],
    ) -> [[f32; R]; N] {
        let n_whole = self.n_cols / LANES * LANES;
        let x: [&[f32]; N] = std::array::from_fn(|t| &x[t * self.n_cols..][..self.n_cols]);
        let mut sums = [[s.splat(0.0); R]; N];
        for col in (0..n_whole).step_by(LANES) {
            // SAFETY: sixteen elements are readable of each row: `col + 16` is at most `n_cols`.
            unsafe {
                let mut w = [s.splat(0.0); R];
                unroll!(r in 0..R {
                    w[r] = load(s, self.weights[r].as_ptr().add(col * self.width));
                });
                unroll!(t in 0..N {
                    let x = s.load(x[t].as_ptr().add(col));
                    unroll!(r in 0..R { sums[t][r] = s.fma(w[r], x, sums[t][r]); });
                });
            }
        }
        if n_whole < self.n_cols {
            for t in 0..N {
                let mut padded = [0.0; LANES];
                padded[..self.n_cols - n_whole].copy_from_slice(&x[t][n_whole..]);
                for r in 0..R {
                    // SAFETY: sixteen elements are readable.
                    let x = unsafe { s.load(padded.as_ptr()) };
                    sums[t][r] = s.fma(load(s, self.tails[r].as_ptr()), x, sums[t][r]);
                }
            }
        }
        let mut y = [[0.0; R]; N];
        unroll!(t in 0..N {
            y[t] = s.reduce_add_each(sums[t]);
        });
        y
    }
}

#[cfg(test)]
pub(crate) mod tests;
