//! Texts → chunks of about equal size for threads.

use std::ops::Range;

use crate::split::Splitter;
use crate::text::Text;

/// Target size of a chunk: its ids stay in the processor's cache until they are collected.
const CHUNK_BYTES: usize = 128 << 10;
/// Only texts of at least this size are cut.
const LONG_TEXT_BYTES: usize = 8 * CHUNK_BYTES;

/// Several whole texts, or a part of a long one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// Texts by index.
    Texts(Range<usize>),
    /// A byte range of the text with this index.
    PartOf(usize, Range<usize>),
}

/// Splits texts into chunks. A long text is cut where the pieces on both sides do not depend on each other.
pub fn split_into_chunks<T: Text>(texts: &[T], splitter: &Splitter) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let text = text.bytes();
        if text.len() >= LONG_TEXT_BYTES {
            if first < index {
                chunks.push(Chunk::Texts(first..index));
            }
            (first, bytes) = (index + 1, 0);
            let mut start = 0;
            while let Some(end) = splitter.find_cut(text, start + CHUNK_BYTES) {
                chunks.push(Chunk::PartOf(index, start..end));
                start = end;
            }
            chunks.push(Chunk::PartOf(index, start..text.len()));
            continue;
        }
        bytes += text.len();
        if bytes >= CHUNK_BYTES {
            chunks.push(Chunk::Texts(first..index + 1));
            (first, bytes) = (index + 1, 0);
        }
    }
    if first < texts.len() {
        chunks.push(Chunk::Texts(first..texts.len()));
    }
    chunks
}
