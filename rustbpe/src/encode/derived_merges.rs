//! The merge of each token in a vocabulary without a list of merges, where any two neighbors whose joined bytes are a
//! token merge, the lowest id first (tiktoken's rule).
//!
//! A token results from one merge only. Until that merge, the merges inside the token depend on its own bytes alone,
//! because no token crosses its border. So merging a token's own bytes, with all possible rules, shows the one pair that
//! makes it. The time is about linear in the bytes of the vocabulary; a text with a run of a million letters makes tokens
//! of a million bytes.

use std::convert::Infallible;

use super::merge::last_pair;
use super::merge_rules::MergeRules;
use crate::parallel::ordered::{map_in_order, SliceSource};
use crate::parallel::threads_or_all;
use crate::vocab::Vocab;

/// Two ids, and the id of their joined bytes.
pub type Joined = (u32, u32, u32);

/// Tokens of one chunk of work.
const CHUNK_TOKENS: usize = 256;

/// The pair that makes each token of two bytes or more, in the order of the tokens' ids. Tokens that no merges make are
/// left out.
pub fn derive_merges(vocab: &Vocab) -> Vec<Joined> {
    let all_rules = MergeRules::build(vocab, &all_splits(vocab), None);
    map_tokens(vocab, |token, id| last_pair(&all_rules, token).map(|(left, right)| (left, right, id)))
}

/// The results of a function for all tokens, in the order of ids; it runs on several threads. They belong to this call
/// alone: a process-wide thread pool would be missing after a fork.
pub fn map_tokens<T: Send>(vocab: &Vocab, function: impl Fn(&[u8], u32) -> Option<T> + Sync) -> Vec<T> {
    let tokens: Vec<(u32, &[u8])> = vocab.tokens().collect();
    let chunks: Vec<&[(u32, &[u8])]> = tokens.chunks(CHUNK_TOKENS).collect();
    let mut results = Vec::new();
    let done: Result<(), Infallible> = map_in_order(
        &SliceSource::new(&chunks),
        threads_or_all(0).min(chunks.len()),
        || (),
        |(), chunk, out: &mut Vec<T>| {
            out.extend(chunk.iter().filter_map(|&(id, token)| function(token, id)));
            Ok(())
        },
        |out| {
            results.append(out);
            Ok(())
        },
        |()| (),
    );
    match done {
        Ok(()) => results,
        Err(never) => match never {},
    }
}

/// All ways to split a token into two tokens, for all tokens.
fn all_splits(vocab: &Vocab) -> Vec<Joined> {
    let (ids, tokens): (Vec<u32>, Vec<&[u8]>) = vocab.tokens().unzip();
    let longest_prefix = longest_prefixes(&tokens);
    let reversed_bytes: Vec<u8> = tokens.iter().flat_map(|token| token.iter().rev().copied()).collect();
    let mut rest = reversed_bytes.as_slice();
    let reversed: Vec<&[u8]> = tokens
        .iter()
        .map(|token| {
            let (first, after) = rest.split_at(token.len());
            rest = after;
            first
        })
        .collect();
    let longest_suffix = longest_prefixes(&reversed);
    let mut splits = Vec::new();
    let mut suffixes = Vec::new();
    for (number, token) in tokens.iter().enumerate() {
        suffixes.clear();
        suffixes.extend(chain(&longest_suffix, number));
        // prefixes become shorter and suffixes longer; a split is where their lengths add up to the token's
        for prefix in chain(&longest_prefix, number) {
            let suffix_bytes = token.len() - tokens[prefix].len();
            while suffixes.last().is_some_and(|&suffix: &usize| tokens[suffix].len() < suffix_bytes) {
                suffixes.pop();
            }
            if let Some(&suffix) = suffixes.last().filter(|&&suffix| tokens[suffix].len() == suffix_bytes) {
                splits.push((ids[prefix], ids[suffix], ids[number]));
            }
        }
    }
    splits
}

/// For each token, the longest other token that is its prefix.
fn longest_prefixes(tokens: &[&[u8]]) -> Vec<Option<usize>> {
    let mut sorted: Vec<usize> = (0..tokens.len()).collect();
    sorted.sort_unstable_by_key(|&number| tokens[number]);
    let mut longest = vec![None; tokens.len()];
    // a stack: each token is a prefix of the next
    let mut open: Vec<usize> = Vec::new();
    for number in sorted {
        while open.last().is_some_and(|&other| !tokens[number].starts_with(tokens[other])) {
            open.pop();
        }
        longest[number] = open.last().copied();
        open.push(number);
    }
    longest
}

/// All tokens that are prefixes of a token, the longest first.
fn chain(longest: &[Option<usize>], number: usize) -> impl Iterator<Item = usize> + '_ {
    std::iter::successors(longest[number], |&other| longest[other])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// The same by searching all neighbors of a token's parts for the lowest id, again and again.
    fn plain_merges(vocab: &Vocab) -> Vec<Joined> {
        let ids: HashMap<&[u8], u32> = vocab.tokens().map(|(id, bytes)| (bytes, id)).collect();
        let last_two = |token: &[u8]| {
            let mut parts: Vec<Vec<u8>> = token.iter().map(|&byte| vec![byte]).collect();
            while parts.len() > 2 {
                let joined = |at: usize| ids.get([parts[at].as_slice(), &parts[at + 1]].concat().as_slice());
                let (_, at) = (0..parts.len() - 1).filter_map(|at| Some((*joined(at)?, at))).min()?;
                let second = parts.remove(at + 1);
                parts[at].extend(second);
            }
            (parts.len() == 2).then(|| (ids[parts[0].as_slice()], ids[parts[1].as_slice()]))
        };
        let found = vocab.tokens().filter_map(|(id, token)| last_two(token).map(|(left, right)| (left, right, id)));
        found.collect()
    }

    /// The same by looking up every split.
    fn plain_splits(vocab: &Vocab) -> Vec<Joined> {
        let ids: HashMap<&[u8], u32> = vocab.tokens().map(|(id, bytes)| (bytes, id)).collect();
        let split = |token: &[u8], at: usize| Some((*ids.get(&token[..at])?, *ids.get(&token[at..])?));
        let of =
            |(id, token)| (1..<[u8]>::len(token)).rev().filter_map(move |at| split(token, at).map(|(l, r)| (l, r, id)));
        vocab.tokens().flat_map(of).collect()
    }

    /// Tokens of few letters, with ids in any order; some ids without a token, some tokens longer than a short piece.
    pub fn any_vocab() -> impl Strategy<Value = Vocab> {
        let token = prop_oneof![8 => "[ab]{2,8}", 4 => "[abc]{2,5}", 1 => "(ab|a|abb){20,60}", 1 => "a{2,150}"];
        let tokens = prop::collection::hash_set(token, 0..60);
        (tokens, any::<u64>()).prop_map(|(tokens, mut seed)| {
            let mut all: Vec<Option<Vec<u8>>> = (0..=255).map(|byte| Some(vec![byte])).collect();
            all.extend(tokens.into_iter().map(|token| Some(token.into_bytes())));
            all.resize(all.len() + 3, None);
            for last in (1..all.len()).rev() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                all.swap(last, (seed >> 33) as usize % (last + 1));
            }
            Vocab::from_tokens(&all).unwrap_or_default()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn derived_merges_equal_plain_ones(vocab in any_vocab()) {
            prop_assert!(!vocab.is_empty());
            prop_assert_eq!(all_splits(&vocab), plain_splits(&vocab));
            prop_assert_eq!(derive_merges(&vocab), plain_merges(&vocab));
        }
    }
}
