//! One piece → ids: the rule of the lowest number is applied, at the leftmost place of equal ones, until none is left.

use std::ops::Range;

use super::merge_long::merge_long;
use super::rules::{Rules, NONE};

/// Pieces up to this many bytes are kept on the stack and searched for their lowest rule.
const SHORT: usize = 64;
/// Pieces up to this many bytes are searched group by group.
const MIDDLING: usize = 1024;
/// Short pieces that are merged side by side: each step of one waits for the step before, so others may use the time.
const LANES: usize = 4;

/// Ids of some pieces.
#[derive(Default)]
pub struct Merged {
    ids: Vec<u32>,
    of_piece: Vec<Range<usize>>,
    lanes: [Lane; LANES],
    groups: Groups,
}

impl Merged {
    /// Ids of a piece.
    pub fn of(&self, piece: usize) -> &[u32] {
        &self.ids[self.of_piece[piece].clone()]
    }

    /// Merges pieces of a text, in the place of those that were here.
    pub fn merge(&mut self, known: &Rules, text: &[u8], pieces: &[Range<usize>]) {
        self.ids.clear();
        self.of_piece.clear();
        self.of_piece.resize(pieces.len(), 0..0);
        compiled_for_this_processor(known, text, pieces, self);
        for (piece, range) in pieces.iter().enumerate().filter(|(_, range)| range.len() > MIDDLING) {
            let before = self.ids.len();
            merge_long(known, &text[range.clone()], &mut self.ids);
            self.of_piece[piece] = before..self.ids.len();
        }
    }
}

/// Ids of one piece.
pub fn merge(known: &Rules, piece: &[u8]) -> Vec<u32> {
    let mut merged = Merged::default();
    let whole = 0..piece.len();
    merged.merge(known, piece, std::slice::from_ref(&whole));
    merged.ids
}

/// The two ids whose merge leaves one id of a piece; `None` if more are left, or it is a byte.
pub fn last_pair(known: &Rules, piece: &[u8]) -> Option<(u32, u32)> {
    if piece.len() > SHORT {
        let mut ids = Vec::new();
        let last = merge_long(known, piece, &mut ids);
        return last.filter(|_| ids.len() == 1);
    }
    let mut parts: Vec<u32> = piece.iter().map(|&byte| known.byte_id(byte)).collect();
    loop {
        let rule_at = |at: usize| (known.rule(parts[at], parts[at + 1]), at);
        let (_, at) = (0..parts.len() - 1).map(rule_at).min().filter(|&(rule, _)| rule != NONE)?;
        if let &[left, right] = parts.as_slice() {
            return Some((left, right));
        }
        parts[at] = known.id(known.rule(parts[at], parts[at + 1]));
        parts.remove(at + 1);
    }
}

#[allow(unsafe_code)]
fn compiled_for_this_processor(known: &Rules, text: &[u8], pieces: &[Range<usize>], merged: &mut Merged) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("lzcnt") {
        // SAFETY: the processor has them
        return unsafe { with_avx2(known, text, pieces, merged) };
    }
    short_ones(known, text, pieces, merged);
}

/// The same code, whose searches for the lowest become vector instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,lzcnt")]
fn with_avx2(known: &Rules, text: &[u8], pieces: &[Range<usize>], merged: &mut Merged) {
    short_ones(known, text, pieces, merged);
}

#[inline(always)]
fn short_ones(known: &Rules, text: &[u8], pieces: &[Range<usize>], merged: &mut Merged) {
    side_by_side(known, text, pieces, merged);
    for (piece, range) in pieces.iter().enumerate() {
        if (SHORT + 1..=MIDDLING).contains(&range.len()) {
            let before = merged.ids.len();
            merged.groups.merge(known, &text[range.clone()], &mut merged.ids);
            merged.of_piece[piece] = before..merged.ids.len();
        }
    }
}

#[inline(always)]
fn side_by_side(known: &Rules, text: &[u8], pieces: &[Range<usize>], merged: &mut Merged) {
    let Merged { ids, of_piece, lanes, .. } = merged;
    let mut waiting = (0..pieces.len()).filter(|&piece| pieces[piece].len() <= SHORT);
    let mut busy = 0;
    for lane in lanes.iter_mut() {
        let Some(piece) = waiting.next() else { break };
        lane.begin(known, piece, &text[pieces[piece].clone()]);
        busy += 1;
    }
    while busy > 0 {
        let mut at = 0;
        while at < busy {
            if lanes[at].step(known) {
                at += 1;
                continue;
            }
            let before = ids.len();
            lanes[at].end(ids);
            of_piece[lanes[at].piece] = before..ids.len();
            if let Some(piece) = waiting.next() {
                lanes[at].begin(known, piece, &text[pieces[piece].clone()]);
            } else {
                busy -= 1;
                lanes.swap(at, busy);
            }
        }
    }
}

/// A piece that is being merged. Each part stays where its first byte is; a bit says whether one begins there. Rules
/// are kept with their places, so that the lowest of these numbers is the lowest rule at its leftmost place. The last
/// place is nobody's, and a neighbour for those who have none.
struct Lane {
    piece: usize,
    parts: [u32; SHORT + 1],
    rules: [u32; SHORT + 1],
    /// Of 16 rules, as many as the piece needs.
    groups: usize,
    begun: u64,
}

const NOBODY: usize = SHORT;

