//! Properties that hold for any text.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::OnceLock;

use _rustbpe::encode::{EncodeError, Encoder, SliceSink};
use _rustbpe::pack::{arrange, copy_segments, pack_padded};
use _rustbpe::split::patterns::{GPT2, NAMED, NANOCHAT};
use _rustbpe::split::{SimdLevel, Splitter};
use _rustbpe::train::Counter;
use _rustbpe::vocab::Vocab;
use proptest::prelude::*;

/// Characters of each class and length, and those of contractions and newline rules.
const TRICKY: &str =
    "abzABZ'sſSdmtlLvVeErR019²½Ⅷ৩ \t\n\r\u{b}\u{85}\u{a0}\u{2028}\u{3000}\u{301}\u{903}.,!/-×÷éÉǅʰяЯ東あ한—“🙂\0";

fn any_text() -> impl Strategy<Value = String> {
    let tricky = || prop::sample::select(TRICKY.chars().collect::<Vec<_>>());
    let run = (tricky(), 1usize..140).prop_map(|(character, count)| character.to_string().repeat(count));
    let some = prop_oneof![
        12 => tricky().prop_map(String::from),
        4 => "(['’](s|S|t|ll|LL|lL|ve|Re|d|m|ſ|x))|( [a-z]{1,9})|([A-Z][a-z]{0,4})|(\r?\n)| {1,3}|[0-9]{1,5}",
        1 => any::<char>().prop_map(String::from),
        1 => run,
    ];
    let ascii = "('(s|S|t|ll|LL|lL|ve|Re|d|m|l|x)|[a-zA-Z]{1,4}|[ \t]{1,2}|\r?\n|/|[.,!'][/\n]{0,3}|[0-9]{1,4}){0,60}";
    prop_oneof![prop::collection::vec(some, 0..90).prop_map(|parts| parts.concat()), ascii]
}

fn split_by_regex<'a>(pattern: &str, text: &'a str) -> Vec<&'a str> {
    static REGEXES: OnceLock<HashMap<&str, fancy_regex::Regex>> = OnceLock::new();
    let regexes = REGEXES.get_or_init(|| {
        NAMED.iter().map(|&(_, pattern)| (pattern, fancy_regex::Regex::new(pattern).unwrap())).collect()
    });
    regexes[pattern].find_iter(text).map(|found| found.unwrap().as_str()).collect()
}

fn splitter(pattern: &str, level: SimdLevel) -> Splitter {
    Splitter::new(pattern).unwrap().with_level(level)
}

fn train(batches: &[Vec<String>], merges: usize, threads: usize) -> Vec<(u32, u32)> {
    let counter = Counter::new(Splitter::new(NANOCHAT).unwrap(), threads);
    for batch in batches {
        counter.add(batch).unwrap();
    }
    counter.train(merges, |_| true).unwrap().unwrap()
}

/// A plain trainer: the highest count, then the smallest pair; counts all pairs again for each merge.
fn train_plainly(texts: &[String], merges: usize) -> Vec<(u32, u32)> {
    let splitter = Splitter::new(NANOCHAT).unwrap();
    let mut words: Vec<Vec<u32>> = texts
        .iter()
        .flat_map(|text| splitter.pieces(text).unwrap())
        .map(|piece| piece.bytes().map(u32::from).collect())
        .collect();
    let mut merged = Vec::new();
    while merged.len() < merges {
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        words.iter().flat_map(|word| word.windows(2)).for_each(|two| *counts.entry((two[0], two[1])).or_default() += 1);
        let Some((pair, _)) = counts.into_iter().max_by_key(|&(pair, count)| (count, std::cmp::Reverse(pair))) else {
            break;
        };
        let id = 256 + merged.len() as u32;
        for word in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == pair {
                    word.splice(at..at + 2, [id]);
                }
                at += 1;
            }
        }
        merged.push(pair);
    }
    merged
}

fn sample() -> Vec<String> {
    let words =
        ["the cat sat on the mat, it's 12 days", "aaaa abab abba  \n\n the thé 東京東京 aaaaaaaaaaaaaaaa abababab"];
    words.map(str::to_owned).to_vec()
}

