//! What must hold for any text.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::OnceLock;

use _rustbpe::encode::{Cache, Encoder};
use _rustbpe::pack::{fill, plan, plan_padded};
use _rustbpe::split::{pieces, PATTERN};
use _rustbpe::train::Counter;
use _rustbpe::vocab::Vocab;
use proptest::prelude::*;

fn oracle(text: &str) -> Vec<&str> {
    static REGEX: OnceLock<fancy_regex::Regex> = OnceLock::new();
    let regex = REGEX.get_or_init(|| fancy_regex::Regex::new(PATTERN).unwrap());
    regex.find_iter(text).map(|found| found.unwrap().as_str()).collect()
}

fn any_text() -> impl Strategy<Value = String> {
    let tricky = prop::sample::select(
        "ab'sſlLvVeErdm12½Ⅷ \t\n\r\u{85}\u{a0}\u{2028}\u{301}.,!?-é東🙂".chars().collect::<Vec<_>>(),
    );
    prop::collection::vec(prop_oneof![4 => tricky, 1 => any::<char>()], 0..60).prop_map(|all| all.into_iter().collect())
}

fn learn(texts: &[String], merges: usize, threads: usize) -> Vec<(u32, u32)> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut counter = Counter::default();
        counter.add(texts);
        counter.merges(merges, |_| true).unwrap()
    })
}

fn encoder() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| {
        let texts: Vec<String> =
            ["the cat sat on the mat, it's 12 days", "aaaa abab abba  \n\n the thé 東京"].map(str::to_owned).to_vec();
        Encoder::new(Vocab::new(learn(&texts, 60, 1)).unwrap())
    })
}

/// Merging as one would write it down: the lowest rank, leftmost first, again and again.
fn slowly(piece: &[u8]) -> Vec<u32> {
    let vocab = encoder().vocab();
    let rank: HashMap<&[u8], u32> = (0u32..).zip(&vocab.bytes).map(|(id, bytes)| (bytes.as_slice(), id)).collect();
    let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
    if let Some(&id) = rank.get(piece) {
        return vec![id];
    }
    loop {
        let best = (0..parts.len().saturating_sub(1))
            .filter_map(|at| {
                rank.get([parts[at].as_slice(), &parts[at + 1]].concat().as_slice()).map(|&rank| (rank, at))
            })
            .min();
        let Some((_, at)) = best else { break };
        let second = parts.remove(at + 1);
        parts[at].extend(second);
    }
    parts.iter().map(|part| rank[part.as_slice()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_scanner_equals_the_pattern(text in any_text()) {
        prop_assert_eq!(pieces(&text).collect::<Vec<_>>(), oracle(&text));
    }

    #[test]
    fn encoding_equals_the_slow_way_and_decodes_to_the_text(text in any_text()) {
        let mut ids = Vec::new();
        encoder().encode(&text, &mut Cache::default(), &mut ids);
        let expected: Vec<u32> = pieces(&text).flat_map(|piece| slowly(piece.as_bytes())).collect();
        prop_assert_eq!(&ids, &expected);
        let mut bytes = Vec::new();
        encoder().decode(&ids, &mut bytes).unwrap();
        prop_assert_eq!(bytes, text.as_bytes());
    }

    #[test]
    fn long_pieces_equal_the_slow_way(text in "[ab]{60,200}") {
        let mut ids = Vec::new();
        encoder().encode(&text, &mut Cache::default(), &mut ids);
        prop_assert_eq!(ids, slowly(text.as_bytes()));
    }

    #[test]
    fn any_number_of_threads_learns_the_same(texts in prop::collection::vec(any_text(), 1..12), threads in 2usize..6) {
        prop_assert_eq!(learn(&texts, 40, 1), learn(&texts, 40, threads));
    }

    #[test]
    fn packing_loses_only_the_tail(lengths in prop::collection::vec(1i64..70, 0..80), row_tokens in 2usize..40) {
        let mut offsets = vec![0i64];
        for length in &lengths {
            offsets.push(offsets.last().unwrap() + length);
        }
        let total = *offsets.last().unwrap() as usize;
        let starts: Vec<usize> = offsets[..lengths.len()].iter().map(|&at| at as usize).collect();
        let ids: Vec<u32> = (0..total).map(|at| if starts.contains(&at) { 0 } else { at as u32 + 1 }).collect();
        let (rows, dropped) = plan(&offsets, row_tokens);
        let filled = fill(&ids, &rows, row_tokens, 0);
        prop_assert_eq!(filled.len(), rows.len() * row_tokens);
        prop_assert!(dropped < row_tokens);
        for row in filled.chunks(row_tokens) {
            prop_assert_eq!(row[0], 0);
        }
        let kept: usize = rows.iter().flatten().map(|piece| piece.length).sum();
        prop_assert_eq!(kept + dropped, total);
        let mut seen: Vec<u32> = filled.into_iter().filter(|&id| id != 0).collect();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), rows.iter().flatten().map(|p| (p.start..p.start + p.length).filter(|&at| ids[at] != 0).count()).sum::<usize>());
    }

    #[test]
    fn padded_rows_hold_every_document_apart(lengths in prop::collection::vec(1i64..50, 0..60), row_tokens in 2usize..40) {
        let (row_of, start_of, rows) = plan_padded(&lengths, row_tokens, 100);
        let mut used = vec![vec![false; row_tokens]; rows];
        for ((&row, &start), &length) in row_of.iter().zip(&start_of).zip(&lengths) {
            for at in start..start + length.min(row_tokens as i64) {
                prop_assert!(!std::mem::replace(&mut used[row as usize][at as usize], true));
            }
        }
        prop_assert!(used.iter().all(|row| row[0]));
    }
}
