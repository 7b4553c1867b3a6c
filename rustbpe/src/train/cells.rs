//! The text of a trainer: all different words, one after the other, in cells that merges rewrite in place.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::memory::{advise_huge, prefetch};
use crate::train::learn::{short_length, Words};

/// Cells that share an entry in the table of counts.
pub const BLOCK_CELLS: usize = 64;
/// Cells to search for the end of a word, so that long words do not cost more than threads win.
const LONGEST_CUT_WORD: usize = 1024;
/// Different pairs of bytes.
pub const BYTE_PAIRS: usize = 1 << 16;

/// A cell of the text, as wide as ids need. It is atomic only so that threads can write in words of their own.
pub trait Cell: Send + Sync {
    /// A cell that holds an id.
    fn new(id: u32) -> Self;
    /// The id it holds.
    fn get(&self) -> u32;
    /// Replaces the id.
    fn set(&self, id: u32);
}

impl Cell for AtomicU16 {
    fn new(id: u32) -> AtomicU16 {
        AtomicU16::new(id as u16)
    }

    fn get(&self) -> u32 {
        u32::from(self.load(Ordering::Relaxed))
    }

    fn set(&self, id: u32) {
        self.store(id as u16, Ordering::Relaxed);
    }
}

impl Cell for AtomicU32 {
    fn new(id: u32) -> AtomicU32 {
        AtomicU32::new(id)
    }

    fn get(&self) -> u32 {
        self.load(Ordering::Relaxed)
    }

    fn set(&self, id: u32) {
        self.store(id, Ordering::Relaxed);
    }
}

/// All words, one after the other.
pub struct Text<C> {
    /// Begins and ends with a wall.
    pub cells: Vec<C>,
    /// How often the words of each block of cells were seen.
    block_counts: Vec<u64>,
    /// The id between words.
    pub wall: u32,
    /// The id of a cell where no token begins any more.
    pub hole: u32,
}

impl<C: Cell> Text<C> {
    /// Lays out words that are sorted by count, so that few blocks are broken off.
    pub fn new(words: &Words, merges: usize) -> Text<C> {
        let wall = 256 + merges as u32;
        let room = words.bytes() + words.short.len() + words.long.len() + BLOCK_CELLS;
        let mut text = Text { cells: Vec::with_capacity(room), block_counts: Vec::new(), wall, hole: wall + 1 };
        advise_huge(&text.cells);
        text.cells.push(C::new(wall));
        let mut block_count = 0;
        for (word, count) in &words.short {
            text.push(&word.to_le_bytes()[..short_length(*word)], *count, &mut block_count);
        }
        for (word, count) in &words.long {
            text.push(word, *count, &mut block_count);
        }
        text.close_block(block_count);
        assert!(u32::try_from(text.cells.len()).is_ok(), "too many different pieces");
        text
    }

    fn push(&mut self, word: &[u8], count: u64, block_count: &mut u64) {
        if count != *block_count {
            self.close_block(*block_count);
            *block_count = count;
        }
        self.cells.extend(word.iter().map(|&byte| C::new(u32::from(byte))));
        self.cells.push(C::new(self.wall));
    }

    /// Fills the last block up with walls and notes its count, and that of all blocks before it without one.
    fn close_block(&mut self, count: u64) {
        let end = self.cells.len().next_multiple_of(BLOCK_CELLS);
        self.cells.resize_with(end, || C::new(self.wall));
        self.block_counts.resize(end / BLOCK_CELLS, count);
    }

    /// The id in a cell.
    pub fn id(&self, place: usize) -> u32 {
        self.cells[place].get()
    }

    /// How often the word at a place was seen.
    pub fn count(&self, place: usize) -> u64 {
        self.block_counts[place / BLOCK_CELLS]
    }

    /// Has the cells of some places fetched from memory, for soon.
    pub fn prefetch(&self, places: &[u32]) {
        for &place in places {
            prefetch(&self.cells[place as usize]);
        }
    }

    /// Cuts a list of places into at most so many parts, none of which shares a word with another.
    pub fn parts<'a>(&self, mut places: &'a [u32], most: usize) -> Vec<&'a [u32]> {
        let part_places = places.len().div_ceil(most);
        let mut parts = Vec::with_capacity(most);
        while places.len() > part_places {
            let cut = places[part_places] as usize;
            let mut following = self.cells[cut..].iter().take(LONGEST_CUT_WORD);
            let Some(rest_of_word) = following.position(|cell| cell.get() == self.wall) else { break };
            let end = places.partition_point(|&place| (place as usize) < cut + rest_of_word);
            let (part, rest) = places.split_at(end);
            parts.push(part);
            places = rest;
        }
        parts.push(places);
        parts
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.block_counts.len()
    }

    /// The pairs of bytes that begin in a block, as numbers below `BYTE_PAIRS`, or `BYTE_PAIRS` for what is none.
    pub fn byte_pairs(&self, block: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let start = block * BLOCK_CELLS;
        let end = (start + BLOCK_CELLS + 1).min(self.cells.len());
        self.cells[start..end].windows(2).zip(start..).map(|(pair, place)| {
            let (left, right) = (pair[0].get(), pair[1].get());
            (place, if left.max(right) < 256 { (left << 8 | right) as usize } else { BYTE_PAIRS })
        })
    }
}
