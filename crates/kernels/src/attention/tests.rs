//! Attention against plain loops in `f64`, and its independence of how a batch is cut.

use super::*;
use crate::linear::tests::Rng;

struct Case {
    heads: Heads,
    kv_type: KvType,
    n_pos: usize,
}

fn cases() -> Vec<Case> {
    let heads =
        |n_heads, n_kv_heads, head_dim, window_len| Heads { n_heads, n_kv_heads, head_dim, window_len };
    vec![
        Case { heads: heads(9, 3, 64, None), kv_type: KvType::F16, n_pos: 300 },
        Case { heads: heads(4, 1, 96, Some(70)), kv_type: KvType::F16, n_pos: 270 },
        Case { heads: heads(2, 2, 20, None), kv_type: KvType::F16, n_pos: 33 },
        Case { heads: heads(6, 2, 32, None), kv_type: KvType::F32, n_pos: 200 },
        Case { heads: heads(14, 2, 64, Some(16)), kv_type: KvType::Q8_0, n_pos: 140 },
    ]
}

fn pages(case: &Case) -> Vec<Arc<KvPage>> {
    let shape = KvShape {
        n_layers: 2,
        n_kv_heads: case.heads.n_kv_heads,
        head_dim: case.heads.head_dim,
        kv_type: case.kv_type,
    };
    (0..case.n_pos.div_ceil(PAGE_LEN)).map(|_| Arc::new(KvPage::new(shape))).collect()
}

/// Runs the batch in steps of the given sizes.
fn run(case: &Case, pool: &mut Pool, isa: Isa, qkv: &[f32], steps: &[usize]) -> Vec<f32> {
    let row_len = case.heads.row_len();
    let mut pages = pages(case);
    let mut scratch = Scratch::default();
    let mut all = Vec::new();
    let mut first_pos = 0;
    for &n_tokens in steps {
        let rows = &qkv[first_pos * row_len..][..n_tokens * row_len];
        let mut segments = [Segment { pages: &mut pages, first_pos, n_tokens }];
        store(pool, isa, 1, case.heads, rows, &mut segments);
        let mut out = Activations::default();
        let is_blocks = (case.heads.n_heads * case.heads.head_dim).is_multiple_of(32);
        let form = if is_blocks { Form::Int8 } else { Form::Float };
        let plan = Plan::new(case.heads, &segments, pool.n_threads());
        attend(pool, isa, 1, rows, (&plan, &segments), (form, &mut out), &mut scratch);
        all.extend_from_slice(out.rows());
        first_pos += n_tokens;
    }
    all
}

fn reference(case: &Case, qkv: &[f32]) -> Vec<f64> {
    let Heads { n_heads, n_kv_heads, head_dim, window_len } = case.heads;
    let rows: Vec<&[f32]> = qkv.chunks_exact(case.heads.row_len()).collect();
    let mut out = Vec::new();
    for pos in 0..rows.len() {
        for head in 0..n_heads {
            let kv = head / (n_heads / n_kv_heads);
            let (k_at, v_at) = ((n_heads + kv) * head_dim, (n_heads + n_kv_heads + kv) * head_dim);
            let start = window_len.map_or(0, |len| (pos + 1).saturating_sub(len));
            let q = &rows[pos][head * head_dim..][..head_dim];
            let weights: Vec<f64> = (start..=pos)
                .map(|p| {
                    let products = q.iter().zip(&rows[p][k_at..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    products.sum::<f64>().exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let sum: f64 =
                    (start..=pos).zip(&weights).map(|(p, w)| w * f64::from(rows[p][v_at + d])).sum();
                out.push(sum / total);
            }
        }
    }
    out
}

#[test]
fn attention_matches_the_reference_however_it_is_cut() {
    let mut pool = Pool::new(2);
    for case in cases() {
        let qkv = Rng(7).floats(case.n_pos * case.heads.row_len());
        let expected = reference(&case, &qkv);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let n = case.n_pos;
            for steps in [vec![n], vec![1; n], vec![n / 3, n - n / 3 - 1, 1]] {
                let out = run(&case, &mut pool, isa, &qkv, &steps);
                let tolerance = match case.kv_type {
                    KvType::F32 => 2e-6,
                    KvType::F16 => 2e-3,
                    KvType::Q8_0 => 2e-2,
                };
                for (a, b) in out.iter().zip(&expected) {
                    assert!(
                        (f64::from(*a) - b).abs() < tolerance,
                        "{a} is not {b} ({:?}, {})",
                        case.heads,
                        isa.name()
                    );
                }
                let same = first.get_or_insert_with(|| out.clone());
                assert!(*same == out, "{} in {} steps differs", isa.name(), steps.len());
            }
        }
    }
}

#[test]
fn sequences_of_a_batch_do_not_mix() {
    let case = &cases()[0];
    let (mut pool, isa) = (Pool::new(2), Isa::best());
    let row_len = case.heads.row_len();
    let qkv = Rng(8).floats(case.n_pos * row_len);
    let alone = run(case, &mut pool, isa, &qkv, &[case.n_pos]);
    let (mut a, mut b) = (pages(case), pages(case));
    let mut scratch = Scratch::default();
    let mut out = Activations::default();
    // Token 200 of one copy, and tokens 0..200 of another, in one batch.
    let mut segments = [Segment { pages: &mut a, first_pos: 0, n_tokens: 200 }];
    store(&mut pool, isa, 0, case.heads, &qkv[..200 * row_len], &mut segments);
    let batch = [&qkv[200 * row_len..201 * row_len], &qkv[..200 * row_len]].concat();
    let mut segments = [
        Segment { pages: &mut a, first_pos: 200, n_tokens: 1 },
        Segment { pages: &mut b, first_pos: 0, n_tokens: 200 },
    ];
    store(&mut pool, isa, 0, case.heads, &batch, &mut segments);
    let plan = Plan::new(case.heads, &segments, pool.n_threads());
    attend(&mut pool, isa, 0, &batch, (&plan, &segments), (Form::Int8, &mut out), &mut scratch);
    let n = case.heads.n_heads * case.heads.head_dim;
    assert!(out.rows()[..n] == alone[200 * n..201 * n]);
    assert!(out.rows()[n..] == alone[..200 * n]);
}
