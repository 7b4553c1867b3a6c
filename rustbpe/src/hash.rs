//! Hashes of short keys. Nobody attacks us: a bad hash costs time, and caches are bounded.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const ODD: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03];

/// Multiplies to 128 bits and folds them: every bit of the input reaches the upper bits of the result.
#[inline(always)]
pub fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left ^ ODD[0]) * u128::from(right ^ ODD[1]);
    (product as u64) ^ (product >> 64) as u64
}

/// Hash of a packed piece.
#[inline(always)]
pub fn of_key(key: u128) -> u64 {
    fold(key as u64, (key >> 64) as u64)
}

/// For maps whose keys are byte strings or pairs of numbers.
#[derive(Default, Clone, Copy)]
pub struct Folding(u64);

impl Hasher for Folding {
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

/// A map with that hash.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Folding>>;