fn encoder() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| {
        let vocab = Vocab::from_merges(&train(&[sample()], 80, 1)).unwrap();
        Encoder::new(Splitter::new(NANOCHAT).unwrap(), vocab, None, true).unwrap()
    })
}

/// A plain encoder: merges the pair with the lowest rank, the leftmost first, until none is left.
fn merge_plainly(piece: &[u8]) -> Vec<u32> {
    let rank: HashMap<&[u8], u32> = encoder().vocab().tokens().map(|(id, bytes)| (bytes, id)).collect();
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

fn plain_ids(text: &str) -> Vec<u32> {
    encoder().splitter().pieces(text).unwrap().iter().flat_map(|piece| merge_plainly(piece.as_bytes())).collect()
}

#[test]
fn any_other_pattern_keeps_all_text() {
    let splitter = Splitter::new("[a-z]+|b*").unwrap();
    assert!(!splitter.is_fast());
    assert_eq!(splitter.pieces("ab  cd!é12ef").unwrap(), ["ab", "  ", "cd", "!é12", "ef"]);
    assert!(Splitter::new("(").is_err());
}

#[test]
fn a_failing_regex_engine_is_an_error() {
    let splitter = Splitter::new(r"(?:\s|\s\s)*x(?!y)|\s+(?!\S)y?").unwrap();
    let encoder = Encoder::new(splitter, encoder().vocab().clone(), None, true).unwrap();
    assert!(matches!(encoder.encode(&" ".repeat(10_000)), Err(EncodeError::Split(_))));
}

#[test]
fn lists_of_merges_apply_in_their_order() {
    let mut tokens: Vec<Option<Vec<u8>>> = (0..=255u8).rev().map(|byte| Some(vec![byte])).collect();
    let id = |byte: u8| u32::from(255 - byte);
    tokens.extend([None, Some(b"ab".to_vec()), Some(b"bc".to_vec()), Some(b"abc".to_vec())]);
    let merges = [(id(b'b'), id(b'c')), (id(b'a'), id(b'b'))];
    let made = |merges: &[(u32, u32)], whole| {
        let vocab = Vocab::from_tokens(&tokens).unwrap();
        Encoder::new(Splitter::new(GPT2).unwrap(), vocab, Some(merges.to_vec()), whole)
    };
    assert_eq!(made(&merges, false).unwrap().encode("abc").unwrap(), [id(b'a'), 258]);
    assert_eq!(made(&merges, true).unwrap().encode("abc").unwrap(), [259]);
    assert_eq!(made(&[merges[1], merges[0]], false).unwrap().encode("abc").unwrap(), [257, id(b'c')]);
    assert!(made(&[(256, 0)], false).is_err());
    assert!(Vocab::from_tokens(&tokens[1..]).is_err());
}

#[test]
fn long_texts_are_encoded_in_parts() {
    let long: String = (0..90_000).map(|number| format!("the cat{} sat {number}\n", number % 7)).collect();
    let texts = [long.as_str(), "", "the", long.as_str(), "12"];
    let (mut alone, mut together): (Vec<u16>, Vec<u16>) = (Vec::new(), Vec::new());
    let offsets = encoder().encode_batch(&texts, 1, (Some(7), Some(8)), &mut alone).unwrap();
    assert_eq!(encoder().encode_batch(&texts, 3, (Some(7), Some(8)), &mut together).unwrap(), offsets);
    assert_eq!(alone, together);
    let first = encoder().encode(&long).unwrap();
    assert!(alone[1..].iter().zip(&first).all(|(&short, &id)| u32::from(short) == id));
    assert_eq!(&alone[offsets[1] as usize..offsets[2] as usize], [7, 8]);
    let mut room = vec![0u32; alone.len()];
    encoder().encode_batch(&texts, 2, (Some(7), Some(8)), &mut SliceSink::new(&mut room)).unwrap();
    assert!(alone.iter().zip(&room).all(|(&short, &wide)| u32::from(short) == wide));
    let full = encoder().encode_batch(&texts, 2, (None, None), &mut SliceSink::new(&mut room[..100]));
    assert!(matches!(full, Err(EncodeError::BufferFull { room: 100 })));
}

#[test]
fn full_caches_stay_correct() {
    // more words than the smallest table holds, then the first ones again
    let words: String =
        (0..60_000u32).map(|number| format!(" {:x}ab{}", number.wrapping_mul(2_654_435_761), number % 3)).collect();
    let cold = encoder().encode(&words).unwrap();
    assert_eq!(encoder().encode(&words).unwrap(), cold);
    encoder().clear_caches();
    assert_eq!(encoder().encode(&words).unwrap(), cold);
    assert_eq!(encoder().encode(&words[..2000]).unwrap(), plain_ids(&words[..2000]));
}

#[test]
fn merging_is_the_same_on_both_sides_of_each_length_limit() {
    let mut state = 1u32;
    let mut letters = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b"abct"[(state >> 30) as usize])
    };
    for length in [15, 16, 17, 31, 33, 63, 64, 65, 95, 96, 97, 1023, 1024, 1025] {
        let piece: String = (0..length).map(|_| letters()).collect();
        assert_eq!(encoder().encode(&piece).unwrap(), merge_plainly(piece.as_bytes()), "{length} bytes");
    }
}

