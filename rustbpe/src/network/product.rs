//! x W^T of rows (N, I) by weights (O, I), with the weights in panels.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::kernel::{self, Weight};
use super::rows::Rows;
use super::{CACHE_LINE, PANEL};
use crate::huge_pages::advise_huge_pages;

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
    Float32(Panels<f32>),
    BFloat16(Panels<u16>),
    Int8(Panels<i8>),
}

/// The panels of one matrix, in memory that it shares with the next ones.
struct Panels<W> {
    memory: Arc<Vec<W>>,
    range: Range<usize>,
}

impl<W> Panels<W> {
    fn new(weights: Vec<W>) -> Panels<W> {
        let range = 0..weights.len();
        Panels { memory: Arc::new(weights), range }
    }

    fn weights(&self) -> &[W] {
        &self.memory[self.range.clone()]
    }
}

/// Moves weights next to each other, so that huge pages fit: from memory, they are read half as fast again.
pub fn gather(products: &mut [&mut Product]) {
    let (mut float32, mut bfloat16, mut int8) = (Vec::new(), Vec::new(), Vec::new());
    for product in products {
        match &mut product.weights {
            Weights::Float32(panels) => float32.push(panels),
            Weights::BFloat16(panels) => bfloat16.push(panels),
            Weights::Int8(panels) => int8.push(panels),
        }
    }
    gather_panels(float32);
    gather_panels(bfloat16);
    gather_panels(int8);
}

fn gather_panels<W: Copy + Default>(mut all: Vec<&mut Panels<W>>) {
    let line = CACHE_LINE / size_of::<W>();
    let room: usize = all.iter().map(|panels| panels.range.len() + line).sum();
    let mut memory: Vec<W> = Vec::with_capacity(room);
    advise_huge_pages(&memory);
    let mut ranges = Vec::with_capacity(all.len());
    for panels in &mut all {
        let padding = memory.as_ptr().wrapping_add(memory.len()).align_offset(CACHE_LINE).min(line);
        memory.resize(memory.len() + padding, W::default());
        ranges.push(memory.len()..memory.len() + panels.range.len());
        memory.extend_from_slice(panels.weights());
        panels.memory = Arc::default(); // frees them: at no time, there are two copies of all
    }
    let memory = Arc::new(memory);
    for (panels, range) in all.into_iter().zip(ranges) {
        *panels = Panels { memory: memory.clone(), range };
    }
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
            Precision::Float32 => {
                (Weights::Float32(Panels::new(in_panels(outputs, inputs, |o, i| row(o)[i]))), Vec::new())
            }
            Precision::BFloat16 => {
                let weight = |o: usize, i: usize| rounded_to_16_bits(row(o)[i]);
                (Weights::BFloat16(Panels::new(in_panels(outputs, inputs, weight))), Vec::new())
            }
            Precision::Int8 => {
                let largest = |output: usize| row(output).iter().fold(0f32, |most, weight| most.max(weight.abs()));
                let scales: Vec<f32> = (0..outputs).map(|output| largest(output) / 127.0).collect();
                let number = |o: usize, i: usize| (row(o)[i] / scales[o].max(f32::MIN_POSITIVE)).round() as i8;
                (Weights::Int8(Panels::new(in_panels(outputs, inputs, number))), scales)
            }
        };
        Product { outputs, inputs, weights, scales }
    }

    /// Bytes of the weights, which every product reads.
    pub fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Float32(panels) => size_of::<f32>() * panels.range.len(),
            Weights::BFloat16(panels) => size_of::<u16>() * panels.range.len(),
            Weights::Int8(panels) => panels.range.len(),
        };
        weights + std::mem::size_of_val(self.scales.as_slice())
    }

    /// Rows (N, I) to (N, O); with `parallel`, on the threads of the current pool if that is faster. `finish` changes the
    /// outputs, panels (N, 16), on the thread that computed them.
    pub fn multiply(&self, rows: &Rows, out: &mut Rows, parallel: bool, finish: impl Fn(&mut [f32]) + Sync) {
        match &self.weights {
            Weights::Float32(panels) => self.multiply_panels(panels.weights(), rows, out, parallel, finish),
            Weights::BFloat16(panels) => self.multiply_panels(panels.weights(), rows, out, parallel, finish),
            Weights::Int8(panels) => self.multiply_panels(panels.weights(), rows, out, parallel, finish),
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
    fn gathered_weights_begin_on_a_cache_line_and_multiply_as_before() {
        for precision in [Precision::Float32, Precision::BFloat16, Precision::Int8] {
            let new = |seed| Product::new(&numbers(20 * 37, seed), 37, precision);
            let (mut first, mut second) = (new(1), new(2));
            let (mut rows, mut out) = (Rows::default(), Rows::default());
            rows.fill(&numbers(37 * 3, 3), 37);
            let mut outputs = |product: &Product| {
                product.multiply(&rows, &mut out, false, |_| ());
                out.unpack()
            };
            let expected = (outputs(&first), outputs(&second), first.bytes());
            gather(&mut [&mut first, &mut second]);
            assert_eq!((outputs(&first), outputs(&second), second.bytes()), expected);
            let address = match &second.weights {
                Weights::Float32(panels) => panels.weights().as_ptr() as usize,
                Weights::BFloat16(panels) => panels.weights().as_ptr() as usize,
                Weights::Int8(panels) => panels.weights().as_ptr() as usize,
            };
            assert!(cfg!(miri) || address.is_multiple_of(CACHE_LINE));
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
