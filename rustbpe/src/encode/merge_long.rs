//! A long piece → ids, in about linear time and little memory.
//!
//! A token of n bytes has the n cells of its bytes, and its id is in the first and the last of them. So the next token
//! begins n cells further on, the one before ends one cell before, and nothing is linked. For each rule there is a list
//! of the places where it may apply, which is worked off in one go, from the left: a run of ten million equal characters
//! is linear.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::rules::{Rules, NONE};
use crate::hash::Map;
use crate::memory::advise_huge;

/// Appends the ids of a piece of less than 2³² bytes; returns the two that were merged last.
pub fn merge_long(known: &Rules, piece: &[u8], ids: &mut Vec<u32>) -> Option<(u32, u32)> {
    let mut long = Long::new(known, piece);
    long.merge();
    let mut at = 0;
    while let Some(&id) = long.cells.get(at) {
        ids.push(id);
        at += known.bytes(id);
    }
    long.last_pair
}

struct Long<'a> {
    known: &'a Rules,
    cells: Vec<u32>,
    /// By the cell where the left one of two neighbours begins: their rule.
    rules: Vec<u32>,
    /// Where a rule may apply.
    places: Map<u32, Vec<u32>>,
    /// Of rules that had to wait for another one: the places that were left.
    left: Map<u32, BinaryHeap<Reverse<u32>>>,
    waiting: BinaryHeap<Reverse<u32>>,
    last_pair: Option<(u32, u32)>,
}

/// In huge pages, if there are so many: the kernel takes longer to hand out small ones than we to fill them.
fn vec_of(count: usize, values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut made = Vec::with_capacity(count);
    advise_huge(&made);
    made.extend(values);
    made
}

impl<'a> Long<'a> {
    fn new(known: &'a Rules, piece: &[u8]) -> Long<'a> {
        let mut long = Long {
            known,
            cells: vec_of(piece.len(), piece.iter().map(|&byte| known.byte_id(byte))),
            rules: vec_of(piece.len(), piece.iter().map(|_| NONE)),
            places: Map::default(),
            left: Map::default(),
            waiting: BinaryHeap::new(),
            last_pair: None,
        };
        for (at, two) in piece.windows(2).enumerate() {
            long.found(at, known.rule_of_bytes(two[0], two[1]));
        }
        long
    }

    fn found(&mut self, at: usize, rule: u32) {
        self.rules[at] = rule;
        if rule != NONE {
            self.places_of(rule).push(at as u32);
        }
    }

    /// The places of a rule that is to be worked off.
    fn places_of(&mut self, rule: u32) -> &mut Vec<u32> {
        let waiting = &mut self.waiting;
        self.places.entry(rule).or_insert_with(|| {
            waiting.push(Reverse(rule));
            Vec::new()
        })
    }

    fn merge(&mut self) {
        while let Some(Reverse(rule)) = self.waiting.pop() {
            let mut places = self.places.remove(&rule).unwrap_or_default();
            if let Some(mut left) = self.left.remove(&rule) {
                left.extend(places.into_iter().map(Reverse));
                self.work_off_heap(rule, left);
                continue;
            }
            places.sort_unstable();
            for (done, &at) in places.iter().enumerate() {
                if self.apply(rule, at as usize) {
                    // what is left becomes a heap once: moved again and again, as a list, it would be quadratic
                    let left = &places[done + 1..];
                    self.wait(rule, left.iter().copied().map(Reverse).collect());
                    break;
                }
            }
        }
    }

    fn work_off_heap(&mut self, rule: u32, mut left: BinaryHeap<Reverse<u32>>) {
        while let Some(Reverse(at)) = left.pop() {
            if self.apply(rule, at as usize) {
                return self.wait(rule, left);
            }
        }
    }

    fn wait(&mut self, rule: u32, left: BinaryHeap<Reverse<u32>>) {
        if !left.is_empty() {
            self.places_of(rule);
            self.left.insert(rule, left);
        }
    }

    /// Applies a rule where it still stands; true if a rule that goes first has come up, so that this one has to wait.
    #[inline]
    fn apply(&mut self, rule: u32, at: usize) -> bool {
        if self.rules[at] == rule {
            self.join(rule, at);
        }
        self.waiting.peek().is_some_and(|&Reverse(other)| other < rule)
    }

    fn join(&mut self, rule: u32, at: usize) {
        let known = self.known;
        let merged = known.id(rule);
        let left = self.cells[at];
        let middle = at + known.bytes(left);
        let right = self.cells[middle];
        let end = middle + known.bytes(right);
        self.last_pair = Some((left, right));
        self.rules[middle] = NONE;
        self.cells[at] = merged;
        self.cells[end - 1] = merged;
        match self.cells.get(end) {
            Some(&after) => self.found(at, known.rule(merged, after)),
            None => self.rules[at] = NONE,
        }
        if let Some(&before) = at.checked_sub(1).and_then(|last| self.cells.get(last)) {
            self.found(at - known.bytes(before), known.rule(before, merged));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::derive::tests::any_vocab;
    use crate::encode::merge::merge;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Where ids are in any order, a rule has to wait for others that come up.
        #[test]
        fn long_pieces_are_merged_as_short_ones(vocab in any_vocab(), piece in "[abc]{1,200}") {
            let rules = Rules::by_rank(&vocab);
            let mut ids = Vec::new();
            merge_long(&rules, piece.as_bytes(), &mut ids);
            prop_assert_eq!(ids, merge(&rules, piece.as_bytes()));
        }
    }

    #[test]
    fn a_rule_that_waits_at_every_place_is_linear() {
        let mut tokens: Vec<Option<Vec<u8>>> = (0..=255).map(|byte| Some(vec![byte])).collect();
        tokens.extend([Some(b"abc".to_vec()), Some(b"ab".to_vec())]);
        let vocab = crate::vocab::Vocab::from_tokens(&tokens).unwrap_or_default();
        let piece = b"abc".repeat(500_000);
        assert_eq!(merge(&Rules::by_rank(&vocab), &piece), vec![256; 500_000]);
    }
}
