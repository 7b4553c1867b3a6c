//! Attention of consecutive tokens of one slot to the slot's keys.
//!
//! Scores and weights are computed for all columns that one of the tokens sees, in the order of positions; a column that
//! a token does not see has the weight 0, which changes no sum. So a token has the same output in a prompt as alone.

use super::elementwise::exp;
use super::kernel::{multiply, Input, Panels};
use super::rows::Rows;
use super::simd::{with_simd, Simd, Work};
use super::slots::{CacheShape, LayerCache};
use super::PANEL;

/// Tokens that are computed together: of more, each would compute many scores of tokens that it does not see.
const TOKENS: usize = 24;

/// Which keys the tokens see.
#[derive(Clone, Copy)]
pub struct Span {
    /// Position of the first token.
    pub start: usize,
    /// Tokens.
    pub tokens: usize,
    /// A token sees itself and this many positions before it.
    pub window: usize,
}

impl Span {
    /// Parts that are computed one after the other.
    pub fn parts(self) -> impl Iterator<Item = Span> {
        let end = self.start + self.tokens;
        let starts = (self.start..end).step_by(TOKENS);
        starts.map(move |start| Span { start, tokens: TOKENS.min(end - start), window: self.window })
    }
}

/// Space for the queries, scores and output of one key/value head, reused.
#[derive(Default)]
pub struct Scratch {
    /// Queries (R, D), scaled; R rows: of each token, the query heads of the key/value head.
    pub queries: Rows,
    /// Output (R, D).
    pub out: Rows,
    /// For the caller: one of these rows.
    pub head: Vec<f32>,
    scores: Vec<f32>,
    scales: Vec<f32>,
}

/// The output of the queries in `scratch`, of one key/value head, for the tokens of a span.
pub fn attend(cache: LayerCache<'_>, head: usize, span: Span, scratch: &mut Scratch) {
    let CacheShape { head_dim: dim, columns, .. } = cache.shape;
    let Scratch { queries, out, scores, scales, .. } = scratch;
    let count = queries.count;
    let first = span.start.saturating_sub(span.window) / PANEL * PANEL; // by position, not by column
    let width = (span.start + span.tokens).next_multiple_of(PANEL) - first;
    scores.resize(width * count, 0.0);
    out.reshape(count, dim);

    for (done, column, length) in pieces(first, width, columns) {
        let weights = &cache.keys_of(head)[column * dim..][..length * dim];
        let panels = Panels { weights, stride: dim * PANEL, inputs: dim, count: length / PANEL };
        multiply(queries.input(), panels, &mut scores[done * count..][..length * count], false);
    }
    with_simd(Softmax { scores: scores.as_chunks_mut().0, scales, span, group: count / span.tokens, first });
    for (done, column, length) in pieces(first, width, columns) {
        let rows = Input { values: &scores[done * count..], stride: count, count };
        let weights = &cache.values_of(head)[column * PANEL..];
        let panels = Panels { weights, stride: columns * PANEL, inputs: length, count: dim.div_ceil(PANEL) };
        multiply(rows, panels, &mut out.values, done > 0);
    }
    for (out, scale) in out.values.chunks_exact_mut(PANEL).zip(scales.iter().cycle()) {
        out.iter_mut().for_each(|out| *out *= scale);
    }
}

/// The parts of `width` positions from `first` on that are adjacent in a ring: what is before each, its column, its length.
fn pieces(first: usize, width: usize, columns: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let column = (first + done) % columns;
        let piece = (done, column, (width - done).min(columns - column));
        done += piece.2;
        (piece.2 > 0).then_some(piece)
    })
}

/// Exponentials of scores (width / 16, R, 16), 0 where a token does not see the column, and one over their sums.
struct Softmax<'a> {
    scores: &'a mut [[f32; PANEL]],
    scales: &'a mut Vec<f32>,
    span: Span,
    /// Rows of a token.
    group: usize,
    /// Position of the first column.
    first: usize,
}

impl Work for Softmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Softmax { scores, scales, span, group, first } = self;
        let count = span.tokens * group;
        let panels = scores.len() / count;
        scales.clear();
        for row in 0..count {
            let position = span.start + row / group;
            let seen = position.saturating_sub(span.window) - first..position - first + 1;
            let hide = |scores: &mut [[f32; PANEL]], value: f32| {
                for column in (0..seen.start).chain(seen.end..panels * PANEL) {
                    scores[column / PANEL * count + row][column % PANEL] = value;
                }
            };
            hide(scores, f32::NEG_INFINITY);
            let mut largest = [f32::NEG_INFINITY; PANEL];
            for scores in scores[row..].iter().step_by(count) {
                largest = std::array::from_fn(|i| largest[i].max(scores[i]));
            }
            let largest = largest.iter().fold(f32::NEG_INFINITY, |most, score| most.max(*score));
            for scores in scores[row..].iter_mut().step_by(count) {
                *scores = scores.map(|score| exp(score - largest));
            }
            hide(scores, 0.0);
            let mut sums = [0f32; PANEL]; // by the position modulo 16: panels begin at multiples of 16
            for scores in scores[row..].iter().step_by(count) {
                sums = std::array::from_fn(|i| sums[i] + scores[i]);
            }
            scales.push(1.0 / sums.iter().sum::<f32>());
        }
    }
}
