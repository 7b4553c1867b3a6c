//! How a pass is divided between threads, and the slots.
//!
//! 1. Answers in different slots are independent: each thread computes some of them, through all layers.
//! 2. Of the tokens of a prompt, each thread computes some too, and waits for the others before attention.
//! 3. If there are few tokens, their products are divided.

use std::ops::Range;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::elementwise::soft_cap;
pub use super::layers::{Layer, Shape, Token};
use super::layers::{Part, Slots};
use super::product::{gather, Product};
use super::rows::Rows;
use super::slots::{self, CacheShape};

/// Matrices of up to this size together are in a cache that the threads share.
const SHARED_BYTES: usize = 48 << 20;
/// With these, each thread reads all matrices if it has at least so many answers, or tokens of prompts.
const LEAST_IF_SHARED: (usize, usize) = (2, 8);
/// With larger ones, more: they are read from memory.
const LEAST_IF_LARGE: (usize, usize) = (12, 48);

/// A network with its caches.
pub struct Network {
    shape: Shape,
    layers: Vec<Layer>,
    head: Product,
    slots: slots::Slots,
    matrix_bytes: usize,
    threads: ThreadPool,
    /// Buffers of threads.
    parts: Vec<Part>,
    /// Buffers of `logits`.
    of_head: (Rows, Rows),
}

impl Network {
    /// A network with empty slots.
    ///
    /// # Errors
    /// The system refuses the threads.
    pub fn new(
        shape: Shape,
        mut layers: Vec<Layer>,
        mut head: Product,
        slots: usize,
        threads: usize,
    ) -> Result<Network, ThreadPoolBuildError> {
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        let shapes: Vec<CacheShape> =
            layers.iter().map(|layer| CacheShape { kv_heads, head_dim, columns: layer.columns }).collect();
        let slots = slots::Slots::new(slots, &shapes);
        let of_layers = layers.iter_mut().flat_map(Layer::matrices);
        let mut matrices: Vec<&mut Product> = of_layers.chain([&mut head]).collect();
        let matrix_bytes = matrices.iter().map(|matrix| matrix.bytes()).sum();
        gather(&mut matrices);
        let threads = ThreadPoolBuilder::new().num_threads(threads).build()?;
        Ok(Network {
            shape,
            layers,
            head,
            slots,
            matrix_bytes,
            threads,
            parts: Vec::new(),
            of_head: Default::default(),
        })
    }

    /// Bytes of the caches, and of the matrices that every step reads.
    pub fn bytes(&self) -> (usize, usize) {
        (self.slots.bytes(), self.matrix_bytes)
    }

    /// The normed output of the last layer (N, C). Tokens of one slot are consecutive.
    pub fn forward(&mut self, tokens: &[Token]) -> Vec<f32> {
        let (cuts, separate) = self.cuts(tokens);
        let Network { shape, layers, slots, threads, parts, .. } = self;
        parts.resize_with(cuts.len().max(parts.len()), Part::default);
        let (parts, divided) = (&mut parts[..cuts.len()], cuts.len() == 1);
        threads.install(|| {
            parts.par_iter_mut().zip(&cuts).for_each(|(part, cut)| part.begin(shape, &tokens[cut.clone()]));
            if separate {
                let mut of_parts: Vec<Slots<'_>> = parts.iter().map(|_| Slots::new()).collect();
                for (number, slot) in slots.all().enumerate() {
                    if let Some(part) = parts.iter().position(|part| part.has(number)) {
                        of_parts[part].insert(number, slot);
                    }
                }
                let pairs = parts.par_iter_mut().zip(&mut of_parts);
                pairs.for_each(|(part, slots)| compute(shape, layers, slots, std::slice::from_mut(part), false));
            } else {
                let mut slots: Slots<'_> = slots.all().enumerate().collect();
                compute(shape, layers, &mut slots, parts, divided);
            }
            parts.par_iter_mut().map(|part| part.end(shape).unpack()).collect::<Vec<_>>().concat()
        })
    }

    /// The tokens of each thread, and whether no slot has tokens of two.
    fn cuts(&self, tokens: &[Token]) -> (Vec<Range<usize>>, bool) {
        let threads = self.threads.current_num_threads();
        let (answers, of_prompts) = if self.matrix_bytes <= SHARED_BYTES { LEAST_IF_SHARED } else { LEAST_IF_LARGE };
        let runs: Vec<usize> = tokens.chunk_by(|a, b| a.slot == b.slot).map(<[Token]>::len).collect();
        let longest = runs.iter().max().map_or(0, |longest| *longest);
        let separate = threads > 1 && longest * threads <= tokens.len() && runs.len() >= answers * threads;
        let parts = if separate || tokens.len() >= of_prompts * threads { threads } else { 1 };
        let mut cuts: Vec<Range<usize>> = Vec::with_capacity(parts);
        for part in 1..=parts {
            let start = cuts.last().map_or(0, |cut| cut.end);
            let mut end = (part * tokens.len() / parts).max(start);
            if separate {
                end += tokens[end..].iter().take_while(|token| token.slot == tokens[end - 1].slot).count();
            }
            cuts.push(start..end);
        }
        cuts.retain(|cut| !cut.is_empty());
        (cuts, separate)
    }

    /// Output of the last layer (N, C) to logits (N, V), with a soft cap; 0: none.
    pub fn logits(&mut self, hidden: &[f32], cap: f32) -> Vec<f32> {
        let Network { shape, head, threads, of_head: (rows, logits), .. } = self;
        rows.fill(hidden, shape.width);
        let finish = |values: &mut [f32]| {
            if cap > 0.0 {
                soft_cap(values, cap);
            }
        };
        threads.install(|| {
            head.multiply(rows, logits, true, finish);
            logits.unpack_parallel()
        })
    }

    /// Keys and values of consecutive positions: (tokens, layers, 2, K D).
    pub fn save(&self, slot: usize, start: usize, stop: usize) -> Vec<f32> {
        let row = self.layers.len() * 2 * self.shape.kv_heads * self.shape.head_dim;
        let mut saved = Vec::with_capacity((stop - start) * row);
        for position in start..stop {
            self.slots.layers(slot).for_each(|cache| cache.read(position, &mut saved));
        }
        saved
    }

    /// Writes what `save` returned to the positions from `start` on.
    pub fn load(&mut self, slot: usize, start: usize, saved: &[f32]) {
        let width = self.shape.kv_heads * self.shape.head_dim;
        let row = self.layers.len() * 2 * width;
        let mut slot = self.slots.slot(slot);
        for (token, saved) in saved.chunks_exact(row).enumerate() {
            for (number, both) in saved.chunks_exact(2 * width).enumerate() {
                slot.layer_mut(number).write(start + token, &both[..width], &both[width..]);
            }
        }
    }
}

/// The layers, for tokens whose slots are in `slots`. `divided`: products are divided between threads.
fn compute(shape: &Shape, layers: &[Layer], slots: &mut Slots<'_>, parts: &mut [Part], divided: bool) {
    for (number, layer) in layers.iter().enumerate() {
        parts.par_iter_mut().for_each(|part| part.project(shape, layer, divided));
        parts.iter_mut().for_each(|part| part.write(shape, number, slots));
        parts.par_iter_mut().for_each(|part| {
            part.finish(shape, layer, number, slots, divided);
            if number == layers.len() / 2 {
                part.keep_middle();
            }
        });
    }
}
