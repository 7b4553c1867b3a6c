//! Rows of channels, in panels of 16 channels: (C / 16, N, 16). Channels after the last one are 0.

use rayon::prelude::*;

use super::kernel::Input;
use super::PANEL;

/// N rows.
#[derive(Default)]
pub struct Rows {
    /// N.
    pub count: usize,
    /// C.
    pub width: usize,
    /// All numbers.
    pub values: Vec<f32>,
}

impl Rows {
    /// Changes the shape; what the numbers are then is not defined.
    pub fn reshape(&mut self, count: usize, width: usize) {
        (self.count, self.width) = (count, width);
        self.values.resize(width.div_ceil(PANEL) * count * PANEL, 0.0);
    }

    /// Becomes a copy of other rows.
    pub fn copy_from(&mut self, other: &Rows) {
        (self.count, self.width) = (other.count, other.width);
        self.values.clone_from(&other.values);
    }

    /// From rows (N, C), one after the other.
    pub fn fill(&mut self, rows: &[f32], width: usize) {
        self.reshape(rows.len() / width, width);
        for (number, row) in rows.chunks_exact(width).enumerate() {
            self.write(number, 0, row);
        }
    }

    /// To rows (N, C), one after the other.
    pub fn unpack(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.count * self.width];
        for (number, row) in rows.chunks_exact_mut(self.width).enumerate() {
            self.read(number, 0, row);
        }
        rows
    }

    /// The same, on the threads of the current pool.
    pub fn unpack_parallel(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.count * self.width];
        rows.par_chunks_exact_mut(self.width).enumerate().for_each(|(number, row)| self.read(number, 0, row));
        rows
    }

    /// Consecutive channels of a row, from `channel` on.
    pub fn read(&self, row: usize, channel: usize, to: &mut [f32]) {
        if channel.is_multiple_of(PANEL) && to.len().is_multiple_of(PANEL) {
            let panels = self.values.as_chunks::<PANEL>().0[channel / PANEL * self.count + row..].iter();
            return to.as_chunks_mut().0.iter_mut().zip(panels.step_by(self.count)).for_each(|(to, from)| *to = *from);
        }
        let mut done = 0;
        while done < to.len() {
            let (at, length) = self.place(row, channel + done, to.len() - done);
            to[done..done + length].copy_from_slice(&self.values[at..at + length]);
            done += length;
        }
    }

    /// Writes consecutive channels of a row, from `channel` on; with the last channel, also the zeros after it.
    pub fn write(&mut self, row: usize, channel: usize, from: &[f32]) {
        if channel.is_multiple_of(PANEL) && from.len().is_multiple_of(PANEL) {
            let panels = self.values.as_chunks_mut::<PANEL>().0[channel / PANEL * self.count + row..].iter_mut();
            return from.as_chunks().0.iter().zip(panels.step_by(self.count)).for_each(|(from, to)| *to = *from);
        }
        let mut done = 0;
        while done < from.len() {
            let (at, length) = self.place(row, channel + done, from.len() - done);
            self.values[at..at + length].copy_from_slice(&from[done..done + length]);
            done += length;
        }
        let padding = self.width.next_multiple_of(PANEL) - self.width;
        if channel + done == self.width && padding > 0 {
            let (at, _) = self.place(row, self.width, padding);
            self.values[at..at + padding].fill(0.0);
        }
    }

    /// As the left side of a product.
    pub fn input(&self) -> Input<'_> {
        Input { values: &self.values, stride: self.count, count: self.count }
    }

    /// Where a channel is, and how many of `wanted` channels are there.
    fn place(&self, row: usize, channel: usize, wanted: usize) -> (usize, usize) {
        let (panel, offset) = (channel / PANEL, channel % PANEL);
        ((panel * self.count + row) * PANEL + offset, wanted.min(PANEL - offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_unpacked_as_they_were() {
        let mut rows = Rows::default();
        for width in [5, 16, 37] {
            let numbers: Vec<f32> = (1..=3 * width).map(|i| i as f32).collect();
            rows.fill(&numbers, width);
            assert_eq!(rows.unpack(), numbers);
            assert_eq!(rows.unpack_parallel(), numbers);
            let mut part = [0.0; 3];
            rows.read(1, 2, &mut part);
            assert_eq!(part, numbers[width + 2..][..3]);
            assert_eq!(rows.values.iter().sum::<f32>(), numbers.iter().sum::<f32>());
        }
    }
}
