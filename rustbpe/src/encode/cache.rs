//! What a thread remembers of pieces it has met: their ids. Bounded, and never wrong: a slot keeps the whole piece.

use std::hint::select_unpredictable;

use super::halves::{equal, halves, halves_in, Halves};
#[cfg(target_arch = "x86_64")]
use super::halves::{halves_at, READ_BYTES};
use super::id::Id;
use crate::hash::fold;
use crate::memory::{prefetch, Table};
use crate::split::MOST_ENDS;

/// One cache line: either four pieces of up to 7 bytes, whose ids take 8 bytes, or two of up to 15, whose ids take 16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line<I: Id> {
    ids: [I::Inline; 2],
    keys: [u64; 4],
}

impl<I: Id> Line<I> {
    /// How many ids, and their number in front, go with one key.
    const SLOT_IDS: usize = 8 / size_of::<I>();

    fn ids_at(&self, slot: usize, slots: usize) -> &[I] {
        &self.ids[slot / 2].as_ref()[slot % 2 * Self::SLOT_IDS..][..slots * Self::SLOT_IDS]
    }

    fn ids_at_mut(&mut self, slot: usize, slots: usize) -> &mut [I] {
        &mut self.ids[slot / 2].as_mut()[slot % 2 * Self::SLOT_IDS..][..slots * Self::SLOT_IDS]
    }
}

/// A piece to be looked up.
#[derive(Clone, Copy, Default)]
pub struct Wanted {
    /// The piece.
    pub halves: Halves,
    place: u32,
}

/// What was gathered of some pieces.
pub struct Gathered<I> {
    /// Ids of the pieces that are remembered, one behind the other.
    pub ids: Box<[I]>,
    /// The pieces that are not.
    pub missing: Box<[Missing; MOST_ENDS]>,
}

/// A piece that is not remembered by a key.
#[derive(Clone, Copy, Default)]
pub struct Missing {
    /// Its number.
    pub piece: u32,
    /// Where its ids belong, among the gathered ones.
    pub at: u32,
}

impl<I: Id> Default for Gathered<I> {
    fn default() -> Gathered<I> {
        let ids = vec![I::default(); (MOST_ENDS + 1) * (I::ROOM + 1)].into_boxed_slice();
        Gathered { ids, missing: Box::new([Missing::default(); MOST_ENDS]) }
    }
}

/// 256 KB and 16 MB.
const FEWEST_LINE_BITS: u32 = 12;
const MOST_LINE_BITS: u32 = 18;

/// What a line says of a wanted key: by its kind, and by which of the four keys are equal to their part of it, the first
/// slot of the piece.
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
pub struct Cache<I: Id> {
    /// The first quarter is for small pieces: they are few, and come most often, so that their part stays near.
    lines: Table<Line<I>>,
    bits: u32,
    /// Pieces that had to make room for others since the table grew.
    forgotten: usize,
}

fn empty<I: Id>(bits: u32) -> Table<Line<I>> {
    Table::new(bits, Line { ids: [I::Inline::default(); 2], keys: [0; 4] })
}

/// In a place: of large pieces. A table is never as large as that.
const LARGE: u32 = 1 << 31;

impl<I: Id> Cache<I> {
    /// With room for about so many pieces.
    pub fn with_room(pieces: usize) -> Cache<I> {
        let bits = pieces.next_power_of_two().trailing_zeros().clamp(FEWEST_LINE_BITS, MOST_LINE_BITS);
        Cache { lines: empty(bits), bits, forgotten: 0 }
    }

