//! Keys and values of the slots. The token at position p is in column p mod S of its slot's layer.
//!
//! Keys are in panels of 16 columns, (K, S / 16, D, 16), and values in panels of 16 channels, (K, D / 16, S, 16): both are
//! the right sides of products, scores = q k^T and output = weights v.

use super::{CACHE_LINE, PANEL};
use crate::huge_pages::advise_huge_pages;

/// Columns are allocated in multiples of this.
pub const COLUMN_BLOCK: usize = 128;

/// Shape of a layer's cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheShape {
    /// K.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// S.
    pub columns: usize,
}

impl CacheShape {
    /// Numbers of the keys and of the values of a slot.
    fn numbers(&self) -> (usize, usize) {
        let CacheShape { kv_heads, head_dim, columns } = *self;
        (kv_heads * columns * head_dim, kv_heads * columns * head_dim.next_multiple_of(PANEL))
    }

    /// Index of the first channel of a key; the others are 16 apart.
    fn key_at(&self, head: usize, position: usize) -> usize {
        let column = position % self.columns;
        (head * self.columns + column / PANEL * PANEL) * self.head_dim + column % PANEL
    }

    /// Index of the first channel of a panel of a value.
    fn value_at(&self, head: usize, panel: usize, position: usize) -> usize {
        ((head * self.head_dim.div_ceil(PANEL) + panel) * self.columns + position % self.columns) * PANEL
    }
}

/// Where a layer's keys and values are among the numbers of a slot.
#[derive(Clone, Copy, Debug)]
struct Place {
    shape: CacheShape,
    keys: usize,
    values: usize,
}

/// The numbers of all slots, in one piece, so that huge pages fit: from memory, they are read half as fast again.
pub struct Slots {
    layers: Vec<Place>,
    numbers: Vec<f32>,
    /// Index of the first one, on a cache line.
    first: usize,
    /// Numbers of a slot.
    length: usize,
}

impl Slots {
    /// Empty ones, with these layers.
    pub fn new(count: usize, shapes: &[CacheShape]) -> Slots {
        let mut length = 0;
        let mut layers = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let (keys, values) = shape.numbers();
            layers.push(Place { shape: *shape, keys: length, values: length + keys });
            length += keys + values;
        }
        let numbers = vec![0.0; count * length + CACHE_LINE / 4]; // fresh from the system: not written to yet
        advise_huge_pages(&numbers);
        let first = numbers.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE / 4);
        Slots { layers, numbers, first, length }
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        size_of::<f32>() * (self.numbers.len() - CACHE_LINE / 4)
    }

    /// All slots, in order.
    pub fn all(&mut self) -> impl Iterator<Item = Slot<'_>> {
        let numbers = &mut self.numbers[self.first..];
        numbers.chunks_exact_mut(self.length).map(|numbers| Slot { layers: &self.layers, numbers })
    }

    /// One of them.
    pub fn slot(&mut self, number: usize) -> Slot<'_> {
        let numbers = &mut self.numbers[self.first + number * self.length..][..self.length];
        Slot { layers: &self.layers, numbers }
    }

    /// The caches of a slot, by layer.
    pub fn layers(&self, slot: usize) -> impl Iterator<Item = LayerCache<'_>> {
        let numbers = &self.numbers[self.first + slot * self.length..][..self.length];
        self.layers.iter().map(|place| place.cache(numbers))
    }
}

/// One slot.
pub struct Slot<'a> {
    layers: &'a [Place],
    numbers: &'a mut [f32],
}

impl Slot<'_> {
    /// The cache of a layer.
    pub fn layer(&self, number: usize) -> LayerCache<'_> {
        self.layers[number].cache(self.numbers)
    }

    /// The same, to write to.
    pub fn layer_mut(&mut self, number: usize) -> LayerCacheMut<'_> {
        let Place { shape, keys, values } = self.layers[number];
        let (key_numbers, value_numbers) = shape.numbers();
        let (keys, values) = self.numbers[keys..][..values - keys + value_numbers].split_at_mut(key_numbers);
        LayerCacheMut { shape, keys, values }
    }
}

impl Place {
    fn cache<'a>(&self, slot: &'a [f32]) -> LayerCache<'a> {
        let (keys, values) = self.shape.numbers();
        LayerCache { shape: self.shape, keys: &slot[self.keys..][..keys], values: &slot[self.values..][..values] }
    }
}

/// Keys and values of one slot in one layer.
#[derive(Clone, Copy)]
pub struct LayerCache<'a> {
    /// K, D and S.
    pub shape: CacheShape,
    keys: &'a [f32],
    values: &'a [f32],
}

/// The same, to write to.
pub struct LayerCacheMut<'a> {
    shape: CacheShape,
    keys: &'a mut [f32],
    values: &'a mut [f32],
}

impl<'a> LayerCache<'a> {
    /// Panels (S / 16, D, 16) of the keys of one head.
    pub fn keys_of(&self, head: usize) -> &'a [f32] {
        let length = self.shape.columns * self.shape.head_dim;
        &self.keys[head * length..][..length]
    }

    /// Panels (D / 16, S, 16) of the values of one head.
    pub fn values_of(&self, head: usize) -> &'a [f32] {
        let length = self.shape.columns * self.shape.head_dim.next_multiple_of(PANEL);
        &self.values[head * length..][..length]
    }

    /// Appends the key and value (K, D) of one position.
    pub fn read(&self, position: usize, out: &mut Vec<f32>) {
        let CacheShape { kv_heads, head_dim, .. } = self.shape;
        for head in 0..kv_heads {
            out.extend(self.keys[self.shape.key_at(head, position)..].iter().step_by(PANEL).take(head_dim));
        }
        for head in 0..kv_heads {
            for panel in 0..head_dim.div_ceil(PANEL) {
                let width = PANEL.min(head_dim - panel * PANEL);
                out.extend_from_slice(&self.values[self.shape.value_at(head, panel, position)..][..width]);
            }
        }
    }
}

impl LayerCacheMut<'_> {
    /// Writes the key (D) of one position and head.
    pub fn write_key(&mut self, position: usize, head: usize, key: &[f32]) {
        let at = self.shape.key_at(head, position);
        for (channel, number) in self.keys[at..].iter_mut().step_by(PANEL).zip(key) {
            *channel = *number;
        }
    }

    /// Writes the value (D) of one position and head.
    pub fn write_value(&mut self, position: usize, head: usize, value: &[f32]) {
        for (panel, numbers) in value.chunks(PANEL).enumerate() {
            let at = self.shape.value_at(head, panel, position);
            self.values[at..][..numbers.len()].copy_from_slice(numbers);
        }
    }

    /// Writes the key and value (K, D) of one position.
    pub fn write(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let dim = self.shape.head_dim;
        for (head, (key, value)) in key.chunks_exact(dim).zip(value.chunks_exact(dim)).enumerate() {
            self.write_key(position, head, key);
            self.write_value(position, head, value);
        }
    }
}
