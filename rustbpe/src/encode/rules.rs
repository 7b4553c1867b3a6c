//! Which two neighbours merge, and when.
//!
//! A *rule* says that two ids become one; rules are numbered by priority, the lowest goes first. In a vocabulary of
//! ranks, a rule's number is the id it makes, and any two ids whose joined bytes are a token have one. In a list of
//! merges, as Hugging Face keeps it, the number is the place in the list.

use super::derive::derived;
use crate::hash::{fold, Map};
use crate::memory::Table;
use crate::vocab::Vocab;

/// No rule.
pub const NONE: u32 = u32::MAX;

const ID_BITS: u32 = 21;
const RULE_BITS: u32 = 22;
const EMPTY: u64 = 0;

/// Left id, right id, and one more than the rule, each in one number; a cache line of them. Read as a whole and without
/// a branch, because whether two neighbours have a rule is what no processor can guess.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket([u64; 8]);

/// The rules of a vocabulary.
pub struct Rules {
    /// Rule of two bytes, by both.
    of_bytes: Vec<u32>,
    /// A rule that finds its bucket full is in the next one.
    buckets: Table<Bucket>,
    shift: u32,
    /// Id that a rule makes, where that is not its number.
    ids: Option<Vec<u32>>,
    /// Id of each byte.
    byte_ids: [u32; 256],
    /// Bytes of each id.
    bytes: Vec<u32>,
}

impl Rules {
    /// Any two ids whose joined bytes are a token, the lowest id first: as tiktoken has it.
    ///
    /// Only rules that can ever apply are kept: they are half of all, and fit the processor's cache.
    pub fn by_rank(vocab: &Vocab) -> Rules {
        Rules::build(vocab, &derived(vocab), None)
    }

    /// By a list of merges, the first one first.
    ///
    /// # Errors
    /// A merge names an id that is not there, or makes bytes that are no token; or there are too many.
    pub fn by_list(vocab: &Vocab, merges: &[(u32, u32)]) -> Result<Rules, String> {
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
        Ok(Rules::build(vocab, &rules, Some(ids)))
    }

    /// Of left ids, right ids and numbers of rules; `ids` as in the field.
    pub(super) fn build(vocab: &Vocab, rules: &[(u32, u32, u32)], ids: Option<Vec<u32>>) -> Rules {
        let bits = rules.len().div_ceil(6).max(2).next_power_of_two().trailing_zeros();
        let mut built = Rules {
            of_bytes: vec![NONE; 1 << 16],
            buckets: Table::new(bits, Bucket([EMPTY; 8])),
            shift: 64 - bits,
            ids,
            byte_ids: [NONE; 256],
            bytes: (0..vocab.len() as u32).map(|id| vocab.token(id).map_or(0, <[u8]>::len) as u32).collect(),
        };
        for (id, bytes) in vocab.tokens() {
            if let &[byte] = bytes {
                built.byte_ids[usize::from(byte)] = id;
            }
        }
        for &(left, right, rule) in rules {
            // the first of two equal merges counts
            if built.rule(left, right) == NONE {
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
        let mut place = self.place(left, right);
        loop {
            if let Some(slot) = self.buckets.at_mut(place).0.iter_mut().find(|slot| **slot == EMPTY) {
                *slot = joined(left, right) << RULE_BITS | u64::from(rule + 1);
                return;
            }
            place += 1;
        }
    }

    #[inline(always)]
    fn place(&self, left: u32, right: u32) -> usize {
        (fold(joined(left, right), 0) >> self.shift) as usize
    }

    /// The rule of two ids, or `NONE`.
    #[inline(always)]
    pub fn rule(&self, left: u32, right: u32) -> u32 {
        let wanted = joined(left, right);
        let mut place = self.place(left, right);
        loop {
            let Bucket(slots) = self.buckets.at(place);
            let mut found = 0;
            for &slot in slots {
                found |= if slot >> RULE_BITS == wanted { slot } else { 0 };
            }
            // an empty last slot has all upper bits clear, a taken one has not
            if found | (slots[7].wrapping_sub(1) & !slots[7] & 1 << 63) != 0 {
                return (found as u32 & ((1 << RULE_BITS) - 1)).wrapping_sub(1);
            }
            place += 1;
        }
    }

    /// The rule of two bytes, or `NONE`.
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

    /// Bytes of an id.
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
fn joined(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}