    /// Where the pieces of a text would be, by their ends; asks for all of that to be brought near.
    ///
    /// # Safety
    /// The ends ascend, from `start` on and inside the text. `AVX2` needs a processor that has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub unsafe fn prepare<const AVX2: bool>(&self, text: &[u8], start: usize, ends: &[usize], wanted: &mut [Wanted]) {
        let (lines, bits) = (self.lines.as_slice(), self.bits);
        let ask = |halves, bytes| {
            let place = place(bits, halves, bytes < 8);
            prefetch(&lines[place as usize & (lines.len() - 1)]);
            Wanted { halves, place }
        };
        let mut begin = start;
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if AVX2 {
            let near_the_end = ends.iter().rev().skip(1).take_while(|&&begin| begin + READ_BYTES > text.len()).count();
            done = ends.len().saturating_sub(near_the_end + 1);
            for (&end, wanted) in ends[..done].iter().zip(&mut *wanted) {
                // SAFETY: so many bytes follow where the piece behind these begins, and these begin before it; the caller
                // vouches for the instructions
                *wanted = ask(unsafe { halves_at(text.as_ptr().add(begin), end - begin) }, end - begin);
                begin = end;
            }
        }
        for (&end, wanted) in ends[done..].iter().zip(&mut wanted[done..]) {
            *wanted = ask(halves_in(text, begin, end), end - begin);
            begin = end;
        }
    }

    /// Gathers the ids of those pieces that are remembered, one behind the other; says how many ids, and how many pieces
    /// are missing. No branch asks which pieces are: it cannot be predicted.
    ///
    /// # Safety
    /// `AVX2` needs a processor that has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub unsafe fn gather<const AVX2: bool>(&self, wanted: &[Wanted], gathered: &mut Gathered<I>) -> (usize, usize) {
        let lines = self.lines.as_slice();
        let (mut ids, mut missing) = (0, 0);
        for (piece, wanted) in wanted.iter().enumerate().take(MOST_ENDS) {
            // SAFETY: before this piece there were fewer than `MOST_ENDS`, each with one place among the missing, and
            // with `I::ROOM` ids at most: no slot that is found says that it has more; the caller vouches for the
            // instructions
            unsafe {
                let (slot, count, inline) = Self::get::<AVX2>(lines, wanted);
                gathered.ids.as_mut_ptr().add(ids).cast::<I::Inline>().write_unaligned(inline.read_unaligned());
                *gathered.missing.get_unchecked_mut(missing) = Missing { piece: piece as u32, at: ids as u32 };
                missing += usize::from(slot == NO_SLOT);
                ids += select_unpredictable(slot == NO_SLOT, 0, count);
            }
        }
        (ids, missing)
    }

    /// The slot of a piece, how many ids it has, and its ids (what is behind them means nothing). Where the slot is none,
    /// none of it means anything.
    ///
    /// # Safety
    /// `AVX2` needs a processor that has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn get<const AVX2: bool>(lines: &[Line<I>], wanted: &Wanted) -> (u8, usize, *const I::Inline) {
        let line = &lines[wanted.place as usize & (lines.len() - 1)];
        // SAFETY: as the caller vouches
        let equal = unsafe { equal::<AVX2>(&line.keys, wanted.halves) };
        // by a number, not by a branch: which of them it is cannot be predicted
        let slot = SLOTS[(wanted.place / LARGE) as usize * 16 + equal];
        // SAFETY: a slot is at most 4, so the last byte read is the 52nd of a line of 64, all of them plain numbers
        unsafe {
            let ids = std::ptr::from_ref(line).cast::<u8>().add(8 * usize::from(slot));
            let count = ids.cast::<I>().read();
            (slot, count.to_usize(), ids.add(size_of::<I>()).cast())
        }
    }

    /// Asks for the place of a small piece that may have more ids than small ones have room for.
    #[inline(always)]
    pub fn prepare_wide(&self, halves: Halves) {
        prefetch(self.lines.at(place(self.bits, halves, false) as usize));
    }

    /// The ids of a small piece that has more of them than small ones have room for.
    #[allow(unsafe_code)]
    pub fn get_wide(&self, halves: Halves) -> Option<(usize, I::Inline)> {
        let place = place(self.bits, halves, false);
        // SAFETY: no instructions are asked for
        unsafe {
            let (slot, count, inline) = Self::get::<false>(self.lines.as_slice(), &Wanted { halves, place });
            (slot != NO_SLOT).then(|| (count, inline.read_unaligned()))
        }
    }

    /// Remembers the ids of a piece, if there are few enough. The first to come keeps its place: the commonest pieces
    /// come early.
    pub fn insert(&mut self, piece: &[u8], ids: &[u32]) {
        if ids.len() > I::ROOM {
            return;
        }
        let mut inline = I::Inline::default();
        inline.as_mut()[0] = I::from_u32(ids.len() as u32);
        for (slot, &id) in inline.as_mut()[1..].iter_mut().zip(ids) {
            *slot = I::from_u32(id);
        }
        self.put(halves(piece), piece.len() < 8 && ids.len() <= I::ROOM / 2, inline.as_ref());
    }

    fn put(&mut self, halves: Halves, small: bool, ids: &[I]) {
        let line = self.lines.at_mut(place(self.bits, halves, small) as usize);
        let slots = if small { 1 } else { 2 };
        let same = |slot: usize| line.keys[slot..][..slots] == halves[..slots];
        let free = |slot: usize| line.keys[slot + slots - 1] == 0;
        let slot = (0..4).step_by(slots).find(|&slot| free(slot) || same(slot));
        self.forgotten += usize::from(slot.is_none());
        let slot = slot.unwrap_or(4 - slots);
        line.keys[slot..][..slots].copy_from_slice(&halves[..slots]);
        line.ids_at_mut(slot, slots).copy_from_slice(&ids[..slots * Line::<I>::SLOT_IDS]);
    }

    /// Makes the table as large as it may be, if much had to be forgotten; all places change.
    pub fn grow_if_crowded(&mut self) {
        if self.forgotten < 1 << (self.bits - 4) || self.bits == MOST_LINE_BITS {
            return;
        }
        let crowded = std::mem::replace(&mut self.lines, empty(MOST_LINE_BITS));
        let quarter = crowded.as_slice().len() / 4;
        self.bits = MOST_LINE_BITS;
        for (place, line) in crowded.as_slice().iter().enumerate() {
            let slots = if place < quarter { 1 } else { 2 };
            for slot in (0..4).step_by(slots).filter(|slot| line.keys[slot + slots - 1] != 0) {
                let halves = [line.keys[slot], line.keys[slot + slots - 1]];
                self.put(halves, slots == 1, line.ids_at(slot, slots));
            }
        }
        self.forgotten = 0;
    }
}

#[inline(always)]
fn place(bits: u32, halves: Halves, small: bool) -> u32 {
    let quarter = 1u64 << (bits - 2);
    let first = select_unpredictable(small, 0, quarter | u64::from(LARGE));
    let count = select_unpredictable(small, quarter, 3 * quarter);
    (first + (((fold(halves[0], halves[1]) >> 32) * count) >> 32)) as u32
}
