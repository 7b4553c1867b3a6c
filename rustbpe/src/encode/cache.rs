//! What a thread remembers of pieces it has met: their ids. Bounded, and never wrong: a slot keeps the whole piece.

use crate::hash::{of_key, Map};
use crate::key::EMPTY_KEY;
use crate::memory::{prefetch, Table};

/// A type of ids: u16 for vocabularies up to 65,536, else u32.
pub trait Id: Copy + Default + Send + Sync + 'static {
    /// The ids of a piece and, in the last place, how many they are: 16 bytes.
    type Inline: Copy + Default + Send + Sync + AsRef<[Self]> + AsMut<[Self]>;
    /// Ids that go into it.
    const ROOM: usize;
    /// From an id that is known to fit.
    fn from_u32(id: u32) -> Self;
    /// As a number.
    fn to_usize(self) -> usize;
}

impl Id for u16 {
    type Inline = [u16; 8];
    const ROOM: usize = 7;
    #[inline(always)]
    fn from_u32(id: u32) -> u16 {
        id as u16
    }
    #[inline(always)]
    fn to_usize(self) -> usize {
        usize::from(self)
    }
}

impl Id for u32 {
    type Inline = [u32; 4];
    const ROOM: usize = 3;
    #[inline(always)]
    fn from_u32(id: u32) -> u32 {
        id
    }
    #[inline(always)]
    fn to_usize(self) -> usize {
        self as usize
    }
}

/// Two pieces and their ids: one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket<I: Id> {
    keys: [u128; 2],
    ids: [I::Inline; 2],
}

/// 256 KB and 16 MB.
const FEWEST_BUCKET_BITS: u32 = 12;
const MOST_BUCKET_BITS: u32 = 18;
const LONG_PIECE_BYTES: usize = 2048;
const LONG_PIECES_BYTES: usize = 16 << 20;

/// Ids of short pieces in a table that grows up to a limit, those of longer ones in a map that is emptied when it is
/// full.
pub struct Cache<I: Id> {
    buckets: Table<Bucket<I>>,
    bucket_bits: u32,
    /// Pieces that had to make room for others since the table grew.
    forgotten: usize,
    long: Map<Box<[u8]>, Box<[I]>>,
    long_bytes: usize,
}

fn empty<I: Id>(bits: u32) -> Table<Bucket<I>> {
    Table::new(bits, Bucket { keys: [EMPTY_KEY; 2], ids: [I::Inline::default(); 2] })
}

impl<I: Id> Cache<I> {
    /// With room for about so many pieces.
    pub fn with_room(pieces: usize) -> Cache<I> {
        let bits = pieces.next_power_of_two().trailing_zeros().clamp(FEWEST_BUCKET_BITS, MOST_BUCKET_BITS);
        Cache { buckets: empty(bits), bucket_bits: bits, forgotten: 0, long: Map::default(), long_bytes: 0 }
    }

    /// Where a piece would be.
    #[inline(always)]
    pub fn place(&self, key: u128) -> u32 {
        (of_key(key) >> (64 - self.bucket_bits)) as u32
    }

    /// The same; asks for it to be brought near.
    #[inline(always)]
    pub fn prepare(&self, key: u128) -> u32 {
        let place = self.place(key);
        prefetch(self.buckets.at(place as usize));
        place
    }

    /// The ids of a piece at its place, if they are known.
    #[inline(always)]
    pub fn get(&self, place: u32, key: u128) -> Option<&I::Inline> {
        let Bucket { keys, ids } = self.buckets.at(place as usize);
        let (is_first, is_second) = (keys[0] == key, keys[1] == key);
        // by a number, not by a branch: which of the two it is cannot be predicted
        (is_first | is_second).then_some(&ids[usize::from(is_second)])
    }

    /// Remembers the ids of a piece, if there are few enough. The first to come keeps its place: the commonest pieces
    /// come early.
    pub fn insert(&mut self, place: u32, key: u128, ids: &[u32]) {
        if ids.len() > I::ROOM {
            return;
        }
        let mut inline = I::Inline::default();
        for (slot, &id) in inline.as_mut().iter_mut().zip(ids) {
            *slot = I::from_u32(id);
        }
        inline.as_mut()[I::ROOM] = I::from_u32(ids.len() as u32);
        self.put(place, key, inline);
    }

    fn put(&mut self, place: u32, key: u128, ids: I::Inline) {
        let bucket = self.buckets.at_mut(place as usize);
        let way = usize::from(bucket.keys[0] != EMPTY_KEY);
        self.forgotten += usize::from(bucket.keys[way] != EMPTY_KEY);
        bucket.keys[way] = key;
        bucket.ids[way] = ids;
    }

    /// Doubles the table if much had to be forgotten; all places change.
    pub fn grow_if_crowded(&mut self) {
        if self.forgotten < 1 << (self.bucket_bits - 2) || self.bucket_bits == MOST_BUCKET_BITS {
            return;
        }
        let crowded = std::mem::replace(&mut self.buckets, empty(self.bucket_bits + 1));
        self.bucket_bits += 1;
        for (key, ids) in crowded.iter().flat_map(|bucket| bucket.keys.into_iter().zip(bucket.ids)) {
            if key != EMPTY_KEY {
                self.put(self.place(key), key, ids);
            }
        }
        self.forgotten = 0;
    }

    /// The ids of a piece that is longer than a key.
    pub fn get_long(&self, piece: &[u8]) -> Option<&[I]> {
        self.long.get(piece).map(AsRef::as_ref)
    }

    /// Remembers them.
    pub fn insert_long(&mut self, piece: &[u8], ids: &[u32]) {
        if piece.len() > LONG_PIECE_BYTES {
            return;
        }
        let bytes = piece.len() + size_of_val(ids) + 64;
        if self.long_bytes + bytes > LONG_PIECES_BYTES {
            self.long.clear();
            self.long_bytes = 0;
        }
        self.long_bytes += bytes;
        self.long.insert(piece.into(), ids.iter().map(|&id| I::from_u32(id)).collect());
    }
}
