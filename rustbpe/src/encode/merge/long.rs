//! Pieces of over 1,024 bytes, merged in about linear time and little memory.
//!
//! A token of n bytes keeps the n cells of its bytes; its id is in the first and the last of them. So the next token
//! starts n cells later, the one before ends one cell earlier, and no list is needed. Each rule has a list of the places
//! where it may apply, which is processed from the left at once: a run of ten million equal characters takes linear time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::merge_rules::{MergeRules, NO_RULE};
use crate::hash::Map;
use crate::huge_pages::advise_huge_pages;

/// Appends the ids of a piece of less than 2³² bytes; returns the two ids of the last merge.
pub fn merge_long(rules: &MergeRules, piece: &[u8], ids: &mut Vec<u32>) -> Option<(u32, u32)> {
    let mut long = LongPiece::new(rules, piece);
    long.merge();
    let mut at = 0;
    while let Some(&id) = long.cells.get(at) {
        ids.push(id);
        at += rules.bytes(id);
    }
    long.last_pair
}

struct LongPiece<'a> {
    rules: &'a MergeRules,
    cells: Vec<u32>,
    /// Rule of the two neighbors of which the left one starts in this cell.
    rule_at: Vec<u32>,
    /// Places where each rule may apply.
    places: Map<u32, Vec<u32>>,
    /// Places that are left of a rule that was interrupted by a lower one.
    interrupted: Map<u32, BinaryHeap<Reverse<u32>>>,
    /// Rules to apply, the lowest first.
    waiting: BinaryHeap<Reverse<u32>>,
    last_pair: Option<(u32, u32)>,
}

/// A vector on huge pages, if it is large: the kernel takes longer to map small pages than filling them takes.
fn vec_of(count: usize, values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut vector = Vec::with_capacity(count);
    advise_huge_pages(&vector);
    vector.extend(values);
    vector
}

impl<'a> LongPiece<'a> {
    fn new(rules: &'a MergeRules, piece: &[u8]) -> LongPiece<'a> {
        let mut long = LongPiece {
            rules,
            cells: vec_of(piece.len(), piece.iter().map(|&byte| rules.byte_id(byte))),
            rule_at: vec_of(piece.len(), piece.iter().map(|_| NO_RULE)),
            places: Map::default(),
            interrupted: Map::default(),
            waiting: BinaryHeap::new(),
            last_pair: None,
        };
        for (at, two) in piece.windows(2).enumerate() {
            long.set_rule(at, rules.rule_of_bytes(two[0], two[1]));
        }
        long
    }

    fn set_rule(&mut self, at: usize, rule: u32) {
        self.rule_at[at] = rule;
        if rule != NO_RULE {
            self.places_of(rule).push(at as u32);
        }
    }

    /// The places of a rule; the rule is queued if it has none yet.
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
            if let Some(mut rest) = self.interrupted.remove(&rule) {
                rest.extend(places.into_iter().map(Reverse));
                self.apply_from_heap(rule, rest);
                continue;
            }
            places.sort_unstable();
            for (done, &at) in places.iter().enumerate() {
                if self.apply(rule, at as usize) {
                    // the rest becomes a heap once: a list that is moved again and again would take quadratic time
                    let rest = &places[done + 1..];
                    self.interrupt(rule, rest.iter().copied().map(Reverse).collect());
                    break;
                }
            }
        }
    }

    fn apply_from_heap(&mut self, rule: u32, mut rest: BinaryHeap<Reverse<u32>>) {
        while let Some(Reverse(at)) = rest.pop() {
            if self.apply(rule, at as usize) {
                return self.interrupt(rule, rest);
            }
        }
    }

    fn interrupt(&mut self, rule: u32, rest: BinaryHeap<Reverse<u32>>) {
        if !rest.is_empty() {
            self.places_of(rule);
            self.interrupted.insert(rule, rest);
        }
    }

    /// Applies a rule where it still applies; true if a lower rule is waiting now, so that this one is interrupted.
    #[inline]
    fn apply(&mut self, rule: u32, at: usize) -> bool {
        if self.rule_at[at] == rule {
            self.join(rule, at);
        }
        self.waiting.peek().is_some_and(|&Reverse(other)| other < rule)
    }

    fn join(&mut self, rule: u32, at: usize) {
        let rules = self.rules;
        let merged = rules.id(rule);
        let left = self.cells[at];
        let middle = at + rules.bytes(left);
        let right = self.cells[middle];
        let end = middle + rules.bytes(right);
        self.last_pair = Some((left, right));
        self.rule_at[middle] = NO_RULE;
        self.cells[at] = merged;
        self.cells[end - 1] = merged;
        match self.cells.get(end) {
            Some(&after) => self.set_rule(at, rules.rule(merged, after)),
            None => self.rule_at[at] = NO_RULE,
        }
        if let Some(&before) = at.checked_sub(1).and_then(|last| self.cells.get(last)) {
            self.set_rule(at - rules.bytes(before), rules.rule(before, merged));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::merge_piece;
    use super::*;
    use crate::encode::derived_merges::tests::any_vocab;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// With ids in any order, rules are interrupted by lower ones.
        #[test]
        fn long_pieces_are_merged_like_short_ones(vocab in any_vocab(), piece in "[abc]{1,200}") {
            let rules = MergeRules::from_ranks(&vocab);
            let mut ids = Vec::new();
            merge_long(&rules, piece.as_bytes(), &mut ids);
            prop_assert_eq!(ids, merge_piece(&rules, piece.as_bytes()));
        }
    }

    #[test]
    fn a_rule_that_is_interrupted_at_every_place_takes_linear_time() {
        let mut tokens: Vec<Option<Vec<u8>>> = (0..=255).map(|byte| Some(vec![byte])).collect();
        tokens.extend([Some(b"abc".to_vec()), Some(b"ab".to_vec())]);
        let vocab = crate::vocab::Vocab::from_tokens(&tokens).unwrap_or_default();
        let piece = b"abc".repeat(500_000);
        assert_eq!(merge_piece(&MergeRules::from_ranks(&vocab), &piece), vec![256; 500_000]);
    }
}
