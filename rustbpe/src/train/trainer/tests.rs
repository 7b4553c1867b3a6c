//! The trainer finds the merges that a plain implementation finds, which counts all pairs again for each merge.
#![allow(clippy::unwrap_used)]

use super::*;
use std::collections::HashMap;

type Counted = Vec<(Vec<u8>, u64)>;

/// Counts all pairs again for each merge.
fn plain_merges(counted: &Counted, merges: usize) -> Vec<(u32, u32)> {
    let mut words: Vec<(Vec<u32>, u64)> =
        counted.iter().map(|(word, count)| (word.iter().map(|&byte| u32::from(byte)).collect(), *count)).collect();
    let mut merged = Vec::new();
    while merged.len() < merges {
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        for (word, count) in &words {
            for pair in word.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += count;
            }
        }
        let best = counts.into_iter().max_by_key(|&(pair, count)| (count, std::cmp::Reverse(pair)));
        let Some((pair, _)) = best else { break };
        let id = 256 + merged.len() as u32;
        for (word, _) in &mut words {
            *word = replaced(word, pair, id);
        }
        merged.push(pair);
    }
    merged
}

fn replaced(word: &[u32], pair: (u32, u32), id: u32) -> Vec<u32> {
    let (mut new, mut at) = (Vec::new(), 0);
    while at < word.len() {
        let here = word.get(at + 1).is_some_and(|&right| (word[at], right) == pair);
        new.push(if here { id } else { word[at] });
        at += if here { 2 } else { 1 };
    }
    new
}

fn words(counted: &Counted) -> Words {
    let mut words = Words { short: Vec::new(), long: Vec::new() };
    for (word, count) in counted {
        if word.len() < 16 {
            let mut bytes = [0; 16];
            bytes[..word.len()].copy_from_slice(word);
            bytes[15] = word.len() as u8;
            words.short.push((u128::from_le_bytes(bytes), *count));
        } else {
            words.long.push((word.clone().into_boxed_slice(), *count));
        }
    }
    words
}

fn on_threads(threads: usize, counted: &Counted, merges: usize) -> Vec<(u32, u32)> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| train_merges(words(counted), merges, |_| true)).unwrap()
}

/// A pseudo-random generator.
struct Generator(u64);

impl Generator {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn words(&mut self, most: u64, longest: u64, letters: u64, highest: u64) -> Counted {
        let mut counted: HashMap<Vec<u8>, u64> = HashMap::new();
        for _ in 0..self.below(most) {
            let length = 1 + self.below(longest);
            let word = (0..length).map(|_| b'a' + self.below(letters) as u8).collect();
            counted.insert(word, 1 + self.below(highest));
        }
        counted.into_iter().collect()
    }
}

#[test]
fn equals_the_plain_implementation() {
    let mut generator = Generator(7);
    for round in 0..500 {
        let (most, longest) = (1 + generator.below(40), 1 + generator.below(60));
        let (letters, highest) = (1 + generator.below(4), 1 + generator.below(30));
        let counted = generator.words(most, longest, letters, highest);
        let merges = generator.below(120) as usize;
        let expected = plain_merges(&counted, merges);
        assert_eq!(train_merges(words(&counted), merges, |_| true).unwrap(), expected, "round {round}: {counted:?}");
        let wide = Trainer::<AtomicU32>::new(words(&counted), merges).run(merges, |_| true);
        assert_eq!(wide.unwrap(), expected, "round {round}, wide cells: {counted:?}");
    }
}

#[test]
fn threads_and_order_change_nothing() {
    let mut generator = Generator(8);
    for (letters, longest) in [(2, 300), (3, 12), (20, 40)] {
        let mut counted = generator.words(3000, longest, letters, 50);
        let expected = plain_merges(&counted, 60);
        for threads in [1, 2, 3, 8] {
            counted.reverse();
            counted.rotate_left(threads);
            assert_eq!(on_threads(threads, &counted, 60), expected);
        }
    }
}

#[test]
fn one_long_word() {
    for word in [vec![b'a'; 300_000], b"ab".repeat(150_000), b"aab".repeat(100_000)] {
        let counted = vec![(word, 1)];
        assert_eq!(on_threads(4, &counted, 12), plain_merges(&counted, 12));
        assert!(on_threads(4, &counted, usize::MAX).len() > 20);
    }
}

#[test]
fn ends_when_no_pair_is_left() {
    let counted = vec![(b"abc".to_vec(), 1), (b"x".to_vec(), 9)];
    assert_eq!(train_merges(words(&counted), 500_000, |_| true), Some(vec![(97, 98), (256, 99)]));
    assert_eq!(train_merges(words(&counted), 0, |_| true), Some(vec![]));
    assert_eq!(train_merges(words(&vec![]), 10, |_| true), Some(vec![]));
}

#[test]
fn progress_can_stop_it() {
    let counted = Generator(9).words(3000, 15, 26, 3);
    let mut seen = Vec::new();
    let stopped = train_merges(words(&counted), 2000, |done| {
        seen.push(done);
        done < 512
    });
    assert_eq!((stopped, seen), (None, vec![256, 512]));
}

#[test]
fn ids_above_16_bits() {
    let counted = Generator(10).words(60_000, 15, 26, 2);
    let merged = train_merges(words(&counted), 70_000, |_| true).unwrap();
    assert_eq!(merged.len(), 70_000);
    assert_eq!(merged[..65_000], train_merges(words(&counted), 65_000, |_| true).unwrap());
}
