//! A thread's cache of the ids of pieces of up to 15 bytes. Bounded; a slot holds the whole piece, so a hit is exact.

use std::hint::select_unpredictable;

use super::short_piece_key::{equal_keys, key_in, key_of, ShortPieceKey};
#[cfg(target_arch = "x86_64")]
use super::short_piece_key::{key_at, READ_BYTES};
use super::token_id::TokenId;
use crate::hash::fold;
use crate::huge_pages::AlignedTable;
use crate::prefetch::prefetch;
use crate::split::MAX_ENDS;

/// One cache line: four slots for pieces of up to 7 bytes with 8 bytes of ids, or two double slots for pieces of up to 15
/// bytes with 16 bytes of ids.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line<I: TokenId> {
    ids: [I::Inline; 2],
    keys: [u64; 4],
}

impl<I: TokenId> Line<I> {
    /// Ids of a slot, with their number first.
    const SLOT_IDS: usize = 8 / size_of::<I>();

    fn ids_at(&self, slot: usize, slots: usize) -> &[I] {
        &self.ids[slot / 2].as_ref()[slot % 2 * Self::SLOT_IDS..][..slots * Self::SLOT_IDS]
    }

    fn ids_at_mut(&mut self, slot: usize, slots: usize) -> &mut [I] {
        &mut self.ids[slot / 2].as_mut()[slot % 2 * Self::SLOT_IDS..][..slots * Self::SLOT_IDS]
    }
}

/// A piece to look up.
#[derive(Clone, Copy, Default)]
pub struct Lookup {
    /// Key of the piece.
    pub key: ShortPieceKey,
    /// Index of its line, and `TWO_SLOTS` if it needs two slots.
    line: u32,
}

/// What a lookup of many pieces finds.
pub struct CachedIds<I> {
    /// Ids of the cached pieces, one after the other.
    pub ids: Box<[I]>,
    /// The pieces that are not cached.
    pub misses: Box<[Miss; MAX_ENDS]>,
}

/// A piece that is not cached.
#[derive(Clone, Copy, Default)]
pub struct Miss {
    /// Its number.
    pub piece: u32,
    /// Where its ids belong among the cached ones.
    pub insert_at: u32,
}

impl<I: TokenId> Default for CachedIds<I> {
    fn default() -> CachedIds<I> {
        let ids = vec![I::default(); (MAX_ENDS + 1) * (I::MAX_INLINE + 1)].into_boxed_slice();
        CachedIds { ids, misses: Box::new([Miss::default(); MAX_ENDS]) }
    }
}

/// Table of 256 KB.
const MIN_LINE_BITS: u32 = 12;
/// Table of 16 MB.
const MAX_LINE_BITS: u32 = 18;

/// The slot of a piece, by whether it needs two slots (bit 4) and which of a line's four keys are equal to its key (bits
/// 0 to 3).
const SLOTS: [u8; 32] = slots();
const NO_SLOT: u8 = 4;

const fn slots() -> [u8; 32] {
    let mut slots = [NO_SLOT; 32];
    let mut equal = 1;
    while equal < 16 {
        slots[equal as usize] = u32::trailing_zeros(equal) as u8;
        if equal & 0b0011 == 0b0011 {
            slots[16 | equal as usize] = 0;
        } else if equal & 0b1100 == 0b1100 {
            slots[16 | equal as usize] = 2;
        }
        equal += 1;
    }
    slots
}

/// Ids of short pieces, in a table that grows up to a limit.
pub struct ShortPieceCache<I: TokenId> {
    /// The first quarter is for pieces of one slot: they are few and frequent, so that this part stays in the
    /// processor's cache.
    lines: AlignedTable<Line<I>>,
    bits: u32,
    /// Pieces overwritten since the table grew.
    evicted: usize,
}

fn empty_table<I: TokenId>(bits: u32) -> AlignedTable<Line<I>> {
    AlignedTable::new(bits, Line { ids: [I::Inline::default(); 2], keys: [0; 4] })
}

