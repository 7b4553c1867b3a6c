//! The ids of any text decode to the text, and equal those of a plain encoder.
#![no_main]

use std::collections::HashMap;

use _rustbpe::encode::Encoder;
use _rustbpe::split::{patterns::NANOCHAT, Splitter};
use _rustbpe::train::Counter;
use _rustbpe::vocab::Vocab;
use libfuzzer_sys::fuzz_target;

fn merge_plainly(vocab: &Vocab, piece: &[u8]) -> Vec<u32> {
    let rank: HashMap<&[u8], u32> = vocab.tokens().map(|(id, bytes)| (bytes, id)).collect();
    if let Some(&id) = rank.get(piece) {
        return vec![id];
    }
    let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
    loop {
        let joined = |at: usize| [parts[at].as_slice(), &parts[at + 1]].concat();
        let best = (1..parts.len()).filter_map(|at| Some((*rank.get(joined(at - 1).as_slice())?, at - 1))).min();
        let Some((_, at)) = best else { break };
        let second = parts.remove(at + 1);
        parts[at].extend(second);
    }
    parts.iter().map(|part| rank[part.as_slice()]).collect()
}

// trains a vocabulary on the first half, and encodes the whole text
fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let half = (0..=text.len() / 2).rev().find(|&at| text.is_char_boundary(at)).unwrap();
    let counter = Counter::new(Splitter::new(NANOCHAT).unwrap(), 1);
    counter.add(&[&text[..half]]).unwrap();
    let merges = counter.train(60, |_| true).unwrap().unwrap();
    let vocab = Vocab::from_merges(&merges).unwrap();
    let encoder = Encoder::new(Splitter::new(NANOCHAT).unwrap(), vocab, None, true).unwrap();
    let ids = encoder.encode(&text).unwrap();
    let mut decoded = Vec::new();
    encoder.vocab().decode(&ids, &mut decoded).unwrap();
    assert_eq!(decoded, text.as_bytes());
    let pieces = encoder.splitter().pieces(&text).unwrap();
    let expected: Vec<u32> = pieces.iter().flat_map(|piece| merge_plainly(encoder.vocab(), piece.as_bytes())).collect();
    assert_eq!(ids, expected);
});
