//! One thread's encoding: split a few hundred pieces, look them up in the caches, merge the others, cache their ids.
//!
//! All cache lines of these pieces are prefetched before the first is read.

use std::ops::Range;

use super::long_piece_cache::LongPieceCache;
use super::merge::PieceMerger;
use super::short_piece_cache::{CachedIds, Lookup, Miss, ShortPieceCache};
use super::short_piece_key::ShortPieceKey;
use super::token_id::TokenId;
use super::{AroundIds, EncodeError, Encoder};
use crate::packed_piece::MAX_PACKED_BYTES;
use crate::parallel::chunks::Chunk;
use crate::split::{PieceEnds, MAX_ENDS};
use crate::text::Text;

/// A thread's caches, and its buffers for the pieces at hand.
pub struct Worker<I: TokenId> {
    short_cache: ShortPieceCache<I>,
    long_cache: LongPieceCache<I>,
    ends: PieceEnds,
    lookups: Box<[Lookup; MAX_ENDS]>,
    cached: CachedIds<I>,
    /// The pieces that the first lookup does not find.
    missing: Vec<MissingPiece>,
    /// How each of them is encoded.
    resolved: Vec<Resolved>,
    /// The pieces to merge.
    to_merge: Vec<Range<usize>>,
    merger: PieceMerger,
    /// Ids of missing pieces that the second lookup finds.
    found_later: Vec<I>,
}

/// A piece that the first lookup does not find.
struct MissingPiece {
    /// Its bytes in the text.
    piece: Range<usize>,
    key: ShortPieceKey,
    /// Hash of a long piece.
    hash: u32,
    /// Where its ids belong among the cached ones.
    insert_at: usize,
}

enum Resolved {
    /// Merged: index of the piece in `to_merge`.
    Merged(usize),
    /// Found: a range of `found_later`.
    Found(Range<usize>),
}

/// The ids of a chunk.
#[derive(Default)]
pub struct ChunkIds<I> {
    /// A buffer, of which `count` ids are used.
    buffer: Vec<I>,
    count: usize,
    /// Where texts end among the ids.
    pub text_ends: Vec<usize>,
}

impl<I: TokenId> Worker<I> {
    /// A worker whose cache holds the vocabulary.
    pub fn new(encoder: &Encoder) -> Worker<I> {
        let mut short_cache = ShortPieceCache::with_room(encoder.vocab.len());
        for (id, bytes) in encoder.vocab.tokens().filter(|(_, bytes)| bytes.len() <= MAX_PACKED_BYTES) {
            if encoder.match_whole_pieces || !encoder.unreachable.contains_key(bytes) {
                short_cache.insert(bytes, &[id]);
            }
        }
        Worker {
            short_cache,
            long_cache: LongPieceCache::default(),
            ends: PieceEnds::default(),
            lookups: Box::new([Lookup::default(); MAX_ENDS]),
            cached: CachedIds::default(),
            missing: Vec::new(),
            resolved: Vec::new(),
            to_merge: Vec::new(),
            merger: PieceMerger::default(),
            found_later: Vec::new(),
        }
    }

    /// Encodes a chunk; overwrites `out`.
    pub fn encode<T: Text>(
        &mut self,
        encoder: &Encoder,
        texts: &[T],
        chunk: &Chunk,
        (before, after): AroundIds,
        out: &mut ChunkIds<I>,
    ) -> Result<(), EncodeError> {
        out.count = 0;
        out.text_ends.clear();
        match chunk {
            Chunk::Texts(range) => {
                for text in &texts[range.clone()] {
                    out.push(before);
                    self.encode_text(encoder, &text.utf8(0..text.bytes().len()), out)?;
                    out.push(after);
                    out.text_ends.push(out.count);
                }
            }
            Chunk::PartOf(index, bytes) => {
                let text = &texts[*index];
                if bytes.start == 0 {
                    out.push(before);
                }
                self.encode_text(encoder, &text.utf8(bytes.clone()), out)?;
                if bytes.end == text.bytes().len() {
                    out.push(after);
                    out.text_ends.push(out.count);
                }
            }
        }
        Ok(())
    }

    fn encode_text(&mut self, encoder: &Encoder, text: &str, out: &mut ChunkIds<I>) -> Result<(), EncodeError> {
        let mut start = 0;
        while start < text.len() {
            encoder.splitter.next(text, start, &mut self.ends)?;
            let cached_ids = self.look_up(text.as_bytes(), start);
            self.resolve_missing(encoder, text.as_bytes());
            self.write(cached_ids, out);
            self.cache_merged(text.as_bytes());
            start = self.ends.as_slice().last().copied().unwrap_or(text.len());
        }
        Ok(())
    }

