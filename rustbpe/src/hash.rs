//! Fast hashes of short keys. They do not resist crafted input: a collision costs time only, and caches are bounded.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const MULTIPLIERS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03];

/// Multiplies to 128 bits and folds them by XOR: every input bit reaches the upper bits of the result.
#[inline(always)]
pub fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left ^ MULTIPLIERS[0]) * u128::from(right ^ MULTIPLIERS[1]);
    (product as u64) ^ (product >> 64) as u64
}

/// Hash of a packed piece.
#[inline(always)]
pub fn hash_packed(packed: u128) -> u64 {
    fold(packed as u64, (packed >> 64) as u64)
}

/// Hasher for maps whose keys are byte strings or pairs of numbers.
#[derive(Default, Clone, Copy)]
pub struct FoldHasher(u64);

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(chunk.try_into().map_or(0, u64::from_le_bytes));
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.0 = fold(self.0 ^ u64::from_le_bytes(last), bytes.len() as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = fold(self.0 ^ value, self.0.rotate_left(32));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

/// A hash map with [`FoldHasher`].
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<FoldHasher>>;
