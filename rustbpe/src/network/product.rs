//! x W^T of rows (N, I) by weights (O, I), with the weights in panels.

use rayon::prelude::*;

use super::kernel::{add_products, Rows, Weight};
use super::PANEL;

/// Products that take less time on one thread stay there: to wake others takes about ten microseconds.
const PARALLEL_FROM_NS: usize = 60_000;
/// What one thread does in a nanosecond, about: multiplications, and bytes of weights that it reads from memory.
const MULTIPLICATIONS_PER_NS: usize = 20;
const BYTES_PER_NS: usize = 10;

/// Inputs that are multiplied before the next: this part of a panel stays in the first cache for all rows.
const INPUT_BLOCK: usize = 256;

/// How weights are stored. Sums are always in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    Float32,
    /// 16 bits: the upper half of 32, rounded.
    BFloat16,
    /// 8 bits, with one scale for each output.
    Int8,
}

enum Panels {
    Float32(Vec<f32>),
    BFloat16(Vec<u16>),
    Int8(Vec<i8>),
}

/// A matrix.
pub struct Product {
    /// O.
    pub outputs: usize,
    /// I.
    pub inputs: usize,
    panels: Panels,
    /// One for each output, for 8 bits.
    scales: Vec<f32>,
}

impl Product {
    /// From weights (O, I).
    pub fn new(weights: &[f32], inputs: usize, precision: Precision) -> Product {
        let outputs = weights.len() / inputs;
        let row = |output: usize| &weights[output * inputs..][..inputs];
        let (panels, scales) = match precision {
            Precision::Float32 => (Panels::Float32(in_panels(outputs, inputs, |o, i| row(o)[i])), Vec::new()),
            Precision::BFloat16 => {
                (Panels::BFloat16(in_panels(outputs, inputs, |o, i| rounded_to_16_bits(row(o)[i]))), Vec::new())
            }
            Precision::Int8 => {
                let largest = |output: usize| row(output).iter().fold(0f32, |most, weight| most.max(weight.abs()));
                let scales: Vec<f32> = (0..outputs).map(|output| largest(output) / 127.0).collect();
                let number = |o: usize, i: usize| (row(o)[i] / scales[o].max(f32::MIN_POSITIVE)).round() as i8;
                (Panels::Int8(in_panels(outputs, inputs, number)), scales)
            }
        };
        Product { outputs, inputs, panels, scales }
    }

    /// Bytes of the weights, which every product reads.
    pub fn bytes(&self) -> usize {
        let weights = match &self.panels {
            Panels::Float32(panels) => std::mem::size_of_val(panels.as_slice()),
            Panels::BFloat16(panels) => std::mem::size_of_val(panels.as_slice()),
            Panels::Int8(panels) => panels.len(),
        };
        weights + std::mem::size_of_val(self.scales.as_slice())
    }

    /// Rows (N, I) to (N, O); with `parallel`, on the threads of the current pool if that is faster.
    pub fn multiply(&self, rows: &[f32], out: &mut Vec<f32>, parallel: bool) {
        match &self.panels {
            Panels::Float32(panels) => self.multiply_panels(panels, rows, out, parallel),
            Panels::BFloat16(panels) => self.multiply_panels(panels, rows, out, parallel),
            Panels::Int8(panels) => self.multiply_panels(panels, rows, out, parallel),
        }
    }

    fn multiply_panels<W: Weight>(&self, panels: &[W], values: &[f32], out: &mut Vec<f32>, parallel: bool) {
        out.clear();
        let count = values.len() / self.inputs;
        if count == 0 {
            return;
        }
        let mut sums = vec![[0f32; PANEL]; self.outputs.div_ceil(PANEL) * count];
        let panel_of = |(panel, sums): (&[W], &mut [[f32; PANEL]])| {
            for (block, weights) in panel.chunks(INPUT_BLOCK * PANEL).enumerate() {
                let rows = Rows { values, start: block * INPUT_BLOCK, stride: self.inputs, count };
                add_products(rows, weights, sums);
            }
        };
        let panel_len = self.inputs * PANEL;
        let ns = values.len() * self.outputs / MULTIPLICATIONS_PER_NS + self.bytes() / BYTES_PER_NS;
        if !parallel || ns < PARALLEL_FROM_NS {
            panels.chunks_exact(panel_len).zip(sums.chunks_exact_mut(count)).for_each(panel_of);
        } else {
            panels.par_chunks_exact(panel_len).zip(sums.par_chunks_exact_mut(count)).for_each(panel_of);
        }
        out.resize(count * self.outputs, 0.0);
        for (panel, sums) in sums.chunks_exact(count).enumerate() {
            let first = panel * PANEL;
            let width = PANEL.min(self.outputs - first);
            for (row, sum) in sums.iter().enumerate() {
                out[row * self.outputs + first..][..width].copy_from_slice(&sum[..width]);
            }
        }
        if !self.scales.is_empty() {
            for row in out.chunks_exact_mut(self.outputs) {
                row.iter_mut().zip(&self.scales).for_each(|(value, scale)| *value *= scale);
            }
        }
    }
}

/// (O / 16, I, 16), with zeros after the last output.
fn in_panels<W: Copy + Default>(outputs: usize, inputs: usize, weight: impl Fn(usize, usize) -> W) -> Vec<W> {
    let mut panels = vec![W::default(); outputs.div_ceil(PANEL) * inputs * PANEL];
    for output in 0..outputs {
        let panel = &mut panels[output / PANEL * inputs * PANEL..][..inputs * PANEL];
        for (input, weights) in panel.chunks_exact_mut(PANEL).enumerate() {
            weights[output % PANEL] = weight(output, input);
        }
    }
    panels
}

/// The nearest number with 16 bits; of two, the even one.
fn rounded_to_16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 8) as f32 / (1 << 24) as f32 - 0.5)
            .collect()
    }

    #[test]
    fn products_are_right_and_do_not_depend_on_other_rows() {
        let (inputs, outputs, count) = (INPUT_BLOCK + 37, 45, 13);
        let (weights, rows) = (numbers(inputs * outputs, 1), numbers(inputs * count, 2));
        for (precision, tolerance) in [(Precision::Float32, 1e-4), (Precision::BFloat16, 0.05), (Precision::Int8, 0.1)]
        {
            let product = Product::new(&weights, inputs, precision);
            let (mut all, mut one) = (Vec::new(), Vec::new());
            product.multiply(&rows, &mut all, true);
            for row in 0..count {
                product.multiply(&rows[row * inputs..][..inputs], &mut one, false);
                assert_eq!(one, all[row * outputs..][..outputs]);
                for output in 0..outputs {
                    let pairs = rows[row * inputs..][..inputs].iter().zip(&weights[output * inputs..][..inputs]);
                    let exact: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    assert!((f64::from(one[output]) - exact).abs() < tolerance, "{precision:?}");
                }
            }
        }
    }
}
