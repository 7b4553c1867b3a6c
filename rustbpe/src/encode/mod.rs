//! Texts → ids.
//!
//! Pieces are cut, and looked up in what the thread remembers, a few hundred at a time, so that the memory is asked for
//! all of them before the first is needed. What is not remembered is merged, and remembered.

#[cfg(feature = "parquet")]
mod batches;
mod cache;
mod derive;
mod halves;
mod id;
mod long;
mod merge;
mod merge_long;
mod rules;
mod sink;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::hash::Map;
use crate::key::KEY_BYTES;
use crate::parts::{in_order, parts, threads_or_all, Part, There};
use crate::split::{Ends, Splitter, MOST_ENDS};
use crate::text::Text;
use crate::vocab::Vocab;
#[cfg(feature = "parquet")]
pub use batches::{Batch, ColumnError};
use cache::{Cache, Gathered, Missing, Wanted};
pub use derive::derived;
use derive::each_token;
use halves::Halves;
use id::Id;
use long::LongPieces;
use merge::{merge, Merged};
pub use rules::Rules;
pub use sink::{Buffer, EncodeError, Sink};

/// Encodes with one vocabulary; threads may share it.
pub struct Encoder {
    splitter: Splitter,
    vocab: Vocab,
    rules: Rules,
    /// Tokens that their own rules do not make.
    unmade: Map<Box<[u8]>, u32>,
    /// A piece that is one of them is it, all the same.
    whole: bool,
    narrow: Idle<u16>,
    wide: Idle<u32>,
}

/// Workers that wait for their next text, with what they remember.
type Idle<I> = Mutex<Vec<Box<Worker<I>>>>;

/// A thread's own: what it remembers, and its notes on the pieces at hand.
pub struct Worker<I: Id> {
    cache: Cache<I>,
    long: LongPieces<I>,
    ends: Ends,
    wanted: Box<[Wanted; MOST_ENDS]>,
    gathered: Gathered<I>,
    /// The pieces that are not remembered.
    misses: Vec<Miss>,
    /// What became of each of them.
    found: Vec<Found>,
    /// Pieces to be merged.
    unknown: Vec<Range<usize>>,
    merged: Merged,
    /// Ids of pieces that were known, though not by a key.
    known: Vec<I>,
}

/// A piece that is not remembered by a key.
struct Miss {
    piece: Range<usize>,
    halves: Halves,
    /// Of a long piece.
    hash: u32,
    /// Where its ids belong, among the remembered ones.
    at: usize,
}

enum Found {
    /// By merging: the number of the unknown piece.
    Merged(usize),
    /// Among the known ids.
    Known(Range<usize>),
}

/// The ids of a part.
#[derive(Default)]
struct Encoded<I> {
    /// Room for ids; the first `count` are some.
    ids: Vec<I>,
    count: usize,
    /// Where texts end, among these ids.
    text_ends: Vec<usize>,
}

/// Ids that an encoder can write: those it keeps workers for.
pub trait Output: Id {
    #[doc(hidden)]
    fn idle(encoder: &Encoder) -> &Idle<Self>;
}

impl Output for u16 {
    fn idle(encoder: &Encoder) -> &Idle<u16> {
        &encoder.narrow
    }
}

impl Output for u32 {
    fn idle(encoder: &Encoder) -> &Idle<u32> {
        &encoder.wide
    }
}

/// As many ids as texts hardly have more of, one before and one after each among them. What is not needed of memory for
/// so many is never touched; to make room for more takes longer than to encode.
pub fn likely_ids<T: Text>(texts: &[T]) -> usize {
    texts.iter().map(|text| text.bytes().len() / 2 + 2).sum()
}

impl Encoder {
    /// Of a vocabulary and its rules. `whole`: a piece that is a token is that token, whatever the rules make of it.
    pub fn new(splitter: Splitter, vocab: Vocab, rules: Rules, whole: bool) -> Encoder {
        let unmade = each_token(&vocab, |bytes, id| (merge(&rules, bytes) != [id]).then(|| (bytes.into(), id)));
        let unmade = unmade.into_iter().collect();
        Encoder { splitter, vocab, rules, unmade, whole, narrow: Mutex::default(), wide: Mutex::default() }
    }

    /// The vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// How texts are cut.
    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// Whether a piece that is a token is that token, whatever the rules make of it.
    pub fn whole(&self) -> bool {
        self.whole
    }

    /// Whether u16 holds every id.
    pub fn is_narrow(&self) -> bool {
        self.vocab.len() <= 1 << 16
    }

