//! Pieces → ids, and back.
//!
//! A piece that is a token as a whole is that token; else the pair of neighbours with the lowest rank is merged, the
//! leftmost of equal ones, until none is left. Short pieces are scanned, long ones kept in a heap, so that a run of a
//! million characters is not quadratic.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::split::pieces;
use crate::train::FxMap;
use crate::vocab::Vocab;

const LONG_PIECE_BYTES: usize = 64;
const CACHED_PIECES: usize = 1 << 16;
const NONE: u32 = u32::MAX;

/// Encodes with one vocabulary; threads may share it.
pub struct Encoder {
    vocab: Vocab,
    whole: FxMap<Vec<u8>, u32>,
    pairs: FxMap<(u32, u32), u32>,
}

/// What a thread remembers: pieces it has encoded before. Bounded.
#[derive(Default)]
pub struct Cache(FxMap<Vec<u8>, Vec<u32>>);

impl Encoder {
    /// Of a vocabulary whose ids are their ranks.
    pub fn new(vocab: Vocab) -> Encoder {
        let whole: FxMap<Vec<u8>, u32> = (0u32..).zip(&vocab.bytes).map(|(id, bytes)| (bytes.clone(), id)).collect();
        // every pair of ids whose joined bytes are a token merges to it, whichever way that token was learnt
        let mut pairs: FxMap<(u32, u32), u32> = FxMap::default();
        for (bytes, &id) in &whole {
            for cut in 1..bytes.len() {
                if let (Some(&left), Some(&right)) = (whole.get(&bytes[..cut]), whole.get(&bytes[cut..])) {
                    pairs.insert((left, right), id);
                }
            }
        }
        Encoder { vocab, whole, pairs }
    }

    /// The vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Appends the ids of a text.
    pub fn encode(&self, text: &str, cache: &mut Cache, ids: &mut Vec<u32>) {
        for piece in pieces(text) {
            self.piece(piece.as_bytes(), cache, ids);
        }
    }

    fn piece(&self, piece: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        if let Some(&id) = self.whole.get(piece) {
            ids.push(id);
        } else if piece.len() > LONG_PIECE_BYTES {
            self.long(piece, ids);
        } else if let Some(known) = cache.0.get(piece) {
            ids.extend_from_slice(known);
        } else {
            let start = ids.len();
            self.short(piece, ids);
            if cache.0.len() >= CACHED_PIECES {
                cache.0.clear();
            }
            cache.0.insert(piece.to_vec(), ids[start..].to_vec());
        }
    }

    fn rank(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(&(left, right)).copied().unwrap_or(NONE)
    }

    fn short(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let mut parts = [0u32; LONG_PIECE_BYTES];
        let mut ranks = [NONE; LONG_PIECE_BYTES];
        let mut length = piece.len();
        for (part, &byte) in parts.iter_mut().zip(piece) {
            *part = u32::from(byte);
        }
        for at in 0..length - 1 {
            ranks[at] = self.rank(parts[at], parts[at + 1]);
        }
        loop {
            let (mut best, mut at) = (NONE, 0);
            for (here, &rank) in ranks[..length - 1].iter().enumerate() {
                if rank < best {
                    (best, at) = (rank, here);
                }
            }
            if best == NONE {
                break;
            }
            parts[at] = best;
            parts.copy_within(at + 2..length, at + 1);
            ranks.copy_within(at + 1..length, at);
            length -= 1;
            ranks[length - 1] = NONE;
            if at + 1 < length {
                ranks[at] = self.rank(best, parts[at + 1]);
            }
            if at > 0 {
                ranks[at - 1] = self.rank(parts[at - 1], best);
            }
            if length == 1 {
                break;
            }
        }
        ids.extend_from_slice(&parts[..length]);
    }

    /// n log n: a doubly linked list of parts, and a heap of (rank, position) in which stale entries are passed over.
    fn long(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let n = piece.len();
        let mut parts: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|at| at.wrapping_sub(1)).collect();
        let mut heap: BinaryHeap<Reverse<(u32, usize, u32, u32)>> = BinaryHeap::with_capacity(n);
        let candidate = |parts: &[u32], left: usize, right: usize| {
            let rank = self.rank(parts[left], parts[right]);
            (rank != NONE).then(|| Reverse((rank, left, parts[left], parts[right])))
        };
        heap.extend((0..n - 1).filter_map(|at| candidate(&parts, at, at + 1)));
        while let Some(Reverse((rank, at, left, right))) = heap.pop() {
            let follower = next[at];
            if follower >= n || parts[at] != left || parts[follower] != right {
                continue;
            }
            parts[at] = rank;
            parts[follower] = NONE;
            let after = next[follower];
            next[at] = after;
            if after < n {
                before[after] = at;
                heap.extend(candidate(&parts, at, after));
            }
            if before[at] < n {
                heap.extend(candidate(&parts, before[at], at));
            }
        }
        let mut at = 0;
        while at < n {
            ids.push(parts[at]);
            at = next[at];
        }
    }

    /// Appends the bytes of ids; an unknown id fails with its value.
    pub fn decode(&self, ids: &[u32], bytes: &mut Vec<u8>) -> Result<(), u32> {
        for &id in ids {
            bytes.extend_from_slice(self.vocab.bytes.get(id as usize).ok_or(id)?);
        }
        Ok(())
    }

    /// Encodes texts on the threads of the current rayon pool: all ids in a row, and where each text begins and ends.
    ///
    /// `before` and `after` are put around every text.
    pub fn batch<T: AsRef<str> + Sync, Id: Copy + Send + TryFrom<u32>>(
        &self,
        texts: &[T],
        before: Option<u32>,
        after: Option<u32>,
    ) -> (Vec<Id>, Vec<i64>) {
        let narrow = |id: u32| Id::try_from(id).ok();
        let chunk = texts.len().div_ceil(4 * rayon::current_num_threads().max(1)).max(1);
        let parts: Vec<(Vec<Id>, Vec<i64>)> = texts
            .par_chunks(chunk)
            .map_init(Cache::default, |cache, some| {
                let (mut found, mut lengths, mut ids) = (Vec::new(), Vec::with_capacity(some.len()), Vec::new());
                for text in some {
                    ids.clear();
                    ids.extend(before);
                    self.encode(text.as_ref(), cache, &mut ids);
                    ids.extend(after);
                    lengths.push(i64::try_from(ids.len()).unwrap_or(i64::MAX));
                    found.extend(ids.iter().filter_map(|&id| narrow(id)));
                }
                (found, lengths)
            })
            .collect();
        let mut ids = Vec::with_capacity(parts.iter().map(|part| part.0.len()).sum());
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        let mut end = 0;
        offsets.push(end);
        for (found, lengths) in parts {
            ids.extend_from_slice(&found);
            for length in lengths {
                end += length;
                offsets.push(end);
            }
        }
        (ids, offsets)
    }
}
