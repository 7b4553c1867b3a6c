//! Piece counts → merges.
//!
//! The pair with the highest count is merged; of equal ones, the one with the smallest ids. Counts have 64 bits. The
//! result depends neither on the number of threads nor on the order of the words: counts are sums, and the order of
//! merges is total.
//!
//! - All words stand in one text of cells, with a wall between two words. A token of n bytes keeps the n cells of its
//!   bytes and writes its id into the first and the last of them. So the next token begins n cells further on, the
//!   token before ends one cell before, and nothing is ever moved or linked.
//! - Each pair has a list of its places. A merge visits them once, in order, and passes over those where the pair has
//!   been broken up since. What stands before and behind is summed up in dense tables, one entry for each id, so the
//!   table of pairs is touched once for each different neighbour, not once for each place.
//! - Most pairs are never counted at all. A pair is most frequent when it is born, and has to reach the count of the
//!   last merge. That is at least the count of the nth most frequent word, if there are n merges: each word above it
//!   that is not yet one token holds a pair as frequent as itself, and takes a merge of its own.
//! - Long lists are shared among threads, each of which has words of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU32};

use rayon::prelude::*;

use crate::memory::give_back;
use crate::train::cells::{Cell, Text, BLOCK_CELLS, BYTE_PAIRS};
use crate::train::pairs::{Pair, Pairs};

/// Different pieces and how often each was seen.
pub struct Words {
    /// Pieces of up to 15 bytes: the bytes, little end first, and the length in the top byte.
    pub short: Vec<(u128, u64)>,
    /// Longer pieces.
    pub long: Vec<(Box<[u8]>, u64)>,
}

/// Learns at most `merges` merges; fewer when the text holds no more pairs. `told(done)` may stop it with false.
///
/// Long lists are shared among the threads of the rayon pool that it is called in.
///
/// # Panics
/// When different pieces have more than about 4 billion bytes.
pub fn learn(words: Words, merges: usize, told: impl FnMut(usize) -> bool) -> Option<Vec<(u32, u32)>> {
    let merges = merges.min(words.bytes());
    if IDS_BESIDE_MERGES + merges <= 1 << 16 {
        Trainer::<AtomicU16>::new(words, merges).run(merges, told)
    } else {
        Trainer::<AtomicU32>::new(words, merges).run(merges, told)
    }
}

/// Bytes, the wall and the hole.
const IDS_BESIDE_MERGES: usize = 256 + 2;
/// Places looked at together, while the next ones are on their way from memory.
const CHUNK_PLACES: usize = 16;
/// Places that are worth waking a thread for.
const THREAD_PLACES: usize = 2048;

impl Words {
    /// Bytes of all words.
    pub(crate) fn bytes(&self) -> usize {
        let short: usize = self.short.iter().map(|word| short_length(word.0)).sum();
        let long: usize = self.long.iter().map(|word| word.0.len()).sum();
        short + long
    }

    /// Drops the words that hold no pair, and sorts the others by falling count.
    fn sort(&mut self) {
        self.short.retain(|word| short_length(word.0) > 1);
        self.short.par_sort_unstable_by_key(|word| std::cmp::Reverse(word.1));
        self.long.par_sort_unstable_by_key(|word| std::cmp::Reverse(word.1));
    }

    /// A count that none of so many merges falls below; the words are sorted.
    fn floor(&self, merges: usize) -> u64 {
        let last = merges.saturating_sub(1);
        let short = self.short.get(last).map_or(1, |word| word.1);
        let long = self.long.get(last).map_or(1, |word| word.1);
        short.max(long).max(1)
    }
}

/// Bytes of a short word.
pub(crate) fn short_length(word: u128) -> usize {
    (word >> 120) as usize
}

/// A sum over some places, and then where the next of them is written.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    places: u32,
    cursor: u32,
}

impl Tally {
    fn add(&mut self, count: u64, places: u32) {
        self.count += count;
        self.places += places;
    }

