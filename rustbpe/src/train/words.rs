//! The unique pieces of a corpus and their counts: the trainer's input.

use rayon::prelude::*;

use crate::packed_piece::packed_length;

/// Unique pieces and how often each occurs.
pub struct Words {
    /// Pieces of up to 15 bytes, packed: the bytes, little end first, and the length in the top byte.
    pub short: Vec<(u128, u64)>,
    /// Longer pieces.
    pub long: Vec<(Box<[u8]>, u64)>,
}

impl Words {
    /// Bytes of all words.
    pub(super) fn bytes(&self) -> usize {
        let short: usize = self.short.iter().map(|word| packed_length(word.0)).sum();
        let long: usize = self.long.iter().map(|word| word.0.len()).sum();
        short + long
    }

    /// Removes the words without a pair, and sorts the others by descending count.
    pub(super) fn sort(&mut self) {
        self.short.retain(|word| packed_length(word.0) > 1);
        self.short.par_sort_unstable_by_key(|word| std::cmp::Reverse(word.1));
        self.long.par_sort_unstable_by_key(|word| std::cmp::Reverse(word.1));
    }

    /// A lower bound of the count of every pair that is merged in `merges` merges. The words are sorted.
    pub(super) fn min_pair_count(&self, merges: usize) -> u64 {
        let last = merges.saturating_sub(1);
        let short = self.short.get(last).map_or(1, |word| word.1);
        let long = self.long.get(last).map_or(1, |word| word.1);
        short.max(long).max(1)
    }
}
