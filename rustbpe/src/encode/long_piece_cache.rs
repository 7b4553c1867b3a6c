//! A thread's cache of the ids of pieces over 15 bytes: their bytes and ids, one after the other, and a hash table of
//! their positions. Bounded: when it is full, it is emptied.

use super::token_id::TokenId;
use crate::hash::fold;
use crate::prefetch::prefetch;

/// Longer pieces are not cached.
const MAX_PIECE_BYTES: usize = 2048;
const MIN_BITS: u32 = 10;
const MAX_BITS: u32 = 18;
/// Limit of the bytes of all pieces, and of the bytes of all ids.
const MAX_CACHE_BYTES: usize = 8 << 20;

/// Position of a piece and its ids.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// 0: an empty entry.
    hash: u32,
    first_byte: u32,
    first_id: u32,
    bytes: u16,
    ids: u16,
}

/// Ids of long pieces.
pub struct LongPieceCache<I> {
    /// Open addressing, at most half full.
    entries: Vec<Entry>,
    used: usize,
    bytes: Vec<u8>,
    ids: Vec<I>,
}

impl<I: TokenId> Default for LongPieceCache<I> {
    fn default() -> Self {
        LongPieceCache { entries: vec![Entry::default(); 1 << MIN_BITS], used: 0, bytes: Vec::new(), ids: Vec::new() }
    }
}

impl<I: TokenId> LongPieceCache<I> {
    /// Hash of a piece that will be looked up; prefetches its entry.
    #[inline(always)]
    pub fn prepare(&self, piece: &[u8]) -> u32 {
        let hash = hash(piece);
        prefetch(&self.entries[hash as usize & (self.entries.len() - 1)]);
        hash
    }

    /// Prefetches the bytes and ids of an entry, if it has this hash.
    #[inline(always)]
    pub fn prefetch_contents(&self, hash: u32) {
        let entry = &self.entries[hash as usize & (self.entries.len() - 1)];
        if entry.hash == hash {
            prefetch(&self.bytes[entry.first_byte as usize]);
            prefetch(&self.ids[entry.first_id as usize]);
        }
    }

    /// The ids of a piece with this hash, if it is cached.
    pub fn get(&self, piece: &[u8], hash: u32) -> Option<&[I]> {
        let entry = self.entries[self.find(piece, hash)];
        (entry.hash != 0).then(|| &self.ids[entry.first_id as usize..][..usize::from(entry.ids)])
    }

    /// Caches the ids of a piece.
    pub fn insert(&mut self, piece: &[u8], ids: &[u32]) {
        if piece.len() > MAX_PIECE_BYTES {
            return;
        }
        if 2 * self.used >= self.entries.len() {
            self.grow();
        }
        if self.bytes.len() + piece.len() > MAX_CACHE_BYTES
            || self.ids.len() + ids.len() > MAX_CACHE_BYTES / size_of::<I>()
        {
            self.clear();
        }
        let hash = hash(piece);
        let index = self.find(piece, hash);
        if self.entries[index].hash != 0 {
            return;
        }
        self.entries[index] = Entry {
            hash,
            first_byte: self.bytes.len() as u32,
            first_id: self.ids.len() as u32,
            bytes: piece.len() as u16,
            ids: ids.len() as u16,
        };
        self.used += 1;
        self.bytes.extend_from_slice(piece);
        self.ids.extend(ids.iter().map(|&id| I::from_u32(id)));
    }

    /// Index of a piece's entry, or of the empty entry where it belongs.
    fn find(&self, piece: &[u8], hash: u32) -> usize {
        let mask = self.entries.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let entry = &self.entries[index];
            let same = || &self.bytes[entry.first_byte as usize..][..usize::from(entry.bytes)] == piece;
            if entry.hash == 0 || (entry.hash == hash && same()) {
                return index;
            }
            index = (index + 1) & mask;
        }
    }

    fn grow(&mut self) {
        if self.entries.len() == 1 << MAX_BITS {
            return self.clear();
        }
        let larger = vec![Entry::default(); 2 * self.entries.len()];
        let mask = larger.len() - 1;
        for entry in std::mem::replace(&mut self.entries, larger) {
            if entry.hash != 0 {
                let mut index = entry.hash as usize & mask;
                while self.entries[index].hash != 0 {
                    index = (index + 1) & mask;
                }
                self.entries[index] = entry;
            }
        }
    }

    fn clear(&mut self) {
        self.entries.fill(Entry::default());
        self.used = 0;
        self.bytes.clear();
        self.ids.clear();
    }
}

/// Hash of a piece, never 0. The last 16 bytes may overlap bytes that are hashed already.
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
