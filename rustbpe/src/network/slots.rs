//! Keys and values of the slots. The token at position p is in column p mod S of its slot's layer.
//!
//! Keys are in panels of 16 columns, (K, S / 16, D, 16), and values in panels of 16 channels, (K, D / 16, S, 16): both are
//! the right sides of products, scores = q k^T and output = weights v.

use super::PANEL;

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

/// Keys and values of one slot in one layer.
pub struct LayerCache {
    shape: CacheShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl LayerCache {
    /// An empty one.
    pub fn new(shape: CacheShape) -> LayerCache {
        let numbers = shape.kv_heads * shape.columns * shape.head_dim.next_multiple_of(PANEL);
        LayerCache {
            shape,
            keys: vec![0.0; shape.kv_heads * shape.columns * shape.head_dim],
            values: vec![0.0; numbers],
        }
    }

    /// K, D and S.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        4 * (self.keys.len() + self.values.len())
    }

    /// Panels (S / 16, D, 16) of the keys of one head.
    pub fn keys_of(&self, head: usize) -> &[f32] {
        let length = self.shape.columns * self.shape.head_dim;
        &self.keys[head * length..][..length]
    }

    /// Panels (D / 16, S, 16) of the values of one head.
    pub fn values_of(&self, head: usize) -> &[f32] {
        let length = self.shape.columns * self.shape.head_dim.next_multiple_of(PANEL);
        &self.values[head * length..][..length]
    }

    /// Writes the key (D) of one position and head.
    pub fn write_key(&mut self, position: usize, head: usize, key: &[f32]) {
        let at = self.key_at(head, position);
        for (channel, number) in self.keys[at..].iter_mut().step_by(PANEL).zip(key) {
            *channel = *number;
        }
    }

    /// Writes the value (D) of one position and head.
    pub fn write_value(&mut self, position: usize, head: usize, value: &[f32]) {
        for (panel, numbers) in value.chunks(PANEL).enumerate() {
            let at = self.value_at(head, panel, position);
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

    /// Appends the key and value (K, D) of one position.
    pub fn read(&self, position: usize, out: &mut Vec<f32>) {
        let CacheShape { kv_heads, head_dim, .. } = self.shape;
        for head in 0..kv_heads {
            out.extend(self.keys[self.key_at(head, position)..].iter().step_by(PANEL).take(head_dim));
        }
        for head in 0..kv_heads {
            for panel in 0..head_dim.div_ceil(PANEL) {
                let width = PANEL.min(head_dim - panel * PANEL);
                out.extend_from_slice(&self.values[self.value_at(head, panel, position)..][..width]);
            }
        }
    }

    /// Index of the first channel of a key; the others are 16 apart.
    fn key_at(&self, head: usize, position: usize) -> usize {
        let CacheShape { head_dim, columns, .. } = self.shape;
        let column = position % columns;
        (head * columns + column / PANEL * PANEL) * head_dim + column % PANEL
    }

    /// Index of the first channel of a panel of a value.
    fn value_at(&self, head: usize, panel: usize, position: usize) -> usize {
        let CacheShape { head_dim, columns, .. } = self.shape;
        ((head * head_dim.div_ceil(PANEL) + panel) * columns + position % columns) * PANEL
    }
}
