//! Piece counts → merges.
//!
//! The pair with the highest count is merged; of equal ones, the one with the smallest ids. Counts have 64 bits. The
//! result does not depend on the number of threads: counts are sums, and the order of merges is total.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use rayon::prelude::*;

use crate::split::pieces;

/// FxHash: pieces and pairs are short and nobody attacks us.
#[derive(Default, Clone, Copy)]
pub struct Fx(u64);

impl Fx {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Fx {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
        self.add(bytes.len() as u64);
    }

    fn write_u32(&mut self, value: u32) {
        self.add(u64::from(value));
    }

    fn write_u8(&mut self, value: u8) {
        self.add(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }
}

/// A hash map with that hasher.
pub type FxMap<K, V> = HashMap<K, V, BuildHasherDefault<Fx>>;
type FxSet<K> = HashSet<K, BuildHasherDefault<Fx>>;
type Pair = (u32, u32);

/// Counts pieces of texts, batch after batch; memory is bounded by the number of different pieces.
#[derive(Default)]
pub struct Counter {
    counts: FxMap<Vec<u8>, u64>,
}

impl Counter {
    /// Counts a batch on all threads of the current rayon pool.
    pub fn add<T: AsRef<str> + Sync>(&mut self, texts: &[T]) {
        let parts = rayon::current_num_threads().max(1);
        let size = texts.len().div_ceil(parts).max(1);
        let counted: Vec<FxMap<&[u8], u64>> = texts
            .par_chunks(size)
            .map(|chunk| {
                let mut counts: FxMap<&[u8], u64> = FxMap::default();
                for text in chunk {
                    for piece in pieces(text.as_ref()) {
                        *counts.entry(piece.as_bytes()).or_insert(0) += 1;
                    }
                }
                counts
            })
            .collect();
        for part in counted {
            for (piece, count) in part {
                match self.counts.get_mut(piece) {
                    Some(total) => *total += count,
                    None => {
                        self.counts.insert(piece.to_vec(), count);
                    }
                }
            }
        }
    }

    /// Different pieces seen.
    pub fn unique(&self) -> usize {
        self.counts.len()
    }

    /// Learns at most `merges` merges; fewer when the text holds no more pairs. `told(done)` may stop it with false.
    pub fn merges(&self, merges: usize, mut told: impl FnMut(usize) -> bool) -> Option<Vec<Pair>> {
        let mut sorted: Vec<(&Vec<u8>, u64)> = self.counts.iter().map(|(piece, &count)| (piece, count)).collect();
        sorted.par_sort_unstable();
        let mut words: Vec<Vec<u32>> =
            sorted.iter().map(|(piece, _)| piece.iter().map(|&byte| u32::from(byte)).collect()).collect();
        let counts: Vec<i64> = sorted.iter().map(|&(_, count)| i64::try_from(count).unwrap_or(i64::MAX)).collect();
        let mut pair_counts: FxMap<Pair, i64> = FxMap::default();
        let mut places: FxMap<Pair, FxSet<usize>> = FxMap::default();
        for (index, word) in words.iter().enumerate() {
            for pair in word.windows(2) {
                let pair = (pair[0], pair[1]);
                *pair_counts.entry(pair).or_insert(0) += counts[index];
                places.entry(pair).or_default().insert(index);
            }
        }
        let mut heap: BinaryHeap<Candidate> =
            pair_counts.iter().map(|(&pair, &count)| Candidate { count, pair }).collect();
        let mut learnt: Vec<Pair> = Vec::with_capacity(merges);
        while learnt.len() < merges {
            let Some(top) = heap.pop() else { break };
            let now = pair_counts.get(&top.pair).copied().unwrap_or(0);
            if now != top.count {
                if now > 0 {
                    heap.push(Candidate { count: now, pair: top.pair });
                }
                continue;
            }
            if now <= 0 {
                break;
            }
            let id = 256 + u32::try_from(learnt.len()).unwrap_or(u32::MAX);
            learnt.push(top.pair);
            let mut grown: FxSet<Pair> = FxSet::default();
            for index in places.remove(&top.pair).unwrap_or_default() {
                merge(&mut words[index], top.pair, id, |pair, change| {
                    *pair_counts.entry(pair).or_insert(0) += i64::from(change) * counts[index];
                    if change > 0 {
                        places.entry(pair).or_default().insert(index);
                        grown.insert(pair);
                    }
                });
            }
            pair_counts.remove(&top.pair);
            for pair in grown {
                if let Some(&count) = pair_counts.get(&pair) {
                    heap.push(Candidate { count, pair });
                }
            }
            if learnt.len() % 256 == 0 && !told(learnt.len()) {
                return None;
            }
        }
        Some(learnt)
    }
}

/// Replaces a pair in a word by an id, telling which pairs went and came.
fn merge(word: &mut Vec<u32>, pair: Pair, id: u32, mut changed: impl FnMut(Pair, i32)) {
    let mut merged: Vec<u32> = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        if at + 1 < word.len() && (word[at], word[at + 1]) == pair {
            if let Some(&before) = merged.last() {
                changed((before, pair.0), -1);
                changed((before, id), 1);
            }
            changed(pair, -1);
            if let Some(&after) = word.get(at + 2) {
                changed((pair.1, after), -1);
                changed((id, after), 1);
            }
            merged.push(id);
            at += 2;
        } else {
            merged.push(word[at]);
            at += 1;
        }
    }
    *word = merged;
}

#[derive(PartialEq, Eq)]
struct Candidate {
    count: i64,
    pair: Pair,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.count.cmp(&other.count).then_with(|| other.pair.cmp(&self.pair))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
