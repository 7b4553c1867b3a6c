//! Operations on rows. Each row is computed in one order, so it does not depend on other rows.

use super::rows::Rows;
use super::simd::{with_simd, Simd, Work};
use super::PANEL;

/// `normed` becomes the rows, each divided by its root mean square: RMSNorm without parameters.
pub fn normalize_rows(rows: &Rows, normed: &mut Rows, epsilon: f32) {
    normed.reshape(rows.count, rows.width);
    let panel = rows.count * PANEL;
    let mut scales = vec![[0f32; PANEL]; rows.count]; // first sums of squares, by the channel modulo 16
    for values in rows.values.chunks_exact(panel) {
        for (sums, values) in scales.iter_mut().zip(values.as_chunks::<PANEL>().0) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * value);
        }
    }
    for sums in &mut scales {
        let mean = sums.iter().sum::<f32>() / rows.width as f32;
        *sums = [1.0 / (mean + epsilon).sqrt(); PANEL];
    }
    for (normed, values) in normed.values.chunks_exact_mut(panel).zip(rows.values.chunks_exact(panel)) {
        let scaled = normed.iter_mut().zip(values).zip(scales.as_flattened());
        scaled.for_each(|((normed, value), scale)| *normed = value * scale);
    }
}

/// Divides a vector by its root mean square.
pub fn normalize(row: &mut [f32], epsilon: f32) {
    let mut sums = [0f32; PANEL];
    let mut chunks = row.chunks_exact(PANEL);
    for chunk in &mut chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|value| value * value).sum();
    let mean = (sums.iter().sum::<f32>() + rest) / row.len() as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    row.iter_mut().for_each(|value| *value *= scale);
}

/// Rotary positions: rotates channels (i, i + D/2) by minus the angle of the position, as the training code does.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (left, right) = head.split_at_mut(cos.len());
    for channel in 0..cos.len() {
        let (l, r) = (left[channel], right[channel]);
        left[channel] = l * cos[channel] + r * sin[channel];
        right[channel] = r * cos[channel] - l * sin[channel];
    }
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// e^x to about two units in the last place, for x from -87 to 88: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes,
/// `expf`). Outside, the value at the nearest end.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 x 2^23: a sum with it is rounded to an integer, which its low bits contain
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let value = p * r * r + r + 1.0;
    value * f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

/// Replaces logits by `cap` tanh(logit / cap).
pub fn soft_cap(logits: &mut [f32], cap: f32) {
    with_simd(SoftCap(logits, cap));
}

struct SoftCap<'a>(&'a mut [f32], f32);

impl Work for SoftCap<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        self.0.iter_mut().for_each(|logit| *logit = self.1 * tanh(*logit / self.1));
    }
}

/// Hyperbolic tangent, to about two units in the last place: a polynomial near 0, where 1 - 2 / (e^2x + 1) would lose
/// digits (Cephes, `tanhf`).
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    for coefficient in [2.063_909e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p * square + coefficient;
    }
    let near = p * square * x + x;
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 {
        near
    } else {
        far
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        for step in -8600..8600 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1000.0) < 1e-37);
    }

    #[test]
    fn soft_capped_logits_are_those_of_the_standard_library() {
        for step in -90_000..90_000 {
            let x = step as f32 / 1000.0;
            let mut found = [x];
            soft_cap(&mut found, 15.0);
            let exact = 15.0 * (f64::from(x) / 15.0).tanh();
            assert!((f64::from(found[0]) - exact).abs() <= 3e-7 * exact.abs(), "{x}");
        }
        let mut ends = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
        soft_cap(&mut ends, 15.0);
        assert_eq!(ends[..2], [-15.0, 15.0]);
        assert!(ends[2].is_nan());
    }

    #[test]
    fn a_normalized_row_has_the_root_mean_square_one() {
        let mut row: Vec<f32> = (0..100).map(|i| i as f32 - 30.0).collect();
        normalize(&mut row, 1e-7);
        let square: f32 = row.iter().map(|x| x * x).sum();
        assert!((square / 100.0 - 1.0).abs() < 1e-5);
        let (mut rows, mut normed) = (Rows::default(), Rows::default());
        rows.fill(&[row.clone(), row.iter().map(|x| x * 3.0).collect()].concat(), 100);
        normalize_rows(&rows, &mut normed, 0.0);
        for (found, expected) in normed.unpack().iter().zip(row.iter().cycle()) {
            assert!((found - expected).abs() < 1e-5);
        }
    }
}
