//! The layers of a network, for the tokens that one thread computes.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::attention::{attend, Scratch, Span};
use super::elementwise::{normalize, normalize_rows, rotate, sigmoid};
use super::product::Product;
use super::rows::Rows;
use super::slots::Slot;

/// Attention with fewer multiplications is computed on one thread.
const PARALLEL_FROM: usize = 1 << 19;

/// Sizes, and what is not a matrix.
pub struct Shape {
    /// C.
    pub width: usize,
    /// H.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Normed embeddings (V + 1, C); the last one is of the token before the first.
    pub embedding: Vec<f32>,
    /// For each id, the part of the previous embedding that is added; empty: none.
    pub smear: Vec<f32>,
    /// The part of the middle layer's output that is subtracted from the last one's.
    pub backout: f32,
    /// Cosines (positions, D / 2).
    pub cos: Vec<f32>,
    /// Sines (positions, D / 2).
    pub sin: Vec<f32>,
    /// Factor on scores.
    pub scale: f32,
    /// Largest value of the gate of value embeddings.
    pub value_gate_gain: f32,
    /// Added to mean squares.
    pub epsilon: f32,
}

/// One layer.
pub struct Layer {
    /// Queries, keys, values and value gates, (H D + 2 K D [+ K], C).
    pub joined: Product,
    /// (C, H D).
    pub out: Product,
    /// (4 C, C).
    pub up: Product,
    /// (C, 4 C).
    pub down: Product,
    /// Value embeddings (V, K D); empty: none.
    pub value_table: Vec<f32>,
    /// Factors of the residual stream and of the first embedding.
    pub residual: Option<(f32, f32)>,
    /// Earlier positions that a token sees.
    pub window: usize,
    /// S of its cache.
    pub columns: usize,
}

impl Layer {
    /// All of them.
    pub fn matrices(&mut self) -> [&mut Product; 4] {
        [&mut self.joined, &mut self.out, &mut self.up, &mut self.down]
    }
}

/// A token that a call adds.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// Its slot.
    pub slot: usize,
    /// Its position.
    pub position: usize,
    /// Its id.
    pub id: usize,
    /// The id before it; V for the first position.
    pub previous: usize,
}

/// The slots of a pass, by number.
pub type Slots<'a> = BTreeMap<usize, Slot<'a>>;

/// Tokens that one thread computes, and its buffers, which later passes reuse.
#[derive(Default)]
pub struct Part {
    tokens: Vec<Token>,
    /// The residual stream.
    x: Rows,
    /// It before the first layer.
    first: Rows,
    /// It after the middle one.
    middle: Rows,
    normed: Rows,
    /// Queries, keys, values and value gates.
    joined: Rows,
    attended: Rows,
    hidden: Rows,
    out: Rows,
    head: Vec<f32>,
    scratch: Scratch,
}

impl Part {
    /// Begins with the embeddings of the tokens.
    pub fn begin(&mut self, shape: &Shape, tokens: &[Token]) {
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.x.reshape(tokens.len(), shape.width);
        let embedding = |id: usize| &shape.embedding[id * shape.width..][..shape.width];
        let mut row = Vec::with_capacity(shape.width);
        for (number, token) in tokens.iter().enumerate() {
            row.clear();
            row.extend_from_slice(embedding(token.id));
            if !shape.smear.is_empty() {
                let part = shape.smear[token.id];
                row.iter_mut().zip(embedding(token.previous)).for_each(|(x, previous)| *x += part * previous);
            }
            self.x.write(number, 0, &row);
        }
        self.first.copy_from(&self.x);
    }

    /// Whether it has tokens of a slot.
    pub fn has(&self, slot: usize) -> bool {
        self.tokens.iter().any(|token| token.slot == slot)
    }

    /// The queries, keys and values of a layer. `parallel`: products are divided between threads.
    pub fn project(&mut self, shape: &Shape, layer: &Layer, parallel: bool) {
        if let Some((residual, of_first)) = layer.residual {
            let pairs = self.x.values.iter_mut().zip(&self.first.values);
            pairs.for_each(|(x, first)| *x = *x * residual + first * of_first);
        }
        normalize_rows(&self.x, &mut self.normed, shape.epsilon);
        layer.joined.multiply(&self.normed, &mut self.joined, parallel, |_| ());
        self.complete(shape, layer);
    }

    /// Rotates and norms keys, and adds value embeddings.
    fn complete(&mut self, shape: &Shape, layer: &Layer) {
        let (dim, heads) = (shape.head_dim, shape.heads + shape.kv_heads);
        self.head.resize(dim, 0.0);
        let (joined, vector) = (&mut self.joined, &mut self.head);
        for (row, token) in self.tokens.iter().enumerate() {
            for head in shape.heads..heads {
                joined.read(row, head * dim, vector);
                shape.rotate(token.position, vector);
                joined.write(row, head * dim, vector);
            }
            if !layer.value_table.is_empty() {
                let kv_width = shape.kv_heads * dim;
                for head in 0..shape.kv_heads {
                    let mut gate = [0.0];
                    joined.read(row, heads * dim + kv_width + head, &mut gate);
                    let gate = shape.value_gate_gain * sigmoid(gate[0]);
                    let embedding = &layer.value_table[token.id * kv_width + head * dim..][..dim];
                    joined.read(row, (heads + head) * dim, vector);
                    vector.iter_mut().zip(embedding).for_each(|(value, embedding)| *value += gate * embedding);
                    joined.write(row, (heads + head) * dim, vector);
                }
            }
        }
    }

