//! Attention of consecutive tokens of one slot to the slot's keys.
//!
//! Scores and weights are computed for all columns that one of the tokens sees, in the order of positions; a column that
//! a token does not see has the weight 0, which changes no sum. So a token has the same output in a prompt as alone.

use super::elementwise::exp;
use super::kernel::{add_products, Rows};
use super::slots::{CacheShape, LayerCache};
use super::PANEL;

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

/// Space for the scores of one slot, reused.
#[derive(Default)]
pub struct Scratch {
    sums: Vec<[f32; PANEL]>,
    scores: Vec<f32>,
    /// For the caller, who gathers the queries of a head here.
    pub queries: Vec<f32>,
}

/// The output of one key/value head for G query heads: queries (T, G, D), scaled, to `out` (T, G, D).
pub fn attend(cache: &LayerCache, head: usize, span: Span, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    let CacheShape { head_dim: dim, columns, .. } = cache.shape();
    let group = queries.len() / (span.tokens * dim);
    let last = span.start + span.tokens - 1;
    let first_panel = span.start.saturating_sub(span.window) / PANEL; // by position, not by column
    let panels = last / PANEL + 1 - first_panel;
    let (count, width) = (span.tokens * group, panels * PANEL);
    let Scratch { sums, scores, .. } = scratch;
    let keys = cache.keys_of(head);
    let rows = Rows { values: queries, start: 0, stride: dim, count };
    scores.clear();
    scores.resize(count * width, 0.0);
    for panel in 0..panels {
        let column = (first_panel + panel) * PANEL % columns;
        sums.clear();
        sums.resize(count, [0.0; PANEL]);
        add_products(rows, &keys[column * dim..][..PANEL * dim], sums);
        for (row, sum) in sums.iter().enumerate() {
            scores[row * width + panel * PANEL..][..PANEL].copy_from_slice(sum);
        }
    }
    for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
        let position = span.start + row / group;
        let first = position.saturating_sub(span.window) - first_panel * PANEL;
        softmax(scores, first, position - first_panel * PANEL + 1);
    }
    for value_panel in 0..dim.div_ceil(PANEL) {
        let values = cache.values_of(head, value_panel);
        sums.clear();
        sums.resize(count, [0.0; PANEL]);
        let mut done = 0;
        while done < width {
            let column = (first_panel * PANEL + done) % columns;
            let length = (width - done).min(columns - column);
            let rows = Rows { values: scores, start: done, stride: width, count };
            add_products(rows, &values[column * PANEL..][..length * PANEL], sums);
            done += length;
        }
        let channels = PANEL.min(dim - value_panel * PANEL);
        for (row, sum) in sums.iter().enumerate() {
            out[row * dim + value_panel * PANEL..][..channels].copy_from_slice(&sum[..channels]);
        }
    }
}

/// Softmax of `scores[first..end]`; the others become 0.
fn softmax(scores: &mut [f32], first: usize, end: usize) {
    let largest = scores[first..end].iter().fold(f32::NEG_INFINITY, |most, score| most.max(*score));
    scores[..first].fill(0.0);
    scores[end..].fill(0.0);
    scores[first..end].iter_mut().for_each(|score| *score = exp(*score - largest));
    let mut sums = [0f32; PANEL]; // by the position modulo 16: panels begin at multiples of 16
    for panel in scores.chunks_exact(PANEL) {
        for (sum, weight) in sums.iter_mut().zip(panel) {
            *sum += weight;
        }
    }
    let scale = 1.0 / sums.iter().sum::<f32>();
    scores[first..end].iter_mut().for_each(|score| *score *= scale);
}