impl Default for Lane {
    fn default() -> Lane {
        Lane { piece: 0, parts: [NO_ID; SHORT + 1], rules: [NONE; SHORT + 1], groups: 0, begun: 0 }
    }
}

impl Lane {
    #[inline(always)]
    fn begin(&mut self, known: &Rules, piece: usize, bytes: &[u8]) {
        self.piece = piece;
        self.begun = u64::MAX >> (SHORT - bytes.len());
        self.groups = bytes.len().div_ceil(16);
        for (at, &byte) in bytes.iter().enumerate() {
            self.parts[at] = known.byte_id(byte);
        }
        for group in self.rules.as_chunks_mut::<16>().0.iter_mut().take(self.groups) {
            *group = [NONE; 16];
        }
        for (at, two) in bytes.windows(2).enumerate() {
            self.rules[at] = with_place(known.rule_of_bytes(two[0], two[1]), at);
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
        lowest.into_iter().fold(NONE, u32::min)
    }

    /// Applies one rule; false if there is none.
    #[inline(always)]
    fn step(&mut self, known: &Rules) -> bool {
        let lowest = self.lowest();
        if lowest >> PLACE_BITS == NONE >> PLACE_BITS {
            return false;
        }
        let place = |at: u32| (at as usize).min(NOBODY);
        let at = place(lowest % SHORT as u32);
        let merged = known.id(lowest >> PLACE_BITS);
        let behind = self.begun & (u64::MAX << at << 1);
        let follower = place(behind.trailing_zeros());
        let after = place((behind & behind.wrapping_sub(1)).trailing_zeros());
        let before = place(63u32.wrapping_sub((self.begun & ((1 << at) - 1)).leading_zeros()));
        self.begun &= !(1 << follower);
        self.parts[at] = merged;
        self.rules[follower] = NONE;
        self.rules[at] = with_place(known.rule(merged, self.parts[after]), at);
        self.rules[before] = with_place(known.rule(self.parts[before], merged), before);
        true
    }

    #[inline(always)]
    fn end(&self, ids: &mut Vec<u32>) {
        let mut left = self.begun;
        while left != 0 {
            ids.push(self.parts[(left.trailing_zeros() as usize).min(NOBODY)]);
            left &= left - 1;
        }
    }
}

const PLACE_BITS: u32 = SHORT.trailing_zeros();
/// More than an id can be.
const NO_ID: u32 = crate::vocab::MAX_IDS as u32;

/// No rule stays higher than any.
#[inline(always)]
fn with_place(rule: u32, at: usize) -> u32 {
    (rule << PLACE_BITS) | (at % SHORT) as u32
}

/// A piece of middling length: parts in a linked list, each where its first byte is; rules with their places, and the
/// lowest of each group of them.
#[derive(Default)]
struct Groups {
    parts: Vec<u32>,
    rules: Vec<[u32; GROUP]>,
    lowest: Vec<u32>,
    next: Vec<u32>,
    before: Vec<u32>,
}

const GROUP: usize = 32;

impl Groups {
    #[inline(always)]
    fn set(&mut self, at: usize, rule: u32) {
        let rule = if rule == NONE { NONE } else { rule << MIDDLING.trailing_zeros() | at as u32 };
        self.rules[at / GROUP][at % GROUP] = rule;
    }

    #[inline(always)]
    fn find_lowest(&mut self, group: usize) {
        self.lowest[group] = self.rules[group].iter().fold(NONE, |lowest, &rule| lowest.min(rule));
    }

    #[inline(always)]
    fn merge(&mut self, known: &Rules, piece: &[u8], ids: &mut Vec<u32>) {
        let length = piece.len() as u32;
        self.parts.clear();
        self.parts.extend(piece.iter().map(|&byte| known.byte_id(byte)));
        self.next.clear();
        self.next.extend(1..=length);
        self.before.clear();
        self.before.extend((0..length).map(|at| at.wrapping_sub(1)));
        self.rules.clear();
        self.rules.resize(piece.len().div_ceil(GROUP), [NONE; GROUP]);
        self.lowest.clear();
        self.lowest.resize(self.rules.len(), NONE);
        for (at, two) in piece.windows(2).enumerate() {
            self.set(at, known.rule_of_bytes(two[0], two[1]));
        }
        for group in 0..self.rules.len() {
            self.find_lowest(group);
        }
        loop {
            let lowest = self.lowest.iter().fold(NONE, |lowest, &rule| lowest.min(rule));
            if lowest == NONE {
                break;
            }
            let at = lowest as usize % MIDDLING;
            let merged = known.id(lowest >> MIDDLING.trailing_zeros());
            let follower = self.next[at] as usize;
            let after = self.next[follower] as usize;
            self.parts[at] = merged;
            self.next[at] = after as u32;
            self.set(follower, NONE);
            match self.parts.get(after) {
                Some(&part) => {
                    self.before[after] = at as u32;
                    self.set(at, known.rule(merged, part));
                }
                None => self.set(at, NONE),
            }
            let before = self.before[at] as usize;
            if let Some(&part) = self.parts.get(before) {
                self.set(before, known.rule(part, merged));
                self.find_lowest(before / GROUP);
            }
            self.find_lowest(at / GROUP);
            self.find_lowest(follower / GROUP);
        }
        let mut at = 0;
        while let Some(&part) = self.parts.get(at) {
            ids.push(part);
            at = self.next[at] as usize;
        }
    }
}
