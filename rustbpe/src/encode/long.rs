//! What a thread remembers of pieces that are longer than a key: their bytes and ids, one behind the other, and a table
//! that says where. Bounded: when it is full, all is forgotten.

use super::id::Id;
use crate::hash::fold;
use crate::memory::prefetch;

const LONGEST_BYTES: usize = 2048;
const FEWEST_BITS: u32 = 10;
const MOST_BITS: u32 = 18;
/// Bytes and ids that are kept, of each.
const MOST_KEPT: usize = 8 << 20;

/// A piece and its ids.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// 0: nobody's.
    hash: u32,
    first_byte: u32,
    first_id: u32,
    bytes: u16,
    ids: u16,
}

/// Ids of long pieces.
pub struct LongPieces<I> {
    /// Never more than half full; a piece that finds its place taken is in the next one that is free.
    entries: Vec<Entry>,
    count: usize,
    bytes: Vec<u8>,
    ids: Vec<I>,
}

impl<I: Id> Default for LongPieces<I> {
    fn default() -> Self {
        LongPieces { entries: vec![Entry::default(); 1 << FEWEST_BITS], count: 0, bytes: Vec::new(), ids: Vec::new() }
    }
}

impl<I: Id> LongPieces<I> {
    /// Hash of a piece that will be looked up; asks for its entry to be brought near.
    #[inline(always)]
    pub fn prepare(&self, piece: &[u8]) -> u32 {
        let hash = hash(piece);
        prefetch(&self.entries[hash as usize & (self.entries.len() - 1)]);
        hash
    }

    /// Asks for what the entry speaks of, if it is there.
    #[inline(always)]
    pub fn approach(&self, hash: u32) {
        let entry = &self.entries[hash as usize & (self.entries.len() - 1)];
        if entry.hash == hash {
            prefetch(&self.bytes[entry.first_byte as usize]);
            prefetch(&self.ids[entry.first_id as usize]);
        }
    }

    /// The ids of a piece with that hash, if they are known.
    pub fn get(&self, piece: &[u8], hash: u32) -> Option<&[I]> {
        let entry = self.entries[self.place(piece, hash)];
        (entry.hash != 0).then(|| &self.ids[entry.first_id as usize..][..usize::from(entry.ids)])
    }

    /// Remembers them.
    pub fn insert(&mut self, piece: &[u8], ids: &[u32]) {
        if piece.len() > LONGEST_BYTES {
            return;
        }
        if 2 * self.count >= self.entries.len() {
            self.grow();
        }
        if self.bytes.len() + piece.len() > MOST_KEPT || self.ids.len() + ids.len() > MOST_KEPT / size_of::<I>() {
            self.forget();
        }
        let hash = hash(piece);
        let place = self.place(piece, hash);
        if self.entries[place].hash != 0 {
            return;
        }
        self.entries[place] = Entry {
            hash,
            first_byte: self.bytes.len() as u32,
            first_id: self.ids.len() as u32,
            bytes: piece.len() as u16,
            ids: ids.len() as u16,
        };
        self.count += 1;
        self.bytes.extend_from_slice(piece);
        self.ids.extend(ids.iter().map(|&id| I::from_u32(id)));
    }

    /// Where a piece is, or would be.
    fn place(&self, piece: &[u8], hash: u32) -> usize {
        let mask = self.entries.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let entry = &self.entries[place];
            let same = || &self.bytes[entry.first_byte as usize..][..usize::from(entry.bytes)] == piece;
            if entry.hash == 0 || (entry.hash == hash && same()) {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        if self.entries.len() == 1 << MOST_BITS {
            return self.forget();
        }
        let larger = vec![Entry::default(); 2 * self.entries.len()];
        let mask = larger.len() - 1;
        for entry in std::mem::replace(&mut self.entries, larger) {
            if entry.hash != 0 {
                let mut place = entry.hash as usize & mask;
                while self.entries[place].hash != 0 {
                    place = (place + 1) & mask;
                }
                self.entries[place] = entry;
            }
        }
    }

    fn forget(&mut self) {
        self.entries.fill(Entry::default());
        self.count = 0;
        self.bytes.clear();
        self.ids.clear();
    }
}

/// Not 0. The last 16 bytes may be some that were read before.
#[inline(always)]
fn hash(piece: &[u8]) -> u32 {
    let mut hash = piece.len() as u64;
    let mut add = |sixteen: &[u8; 16]| {
        let both = u128::from_le_bytes(*sixteen);
        hash = fold(hash ^ both as u64, (both >> 64) as u64);
    };
    let (sixteens, _) = piece.as_chunks::<16>();
    sixteens.iter().for_each(&mut add);
    piece.last_chunk::<16>().into_iter().for_each(add);
    (hash >> 32) as u32 | 1 << 31
}
