//! The trainer's text: all unique words, one after the other, in an array of token ids that merges rewrite in place.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::words::Words;
use crate::huge_pages::advise_huge_pages;
use crate::packed_piece::packed_length;
use crate::prefetch::prefetch;

/// Cells that share an entry in the table of word counts.
pub const BLOCK_CELLS: usize = 64;
/// The search for the end of a word stops after this many cells: longer words are not worth the time.
const MAX_SEARCH_CELLS: usize = 1024;
/// Different pairs of bytes.
pub const BYTE_PAIRS: usize = 1 << 16;

/// One cell of the array. It is atomic only so that threads can write to words of their own.
pub trait Cell: Send + Sync {
    /// A cell with an id.
    fn new(id: u32) -> Self;
    /// Its id.
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

/// All words, one after the other. A token of n bytes occupies n cells; its id is in the first and the last of them.
pub struct TokenArray<C> {
    /// Starts and ends with a separator.
    pub cells: Vec<C>,
    /// Count of the words in each block of cells.
    block_counts: Vec<u64>,
    /// The id between words.
    pub separator: u32,
    /// The id of a cell inside a merged token.
    pub inside: u32,
}

impl<C: Cell> TokenArray<C> {
    /// Lays out the words, which are sorted by count, so that few blocks need padding.
    pub fn new(words: &Words, merges: usize) -> TokenArray<C> {
        let separator = 256 + merges as u32;
        let room = words.bytes() + words.short.len() + words.long.len() + BLOCK_CELLS;
        let mut array =
            TokenArray { cells: Vec::with_capacity(room), block_counts: Vec::new(), separator, inside: separator + 1 };
        advise_huge_pages(&array.cells);
        array.cells.push(C::new(separator));
        let mut block_count = 0;
        for (word, count) in &words.short {
            array.push(&word.to_le_bytes()[..packed_length(*word)], *count, &mut block_count);
        }
        for (word, count) in &words.long {
            array.push(word, *count, &mut block_count);
        }
        array.close_block(block_count);
        assert!(u32::try_from(array.cells.len()).is_ok(), "too many unique pieces");
        array
    }

    fn push(&mut self, word: &[u8], count: u64, block_count: &mut u64) {
        if count != *block_count {
            self.close_block(*block_count);
            *block_count = count;
        }
        self.cells.extend(word.iter().map(|&byte| C::new(u32::from(byte))));
        self.cells.push(C::new(self.separator));
    }

    /// Pads the last block with separators, and sets the count of all blocks without one.
    fn close_block(&mut self, count: u64) {
        let end = self.cells.len().next_multiple_of(BLOCK_CELLS);
        self.cells.resize_with(end, || C::new(self.separator));
        self.block_counts.resize(end / BLOCK_CELLS, count);
    }

    /// The id in a cell.
    pub fn id(&self, place: usize) -> u32 {
        self.cells[place].get()
    }

    /// Count of the word at a place.
    pub fn count(&self, place: usize) -> u64 {
        self.block_counts[place / BLOCK_CELLS]
    }

    /// Prefetches the cells at some places.
    pub fn prefetch(&self, places: &[u32]) {
        for &place in places {
            prefetch(&self.cells[place as usize]);
        }
    }

    /// Splits a list of places into at most `parts` parts that share no word.
    pub fn split_places<'a>(&self, mut places: &'a [u32], parts: usize) -> Vec<&'a [u32]> {
        let part_places = places.len().div_ceil(parts);
        let mut found = Vec::with_capacity(parts);
        while places.len() > part_places {
            let cut = places[part_places] as usize;
            let mut following = self.cells[cut..].iter().take(MAX_SEARCH_CELLS);
            let Some(rest_of_word) = following.position(|cell| cell.get() == self.separator) else { break };
            let end = places.partition_point(|&place| (place as usize) < cut + rest_of_word);
            let (part, rest) = places.split_at(end);
            found.push(part);
            places = rest;
        }
        found.push(places);
        found
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.block_counts.len()
    }

    /// The pairs that start in a block before any merge: place, and the two bytes as a number below `BYTE_PAIRS`;
    /// `BYTE_PAIRS` where a separator is part of the pair.
    pub fn byte_pairs(&self, block: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let start = block * BLOCK_CELLS;
        let end = (start + BLOCK_CELLS + 1).min(self.cells.len());
        self.cells[start..end].windows(2).zip(start..).map(|(pair, place)| {
            let (left, right) = (pair[0].get(), pair[1].get());
            (place, if left.max(right) < 256 { (left << 8 | right) as usize } else { BYTE_PAIRS })
        })
    }
}