    /// Ids of a text.
    ///
    /// # Errors
    /// The regex engine of a slow pattern gave up.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        if !self.is_narrow() {
            let mut ids: Vec<u32> = Vec::new();
            self.encode_batch(&[text], 1, None, None, &mut ids)?;
            return Ok(ids);
        }
        let mut ids: Vec<u16> = Vec::new();
        self.encode_batch(&[text], 1, None, None, &mut ids)?;
        Ok(ids.into_iter().map(u32::from).collect())
    }

    /// Ids of all texts, in order, to a sink; returns where each text begins, and where the last one ends. `before` and
    /// `after` are ids put around every text.
    ///
    /// # Errors
    /// The regex engine of a slow pattern gave up, or the sink is full.
    pub fn encode_batch<I: Output, T: Text, S: Sink<I> + Send>(
        &self,
        texts: &[T],
        threads: usize,
        before: Option<u32>,
        after: Option<u32>,
        sink: &mut S,
    ) -> Result<Vec<i64>, EncodeError> {
        let mut offsets: Vec<i64> = Vec::with_capacity(texts.len() + 1);
        let mut end = 0;
        offsets.push(0);
        let parts = parts(texts, &self.splitter);
        in_order(
            &There::new(&parts),
            threads_or_all(threads).min(parts.len()),
            || self.worker::<I>(),
            |worker, part, encoded| worker.encode(self, texts, part, (before, after), encoded),
            |encoded: &mut Encoded<I>| {
                sink.take(&encoded.ids[..encoded.count])?;
                offsets.extend(encoded.text_ends.iter().map(|&text_end| (end + text_end) as i64));
                end += encoded.count;
                Ok(())
            },
            |worker| self.retire(worker),
        )?;
        Ok(offsets)
    }

    /// Forgets what was met: the next text meets empty caches.
    pub fn forget(&self) {
        self.narrow.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.wide.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn worker<I: Output>(&self) -> Box<Worker<I>> {
        let waiting = I::idle(self).lock().unwrap_or_else(PoisonError::into_inner).pop();
        waiting.unwrap_or_else(|| Box::new(Worker::new(self)))
    }

    fn retire<I: Output>(&self, worker: Box<Worker<I>>) {
        I::idle(self).lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }
}

impl<I: Id> Worker<I> {
    fn new(encoder: &Encoder) -> Worker<I> {
        let mut cache = Cache::with_room(encoder.vocab.len());
        for (id, bytes) in encoder.vocab.tokens().filter(|(_, bytes)| bytes.len() <= KEY_BYTES) {
            if encoder.whole || !encoder.unmade.contains_key(bytes) {
                cache.insert(bytes, &[id]);
            }
        }
        Worker {
            cache,
            long: LongPieces::default(),
            ends: Ends::default(),
            wanted: Box::new([Wanted::default(); MOST_ENDS]),
            gathered: Gathered::default(),
            misses: Vec::new(),
            found: Vec::new(),
            unknown: Vec::new(),
            merged: Merged::default(),
            known: Vec::new(),
        }
    }

    /// Ids of a part, in the place of what is there.
    fn encode<T: Text>(
        &mut self,
        encoder: &Encoder,
        texts: &[T],
        part: &Part,
        (before, after): (Option<u32>, Option<u32>),
        encoded: &mut Encoded<I>,
    ) -> Result<(), EncodeError> {
        encoded.count = 0;
        encoded.text_ends.clear();
        match part {
            Part::Texts(range) => {
                for text in &texts[range.clone()] {
                    encoded.push(before);
                    self.encode_text(encoder, &text.stretch(0..text.bytes().len()), encoded)?;
                    encoded.push(after);
                    encoded.text_ends.push(encoded.count);
                }
            }
            Part::Stretch(index, bytes) => {
                let text = &texts[*index];
                if bytes.start == 0 {
                    encoded.push(before);
                }
                self.encode_text(encoder, &text.stretch(bytes.clone()), encoded)?;
                if bytes.end == text.bytes().len() {
                    encoded.push(after);
                    encoded.text_ends.push(encoded.count);
                }
            }
        }
        Ok(())
    }

    fn encode_text(&mut self, encoder: &Encoder, text: &str, encoded: &mut Encoded<I>) -> Result<(), EncodeError> {
        let mut start = 0;
        while start < text.len() {
            encoder.splitter.next(text, start, &mut self.ends)?;
            let remembered = self.gather(text.as_bytes(), start);
            self.find_missing(encoder, text.as_bytes());
            self.write(remembered, encoded);
            self.remember(text.as_bytes());
            start = self.ends.as_slice().last().copied().unwrap_or(text.len());
        }
        Ok(())
    }

