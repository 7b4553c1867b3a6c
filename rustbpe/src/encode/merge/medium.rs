//! Pieces of 65 to 1,024 bytes, merged in a linked list.

use super::super::merge_rules::{MergeRules, NO_RULE};

/// Longest medium piece.
pub const MAX_MEDIUM_BYTES: usize = 1024;
/// Rules of a group, of which the lowest is kept.
const GROUP_RULES: usize = 32;

/// Parts in a linked list, each at the index of its first byte. Rules are stored with their index, and so is the lowest
/// rule of each group.
#[derive(Default)]
pub struct MediumPiece {
    parts: Vec<u32>,
    rules: Vec<[u32; GROUP_RULES]>,
    lowest: Vec<u32>,
    next: Vec<u32>,
    before: Vec<u32>,
}

impl MediumPiece {
    #[inline(always)]
    fn set_rule(&mut self, at: usize, rule: u32) {
        let rule = if rule == NO_RULE { NO_RULE } else { rule << MAX_MEDIUM_BYTES.trailing_zeros() | at as u32 };
        self.rules[at / GROUP_RULES][at % GROUP_RULES] = rule;
    }

    #[inline(always)]
    fn update_lowest(&mut self, group: usize) {
        self.lowest[group] = self.rules[group].iter().fold(NO_RULE, |lowest, &rule| lowest.min(rule));
    }

    /// Appends the ids of a piece.
    #[inline(always)]
    pub fn merge(&mut self, rules: &MergeRules, piece: &[u8], ids: &mut Vec<u32>) {
        let length = piece.len() as u32;
        self.parts.clear();
        self.parts.extend(piece.iter().map(|&byte| rules.byte_id(byte)));
        self.next.clear();
        self.next.extend(1..=length);
        self.before.clear();
        self.before.extend((0..length).map(|at| at.wrapping_sub(1)));
        self.rules.clear();
        self.rules.resize(piece.len().div_ceil(GROUP_RULES), [NO_RULE; GROUP_RULES]);
        self.lowest.clear();
        self.lowest.resize(self.rules.len(), NO_RULE);
        for (at, two) in piece.windows(2).enumerate() {
            self.set_rule(at, rules.rule_of_bytes(two[0], two[1]));
        }
        for group in 0..self.rules.len() {
            self.update_lowest(group);
        }
        loop {
            let lowest = self.lowest.iter().fold(NO_RULE, |lowest, &rule| lowest.min(rule));
            if lowest == NO_RULE {
                break;
            }
            let at = lowest as usize % MAX_MEDIUM_BYTES;
            let merged = rules.id(lowest >> MAX_MEDIUM_BYTES.trailing_zeros());
            let right = self.next[at] as usize;
            let after = self.next[right] as usize;
            self.parts[at] = merged;
            self.next[at] = after as u32;
            self.set_rule(right, NO_RULE);
            match self.parts.get(after) {
                Some(&part) => {
                    self.before[after] = at as u32;
                    self.set_rule(at, rules.rule(merged, part));
                }
                None => self.set_rule(at, NO_RULE),
            }
            let before = self.before[at] as usize;
            if let Some(&part) = self.parts.get(before) {
                self.set_rule(before, rules.rule(part, merged));
                self.update_lowest(before / GROUP_RULES);
            }
            self.update_lowest(at / GROUP_RULES);
            self.update_lowest(right / GROUP_RULES);
        }
        let mut at = 0;
        while let Some(&part) = self.parts.get(at) {
            ids.push(part);
            at = self.next[at] as usize;
        }
    }
}
