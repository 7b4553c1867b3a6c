//! A hash table of counts of short pieces, shared by threads behind a lock.

use crate::hash::hash_packed;
use crate::prefetch::prefetch;

/// A packed piece and its count; 24 bytes, where a u128 and a count would take 32.
#[derive(Clone, Copy)]
pub struct PieceCount {
    packed: [u64; 2],
    /// 0: an empty entry.
    pub count: u64,
}

impl PieceCount {
    /// No piece.
    pub const EMPTY: PieceCount = PieceCount { packed: [0; 2], count: 0 };

    /// A piece and its count.
    pub fn new(packed: u128, count: u64) -> PieceCount {
        PieceCount { packed: [packed as u64, (packed >> 64) as u64], count }
    }

    /// The packed piece.
    pub fn packed(self) -> u128 {
        u128::from(self.packed[1]) << 64 | u128::from(self.packed[0])
    }
}

const MIN_ENTRIES: usize = 1 << 10;
const PREFETCH_DISTANCE: usize = 8;

/// Counts by piece: open addressing, at most three quarters full.
#[derive(Default)]
pub struct CountTable {
    entries: Vec<PieceCount>,
    used: usize,
}

impl CountTable {
    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.used
    }

    /// All pieces and their counts.
    pub fn counts(&self) -> impl Iterator<Item = (u128, u64)> + '_ {
        self.entries.iter().filter(|entry| entry.count > 0).map(|entry| (entry.packed(), entry.count))
    }

    /// Adds counts.
    pub fn add_all(&mut self, counts: &[PieceCount]) {
        while (self.used + counts.len()) * 4 > self.entries.len() * 3 {
            let larger = vec![PieceCount::EMPTY; (self.entries.len() * 2).max(MIN_ENTRIES)];
            let old = std::mem::replace(&mut self.entries, larger);
            self.used = 0;
            for entry in old.into_iter().filter(|entry| entry.count > 0) {
                self.add(entry);
            }
        }
        for (at, &piece) in counts.iter().enumerate() {
            if let Some(later) = counts.get(at + PREFETCH_DISTANCE) {
                prefetch(&self.entries[self.index(later.packed())]);
            }
            self.add(piece);
        }
    }

    fn index(&self, packed: u128) -> usize {
        // the lowest bits of the hash select the table, the highest the slot of the thread's own table
        (hash_packed(packed) >> 8) as usize & (self.entries.len() - 1)
    }

    fn add(&mut self, piece: PieceCount) {
        let mut at = self.index(piece.packed());
        loop {
            let entry = &mut self.entries[at];
            if entry.count == 0 {
                *entry = piece;
                self.used += 1;
                return;
            }
            if entry.packed() == piece.packed() {
                entry.count += piece.count;
                return;
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
    }
}
