//! The layers: ids and slots to the normed output of the last layer, and to logits.

use std::collections::BTreeMap;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::attention::{attend, Scratch, Span};
use super::elementwise::{normalize, rotate, sigmoid};
use super::product::Product;
use super::slots::{CacheShape, LayerCache};

/// Matrices of up to this size together are read by every thread: each computes a part of the answers, through all layers,
/// and waits for no other. Larger ones are divided instead.
const SHARED_BYTES: usize = 48 << 20;
/// Answers that a thread computes at once if matrices are larger than that.
const ANSWERS_PER_THREAD: usize = 12;

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

/// The slots of a pass, by number; a pass of some threads has those of its tokens only.
type Slots<'a> = BTreeMap<usize, &'a mut Vec<LayerCache>>;

/// Consecutive tokens of one slot.
struct Run {
    first: usize,
    tokens: usize,
}

/// A network with its caches.
pub struct Network {
    shape: Shape,
    layers: Vec<Layer>,
    head: Product,
    /// By slot, then layer.
    slots: Vec<Vec<LayerCache>>,
    matrix_bytes: usize,
    threads: ThreadPool,
}

impl Network {
    /// A network with empty slots.
    ///
    /// # Errors
    /// The system refuses the threads.
    pub fn new(
        shape: Shape,
        layers: Vec<Layer>,
        head: Product,
        slots: usize,
        threads: usize,
    ) -> Result<Network, ThreadPoolBuildError> {
        let cache = |layer: &Layer| {
            LayerCache::new(CacheShape { kv_heads: shape.kv_heads, head_dim: shape.head_dim, columns: layer.columns })
        };
        let slots = (0..slots).map(|_| layers.iter().map(cache).collect()).collect();
        let matrices = layers.iter().flat_map(|layer| [&layer.joined, &layer.out, &layer.up, &layer.down]);
        let matrix_bytes = matrices.chain([&head]).map(Product::bytes).sum();
        let threads = ThreadPoolBuilder::new().num_threads(threads).build()?;
        Ok(Network { shape, layers, head, slots, matrix_bytes, threads })
    }

    /// Bytes of the caches, and of the matrices that every step reads.
    pub fn bytes(&self) -> (usize, usize) {
        (self.slots.iter().flatten().map(LayerCache::bytes).sum(), self.matrix_bytes)
    }

    /// The normed output of the last layer (N, C). Tokens of one slot are consecutive.
    pub fn forward(&mut self, tokens: &[Token]) -> Vec<f32> {
        let parts = self.parts(tokens);
        let Network { shape, layers, slots, threads, .. } = self;
        let mut caches: Vec<Slots<'_>> = parts.iter().map(|_| BTreeMap::new()).collect();
        for (number, slot) in slots.iter_mut().enumerate() {
            if let Some(part) = parts.iter().position(|part| part.iter().any(|token| token.slot == number)) {
                caches[part].insert(number, slot);
            }
        }
        threads.install(|| match (parts.as_slice(), caches.as_mut_slice()) {
            ([part], [slots]) => forward(shape, layers, slots, part, true),
            _ => {
                let pairs = parts.into_par_iter().zip(caches);
                let outputs = pairs.map(|(part, mut slots)| forward(shape, layers, &mut slots, part, false));
                outputs.collect::<Vec<_>>().concat()
            }
        })
    }

