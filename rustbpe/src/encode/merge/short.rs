//! Pieces of up to 64 bytes, merged on the stack, four at a time: each step of a piece waits for the step before, and the
//! other pieces use that time.

use std::ops::Range;

use super::super::merge_rules::{MergeRules, NO_RULE};

/// Longest short piece: one bit of a `u64` for each byte.
pub const MAX_SHORT_BYTES: usize = 64;
/// Pieces merged at the same time.
pub const LANES: usize = 4;

/// Merges all short pieces of a text.
#[inline(always)]
pub fn merge_short_pieces(
    rules: &MergeRules,
    text: &[u8],
    pieces: &[Range<usize>],
    lanes: &mut [Lane; LANES],
    ids: &mut Vec<u32>,
    of_piece: &mut [Range<usize>],
) {
    let mut waiting = (0..pieces.len()).filter(|&piece| pieces[piece].len() <= MAX_SHORT_BYTES);
    let mut busy = 0;
    for lane in lanes.iter_mut() {
        let Some(piece) = waiting.next() else { break };
        lane.begin(rules, piece, &text[pieces[piece].clone()]);
        busy += 1;
    }
    while busy > 0 {
        let mut at = 0;
        while at < busy {
            if lanes[at].step(rules) {
                at += 1;
                continue;
            }
            let before = ids.len();
            lanes[at].append_ids(ids);
            of_piece[lanes[at].piece] = before..ids.len();
            if let Some(piece) = waiting.next() {
                lanes[at].begin(rules, piece, &text[pieces[piece].clone()]);
            } else {
                busy -= 1;
                lanes.swap(at, busy);
            }
        }
    }
}

/// A piece that is being merged. A part stays at the index of its first byte; a bit marks where parts start. Rules are
/// stored with their index, so that the lowest number is the lowest rule at its leftmost place. The last index is a
/// sentinel: the neighbor of parts that have none.
pub struct Lane {
    piece: usize,
    parts: [u32; MAX_SHORT_BYTES + 1],
    rules: [u32; MAX_SHORT_BYTES + 1],
    /// Groups of 16 rules that the piece uses.
    groups: usize,
    /// Bits: where parts start.
    starts: u64,
}

const SENTINEL: usize = MAX_SHORT_BYTES;

impl Default for Lane {
    fn default() -> Lane {
        Lane {
            piece: 0,
            parts: [NO_ID; MAX_SHORT_BYTES + 1],
            rules: [NO_RULE; MAX_SHORT_BYTES + 1],
            groups: 0,
            starts: 0,
        }
    }
}

impl Lane {
    #[inline(always)]
    fn begin(&mut self, rules: &MergeRules, piece: usize, bytes: &[u8]) {
        self.piece = piece;
        self.starts = u64::MAX >> (MAX_SHORT_BYTES - bytes.len());
        self.groups = bytes.len().div_ceil(16);
        for (at, &byte) in bytes.iter().enumerate() {
            self.parts[at] = rules.byte_id(byte);
        }
        for group in self.rules.as_chunks_mut::<16>().0.iter_mut().take(self.groups) {
            *group = [NO_RULE; 16];
        }
        for (at, two) in bytes.windows(2).enumerate() {
            self.rules[at] = with_index(rules.rule_of_bytes(two[0], two[1]), at);
        }
    }

    #[inline(always)]
    fn lowest(&self) -> u32 {
        let (groups, _) = self.rules.as_chunks::<16>();
        let mut lowest = groups[0];
        for group in &groups[1..self.groups.max(1)] {
            for (lowest, &rule) in lowest.iter_mut().zip(group) {
                *lowest = rule.min(*lowest);
            }
        }
        lowest.into_iter().fold(NO_RULE, u32::min)
    }

    /// Applies one rule; false if none applies.
    #[inline(always)]
    fn step(&mut self, rules: &MergeRules) -> bool {
        let lowest = self.lowest();
        if lowest >> INDEX_BITS == NO_RULE >> INDEX_BITS {
            return false;
        }
        let bounded = |at: u32| (at as usize).min(SENTINEL);
        let at = bounded(lowest % MAX_SHORT_BYTES as u32);
        let merged = rules.id(lowest >> INDEX_BITS);
        let starts_after = self.starts & (u64::MAX << at << 1);
        let right = bounded(starts_after.trailing_zeros());
        let after = bounded((starts_after & starts_after.wrapping_sub(1)).trailing_zeros());
        let before = bounded(63u32.wrapping_sub((self.starts & ((1 << at) - 1)).leading_zeros()));
        self.starts &= !(1 << right);
        self.parts[at] = merged;
        self.rules[right] = NO_RULE;
        self.rules[at] = with_index(rules.rule(merged, self.parts[after]), at);
        self.rules[before] = with_index(rules.rule(self.parts[before], merged), before);
        true
    }

    #[inline(always)]
    fn append_ids(&self, ids: &mut Vec<u32>) {
        let mut remaining = self.starts;
        while remaining != 0 {
            ids.push(self.parts[(remaining.trailing_zeros() as usize).min(SENTINEL)]);
            remaining &= remaining - 1;
        }
    }
}

const INDEX_BITS: u32 = MAX_SHORT_BYTES.trailing_zeros();
/// Higher than any id.
const NO_ID: u32 = crate::vocab::MAX_IDS as u32;

/// A rule and its index in one number; `NO_RULE` stays higher than any rule.
#[inline(always)]
fn with_index(rule: u32, at: usize) -> u32 {
    (rule << INDEX_BITS) | (at % MAX_SHORT_BYTES) as u32
}
