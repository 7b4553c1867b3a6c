//! Documents of ids → rows of equal length, best fit.

use std::collections::BTreeSet;

use crate::huge_pages::advise_huge_pages;

/// Number of waiting documents from which the best fit is taken.
pub const POOL_DOCUMENTS: usize = 8192;
/// Longest row: the pool keeps a list for each document length.
const MAX_ROW_TOKENS: usize = 1 << 24;

/// A range of tokens of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of its first token.
    pub start: usize,
    /// Tokens, not counting an added BOS.
    pub length: usize,
    /// Whether it is the rest of a split document, so that a BOS is added before it.
    pub add_bos: bool,
}

impl Segment {
    /// Tokens in the row, with an added BOS.
    fn tokens(self) -> usize {
        self.length + usize::from(self.add_bos)
    }

    /// Its first `tokens`, and the rest.
    fn split(self, tokens: usize) -> (Segment, Segment) {
        let length = tokens - usize::from(self.add_bos);
        let rest = Segment { start: self.start + length, length: self.length - length, add_bos: true };
        (Segment { length, ..self }, rest)
    }
}

/// Segments that wait for a row, by their number of tokens (at most a row). A bitmap shows which lists are not empty.
struct Pool {
    by_tokens: Vec<Vec<Segment>>,
    not_empty: Vec<u64>,
    segments: usize,
}

impl Pool {
    fn new(row_tokens: usize) -> Pool {
        Pool { by_tokens: vec![Vec::new(); row_tokens + 1], not_empty: vec![0; row_tokens / 64 + 1], segments: 0 }
    }

    fn put(&mut self, segment: Segment) {
        let tokens = segment.tokens();
        self.by_tokens[tokens].push(segment);
        self.not_empty[tokens / 64] |= 1 << (tokens % 64);
        self.segments += 1;
    }

    fn take(&mut self, tokens: usize) -> Option<Segment> {
        let list = &mut self.by_tokens[tokens];
        let segment = list.pop()?;
        if list.is_empty() {
            self.not_empty[tokens / 64] &= !(1 << (tokens % 64));
        }
        self.segments -= 1;
        Some(segment)
    }

    /// The largest segment of at most `tokens`.
    fn take_largest(&mut self, tokens: usize) -> Option<Segment> {
        let low_bits = u64::MAX >> (63 - tokens % 64);
        let mut word = tokens / 64;
        let mut bits = self.not_empty[word] & low_bits;
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = self.not_empty[word];
        }
        self.take(word * 64 + bits.ilog2() as usize)
    }

    fn take_smallest(&mut self) -> Option<Segment> {
        let word = self.not_empty.iter().position(|&bits| bits != 0)?;
        self.take(word * 64 + self.not_empty[word].trailing_zeros() as usize)
    }
}

/// Packs documents into full rows without padding. Returns the rows, one after the other, and the number of tokens
/// dropped. `offsets` are the bounds of the documents in `ids`; each document starts with BOS, so each row does too.
///
/// # Errors
/// The offsets do not fit the ids, or the row length is out of range.
pub fn pack<Id: Copy>(ids: &[Id], offsets: &[i64], row_tokens: usize) -> Result<(Vec<Id>, usize), String> {
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    if first < 0 || usize::try_from(last).ok() != Some(ids.len()) || !offsets.is_sorted() {
        return Err("the offsets do not fit the ids".to_owned());
    }
    if !(2..=MAX_ROW_TOKENS).contains(&row_tokens) {
        return Err(format!("a row has 2 to {MAX_ROW_TOKENS} tokens, not {row_tokens}"));
    }
    let (segments, dropped) = arrange(offsets, row_tokens);
    Ok((ids.first().map_or_else(Vec::new, |&bos| copy_segments(ids, &segments, bos)), dropped))
}

/// The segments that fill rows, in order and without gaps, and the number of tokens dropped.
///
/// A document longer than a row fills rows of its own, and its rest goes to the pool. Each row takes the largest segment
/// of the pool that fits; when none fits, the smallest is split, and its rest goes back to the pool with an added BOS.
/// Tokens that do not fill a last row are dropped.
pub fn arrange(offsets: &[i64], row_tokens: usize) -> (Vec<Segment>, usize) {
    let index = |value: i64| usize::try_from(value).unwrap_or(0);
    let mut waiting = offsets
        .windows(2)
        .map(|bounds| Segment { start: index(bounds[0]), length: index(bounds[1] - bounds[0]), add_bos: false })
        .filter(|segment| segment.length > 0);
    let mut pool = Pool::new(row_tokens);
    let mut placed = Vec::with_capacity(2 * offsets.len());
    let mut row = Vec::new();
    loop {
        let mut space = row_tokens;
        while space > 0 {
            while pool.segments < POOL_DOCUMENTS {
                let Some(mut segment) = waiting.next() else {
                    break;
                };
                while segment.tokens() > row_tokens {
                    let (full_row, rest) = segment.split(row_tokens);
                    placed.push(full_row);
                    segment = rest;
                }
                pool.put(segment);
            }
            let Some(segment) = pool.take_largest(space).or_else(|| pool.take_smallest()) else {
                return (placed, row.iter().map(|segment: &Segment| segment.length).sum());
            };
            if segment.tokens() <= space {
                space -= segment.tokens();
                row.push(segment);
                continue;
            }
            let (fitting, rest) = segment.split(space);
            row.push(fitting);
            pool.put(rest);
            space = 0;
        }
        placed.append(&mut row);
    }
}

/// The tokens of segments, one after the other.
pub fn copy_segments<Id: Copy>(ids: &[Id], segments: &[Segment], bos: Id) -> Vec<Id> {
    let mut packed = Vec::with_capacity(segments.iter().map(|segment| segment.tokens()).sum());
    advise_huge_pages(&packed);
    for segment in segments {
        if segment.add_bos {
            packed.push(bos);
        }
        packed.extend_from_slice(&ids[segment.start..segment.start + segment.length]);
    }
    packed
}

/// Places documents that must not be split, best fit; rows may end with padding.
///
/// Documents are placed in order, each into the open row in which it leaves the least space; at most `open_rows` are
/// open. A document longer than a row is truncated. Returns the row and the start of each document, and the number of
/// rows.
pub fn pack_padded(lengths: &[i64], row_tokens: usize, open_rows: usize) -> (Vec<i64>, Vec<i64>, usize) {
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new(); // space, row
    let (mut rows, mut row_of, mut start_of) = (0usize, Vec::new(), Vec::new());
    let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    for &length in lengths {
        let length = usize::try_from(length).unwrap_or(0).min(row_tokens);
        let found = open.range((length, 0)..).next().copied();
        let (space, row) = if let Some(entry) = found {
            open.remove(&entry);
            entry
        } else {
            rows += 1;
            (row_tokens, rows - 1)
        };
        row_of.push(signed(row));
        start_of.push(signed(row_tokens - space));
        if space > length {
            open.insert((space - length, row));
            if open.len() > open_rows {
                open.pop_first();
            }
        }
    }
    (row_of, start_of, rows)
}