    /// Writes the next place; those below the floor all write over the same one.
    fn write(&mut self, place: u32, floor: u64, block: &mut [u32]) {
        block[self.cursor as usize] = place;
        self.cursor += u32::from(self.count >= floor);
    }
}

/// The lists of places, one after the other.
#[derive(Default)]
struct Pool {
    places: Vec<u32>,
    /// Part of a list that is not needed any more.
    spare: Range<u32>,
}

impl Pool {
    fn list(&self, range: &Range<u32>) -> &[u32] {
        &self.places[range.start as usize..range.end as usize]
    }

    fn free(&mut self, range: Range<u32>) {
        if range.len() > self.spare.len() {
            self.spare = range;
        }
    }

    fn allot(&mut self, places: u32) -> u32 {
        if places as usize <= self.spare.len() {
            self.spare.start += places;
            return self.spare.start - places;
        }
        let start = self.places.len();
        self.places.resize(start + places as usize, 0);
        assert!(u32::try_from(self.places.len()).is_ok(), "too many different pieces");
        start as u32
    }
}

/// What stands on one side of the places of a pair.
struct Neighbours {
    /// Of each id.
    tallies: Vec<Tally>,
    /// The ids whose tallies are not empty, and room for one more.
    met: Vec<u32>,
    met_ids: usize,
}

impl Neighbours {
    fn new(ids: usize) -> Neighbours {
        Neighbours { tallies: vec![Tally::default(); ids], met: vec![0; ids + 1], met_ids: 0 }
    }

    fn met(&self) -> &[u32] {
        &self.met[..self.met_ids]
    }

    fn add(&mut self, id: u32, count: u64, places: u32) {
        let tally = &mut self.tallies[id as usize];
        // always written and sometimes kept: whether an id is new cannot be predicted
        self.met[self.met_ids] = id;
        self.met_ids += usize::from(tally.places == 0);
        tally.add(count, places);
    }

    /// Adds what another thread has met.
    fn absorb(&mut self, other: &mut Neighbours) {
        for &id in other.met() {
            let tally = other.tallies[id as usize];
            self.add(id, tally.count, tally.places);
        }
        other.clear();
    }

    fn clear(&mut self) {
        for &id in &self.met[..self.met_ids] {
            self.tallies[id as usize] = Tally::default();
        }
        self.met_ids = 0;
    }

    /// Places of the neighbours whose count reaches the floor.
    fn listed_places(&self, floor: u64) -> u32 {
        let tallies = self.met().iter().map(|&id| self.tallies[id as usize]);
        tallies.filter(|tally| tally.count >= floor).map(|tally| tally.places).sum()
    }

    /// Gives each neighbour whose count reaches the floor a range of a block, and the others its last place.
    fn lay_out(&mut self, floor: u64, last: u32, mut listed: impl FnMut(u32, u64, Range<u32>)) {
        let mut end = 0;
        for &id in &self.met[..self.met_ids] {
            let tally = &mut self.tallies[id as usize];
            tally.cursor = last;
            if tally.count >= floor {
                tally.cursor = end;
                end += tally.places;
                listed(id, tally.count, tally.cursor..end);
            }
        }
    }
}

/// What is merged into what.
struct Merge {
    left: u32,
    right: u32,
    id: u32,
    left_span: usize,
    span: usize,
}

struct Replaced {
    place: u32,
    before: u32,
    after: u32,
}

/// What one thread does to its share of a list.
struct Worker {
    before: Neighbours,
    after: Neighbours,
    replaced: Vec<Replaced>,
}

impl Worker {
    fn new(ids: usize) -> Worker {
        Worker { before: Neighbours::new(ids), after: Neighbours::new(ids), replaced: Vec::new() }
    }