#[test]
fn a_run_of_one_character_takes_linear_time() {
    for run in ["a", " ", "é", "!", "\n"] {
        let text = run.repeat(1_000_000);
        let mut bytes = Vec::new();
        encoder().vocab().decode(&encoder().encode(&text).unwrap(), &mut bytes).unwrap();
        assert_eq!(bytes, text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_scanner_equals_its_pattern(text in any_text(), before in 0usize..70) {
        // the letters before it move the text to every position of a block
        for text in [text.clone(), "x".repeat(before) + &text] {
            for (name, pattern) in NAMED {
                let expected = split_by_regex(pattern, &text);
                for level in SimdLevel::available() {
                    prop_assert_eq!(&splitter(pattern, level).pieces(&text).unwrap(), &expected, "{} {:?}", name, level);
                }
            }
        }
    }

    #[test]
    fn encoding_equals_the_plain_encoder_and_decodes_to_the_text(text in any_text()) {
        let ids = encoder().encode(&text).unwrap();
        prop_assert_eq!(&ids, &plain_ids(&text));
        let mut bytes = Vec::new();
        encoder().vocab().decode(&ids, &mut bytes).unwrap();
        prop_assert_eq!(bytes, text.as_bytes());
    }

    #[test]
    fn pieces_of_all_lengths_equal_the_plain_encoder(text in "[ab]{1,150}") {
        prop_assert_eq!(encoder().encode(&text).unwrap(), merge_plainly(text.as_bytes()));
    }

    #[test]
    fn training_equals_the_plain_trainer(texts in prop::collection::vec(any_text(), 1..6), threads in 1usize..5, cut in 0usize..6) {
        let (some, others) = texts.split_at(cut.min(texts.len()));
        prop_assert_eq!(train(&[some.to_vec(), others.to_vec()], 30, threads), train_plainly(&texts, 30));
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
        let (segments, dropped) = arrange(&offsets, row_tokens);
        let filled = copy_segments(&ids, &segments, 0);
        prop_assert_eq!(filled.len() % row_tokens, 0);
        prop_assert!(dropped < row_tokens);
        for row in filled.chunks(row_tokens) {
            prop_assert_eq!(row[0], 0);
        }
        let kept: usize = segments.iter().map(|segment| segment.length).sum();
        prop_assert_eq!(kept + dropped, total);
        let mut seen: Vec<u32> = filled.into_iter().filter(|&id| id != 0).collect();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), segments.iter().map(|s| (s.start..s.start + s.length).filter(|&at| ids[at] != 0).count()).sum::<usize>());
    }

    #[test]
    fn padded_rows_hold_every_document_apart(lengths in prop::collection::vec(1i64..50, 0..60), row_tokens in 2usize..40) {
        let (row_of, start_of, rows) = pack_padded(&lengths, row_tokens, 100);
        let mut used = vec![vec![false; row_tokens]; rows];
        for ((&row, &start), &length) in row_of.iter().zip(&start_of).zip(&lengths) {
            for at in start..start + length.min(row_tokens as i64) {
                prop_assert!(!std::mem::replace(&mut used[row as usize][at as usize], true));
            }
        }
        prop_assert!(used.iter().all(|row| row[0]));
    }
}
