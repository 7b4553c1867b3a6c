//! Speed of the crate's parts in MB/s, and ratios to the scalar scanner: `cargo bench`. The text is generated, or read
//! from the file in the environment variable TEXT (documents separated by NUL).
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use _rustbpe::encode::Encoder;
use _rustbpe::split::patterns::{NAMED, NANOCHAT};
use _rustbpe::split::{PieceEnds, SimdLevel, Splitter};
use _rustbpe::train::Counter;
use _rustbpe::vocab::Vocab;

const ROUNDS: usize = 5;

fn main() {
    let text = std::env::var("TEXT").map_or_else(|_| generated_text(), |path| std::fs::read_to_string(path).unwrap());
    let texts: Vec<&str> = text.split('\0').collect();
    let megabytes = text.len() as f64 / 1e6;
    println!("{megabytes:.0} MB in {} texts; medians of {ROUNDS} rounds", texts.len());

    for (name, pattern) in NAMED {
        let splitters: Vec<Splitter> =
            SimdLevel::available().into_iter().map(|level| Splitter::new(pattern).unwrap().with_level(level)).collect();
        let mut seconds = vec![Vec::new(); splitters.len()];
        for _ in 0..ROUNDS {
            for (splitter, seconds) in splitters.iter().zip(&mut seconds) {
                seconds.push(timed(|| scan(splitter, &texts)));
            }
        }
        let medians: Vec<f64> = seconds.into_iter().map(median).collect();
        for (level, seconds) in SimdLevel::available().iter().zip(&medians) {
            let ratio = medians[0] / seconds;
            println!("scan {name:9} {:9} {:6.0} MB/s  {ratio:5.1}x", level.name(), megabytes / seconds);
        }
    }

    let train = |threads| {
        let counter = Counter::new(Splitter::new(NANOCHAT).unwrap(), threads);
        counter.add(&texts).unwrap();
        counter.train(32_768 - 256, |_| true).unwrap().unwrap()
    };
    for threads in [1, 2] {
        let seconds = median((0..ROUNDS).map(|_| timed(|| train(threads))).collect());
        println!("train 32,768 ids, {threads} threads   {:6.0} MB/s", megabytes / seconds);
    }

    let vocab = Vocab::from_merges(&train(0)).unwrap();
    let encoder = Encoder::new(Splitter::new(NANOCHAT).unwrap(), vocab, None, true).unwrap();
    let mut ids: Vec<u16> = Vec::with_capacity(text.len());
    for threads in [1, 2] {
        for (name, cold) in [("cold", true), ("warm", false)] {
            let rounds = (0..ROUNDS).map(|_| {
                if cold {
                    encoder.clear_caches();
                }
                ids.clear();
                timed(|| encoder.encode_batch(&texts, threads, (None, None), &mut ids).unwrap())
            });
            println!("encode, {name}, {threads} threads       {:6.0} MB/s", megabytes / median(rounds.collect()));
        }
    }
}

fn scan(splitter: &Splitter, texts: &[&str]) -> usize {
    let (mut ends, mut pieces) = (PieceEnds::default(), 0);
    for text in texts {
        let mut start = 0;
        while start < text.len() {
            splitter.next(text, start, &mut ends).unwrap();
            pieces += ends.as_slice().len();
            start = *ends.as_slice().last().unwrap();
        }
    }
    pieces
}

fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let begun = Instant::now();
    std::hint::black_box(work());
    begun.elapsed().as_secs_f64()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// 16 MB of words, the longer the rarer, with numbers, punctuation, and some words in other scripts.
fn generated_text() -> String {
    let mut state = 1u64;
    let mut below = |end: f64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f64 / (1u64 << 31) as f64 * end) as usize
    };
    let syllables = ["an", "be", "co", "da", "el", "fi", "go", "hu", "in", "jo", "ki", "lu", "mé", "no", "ör", "pa"];
    let words: Vec<String> = (0..60_000)
        .map(|rank: usize| (0..1 + (rank + 1).ilog2().div_ceil(4) as usize).map(|_| syllables[below(16.0)]).collect())
        .collect();
    let mut text = String::new();
    while text.len() < 16 << 20 {
        for _ in 0..8 + below(12.0) {
            let rank = 60_000f64.powf(below(1e6) as f64 / 1e6) as usize;
            match below(40.0) {
                0 => text += &below(3000.0).to_string(),
                1 => text += ["東京", "мир", "—", "don't", "«é»", "🙂"][below(6.0)],
                _ => text += &words[rank.min(59_999)],
            }
            text += if below(12.0) == 0 { ", " } else { " " };
        }
        text += [".\n", ". ", "!\n\n", ".\0"][below(4.0)];
    }
    text
}