    /// Merges the pair at those of the places where it still stands.
    fn merge<C: Cell>(&mut self, merge: &Merge, text: &Text<C>, places: &[u32]) {
        let mut standing = [0; CHUNK_PLACES];
        let mut chunks = places.chunks(CHUNK_PLACES).peekable();
        text.prefetch(chunks.peek().copied().unwrap_or_default());
        while let Some(chunk) = chunks.next() {
            text.prefetch(chunks.peek().copied().unwrap_or_default());
            let mut kept = 0;
            for &place in chunk {
                let left_stands = text.id(place as usize) == merge.left;
                let right_stands = text.id(place as usize + merge.left_span) == merge.right;
                standing[kept] = place;
                kept += usize::from(left_stands & right_stands);
            }
            for &place in &standing[..kept] {
                self.replace(merge, text, place);
            }
        }
    }

    fn replace<C: Cell>(&mut self, merge: &Merge, text: &Text<C>, place: u32) {
        let start = place as usize;
        let (middle, end) = (start + merge.left_span, start + merge.span);
        if text.id(start) != merge.left {
            return; // the pair is one id twice, and the place before has just taken this one
        }
        let before = text.id(start - 1);
        let mut after = text.id(end);
        if after == merge.left && text.id(end + merge.left_span) == merge.right {
            after = text.wall; // will be merged as well, and then count this one as standing before it
        }
        text.cells[middle].set(text.hole);
        text.cells[start].set(merge.id);
        text.cells[end - 1].set(merge.id);
        let count = text.count(start);
        self.before.add(before, count, 1);
        self.after.add(after, count, 1);
        self.replaced.push(Replaced { place, before, after });
    }
}

struct Trainer<C> {
    text: Text<C>,
    /// Bytes of each id.
    spans: Vec<u32>,
    floor: u64,
    pairs: Pairs,
    pool: Pool,
    workers: Vec<Worker>,
}

impl<C: Cell> Trainer<C> {
    fn new(mut words: Words, merges: usize) -> Trainer<C> {
        words.sort();
        let floor = words.floor(merges);
        let text = Text::new(&words, merges);
        drop(words);
        give_back(); // the counts too, which were dropped before
        let ids = IDS_BESIDE_MERGES + merges;
        let mut spans = vec![1; 256];
        spans.resize(ids, 0);
        let workers = (0..rayon::current_num_threads().max(1)).map(|_| Worker::new(ids)).collect();
        let mut trainer = Trainer { text, spans, floor, pairs: Pairs::new(floor), pool: Pool::default(), workers };
        trainer.list_byte_pairs();
        trainer
    }

    /// Lists the places of the pairs of bytes.
    fn list_byte_pairs(&mut self) {
        let mut tallies = self.tally_byte_pairs();
        let mut end = 0;
        for (number, tally) in (0..).zip(&mut tallies) {
            if tally.count >= self.floor {
                tally.cursor = end;
                end += tally.places;
                self.pairs.insert(Pair::new(number >> 8, number & 255), tally.count, tally.cursor..end);
            }
        }
        // one place more for all that is not listed
        for tally in tallies.iter_mut().filter(|tally| tally.count < self.floor) {
            tally.cursor = end;
        }
        self.pool.places = vec![0; end as usize + 1];
        for (place, pair) in (0..self.text.blocks()).flat_map(|block| self.text.byte_pairs(block)) {
            tallies[pair].write(place as u32, self.floor, &mut self.pool.places);
        }
    }

    /// Counts the pairs of bytes; behind them stands an empty tally for what is none.
    fn tally_byte_pairs(&self) -> Vec<Tally> {
        let none = || vec![Tally::default(); BYTE_PAIRS + 1];
        let blocks = self.text.blocks();
        let mut tallies = (0..blocks)
            .into_par_iter()
            .with_min_len(blocks.div_ceil(self.workers.len()))
            .fold(none, |mut tallies, block| {
                let count = self.text.count(block * BLOCK_CELLS);
                self.text.byte_pairs(block).for_each(|(_, pair)| tallies[pair].add(count, 1));
                tallies
            })
            .reduce(none, |mut sums, part| {
                sums.iter_mut().zip(part).for_each(|(sum, tally)| sum.add(tally.count, tally.places));
                sums
            });
        tallies[BYTE_PAIRS] = Tally::default();
        tallies
    }