    /// The tokens, divided between runs of one slot if threads are to compute them separately.
    fn parts<'a>(&self, tokens: &'a [Token]) -> Vec<&'a [Token]> {
        let threads = self.threads.current_num_threads();
        let runs = runs_of(tokens);
        let longest = runs.iter().map(|run| run.tokens).max().unwrap_or(0);
        let few_answers = runs.len() < threads * if self.matrix_bytes <= SHARED_BYTES { 2 } else { ANSWERS_PER_THREAD };
        if threads == 1 || few_answers || longest * threads > tokens.len() {
            return vec![tokens];
        }
        let size = tokens.len().div_ceil(threads);
        let starts = runs.iter().map(|run| run.first).filter(|first| *first > 0);
        let mut cuts: Vec<usize> = vec![0];
        for start in starts {
            if start >= cuts.len() * size {
                cuts.push(start);
            }
        }
        cuts.push(tokens.len());
        cuts.windows(2).map(|cut| &tokens[cut[0]..cut[1]]).collect()
    }

    /// Output of the last layer (N, C) to logits (N, V), before a soft cap.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let mut logits = Vec::new();
        self.threads.install(|| self.head.multiply(hidden, &mut logits, true));
        logits
    }

    /// Keys and values of consecutive positions: (tokens, layers, 2, K D).
    pub fn save(&self, slot: usize, start: usize, stop: usize) -> Vec<f32> {
        let row = self.layers.len() * 2 * self.shape.kv_heads * self.shape.head_dim;
        let mut saved = Vec::with_capacity((stop - start) * row);
        for position in start..stop {
            self.slots[slot].iter().for_each(|cache| cache.read(position, &mut saved));
        }
        saved
    }

    /// Writes what `save` returned to the positions from `start` on.
    pub fn load(&mut self, slot: usize, start: usize, saved: &[f32]) {
        let width = self.shape.kv_heads * self.shape.head_dim;
        let row = self.layers.len() * 2 * width;
        for (token, saved) in saved.chunks_exact(row).enumerate() {
            for (cache, both) in self.slots[slot].iter_mut().zip(saved.chunks_exact(2 * width)) {
                cache.write(start + token, &both[..width], &both[width..]);
            }
        }
    }
}

fn forward(shape: &Shape, layers: &[Layer], slots: &mut Slots<'_>, tokens: &[Token], parallel: bool) -> Vec<f32> {
    let width = shape.width;
    let mut x = embedded(shape, tokens);
    let first = x.clone();
    let mut middle = Vec::new();
    let (mut normed, mut joined, mut y, mut hidden) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, layer) in layers.iter().enumerate() {
        if let Some((residual, of_first)) = layer.residual {
            x.iter_mut().zip(&first).for_each(|(x, first)| *x = *x * residual + first * of_first);
        }
        normalize_rows(&x, &mut normed, shape);
        layer.joined.multiply(&normed, &mut joined, parallel);
        write_keys_and_values(shape, layer, number, slots, tokens, &mut joined);
        attend_all(shape, (number, layer), slots, tokens, &joined, &mut y, parallel);
        layer.out.multiply(&y, &mut hidden, parallel);
        x.iter_mut().zip(&hidden).for_each(|(x, y)| *x += y);
        normalize_rows(&x, &mut normed, shape);
        layer.up.multiply(&normed, &mut hidden, parallel);
        hidden.iter_mut().for_each(|value| *value = value.max(0.0) * value.max(0.0));
        layer.down.multiply(&hidden, &mut y, parallel);
        x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
        if number == layers.len() / 2 {
            middle.clone_from(&x);
        }
    }
    x.iter_mut().zip(&middle).for_each(|(x, middle)| *x -= shape.backout * middle);
    x.chunks_exact_mut(width).for_each(|row| normalize(row, shape.epsilon));
    x
}

fn runs_of(tokens: &[Token]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if tokens[run.first].slot == token.slot => run.tokens += 1,
            _ => runs.push(Run { first: index, tokens: 1 }),
        }
    }
    runs
}

fn embedded(shape: &Shape, tokens: &[Token]) -> Vec<f32> {
    let row = |id: usize| &shape.embedding[id * shape.width..][..shape.width];
    let mut x: Vec<f32> = tokens.iter().flat_map(|token| row(token.id)).copied().collect();
    if !shape.smear.is_empty() {
        for (x, token) in x.chunks_exact_mut(shape.width).zip(tokens) {
            let part = shape.smear[token.id];
            x.iter_mut().zip(row(token.previous)).for_each(|(x, previous)| *x += part * previous);
        }
    }
    x
}

fn normalize_rows(x: &[f32], normed: &mut Vec<f32>, shape: &Shape) {
    normed.clear();
    normed.extend_from_slice(x);
    normed.chunks_exact_mut(shape.width).for_each(|row| normalize(row, shape.epsilon));
}

