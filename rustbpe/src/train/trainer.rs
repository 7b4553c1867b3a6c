//! Piece counts → merges.
//!
//! Each step merges the pair with the highest count; of equal ones, the pair with the smallest ids. Counts have 64 bits.
//! The result depends neither on the number of threads nor on the order of the words: counts are sums, and the order of
//! pairs is total.
//!
//! - All words are in one array of cells, with a separator between two words. A token of n bytes keeps the n cells of
//!   its bytes and writes its id to the first and the last of them. So the next token starts n cells later, the token
//!   before ends one cell earlier, and no token is moved or linked.
//! - Each pair has a list of its places. A merge visits them once, in order, and skips those where the pair no longer
//!   exists. The ids before and after are summed in dense tables, one entry for each id, so the table of pairs is
//!   accessed once for each different neighbor, not once for each place.
//! - Most pairs are never listed. A pair's count is highest when the pair appears, and has to reach the count of the last
//!   merge. With n merges, that is at least the count of the nth most frequent word: each word above it that is not yet
//!   one token holds a pair as frequent as itself, and takes a merge of its own.
//! - Long lists are split among threads, each of which has words of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU32};

use rayon::prelude::*;

use super::merge_worker::{replace_pair, Merge, MergeWorker, Replaced};
use super::neighbors::Tally;
use super::pair_queue::{Pair, PairQueue};
use super::place_lists::PlaceLists;
use super::token_array::{Cell, TokenArray, BLOCK_CELLS, BYTE_PAIRS};
use super::words::Words;
use crate::huge_pages::trim_allocator;

/// Ids that are not merges: the bytes, and two special values of cells.
const OTHER_IDS: usize = 256 + 2;
/// Merges between two progress reports.
const REPORT_MERGES: usize = 256;

/// Trains at most `merges` merges; fewer if the text has no more pairs. `progress(done)` is called every 256 merges; it
/// stops the training by returning false, and the result is then `None`.
///
/// Uses the threads of the current rayon pool.
///
/// # Panics
/// When the unique pieces have more than about 4 billion bytes.
pub fn train_merges(words: Words, merges: usize, progress: impl FnMut(usize) -> bool) -> Option<Vec<(u32, u32)>> {
    let merges = merges.min(words.bytes());
    if OTHER_IDS + merges <= 1 << 16 {
        Trainer::<AtomicU16>::new(words, merges).run(merges, progress)
    } else {
        Trainer::<AtomicU32>::new(words, merges).run(merges, progress)
    }
}

struct Trainer<C> {
    array: TokenArray<C>,
    /// Bytes, and so cells, of each id; 0 for a separator.
    id_cells: Vec<u32>,
    /// Pairs below this count are never merged.
    min_count: u64,
    pairs: PairQueue,
    lists: PlaceLists,
    workers: Vec<MergeWorker>,
}

impl<C: Cell> Trainer<C> {
    fn new(mut words: Words, merges: usize) -> Trainer<C> {
        words.sort();
        let min_count = words.min_pair_count(merges);
        let array = TokenArray::new(&words, merges);
        drop(words);
        trim_allocator(); // the words, and the tables of counts that were dropped before
        let ids = OTHER_IDS + merges;
        let mut id_cells = vec![1; 256];
        id_cells.resize(ids, 0);
        let workers = (0..rayon::current_num_threads().max(1)).map(|_| MergeWorker::new(ids)).collect();
        let (pairs, lists) = (PairQueue::new(min_count), PlaceLists::default());
        let mut trainer = Trainer { array, id_cells, min_count, pairs, lists, workers };
        trainer.list_byte_pairs();
        trainer
    }

    /// Lists the places of the pairs of bytes.
    fn list_byte_pairs(&mut self) {
        let mut tallies = self.tally_byte_pairs();
        let mut end = 0;
        for (number, tally) in (0..).zip(&mut tallies) {
            if tally.count >= self.min_count {
                tally.write_from(end);
                self.pairs.insert(Pair::new(number >> 8, number & 255), tally.count, end..end + tally.places);
                end += tally.places;
            }
        }
        // pairs that are not listed write to one extra place
        for tally in tallies.iter_mut().filter(|tally| tally.count < self.min_count) {
            tally.write_from(end);
        }
        self.lists.places = vec![0; end as usize + 1];
        for (place, pair) in (0..self.array.blocks()).flat_map(|block| self.array.byte_pairs(block)) {
            tallies[pair].write(place as u32, self.min_count, &mut self.lists.places);
        }
    }

