//! Which two neighboring ids merge, and in which order.
//!
//! A *rule* replaces two ids by one. Rules are numbered by priority; the lowest number goes first. In a vocabulary of
//! ranks, a rule's number is the id it makes, and any two ids whose joined bytes are a token have a rule. In a list of
//! merges, as in Hugging Face's format, the number is the index in the list.

use super::derived_merges::derive_merges;
use crate::hash::{fold, Map};
use crate::huge_pages::AlignedTable;
use crate::vocab::Vocab;

/// No rule.
pub const NO_RULE: u32 = u32::MAX;

const ID_BITS: u32 = 21;
const RULE_BITS: u32 = 22;
const EMPTY: u64 = 0;

/// A cache line of eight slots, each with left id, right id, and the rule plus one in one number. A bucket is read as a
/// whole and without a branch, because whether two neighbors have a rule cannot be predicted.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket([u64; 8]);

/// The rules of a vocabulary.
pub struct MergeRules {
    /// Rule of two bytes.
    of_bytes: Vec<u32>,
    /// Rules of all pairs. A rule whose bucket is full is in the next one.
    buckets: AlignedTable<Bucket>,
    shift: u32,
    /// Id that each rule makes; `None` if that is its number.
    ids: Option<Vec<u32>>,
    /// Id of each byte.
    byte_ids: [u32; 256],
    /// Number of bytes of each id.
    bytes: Vec<u32>,
}

impl MergeRules {
    /// Any two ids whose joined bytes are a token, the lowest id first, as in tiktoken.
    ///
    /// Only rules that can apply are kept: half of all, so that the table fits the processor's cache.
    pub fn from_ranks(vocab: &Vocab) -> MergeRules {
        MergeRules::build(vocab, &derive_merges(vocab), None)
    }

    /// A list of merges, the first one first.
    ///
    /// # Errors
    /// A merge has an unknown id, or makes bytes that are not a token; or there are too many.
    pub fn from_list(vocab: &Vocab, merges: &[(u32, u32)]) -> Result<MergeRules, String> {
        if merges.len() >= (1 << RULE_BITS) - 1 {
            return Err(format!("there are {} merges, and at most {} can be", merges.len(), (1 << RULE_BITS) - 2));
        }
        let known: Map<&[u8], u32> = vocab.tokens().map(|(id, bytes)| (bytes, id)).collect();
        let mut ids = Vec::with_capacity(merges.len());
        let mut rules = Vec::with_capacity(merges.len());
        for (rule, &(left, right)) in (0u32..).zip(merges) {
            let (Some(first), Some(second)) = (vocab.token(left), vocab.token(right)) else {
                return Err(format!("merge {rule} names an id that is not there"));
            };
            let joined = [first, second].concat();
            let id =
                known.get(joined.as_slice()).ok_or_else(|| format!("merge {rule} makes bytes that are no token"))?;
            ids.push(*id);
            rules.push((left, right, rule));
        }
        Ok(MergeRules::build(vocab, &rules, Some(ids)))
    }

    /// From (left id, right id, rule). `ids`: the id that each rule makes, unless that is its number.
    pub(super) fn build(vocab: &Vocab, rules: &[(u32, u32, u32)], ids: Option<Vec<u32>>) -> MergeRules {
        let bits = rules.len().div_ceil(6).max(2).next_power_of_two().trailing_zeros();
        let mut built = MergeRules {
            of_bytes: vec![NO_RULE; 1 << 16],
            buckets: AlignedTable::new(bits, Bucket([EMPTY; 8])),
            shift: 64 - bits,
            ids,
            byte_ids: [NO_RULE; 256],
            bytes: (0..vocab.len() as u32).map(|id| vocab.token(id).map_or(0, <[u8]>::len) as u32).collect(),
        };
        for (id, bytes) in vocab.tokens() {
            if let &[byte] = bytes {
                built.byte_ids[usize::from(byte)] = id;
            }
        }
        for &(left, right, rule) in rules {
            // of two equal merges, the first counts
            if built.rule(left, right) == NO_RULE {
                built.insert(left, right, rule);
            }
        }
        for first in 0..256 {
            for second in 0..256 {
                built.of_bytes[first << 8 | second] = built.rule(built.byte_ids[first], built.byte_ids[second]);
            }
        }
        built
    }

    fn insert(&mut self, left: u32, right: u32, rule: u32) {
        let mut bucket = self.bucket(left, right);
        loop {
            if let Some(slot) = self.buckets.at_mut(bucket).0.iter_mut().find(|slot| **slot == EMPTY) {
                *slot = pair_number(left, right) << RULE_BITS | u64::from(rule + 1);
                return;
            }
            bucket += 1;
        }
    }

    #[inline(always)]
    fn bucket(&self, left: u32, right: u32) -> usize {
        (fold(pair_number(left, right), 0) >> self.shift) as usize
    }

    /// The rule of two ids, or `NO_RULE`.
    #[inline(always)]
    pub fn rule(&self, left: u32, right: u32) -> u32 {
        let wanted = pair_number(left, right);
        let mut bucket = self.bucket(left, right);
        loop {
            let Bucket(slots) = self.buckets.at(bucket);
            let mut found = 0;
            for &slot in slots {
                found |= if slot >> RULE_BITS == wanted { slot } else { 0 };
            }
            // stop if found, or if the last slot is empty: only 0 sets the top bit here
            if found | (slots[7].wrapping_sub(1) & !slots[7] & 1 << 63) != 0 {
                return (found as u32 & ((1 << RULE_BITS) - 1)).wrapping_sub(1);
            }
            bucket += 1;
        }
    }

    /// The rule of two bytes, or `NO_RULE`.
    #[inline(always)]
    pub fn rule_of_bytes(&self, left: u8, right: u8) -> u32 {
        self.of_bytes[usize::from(left) << 8 | usize::from(right)]
    }

    /// The id that a rule makes.
    #[inline(always)]
    pub fn id(&self, rule: u32) -> u32 {
        match &self.ids {
            None => rule,
            Some(ids) => ids[rule as usize],
        }
    }

    /// Number of bytes of an id.
    #[inline(always)]
    pub fn bytes(&self, id: u32) -> usize {
        self.bytes[id as usize] as usize
    }

    /// The id of a byte.
    #[inline(always)]
    pub fn byte_id(&self, byte: u8) -> u32 {
        self.byte_ids[usize::from(byte)]
    }
}

#[inline(always)]
fn pair_number(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}
