//! The pair of ids that yields each token, where any two neighbours whose joined bytes are a token may merge, the lowest
//! id first (tiktoken's rule).
//!
//! Each token can come about in one way only. Its last merge saw nothing but its own bytes, because what once crosses
//! their border never comes back. So merging a token's own bytes, by all rules there could be, shows the one pair that
//! yields it. Time is about linear in the bytes of the vocabulary: a text with one run of a million letters makes tokens
//! of a million bytes.

use std::convert::Infallible;

use super::merge::last_pair;
use super::rules::Rules;
use crate::parts::{in_order, threads_or_all, There};
use crate::vocab::Vocab;

/// Two ids, and the id of their joined bytes.
pub type Joined = (u32, u32, u32);

/// Tokens that a thread takes at a time.
const SOME_TOKENS: usize = 256;

/// The pair that yields each token of two bytes or more, in the order of the tokens' ids. A token that no merges yield
/// has none.
pub fn derived(vocab: &Vocab) -> Vec<Joined> {
    let all = Rules::build(vocab, &cuts(vocab), None);
    each_token(vocab, |token, id| last_pair(&all, token).map(|(left, right)| (left, right, id)))
}

/// What a function gives for each token, in the order of ids; several threads call it. They are threads of this call
/// alone: a pool that is shared by the process would be missing in a process that was forked.
pub fn each_token<T: Send>(vocab: &Vocab, give: impl Fn(&[u8], u32) -> Option<T> + Sync) -> Vec<T> {
    let tokens: Vec<(u32, &[u8])> = vocab.tokens().collect();
    let some: Vec<&[(u32, &[u8])]> = tokens.chunks(SOME_TOKENS).collect();
    let mut given = Vec::new();
    let done: Result<(), Infallible> = in_order(
        &There::new(&some),
        threads_or_all(0).min(some.len()),
        || (),
        |(), some, out: &mut Vec<T>| {
            out.extend(some.iter().filter_map(|&(id, token)| give(token, id)));
            Ok(())
        },
        |out| {
            given.append(out);
            Ok(())
        },
        |()| (),
    );
    match done {
        Ok(()) => given,
        Err(never) => match never {},
    }
}

/// All ways to cut a token in two tokens.
fn cuts(vocab: &Vocab) -> Vec<Joined> {
    let (ids, tokens): (Vec<u32>, Vec<&[u8]>) = vocab.tokens().unzip();
    let longest_prefix = longest_prefixes(&tokens);
    let backwards: Vec<u8> = tokens.iter().flat_map(|token| token.iter().rev().copied()).collect();
    let mut left = backwards.as_slice();
    let reversed: Vec<&[u8]> = tokens
        .iter()
        .map(|token| {
            let (first, rest) = left.split_at(token.len());
            left = rest;
            first
        })
        .collect();
    let longest_suffix = longest_prefixes(&reversed);
    let mut cuts = Vec::new();
    let mut suffixes = Vec::new();
    for (number, token) in tokens.iter().enumerate() {
        suffixes.clear();
        suffixes.extend(chain(&longest_suffix, number));
        // prefixes become shorter, suffixes longer, and a cut is where they meet
        for prefix in chain(&longest_prefix, number) {
            let rest = token.len() - tokens[prefix].len();
            while suffixes.last().is_some_and(|&suffix: &usize| tokens[suffix].len() < rest) {
                suffixes.pop();
            }
            if let Some(&suffix) = suffixes.last().filter(|&&suffix| tokens[suffix].len() == rest) {
                cuts.push((ids[prefix], ids[suffix], ids[number]));
            }
        }
    }
    cuts
}

/// The longest token that each token begins with, itself aside.
fn longest_prefixes(tokens: &[&[u8]]) -> Vec<Option<usize>> {
    let mut sorted: Vec<usize> = (0..tokens.len()).collect();
    sorted.sort_unstable_by_key(|&number| tokens[number]);
    let mut longest = vec![None; tokens.len()];
    // each begins with the one before it
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

/// All tokens that a token begins with, the longest first.
fn chain(longest: &[Option<usize>], number: usize) -> impl Iterator<Item = usize> + '_ {
    std::iter::successors(longest[number], |&other| longest[other])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Every cut looked up, and every token merged by searching all neighbours for the lowest id, again and again.
    fn slowly(vocab: &Vocab) -> Vec<Joined> {
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

    fn slow_cuts(vocab: &Vocab) -> Vec<Joined> {
        let ids: HashMap<&[u8], u32> = vocab.tokens().map(|(id, bytes)| (bytes, id)).collect();
        let cut = |token: &[u8], at: usize| Some((*ids.get(&token[..at])?, *ids.get(&token[at..])?));
        let of =
            |(id, token)| (1..<[u8]>::len(token)).rev().filter_map(move |at| cut(token, at).map(|(l, r)| (l, r, id)));
        vocab.tokens().flat_map(of).collect()
    }

    /// Tokens of few letters, in any order of ids, some ids without one, some longer than what is kept on the stack.
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
        fn derived_pairs_equal_the_slow_way(vocab in any_vocab()) {
            prop_assert!(!vocab.is_empty());
            prop_assert_eq!(cuts(&vocab), slow_cuts(&vocab));
            prop_assert_eq!(derived(&vocab), slowly(&vocab));
        }
    }
}