/// Rotates and norms queries and keys in place, scales queries, and writes keys and values to the caches.
fn write_keys_and_values(
    shape: &Shape,
    layer: &Layer,
    number: usize,
    slots: &mut Slots<'_>,
    tokens: &[Token],
    joined: &mut [f32],
) {
    let (dim, half, kv_width) = (shape.head_dim, shape.head_dim / 2, shape.kv_heads * shape.head_dim);
    let queries_width = shape.heads * dim;
    for (row, token) in joined.chunks_exact_mut(layer.joined.outputs).zip(tokens) {
        let (queries, rest) = row.split_at_mut(queries_width);
        let (keys, rest) = rest.split_at_mut(kv_width);
        let (values, gates) = rest.split_at_mut(kv_width);
        let (cos, sin) = (&shape.cos[token.position * half..][..half], &shape.sin[token.position * half..][..half]);
        for head in queries.chunks_exact_mut(dim) {
            rotate(head, cos, sin);
            normalize(head, shape.epsilon);
            head.iter_mut().for_each(|value| *value *= shape.scale);
        }
        for head in keys.chunks_exact_mut(dim) {
            rotate(head, cos, sin);
            normalize(head, shape.epsilon);
        }
        if !layer.value_table.is_empty() {
            let embedding = &layer.value_table[token.id * kv_width..][..kv_width];
            for (head, gate) in gates.iter().enumerate() {
                let gate = shape.value_gate_gain * sigmoid(*gate);
                let of_head = values[head * dim..][..dim].iter_mut().zip(&embedding[head * dim..][..dim]);
                of_head.for_each(|(value, embedding)| *value += gate * embedding);
            }
        }
        if let Some(slot) = slots.get_mut(&token.slot) {
            slot[number].write(token.position, keys, values);
        }
    }
}

/// The output of attention of all tokens, (N, H D).
fn attend_all(
    shape: &Shape,
    (number, layer): (usize, &Layer),
    slots: &Slots<'_>,
    tokens: &[Token],
    joined: &[f32],
    y: &mut Vec<f32>,
    parallel: bool,
) {
    let (dim, group, row) = (shape.head_dim, shape.heads / shape.kv_heads, shape.heads * shape.head_dim);
    let runs = runs_of(tokens);
    let attend_run = |scratch: &mut Scratch, run: &Run, head: usize| -> Vec<f32> {
        let span = Span { start: tokens[run.first].position, tokens: run.tokens, window: layer.window };
        let width = group * dim;
        let mut queries = std::mem::take(&mut scratch.queries);
        queries.clear();
        for token in run.first..run.first + run.tokens {
            queries.extend_from_slice(&joined[token * layer.joined.outputs + head * width..][..width]);
        }
        let mut out = vec![0.0; queries.len()];
        let cache = &slots[&tokens[run.first].slot][number];
        attend(cache, head, span, &queries, &mut out, scratch);
        scratch.queries = queries;
        out
    };
    let seen: usize = tokens.iter().map(|token| token.position.min(layer.window) + 1).sum();
    let jobs: Vec<(usize, usize)> =
        (0..runs.len()).flat_map(|run| (0..shape.kv_heads).map(move |head| (run, head))).collect();
    let outputs: Vec<Vec<f32>> = if !parallel || seen * row < PARALLEL_FROM {
        let mut scratch = Scratch::default();
        jobs.iter().map(|(run, head)| attend_run(&mut scratch, &runs[*run], *head)).collect()
    } else {
        jobs.par_iter()
            .map_init(Scratch::default, |scratch, (run, head)| attend_run(scratch, &runs[*run], *head))
            .collect()
    };
    y.clear();
    y.resize(tokens.len() * row, 0.0);
    for ((run, head), output) in jobs.iter().zip(&outputs) {
        for (token, output) in output.chunks_exact(group * dim).enumerate() {
            y[(runs[*run].first + token) * row + head * group * dim..][..group * dim].copy_from_slice(output);
        }
    }
}
