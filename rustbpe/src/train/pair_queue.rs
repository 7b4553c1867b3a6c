//! The pairs that may still be merged: their counts, their places, and the next one to merge.

use std::collections::binary_heap::PeekMut;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Two neighboring ids in one number, which sorts like (left, right).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair(u64);

impl Pair {
    /// No pair; ids are never that high.
    const NONE: Pair = Pair(u64::MAX);

    /// The pair of two ids.
    pub fn new(left: u32, right: u32) -> Pair {
        Pair(u64::from(left) << 32 | u64::from(right))
    }

    /// The ids, left and right.
    pub fn ids(self) -> (u32, u32) {
        ((self.0 >> 32) as u32, self.0 as u32)
    }
}

#[derive(Clone)]
struct Entry {
    pair: Pair,
    count: u64,
    places: Range<u32>,
}

const EMPTY: Entry = Entry { pair: Pair::NONE, count: 0, places: 0..0 };
const MIN_ENTRIES: usize = 1 << 12;

/// A hash table of pairs, with a priority queue of the most frequent ones.
pub struct PairQueue {
    /// Open addressing: a power of two, at most half full.
    entries: Vec<Entry>,
    used: usize,
    /// Pairs below this count are never merged: a count never rises again.
    min_count: u64,
    /// Ranks of the pairs whose count was at least `queue_count`. Counts fall later, so a rank may be too high, never
    /// too low.
    queue: BinaryHeap<u128>,
    queue_count: u64,
}

impl PairQueue {
    /// A table for pairs whose count is at least `min_count`, which is at least 1.
    pub fn new(min_count: u64) -> PairQueue {
        PairQueue {
            entries: vec![EMPTY; MIN_ENTRIES],
            used: 0,
            min_count,
            queue: BinaryHeap::new(),
            queue_count: u64::MAX,
        }
    }

    /// Adds a pair that was never added before.
    pub fn insert(&mut self, pair: Pair, count: u64, places: Range<u32>) {
        if (self.used + 1) * 2 > self.entries.len() {
            self.rebuild();
        }
        self.put(Entry { pair, count, places });
        if count >= self.queue_count {
            self.queue.push(rank(pair, count));
        }
    }

    /// Lowers the count of a pair, if it is in the table.
    pub fn lower(&mut self, pair: Pair, by: u64) {
        let at = self.find(pair);
        let entry = &mut self.entries[at];
        entry.count = entry.count.saturating_sub(by);
    }

    /// Removes the pair with the highest count and, of equal ones, the smallest ids.
    pub fn pop(&mut self) -> Option<(Pair, Range<u32>)> {
        loop {
            let Some(mut top) = self.queue.peek_mut() else {
                if self.refill() {
                    continue;
                }
                return None;
            };
            let pair = pair_of_rank(*top);
            let at = find(&self.entries, pair);
            let entry = &mut self.entries[at];
            let current = rank(pair, entry.count);
            if entry.count < self.queue_count {
                PeekMut::pop(top);
            } else if current != *top {
                *top = current;
            } else {
                PeekMut::pop(top);
                entry.count = 0;
                return Some((pair, entry.places.clone()));
            }
        }
    }

    /// Queues the pairs whose counts are near the highest one; false if there are none. A short queue is fast.
    fn refill(&mut self) -> bool {
        let highest = self.entries.iter().map(|entry| entry.count).max().unwrap_or(0);
        self.queue_count = (highest - highest / 4).max(self.min_count);
        let frequent = self.entries.iter().filter(|entry| entry.count >= self.queue_count);
        self.queue.extend(frequent.map(|entry| rank(entry.pair, entry.count)));
        !self.queue.is_empty()
    }

    /// Drops the pairs below the minimum count, and makes room.
    fn rebuild(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| entry.count >= self.min_count);
        self.entries = vec![EMPTY; (entries.len() * 3).next_power_of_two().max(MIN_ENTRIES)];
        self.used = 0;
        for entry in entries {
            self.put(entry);
        }
    }

    fn put(&mut self, entry: Entry) {
        let at = self.find(entry.pair);
        self.entries[at] = entry;
        self.used += 1;
    }

    fn find(&self, pair: Pair) -> usize {
        find(&self.entries, pair)
    }
}

/// Index of a pair's entry, or of the empty entry where it belongs.
fn find(entries: &[Entry], pair: Pair) -> usize {
    let last = entries.len() - 1;
    let mut at = (pair.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & last;
    while entries[at].pair != pair && entries[at].pair != Pair::NONE {
        at = (at + 1) & last;
    }
    at
}

/// The queue's order: the highest count first, then the smallest pair.
fn rank(pair: Pair, count: u64) -> u128 {
    u128::from(count) << 64 | u128::from(!pair.0)
}

fn pair_of_rank(rank: u128) -> Pair {
    Pair(!(rank as u64))
}
