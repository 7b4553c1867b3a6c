//! A thread's own counts, in front of the tables that all threads share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::count_table::{CountTable, PieceCount};
use crate::hash::{hash_packed, Map};
use crate::packed_piece::{pack_range, NOT_PACKED};
use crate::parallel::chunks::Chunk;
use crate::split::{PieceEnds, SplitError, Splitter};
use crate::text::Text;

/// Slots of a thread's own table: 768 KB.
const SLOT_BITS: u32 = 15;
/// Number of shared tables: more tables, fewer threads that wait for each other.
const SHARED_TABLES: usize = 32;
/// Evicted pieces that go to a shared table together.
const SPILL_PIECES: usize = 1024;

/// Counts that all threads share.
pub struct SharedCounts {
    /// Short pieces, by the lowest bits of their hash.
    pub short: [Mutex<CountTable>; SHARED_TABLES],
    /// Longer pieces.
    pub long: Mutex<Map<Box<[u8]>, u64>>,
}

impl Default for SharedCounts {
    fn default() -> SharedCounts {
        SharedCounts { short: std::array::from_fn(|_| Mutex::default()), long: Mutex::default() }
    }
}

impl SharedCounts {
    /// Number of unique pieces.
    pub fn pieces(&self) -> usize {
        self.short_pieces() + locked(&self.long).len()
    }

    /// Number of unique short pieces.
    pub fn short_pieces(&self) -> usize {
        self.short.iter().map(|table| locked(table).len()).sum()
    }
}

/// Locks a mutex, also after a panic of another thread.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A table with one slot for each hash: a piece evicts the one in its slot to the shared tables.
pub struct ThreadCounts {
    slots: Vec<PieceCount>,
    evicted: [Vec<PieceCount>; SHARED_TABLES],
    long: Map<Box<[u8]>, u64>,
    ends: PieceEnds,
    /// Packed pieces of the text at hand, and their hashes.
    pieces: Vec<(u128, u64)>,
}

impl Default for ThreadCounts {
    fn default() -> ThreadCounts {
        ThreadCounts {
            slots: vec![PieceCount::EMPTY; 1 << SLOT_BITS],
            evicted: std::array::from_fn(|_| Vec::with_capacity(SPILL_PIECES)),
            long: Map::default(),
            ends: PieceEnds::default(),
            pieces: Vec::new(),
        }
    }
}

impl ThreadCounts {
    /// Counts the pieces of a chunk of texts.
    pub fn count_chunk<T: Text>(
        &mut self,
        splitter: &Splitter,
        shared: &SharedCounts,
        texts: &[T],
        chunk: &Chunk,
    ) -> Result<(), SplitError> {
        match chunk {
            Chunk::Texts(range) => {
                let mut whole = texts[range.clone()].iter().map(|text| text.utf8(0..text.bytes().len()));
                whole.try_for_each(|text| self.count_text(splitter, shared, &text))
            }
            Chunk::PartOf(index, bytes) => self.count_text(splitter, shared, &texts[*index].utf8(bytes.clone())),
        }
    }

    fn count_text(&mut self, splitter: &Splitter, shared: &SharedCounts, text: &str) -> Result<(), SplitError> {
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            splitter.next(text, start, &mut self.ends)?;
            self.pieces.clear();
            for &end in self.ends.as_slice() {
                let packed = pack_range(bytes, start, end);
                if packed == NOT_PACKED {
                    count_long(&mut self.long, &bytes[start..end]);
                } else {
                    self.pieces.push((packed, hash_packed(packed)));
                }
                start = end;
            }
            for at in 0..self.pieces.len() {
                let (packed, hash) = self.pieces[at];
                let slot = &mut self.slots[(hash >> (64 - SLOT_BITS)) as usize];
                if slot.packed() == packed {
                    slot.count += 1;
                } else {
                    let evicted = std::mem::replace(slot, PieceCount::new(packed, 1));
                    self.evict(shared, evicted);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn evict(&mut self, shared: &SharedCounts, piece: PieceCount) {
        if piece.count == 0 {
            return;
        }
        let table = hash_packed(piece.packed()) as usize % SHARED_TABLES;
        let evicted = &mut self.evicted[table];
        evicted.push(piece);
        if evicted.len() == SPILL_PIECES {
            locked(&shared.short[table]).add_all(evicted);
            evicted.clear();
        }
    }

    /// Moves the counts of short pieces to the shared tables.
    pub fn flush_short(&mut self, shared: &SharedCounts) {
        for slot in std::mem::take(&mut self.slots) {
            self.evict(shared, slot);
        }
        for (evicted, table) in self.evicted.iter_mut().zip(&shared.short) {
            locked(table).add_all(evicted);
            evicted.clear();
        }
    }

    /// Moves the counts of long pieces to the shared table.
    pub fn flush_long(&mut self, shared: &SharedCounts) {
        let mut long = locked(&shared.long);
        for (piece, count) in self.long.drain() {
            *long.entry(piece).or_default() += count;
        }
    }
}

fn count_long(counts: &mut Map<Box<[u8]>, u64>, piece: &[u8]) {
    match counts.get_mut(piece) {
        Some(count) => *count += 1,
        None => {
            counts.insert(piece.into(), 1);
        }
    }
}