    /// Writes keys and values to the caches of a layer.
    pub fn write(&mut self, shape: &Shape, number: usize, slots: &mut Slots<'_>) {
        self.head.resize(shape.head_dim, 0.0);
        for (row, token) in self.tokens.iter().enumerate() {
            let Some(slot) = slots.get_mut(&token.slot) else { continue };
            let mut cache = slot.layer_mut(number);
            for head in 0..shape.kv_heads {
                self.joined.read(row, (shape.heads + head) * shape.head_dim, &mut self.head);
                cache.write_key(token.position, head, &self.head);
                self.joined.read(row, (shape.heads + shape.kv_heads + head) * shape.head_dim, &mut self.head);
                cache.write_value(token.position, head, &self.head);
            }
        }
    }

    /// The rest of a layer: attention and the MLP.
    pub fn finish(&mut self, shape: &Shape, layer: &Layer, number: usize, slots: &Slots<'_>, parallel: bool) {
        self.attend(shape, layer, number, slots, parallel);
        layer.out.multiply(&self.attended, &mut self.out, parallel, |_| ());
        add(&mut self.x, &self.out);
        normalize_rows(&self.x, &mut self.normed, shape.epsilon);
        layer.up.multiply(&self.normed, &mut self.hidden, parallel, |values| {
            values.iter_mut().for_each(|value| *value = value.max(0.0) * value.max(0.0));
        });
        layer.down.multiply(&self.hidden, &mut self.out, parallel, |_| ());
        add(&mut self.x, &self.out);
    }

    /// Keeps the output of this layer for `end`.
    pub fn keep_middle(&mut self) {
        self.middle.copy_from(&self.x);
    }

    /// The normed output of the last layer.
    pub fn end(&mut self, shape: &Shape) -> &Rows {
        let pairs = self.x.values.iter_mut().zip(&self.middle.values);
        pairs.for_each(|(x, middle)| *x -= shape.backout * middle);
        normalize_rows(&self.x, &mut self.normed, shape.epsilon);
        &self.normed
    }

    /// The output of attention of all tokens, (N, H D).
    fn attend(&mut self, shape: &Shape, layer: &Layer, number: usize, slots: &Slots<'_>, parallel: bool) {
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let Part { tokens, joined, attended, scratch, .. } = self;
        attended.reshape(tokens.len(), shape.heads * dim);
        let mut jobs: Vec<(usize, Span, usize)> = Vec::new(); // the first row, its tokens, and the key/value head
        let mut first = 0;
        for run in tokens.chunk_by(|a, b| a.slot == b.slot) {
            let span = Span { start: run[0].position, tokens: run.len(), window: layer.window };
            for part in span.parts() {
                let row = first + part.start - span.start;
                jobs.extend((0..shape.kv_heads).map(|head| (row, part, head)));
            }
            first += run.len();
        }
        let work = |(row, span, head): (usize, Span, usize), scratch: &mut Scratch| {
            scratch.head.resize(dim, 0.0);
            scratch.queries.reshape(span.tokens * group, dim);
            for query in 0..span.tokens * group {
                joined.read(row + query / group, (head * group + query % group) * dim, &mut scratch.head);
                shape.rotate(span.start + query / group, &mut scratch.head);
                scratch.head.iter_mut().for_each(|value| *value *= shape.scale);
                scratch.queries.write(query, 0, &scratch.head);
            }
            attend(slots[&tokens[row].slot].layer(number), head, span, scratch);
        };
        let mut place = |(row, _, head): (usize, Span, usize), out: &Rows, vector: &mut Vec<f32>| {
            vector.resize(dim, 0.0);
            for query in 0..out.count {
                out.read(query, 0, vector);
                attended.write(row + query / group, (head * group + query % group) * dim, vector);
            }
        };
        let seen: usize = tokens.iter().map(|token| token.position.min(layer.window) + 1).sum();
        if parallel && seen * shape.heads * dim >= PARALLEL_FROM {
            let outputs = jobs.par_iter().map_init(Scratch::default, |scratch, job| {
                work(*job, scratch);
                std::mem::take(&mut scratch.out)
            });
            let outputs: Vec<Rows> = outputs.collect();
            jobs.iter().zip(&outputs).for_each(|(job, out)| place(*job, out, &mut scratch.head));
        } else {
            for job in jobs {
                work(job, scratch);
                place(job, &scratch.out, &mut scratch.head);
            }
        }
    }
}

impl Shape {
    /// Rotates and norms a query or key.
    fn rotate(&self, position: usize, vector: &mut [f32]) {
        let half = self.head_dim / 2;
        rotate(vector, &self.cos[position * half..][..half], &self.sin[position * half..][..half]);
        normalize(vector, self.epsilon);
    }
}

fn add(x: &mut Rows, y: &Rows) {
    x.values.iter_mut().zip(&y.values).for_each(|(x, y)| *x += y);
}
