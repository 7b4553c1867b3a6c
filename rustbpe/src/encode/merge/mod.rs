//! One piece → ids: the rule with the lowest number is applied, at the leftmost place of equal ones, until none applies.
//!
//! Three ways by length: [`short`] pieces on the stack, four at a time; [`medium`] ones in a linked list; [`long`] ones in
//! about linear time.

mod long;
mod medium;
mod short;

use std::ops::Range;

use super::merge_rules::{MergeRules, NO_RULE};
use long::merge_long;
use medium::{MediumPiece, MAX_MEDIUM_BYTES};
use short::{merge_short_pieces, Lane, LANES, MAX_SHORT_BYTES};

/// Merges pieces; keeps the buffers.
#[derive(Default)]
pub struct PieceMerger {
    /// Ids of all pieces.
    ids: Vec<u32>,
    /// The range of each piece's ids.
    of_piece: Vec<Range<usize>>,
    lanes: [Lane; LANES],
    medium: MediumPiece,
}

impl PieceMerger {
    /// Ids of a piece of the last call of [`PieceMerger::merge`].
    pub fn ids(&self, piece: usize) -> &[u32] {
        &self.ids[self.of_piece[piece].clone()]
    }

    /// Merges pieces of a text. Overwrites the results of the last call.
    pub fn merge(&mut self, rules: &MergeRules, text: &[u8], pieces: &[Range<usize>]) {
        self.ids.clear();
        self.of_piece.clear();
        self.of_piece.resize(pieces.len(), 0..0);
        merge_for_this_processor(rules, text, pieces, self);
        for (piece, range) in pieces.iter().enumerate().filter(|(_, range)| range.len() > MAX_MEDIUM_BYTES) {
            let before = self.ids.len();
            merge_long(rules, &text[range.clone()], &mut self.ids);
            self.of_piece[piece] = before..self.ids.len();
        }
    }
}

/// Ids of one piece.
pub fn merge_piece(rules: &MergeRules, piece: &[u8]) -> Vec<u32> {
    let mut merger = PieceMerger::default();
    let whole = 0..piece.len();
    merger.merge(rules, piece, std::slice::from_ref(&whole));
    merger.ids
}

/// The two ids of the merge that leaves a single id of a piece; `None` if more ids are left, or the piece is one byte.
pub fn last_pair(rules: &MergeRules, piece: &[u8]) -> Option<(u32, u32)> {
    if piece.len() > MAX_SHORT_BYTES {
        let mut ids = Vec::new();
        let last = merge_long(rules, piece, &mut ids);
        return last.filter(|_| ids.len() == 1);
    }
    let mut parts: Vec<u32> = piece.iter().map(|&byte| rules.byte_id(byte)).collect();
    loop {
        let rule_at = |at: usize| (rules.rule(parts[at], parts[at + 1]), at);
        let (_, at) = (0..parts.len() - 1).map(rule_at).min().filter(|&(rule, _)| rule != NO_RULE)?;
        if let &[left, right] = parts.as_slice() {
            return Some((left, right));
        }
        parts[at] = rules.id(rules.rule(parts[at], parts[at + 1]));
        parts.remove(at + 1);
    }
}

#[allow(unsafe_code)]
fn merge_for_this_processor(rules: &MergeRules, text: &[u8], pieces: &[Range<usize>], merger: &mut PieceMerger) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("lzcnt") {
        // SAFETY: the processor has the instructions
        return unsafe { merge_avx2(rules, text, pieces, merger) };
    }
    merge_short_and_medium(rules, text, pieces, merger);
}

/// The same code, compiled so that searches for the lowest rule become vector instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,lzcnt")]
fn merge_avx2(rules: &MergeRules, text: &[u8], pieces: &[Range<usize>], merger: &mut PieceMerger) {
    merge_short_and_medium(rules, text, pieces, merger);
}

#[inline(always)]
fn merge_short_and_medium(rules: &MergeRules, text: &[u8], pieces: &[Range<usize>], merger: &mut PieceMerger) {
    let PieceMerger { ids, of_piece, lanes, medium } = merger;
    merge_short_pieces(rules, text, pieces, lanes, ids, of_piece);
    for (piece, range) in pieces.iter().enumerate() {
        if (MAX_SHORT_BYTES + 1..=MAX_MEDIUM_BYTES).contains(&range.len()) {
            let before = ids.len();
            medium.merge(rules, &text[range.clone()], ids);
            of_piece[piece] = before..ids.len();
        }
    }
}
