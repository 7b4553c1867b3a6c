//! x W^T of rows (N, I) by weights (O, I), with the weights in panels.

use rayon::prelude::*;

use super::kernel::{self, Weight};
use super::rows::Rows;
use super::PANEL;

/// Products that take less time on one thread stay there: to wake others takes about ten microseconds.
const PARALLEL_FROM_NS: usize = 60_000;
/// What one thread does in a nanosecond, about: multiplications, and bytes of weights that it reads from memory.
const MULTIPLICATIONS_PER_NS: usize = 40;
const BYTES_PER_NS: usize = 10;

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

enum Weights {
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
    weights: Weights,
    /// One for each output, for 8 bits.
    scales: Vec<f32>,
}

impl Product {
    /// From a matrix (O, I).
    pub fn new(matrix: &[f32], inputs: usize, precision: Precision) -> Product {
        let outputs = matrix.len() / inputs;
        let row = |output: usize| &matrix[output * inputs..][..inputs];
        let (weights, scales) = match precision {
            Precision::Float32 => (Weights::Float32(in_panels(outputs, inputs, |o, i| row(o)[i])), Vec::new()),
            Precision::BFloat16 => {
                (Weights::BFloat16(in_panels(outputs, inputs, |o, i| rounded_to_16_bits(row(o)[i]))), Vec::new())
            }
            Precision::Int8 => {
                let largest = |output: usize| row(output).iter().fold(0f32, |most, weight| most.max(weight.abs()));
                let scales: Vec<f32> = (0..outputs).map(|output| largest(output) / 127.0).collect();
                let number = |o: usize, i: usize| (row(o)[i] / scales[o].max(f32::MIN_POSITIVE)).round() as i8;
                (Weights::Int8(in_panels(outputs, inputs, number)), scales)
            }
        };
        Product { outputs, inputs, weights, scales }
    }

    /// Bytes of the weights, which every product reads.
    pub fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Float32(panels) => std::mem::size_of_val(panels.as_slice()),
            Weights::BFloat16(panels) => std::mem::size_of_val(panels.as_slice()),
            Weights::Int8(panels) => panels.len(),
        };
        weights + std::mem::size_of_val(self.scales.as_slice())
    }

    /// Rows (N, I) to (N, O); with `parallel`, on the threads of the current pool if that is faster. `finish` changes the
    /// outputs, panels (N, 16), on the thread that computed them.
    pub fn multiply(&self, rows: &Rows, out: &mut Rows, parallel: bool, finish: impl Fn(&mut [f32]) + Sync) {
        match &self.weights {
            Weights::Float32(weights) => self.multiply_panels(weights, rows, out, parallel, finish),
            Weights::BFloat16(weights) => self.multiply_panels(weights, rows, out, parallel, finish),
            Weights::Int8(weights) => self.multiply_panels(weights, rows, out, parallel, finish),
        }
    }

    fn multiply_panels<W: Weight>(
        &self,
        weights: &[W],
        rows: &Rows,
        out: &mut Rows,
        parallel: bool,
        finish: impl Fn(&mut [f32]) + Sync,
    ) {
        out.reshape(rows.count, self.outputs);
        if rows.count == 0 {
            return;
        }
        let panel_len = self.inputs * PANEL;
        let work = |(first, (weights, sums)): (usize, (&[W], &mut [f32]))| {
            let count = weights.len() / panel_len;
            let panels = kernel::Panels { weights, stride: panel_len, inputs: self.inputs, count };
            kernel::multiply(rows.input(), panels, sums, false);
            if !self.scales.is_empty() {
                for (panel, scales) in sums.chunks_exact_mut(rows.count * PANEL).zip(self.scales[first..].chunks(PANEL))
                {
                    for row in panel.chunks_exact_mut(PANEL) {
                        row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
                    }
                }
            }
            finish(sums);
        };
        let panels = self.outputs.div_ceil(PANEL);
        let ns = rows.count * self.inputs * self.outputs / MULTIPLICATIONS_PER_NS + self.bytes() / BYTES_PER_NS;
        if !parallel || ns < PARALLEL_FROM_NS {
            work((0, (weights, &mut out.values)));
        } else {
            let part = panels.div_ceil(2 * rayon::current_num_threads());
            let parts = weights.par_chunks(part * panel_len).zip(out.values.par_chunks_mut(part * rows.count * PANEL));
            parts.enumerate().for_each(|(number, pair)| work((number * part * PANEL, pair)));
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
        let (inputs, outputs, count) = (293, 75, 13);
        let (weights, numbers) = (numbers(inputs * outputs, 1), numbers(inputs * count, 2));
        let row = |number: usize| &numbers[number * inputs..][..inputs];
        for (precision, tolerance) in [(Precision::Float32, 1e-4), (Precision::BFloat16, 0.05), (Precision::Int8, 0.1)]
        {
            let product = Product::new(&weights, inputs, precision);
            let (mut rows, mut out) = (Rows::default(), Rows::default());
            rows.fill(&numbers, inputs);
            product.multiply(&rows, &mut out, true, |_| ());
            let all = out.unpack();
            for some in 1..=7 {
                rows.fill(&numbers[..some * inputs], inputs);
                product.multiply(&rows, &mut out, false, |_| ());
                assert_eq!(out.unpack(), all[..some * outputs], "{precision:?}, {some} rows");
            }
            for (number, found) in all.chunks_exact(outputs).enumerate() {
                for (output, found) in found.iter().enumerate() {
                    let pairs = row(number).iter().zip(&weights[output * inputs..][..inputs]);
                    let exact: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    assert!((f64::from(*found) - exact).abs() < tolerance, "{precision:?}");
                }
            }
        }
    }

    #[test]
    fn outputs_are_finished_once() {
        let product = Product::new(&numbers(40 * 20, 1), 20, Precision::Float32);
        let (mut rows, mut plain, mut finished) = (Rows::default(), Rows::default(), Rows::default());
        rows.fill(&numbers(20 * 3, 2), 20);
        product.multiply(&rows, &mut plain, false, |_| ());
        product.multiply(&rows, &mut finished, false, |sums| sums.iter_mut().for_each(|sum| *sum += 1.0));
        assert_eq!(finished.unpack(), plain.unpack().iter().map(|x| x + 1.0).collect::<Vec<_>>());
    }
}