    /// Gathers the ids of cached short pieces, and lists the missing pieces. Returns the number of ids.
    #[allow(unsafe_code)]
    fn look_up(&mut self, text: &[u8], start: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("lzcnt") {
            // SAFETY: the processor has the instructions
            return unsafe { self.look_up_avx2(text, start) };
        }
        // SAFETY: no special instructions
        unsafe { self.look_up_with::<false>(text, start) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi2,lzcnt")]
    #[allow(unsafe_code)]
    fn look_up_avx2(&mut self, text: &[u8], start: usize) -> usize {
        // SAFETY: this function is compiled for these instructions and called only where the processor has them
        unsafe { self.look_up_with::<true>(text, start) }
    }

    /// # Safety
    /// With `AVX2`, the processor has it.
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn look_up_with<const AVX2: bool>(&mut self, text: &[u8], start: usize) -> usize {
        let ends = self.ends.as_slice();
        let Some(lookups) = self.lookups.get_mut(..ends.len()) else { return 0 };
        // SAFETY: a splitter finds ascending ends inside the text; the caller guarantees the instructions
        let (ids, misses) = unsafe {
            self.short_cache.prepare::<AVX2>(text, start, ends, lookups);
            self.short_cache.gather::<AVX2>(lookups, &mut self.cached)
        };
        self.missing.clear();
        for &Miss { piece, insert_at } in &self.cached.misses[..misses] {
            let (number, insert_at) = (piece as usize, insert_at as usize);
            let piece = number.checked_sub(1).map_or(start, |before| ends[before])..ends[number];
            let (mut hash, key) = (0, lookups[number].key);
            match piece.len() {
                ..8 => self.short_cache.prefetch_two_slots(key),
                8..=MAX_PACKED_BYTES => {}
                _ => hash = self.long_cache.prepare(&text[piece.clone()]),
            }
            self.missing.push(MissingPiece { piece, key, hash, insert_at });
        }
        ids
    }

    /// Finds missing pieces in the other caches, and merges the rest.
    fn resolve_missing(&mut self, encoder: &Encoder, text: &[u8]) {
        self.to_merge.clear();
        self.found_later.clear();
        self.resolved.clear();
        for missing in self.missing.iter().filter(|missing| missing.piece.len() > MAX_PACKED_BYTES) {
            self.long_cache.prefetch_contents(missing.hash);
        }
        for missing in &self.missing {
            let bytes = &text[missing.piece.clone()];
            let before = self.found_later.len();
            if encoder.match_whole_pieces && !encoder.unreachable.is_empty() {
                self.found_later.extend(encoder.unreachable.get(bytes).map(|&id| I::from_u32(id)));
            }
            if before == self.found_later.len() {
                if bytes.len() > MAX_PACKED_BYTES {
                    self.found_later.extend_from_slice(self.long_cache.get(bytes, missing.hash).unwrap_or_default());
                } else if bytes.len() < 8 {
                    if let Some((ids, inline)) = self.short_cache.get_two_slots(missing.key) {
                        self.found_later.extend_from_slice(&inline.as_ref()[..ids]);
                    }
                }
            }
            self.resolved.push(if before < self.found_later.len() {
                Resolved::Found(before..self.found_later.len())
            } else {
                self.to_merge.push(missing.piece.clone());
                Resolved::Merged(self.to_merge.len() - 1)
            });
        }
        if !self.to_merge.is_empty() {
            self.merger.merge(&encoder.rules, text, &self.to_merge);
        }
    }

    /// Writes all ids in the order of the pieces.
    #[inline(always)]
    fn write(&self, cached_ids: usize, out: &mut ChunkIds<I>) {
        let mut at = 0;
        for (missing, resolved) in self.missing.iter().zip(&self.resolved) {
            out.push_all(&self.cached.ids[at..missing.insert_at]);
            match resolved {
                Resolved::Merged(index) => out.push_wide(self.merger.ids(*index)),
                Resolved::Found(range) => out.push_all(&self.found_later[range.clone()]),
            }
            at = missing.insert_at;
        }
        out.push_all(&self.cached.ids[at..cached_ids]);
    }

    /// Caches the ids of merged pieces.
    fn cache_merged(&mut self, text: &[u8]) {
        for resolved in &self.resolved {
            if let &Resolved::Merged(index) = resolved {
                let (bytes, ids) = (&text[self.to_merge[index].clone()], self.merger.ids(index));
                if bytes.len() > MAX_PACKED_BYTES {
                    self.long_cache.insert(bytes, ids);
                } else {
                    self.short_cache.insert(bytes, ids);
                }
            }
        }
        self.short_cache.grow_if_crowded();
    }
}

impl<I> ChunkIds<I> {
    /// The ids.
    pub fn ids(&self) -> &[I] {
        &self.buffer[..self.count]
    }
}

const MIN_BUFFER_IDS: usize = 1 << 16;

impl<I: TokenId> ChunkIds<I> {
    /// Extends the used part of the buffer.
    #[inline(always)]
    fn extend(&mut self, ids: usize) -> &mut [I] {
        let end = self.count + ids;
        if self.buffer.len() < end {
            self.buffer.resize((2 * end).max(MIN_BUFFER_IDS), I::default());
        }
        let room = &mut self.buffer[self.count..end];
        self.count = end;
        room
    }

    fn push_all(&mut self, ids: &[I]) {
        self.extend(ids.len()).copy_from_slice(ids);
    }

    fn push_wide(&mut self, ids: &[u32]) {
        for (slot, &id) in self.extend(ids.len()).iter_mut().zip(ids) {
            *slot = I::from_u32(id);
        }
    }

    fn push(&mut self, id: Option<u32>) {
        if let Some(id) = id {
            self.push_wide(&[id]);
        }
    }
}