    fn run(mut self, merges: usize, mut told: impl FnMut(usize) -> bool) -> Option<Vec<(u32, u32)>> {
        let mut learnt = Vec::with_capacity(merges);
        while learnt.len() < merges {
            let Some((pair, places)) = self.pairs.pop() else { break };
            self.merge(pair, 256 + learnt.len() as u32, places);
            learnt.push(pair.ids());
            if learnt.len() % 256 == 0 && !told(learnt.len()) {
                return None;
            }
        }
        Some(learnt)
    }

    fn merge(&mut self, pair: Pair, id: u32, places: Range<u32>) {
        let (left, right) = pair.ids();
        let left_span = self.spans[left as usize] as usize;
        let span = left_span + self.spans[right as usize] as usize;
        self.spans[id as usize] = span as u32;
        let merge = Merge { left, right, id, left_span, span };
        visit(&mut self.workers, &merge, &self.text, self.pool.list(&places));
        self.pool.free(places);
        self.lower_old_pairs(&merge);
        self.list_new_pairs(id);
        self.workers[0].before.clear();
        self.workers[0].after.clear();
    }

    /// Sums up what the workers have met, in the first of them, and takes it from the counts of the pairs that went.
    fn lower_old_pairs(&mut self, merge: &Merge) {
        let Some((Worker { before, after, .. }, others)) = self.workers.split_first_mut() else { return };
        for other in others {
            before.absorb(&mut other.before);
            after.absorb(&mut other.after);
        }
        // no pair went or came beside a wall
        before.tallies[self.text.wall as usize].count = 0;
        after.tallies[self.text.wall as usize].count = 0;
        for &id in before.met() {
            let old = if id == merge.id { merge.right } else { id };
            self.pairs.lower(Pair::new(old, merge.left), before.tallies[id as usize].count);
        }
        for &id in after.met() {
            self.pairs.lower(Pair::new(merge.right, id), after.tallies[id as usize].count);
        }
    }

    /// Adds the pairs of a new id, with their places.
    fn list_new_pairs(&mut self, id: u32) {
        let floor = self.floor;
        let Some((Worker { before, after, replaced }, others)) = self.workers.split_first_mut() else { return };
        let (places_before, places_after) = (before.listed_places(floor), after.listed_places(floor));
        if places_before + places_after == 0 {
            return;
        }
        // on each side one place more for all that is not listed
        let start = self.pool.allot(places_before + 1 + places_after + 1);
        let middle = start + places_before + 1;
        before.lay_out(floor, places_before, |before, count, range| {
            self.pairs.insert(Pair::new(before, id), count, start + range.start..start + range.end);
        });
        after.lay_out(floor, places_after, |after, count, range| {
            self.pairs.insert(Pair::new(id, after), count, middle + range.start..middle + range.end);
        });
        let (block_before, block_after) = self.pool.places[start as usize..].split_at_mut(places_before as usize + 1);
        for replaced in std::iter::once(&*replaced).chain(others.iter().map(|other| &other.replaced)) {
            for &Replaced { place, before: id_before, after: id_after } in replaced {
                // a wall has no span, and its place is not listed
                let place_before = place - self.spans[id_before as usize];
                before.tallies[id_before as usize].write(place_before, floor, block_before);
                after.tallies[id_after as usize].write(place, floor, block_after);
            }
        }
    }
}

/// Merges a pair at its places, on one thread or on many.
fn visit<C: Cell>(workers: &mut [Worker], merge: &Merge, text: &Text<C>, places: &[u32]) {
    for worker in workers.iter_mut() {
        worker.replaced.clear();
    }
    let threads = (places.len() / THREAD_PLACES).min(workers.len());
    if threads > 1 {
        let parts = text.parts(places, threads);
        workers.par_iter_mut().zip(parts).for_each(|(worker, part)| worker.merge(merge, text, part));
    } else if let Some(worker) = workers.first_mut() {
        worker.merge(merge, text, places);
    }
}

#[cfg(test)]
mod tests;