    /// Gathers the ids of what is remembered, and notes what is not; says how many ids. The memory is asked for all of
    /// it before the first is needed.
    #[allow(unsafe_code)]
    fn gather(&mut self, text: &[u8], start: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("lzcnt") {
            // SAFETY: the processor has them
            return unsafe { self.gather_avx2(text, start) };
        }
        // SAFETY: no instructions are asked for
        unsafe { self.gather_with::<false>(text, start) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi2,lzcnt")]
    #[allow(unsafe_code)]
    fn gather_avx2(&mut self, text: &[u8], start: usize) -> usize {
        // SAFETY: this function is compiled for, and only called with, these instructions
        unsafe { self.gather_with::<true>(text, start) }
    }

    /// # Safety
    /// `AVX2` needs a processor that has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn gather_with<const AVX2: bool>(&mut self, text: &[u8], start: usize) -> usize {
        let ends = self.ends.as_slice();
        let Some(wanted) = self.wanted.get_mut(..ends.len()) else { return 0 };
        // SAFETY: a splitter finds ends in order, inside the text; the rest as the caller vouches
        let (ids, missing) = unsafe {
            self.cache.prepare::<AVX2>(text, start, ends, wanted);
            self.cache.gather::<AVX2>(wanted, &mut self.gathered)
        };
        self.misses.clear();
        for &Missing { piece, at } in &self.gathered.missing[..missing] {
            let (number, at) = (piece as usize, at as usize);
            let piece = number.checked_sub(1).map_or(start, |before| ends[before])..ends[number];
            let (mut hash, halves) = (0, wanted[number].halves);
            match piece.len() {
                ..8 => self.cache.prepare_wide(halves),
                8..=KEY_BYTES => {}
                _ => hash = self.long.prepare(&text[piece.clone()]),
            }
            self.misses.push(Miss { piece, halves, hash, at });
        }
        ids
    }

    fn find_missing(&mut self, encoder: &Encoder, text: &[u8]) {
        self.unknown.clear();
        self.known.clear();
        self.found.clear();
        for miss in self.misses.iter().filter(|miss| miss.piece.len() > KEY_BYTES) {
            self.long.approach(miss.hash);
        }
        for miss in &self.misses {
            let bytes = &text[miss.piece.clone()];
            let before = self.known.len();
            if encoder.whole && !encoder.unmade.is_empty() {
                self.known.extend(encoder.unmade.get(bytes).map(|&id| I::from_u32(id)));
            }
            if before == self.known.len() {
                if bytes.len() > KEY_BYTES {
                    self.known.extend_from_slice(self.long.get(bytes, miss.hash).unwrap_or_default());
                } else if bytes.len() < 8 {
                    if let Some((ids, inline)) = self.cache.get_wide(miss.halves) {
                        self.known.extend_from_slice(&inline.as_ref()[..ids]);
                    }
                }
            }
            self.found.push(if before < self.known.len() {
                Found::Known(before..self.known.len())
            } else {
                self.unknown.push(miss.piece.clone());
                Found::Merged(self.unknown.len() - 1)
            });
        }
        if !self.unknown.is_empty() {
            self.merged.merge(&encoder.rules, text, &self.unknown);
        }
    }

    #[inline(always)]
    fn write(&self, remembered: usize, encoded: &mut Encoded<I>) {
        let mut at = 0;
        for (miss, found) in self.misses.iter().zip(&self.found) {
            encoded.push_all(&self.gathered.ids[at..miss.at]);
            match found {
                Found::Merged(unknown) => encoded.push_merged(self.merged.of(*unknown)),
                Found::Known(range) => encoded.push_all(&self.known[range.clone()]),
            }
            at = miss.at;
        }
        encoded.push_all(&self.gathered.ids[at..remembered]);
    }

    /// Keeps what was merged.
    fn remember(&mut self, text: &[u8]) {
        for found in &self.found {
            if let &Found::Merged(unknown) = found {
                let (bytes, ids) = (&text[self.unknown[unknown].clone()], self.merged.of(unknown));
                if bytes.len() > KEY_BYTES {
                    self.long.insert(bytes, ids);
                } else {
                    self.cache.insert(bytes, ids);
                }
            }
        }
        self.cache.grow_if_crowded();
    }
}

impl<I: Id> Encoded<I> {
    /// Room for so many more.
    #[inline(always)]
    fn room(&mut self, ids: usize) -> &mut [I] {
        let end = self.count + ids;
        if self.ids.len() < end {
            self.ids.resize((2 * end).max(SCRATCH_IDS), I::default());
        }
        let room = &mut self.ids[self.count..end];
        self.count = end;
        room
    }

    fn push_all(&mut self, ids: &[I]) {
        self.room(ids.len()).copy_from_slice(ids);
    }

    fn push_merged(&mut self, ids: &[u32]) {
        for (slot, &id) in self.room(ids.len()).iter_mut().zip(ids) {
            *slot = I::from_u32(id);
        }
    }

    fn push(&mut self, id: Option<u32>) {
        if let Some(id) = id {
            self.push_merged(&[id]);
        }
    }
}

const SCRATCH_IDS: usize = 1 << 16;