/// Flag in `Lookup::line`, above any index: the piece needs two slots.
const TWO_SLOTS: u32 = 1 << 31;

impl<I: TokenId> ShortPieceCache<I> {
    /// A cache for about this many pieces.
    pub fn with_room(pieces: usize) -> ShortPieceCache<I> {
        let bits = pieces.next_power_of_two().trailing_zeros().clamp(MIN_LINE_BITS, MAX_LINE_BITS);
        ShortPieceCache { lines: empty_table(bits), bits, evicted: 0 }
    }

    /// Computes where the pieces of a text would be, given their ends, and prefetches those lines.
    ///
    /// # Safety
    /// The ends ascend from `start` and are inside the text. With `AVX2`, the processor has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub unsafe fn prepare<const AVX2: bool>(&self, text: &[u8], start: usize, ends: &[usize], lookups: &mut [Lookup]) {
        let (lines, bits) = (self.lines.as_slice(), self.bits);
        let prefetched = |key, bytes| {
            let line = line_of(bits, key, bytes < 8);
            prefetch(&lines[line as usize & (lines.len() - 1)]);
            Lookup { key, line }
        };
        let mut begin = start;
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if AVX2 {
            let near_the_end = ends.iter().rev().skip(1).take_while(|&&begin| begin + READ_BYTES > text.len()).count();
            done = ends.len().saturating_sub(near_the_end + 1);
            for (&end, lookup) in ends[..done].iter().zip(&mut *lookups) {
                // SAFETY: `READ_BYTES` bytes follow the start of the piece after these, and these start earlier; the
                // caller guarantees the instructions
                *lookup = prefetched(unsafe { key_at(text.as_ptr().add(begin), end - begin) }, end - begin);
                begin = end;
            }
        }
        for (&end, lookup) in ends[done..].iter().zip(&mut lookups[done..]) {
            *lookup = prefetched(key_in(text, begin, end), end - begin);
            begin = end;
        }
    }

    /// Gathers the ids of the cached pieces, one after the other. Returns the number of ids, and of misses. There is no
    /// branch on a hit or miss, because it would be mispredicted.
    ///
    /// # Safety
    /// With `AVX2`, the processor has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub unsafe fn gather<const AVX2: bool>(&self, lookups: &[Lookup], cached: &mut CachedIds<I>) -> (usize, usize) {
        let lines = self.lines.as_slice();
        let (mut ids, mut misses) = (0, 0);
        for (piece, lookup) in lookups.iter().enumerate().take(MAX_ENDS) {
            // SAFETY: fewer than `MAX_ENDS` pieces came before, each with at most one miss and `I::MAX_INLINE` ids, since
            // no slot holds more; the caller guarantees the instructions
            unsafe {
                let (slot, count, inline) = Self::find::<AVX2>(lines, lookup);
                cached.ids.as_mut_ptr().add(ids).cast::<I::Inline>().write_unaligned(inline.read_unaligned());
                *cached.misses.get_unchecked_mut(misses) = Miss { piece: piece as u32, insert_at: ids as u32 };
                misses += usize::from(slot == NO_SLOT);
                ids += select_unpredictable(slot == NO_SLOT, 0, count);
            }
        }
        (ids, misses)
    }

    /// The slot of a piece, the number of its ids, and its ids (what follows them is undefined). With `NO_SLOT`, the
    /// other values are undefined.
    ///
    /// # Safety
    /// With `AVX2`, the processor has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn find<const AVX2: bool>(lines: &[Line<I>], lookup: &Lookup) -> (u8, usize, *const I::Inline) {
        let line = &lines[lookup.line as usize & (lines.len() - 1)];
        // SAFETY: the caller guarantees the instructions
        let equal = unsafe { equal_keys::<AVX2>(&line.keys, lookup.key) };
        // a table instead of branches, which would be mispredicted
        let slot = SLOTS[(lookup.line / TWO_SLOTS) as usize * 16 + equal];
        // SAFETY: a slot is at most 4, so the last byte read is the 52nd of a line of 64, all of them plain numbers
        unsafe {
            let ids = std::ptr::from_ref(line).cast::<u8>().add(8 * usize::from(slot));
            let count = ids.cast::<I>().read();
            (slot, count.to_usize(), ids.add(size_of::<I>()).cast())
        }
    }

    /// Prefetches the double slot of a piece of up to 7 bytes, which it has if its ids do not fit one slot.
    #[inline(always)]
    pub fn prefetch_two_slots(&self, key: ShortPieceKey) {
        prefetch(self.lines.at(line_of(self.bits, key, false) as usize));
    }

    /// The ids in the double slot of a piece of up to 7 bytes.
    #[allow(unsafe_code)]
    pub fn get_two_slots(&self, key: ShortPieceKey) -> Option<(usize, I::Inline)> {
        let line = line_of(self.bits, key, false);
        // SAFETY: no special instructions
        unsafe {
            let (slot, count, inline) = Self::find::<false>(self.lines.as_slice(), &Lookup { key, line });
            (slot != NO_SLOT).then(|| (count, inline.read_unaligned()))
        }
    }

    /// Caches the ids of a piece, unless there are too many. A full line replaces its last piece: the most frequent
    /// pieces come early and stay.
    pub fn insert(&mut self, piece: &[u8], ids: &[u32]) {
        if ids.len() > I::MAX_INLINE {
            return;
        }
        let mut inline = I::Inline::default();
        inline.as_mut()[0] = I::from_u32(ids.len() as u32);
        for (slot, &id) in inline.as_mut()[1..].iter_mut().zip(ids) {
            *slot = I::from_u32(id);
        }
        self.put(key_of(piece), piece.len() < 8 && ids.len() <= I::MAX_INLINE / 2, inline.as_ref());
    }

    fn put(&mut self, key: ShortPieceKey, one_slot: bool, ids: &[I]) {
        let line = self.lines.at_mut(line_of(self.bits, key, one_slot) as usize);
        let slots = if one_slot { 1 } else { 2 };
        let same = |slot: usize| line.keys[slot..][..slots] == key[..slots];
        let free = |slot: usize| line.keys[slot + slots - 1] == 0;
        let slot = (0..4).step_by(slots).find(|&slot| free(slot) || same(slot));
        self.evicted += usize::from(slot.is_none());
        let slot = slot.unwrap_or(4 - slots);
        line.keys[slot..][..slots].copy_from_slice(&key[..slots]);
        line.ids_at_mut(slot, slots).copy_from_slice(&ids[..slots * Line::<I>::SLOT_IDS]);
    }

    /// Grows the table to its limit if a 16th of its lines evicted a piece; all pieces move.
    pub fn grow_if_crowded(&mut self) {
        if self.evicted < 1 << (self.bits - 4) || self.bits == MAX_LINE_BITS {
            return;
        }
        let old = std::mem::replace(&mut self.lines, empty_table(MAX_LINE_BITS));
        let quarter = old.as_slice().len() / 4;
        self.bits = MAX_LINE_BITS;
        for (index, line) in old.as_slice().iter().enumerate() {
            let slots = if index < quarter { 1 } else { 2 };
            for slot in (0..4).step_by(slots).filter(|slot| line.keys[slot + slots - 1] != 0) {
                let key = [line.keys[slot], line.keys[slot + slots - 1]];
                self.put(key, slots == 1, line.ids_at(slot, slots));
            }
        }
        self.evicted = 0;
    }
}

/// Index of a piece's line, with the flag `TWO_SLOTS` if it needs two slots.
#[inline(always)]
fn line_of(bits: u32, key: ShortPieceKey, one_slot: bool) -> u32 {
    let quarter = 1u64 << (bits - 2);
    let first = select_unpredictable(one_slot, 0, quarter | u64::from(TWO_SLOTS));
    let count = select_unpredictable(one_slot, quarter, 3 * quarter);
    (first + (((fold(key[0], key[1]) >> 32) * count) >> 32)) as u32
}