    /// Counts the pairs of bytes; the last tally stays zero.
    fn tally_byte_pairs(&self) -> Vec<Tally> {
        let zero = || vec![Tally::default(); BYTE_PAIRS + 1];
        let blocks = self.array.blocks();
        let mut tallies = (0..blocks)
            .into_par_iter()
            .with_min_len(blocks.div_ceil(self.workers.len()))
            .fold(zero, |mut tallies, block| {
                let count = self.array.count(block * BLOCK_CELLS);
                self.array.byte_pairs(block).for_each(|(_, pair)| tallies[pair].add(count, 1));
                tallies
            })
            .reduce(zero, |mut sums, part| {
                sums.iter_mut().zip(part).for_each(|(sum, tally)| sum.add(tally.count, tally.places));
                sums
            });
        tallies[BYTE_PAIRS] = Tally::default();
        tallies
    }

    fn run(mut self, merges: usize, mut progress: impl FnMut(usize) -> bool) -> Option<Vec<(u32, u32)>> {
        let mut trained = Vec::with_capacity(merges);
        while trained.len() < merges {
            let Some((pair, places)) = self.pairs.pop() else { break };
            self.merge(pair, 256 + trained.len() as u32, places);
            trained.push(pair.ids());
            if trained.len() % REPORT_MERGES == 0 && !progress(trained.len()) {
                return None;
            }
        }
        Some(trained)
    }

    fn merge(&mut self, pair: Pair, id: u32, places: Range<u32>) {
        let (left, right) = pair.ids();
        let left_cells = self.id_cells[left as usize] as usize;
        let cells = left_cells + self.id_cells[right as usize] as usize;
        self.id_cells[id as usize] = cells as u32;
        let merge = Merge { left, right, id, left_cells, cells };
        replace_pair(&mut self.workers, &merge, &self.array, self.lists.list(&places));
        self.lists.free(places);
        self.lower_old_pairs(&merge);
        self.list_new_pairs(id);
        self.workers[0].before.clear();
        self.workers[0].after.clear();
    }

    /// Sums the tallies of all workers in the first one, and subtracts them from the counts of the replaced pairs.
    fn lower_old_pairs(&mut self, merge: &Merge) {
        let Some((MergeWorker { before, after, .. }, others)) = self.workers.split_first_mut() else { return };
        for other in others {
            before.absorb(&mut other.before);
            after.absorb(&mut other.after);
        }
        // a separator is not part of a pair
        before.tallies[self.array.separator as usize].count = 0;
        after.tallies[self.array.separator as usize].count = 0;
        for &id in before.seen() {
            let old = if id == merge.id { merge.right } else { id };
            self.pairs.lower(Pair::new(old, merge.left), before.tallies[id as usize].count);
        }
        for &id in after.seen() {
            self.pairs.lower(Pair::new(merge.right, id), after.tallies[id as usize].count);
        }
    }

    /// Adds the pairs of a new id, with their places.
    fn list_new_pairs(&mut self, id: u32) {
        let min_count = self.min_count;
        let Some((MergeWorker { before, after, replaced }, others)) = self.workers.split_first_mut() else { return };
        let (places_before, places_after) = (before.listed_places(min_count), after.listed_places(min_count));
        if places_before + places_after == 0 {
            return;
        }
        // on each side one extra place, for pairs that are not listed
        let start = self.lists.allocate(places_before + 1 + places_after + 1);
        let middle = start + places_before + 1;
        before.assign_ranges(min_count, places_before, |before, count, range| {
            self.pairs.insert(Pair::new(before, id), count, start + range.start..start + range.end);
        });
        after.assign_ranges(min_count, places_after, |after, count, range| {
            self.pairs.insert(Pair::new(id, after), count, middle + range.start..middle + range.end);
        });
        let (block_before, block_after) = self.lists.places[start as usize..].split_at_mut(places_before as usize + 1);
        for replaced in std::iter::once(&*replaced).chain(others.iter().map(|other| &other.replaced)) {
            for &Replaced { place, before: id_before, after: id_after } in replaced {
                // a separator has no cells, and its place is not listed
                let place_before = place - self.id_cells[id_before as usize];
                before.tallies[id_before as usize].write(place_before, min_count, block_before);
                after.tallies[id_after as usize].write(place, min_count, block_after);
            }
        }
    }
}

#[cfg(test)]
mod tests;
