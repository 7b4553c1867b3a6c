//! The pairs that may still be merged: how often each stands in the text, where, and which one is next.

use std::collections::binary_heap::PeekMut;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Two neighbouring ids in one number, which sorts like (left, right).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair(u64);

impl Pair {
    /// No pair: ids never get that high.
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

const VACANT: Entry = Entry { pair: Pair::NONE, count: 0, places: 0..0 };
const FEWEST_ENTRIES: usize = 1 << 12;

/// A hash table of pairs with a queue over its best ones.
pub struct Pairs {
    /// Open-addressed: a power of two, at most half of them taken.
    entries: Vec<Entry>,
    taken: usize,
    /// A pair's count never rises again, so a pair below the floor is out of the race for good.
    floor: u64,
    /// Pairs whose count has reached `bar`. Counts fall behind its back: an entry may stand too high, never too low.
    queue: BinaryHeap<u128>,
    bar: u64,
}

impl Pairs {
    /// A table for pairs whose count is at least `floor`, which is at least 1.
    pub fn new(floor: u64) -> Pairs {
        Pairs { entries: vec![VACANT; FEWEST_ENTRIES], taken: 0, floor, queue: BinaryHeap::new(), bar: u64::MAX }
    }

    /// Adds a pair which was never added before.
    pub fn insert(&mut self, pair: Pair, count: u64, places: Range<u32>) {
        if (self.taken + 1) * 2 > self.entries.len() {
            self.rebuild();
        }
        self.put(Entry { pair, count, places });
        if count >= self.bar {
            self.queue.push(rank(pair, count));
        }
    }

    /// Lowers the count of a pair, if it is in the table.
    pub fn lower(&mut self, pair: Pair, by: u64) {
        let at = self.find(pair);
        let entry = &mut self.entries[at];
        entry.count = entry.count.saturating_sub(by);
    }

    /// Takes the best pair out: the one with the highest count and, of these, the smallest ids.
    pub fn pop(&mut self) -> Option<(Pair, Range<u32>)> {
        loop {
            let Some(mut top) = self.queue.peek_mut() else {
                if self.refill() {
                    continue;
                }
                return None;
            };
            let pair = ranked(*top);
            let at = find(&self.entries, pair);
            let entry = &mut self.entries[at];
            let now = rank(pair, entry.count);
            if entry.count < self.bar {
                PeekMut::pop(top);
            } else if now != *top {
                *top = now;
            } else {
                PeekMut::pop(top);
                entry.count = 0;
                return Some((pair, entry.places.clone()));
            }
        }
    }

    /// Queues the pairs whose counts are near the best one, if there are any: a short queue is a fast one.
    fn refill(&mut self) -> bool {
        let best = self.entries.iter().map(|entry| entry.count).max().unwrap_or(0);
        self.bar = (best - best / 4).max(self.floor);
        let near = self.entries.iter().filter(|entry| entry.count >= self.bar);
        self.queue.extend(near.map(|entry| rank(entry.pair, entry.count)));
        !self.queue.is_empty()
    }

    /// Forgets the pairs below the floor, and makes room.
    fn rebuild(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| entry.count >= self.floor);
        self.entries = vec![VACANT; (entries.len() * 3).next_power_of_two().max(FEWEST_ENTRIES)];
        self.taken = 0;
        for entry in entries {
            self.put(entry);
        }
    }

    fn put(&mut self, entry: Entry) {
        let at = self.find(entry.pair);
        self.entries[at] = entry;
        self.taken += 1;
    }

    fn find(&self, pair: Pair) -> usize {
        find(&self.entries, pair)
    }
}

/// Where a pair is, or the vacant entry where it would be.
fn find(entries: &[Entry], pair: Pair) -> usize {
    let last = entries.len() - 1;
    let mut at = (pair.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & last;
    while entries[at].pair != pair && entries[at].pair != Pair::NONE {
        at = (at + 1) & last;
    }
    at
}

/// What the queue sorts by: the highest count comes first, then the smallest pair.
fn rank(pair: Pair, count: u64) -> u128 {
    u128::from(count) << 64 | u128::from(!pair.0)
}

/// The pair of a rank.
fn ranked(rank: u128) -> Pair {
    Pair(!(rank as u64))
}
