//! Documents → fixed rows, best fit.

use std::collections::BTreeSet;

use crate::memory::advise_huge;

/// Documents that are looked at for the one that fits best.
pub const POOL: usize = 8192;

/// A stretch of tokens: where it begins, how long it is, and whether a BOS has to be put before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of its first token.
    pub start: usize,
    /// Tokens, without the BOS that is put before it.
    pub length: usize,
    /// It is the rest of a document that was split.
    pub rest: bool,
}

impl Piece {
    /// What it takes of a row.
    fn tokens(self) -> usize {
        self.length + usize::from(self.rest)
    }

    /// Its first `tokens`, and the rest, to which a BOS comes.
    fn split(self, tokens: usize) -> (Piece, Piece) {
        let length = tokens - usize::from(self.rest);
        let rest = Piece { start: self.start + length, length: self.length - length, rest: true };
        (Piece { length, ..self }, rest)
    }
}

/// Pieces that wait, by the tokens they take (a row at most); a bit says for each size whether there is one.
struct Pool {
    by_tokens: Vec<Vec<Piece>>,
    there: Vec<u64>,
    pieces: usize,
}

impl Pool {
    fn new(row_tokens: usize) -> Pool {
        Pool { by_tokens: vec![Vec::new(); row_tokens + 1], there: vec![0; row_tokens / 64 + 1], pieces: 0 }
    }

    fn put(&mut self, piece: Piece) {
        let tokens = piece.tokens();
        self.by_tokens[tokens].push(piece);
        self.there[tokens / 64] |= 1 << (tokens % 64);
        self.pieces += 1;
    }

    fn take(&mut self, tokens: usize) -> Option<Piece> {
        let same = &mut self.by_tokens[tokens];
        let piece = same.pop()?;
        if same.is_empty() {
            self.there[tokens / 64] &= !(1 << (tokens % 64));
        }
        self.pieces -= 1;
        Some(piece)
    }

    /// The largest that takes at most so many tokens.
    fn take_best(&mut self, tokens: usize) -> Option<Piece> {
        let low_bits = u64::MAX >> (63 - tokens % 64);
        let mut word = tokens / 64;
        let mut bits = self.there[word] & low_bits;
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = self.there[word];
        }
        self.take(word * 64 + bits.ilog2() as usize)
    }

    fn take_smallest(&mut self) -> Option<Piece> {
        let word = self.there.iter().position(|&bits| bits != 0)?;
        self.take(word * 64 + self.there[word].trailing_zeros() as usize)
    }
}

/// The pieces that fill rows, one after the other, without a gap: every row is full, and begins with BOS because every
/// piece does.
///
/// A document longer than a row fills rows of its own, and only what is left of it is fitted. The largest piece of the
/// pool that fits is taken; when none fits, the smallest is split: what fits stays, and its rest goes back to the pool
/// with a BOS of its own. Only what cannot fill a last row is dropped: its tokens are returned. `offsets` bound the
/// documents, each of which begins with BOS.
pub fn plan(offsets: &[i64], row_tokens: usize) -> (Vec<Piece>, usize) {
    let whole = |value: i64| usize::try_from(value).unwrap_or(0);
    let mut waiting = offsets
        .windows(2)
        .map(|bounds| Piece { start: whole(bounds[0]), length: whole(bounds[1] - bounds[0]), rest: false })
        .filter(|piece| piece.length > 0);
    let mut pool = Pool::new(row_tokens);
    let mut placed = Vec::with_capacity(2 * offsets.len());
    let mut row = Vec::new();
    loop {
        let mut space = row_tokens;
        while space > 0 {
            while pool.pieces < POOL {
                let Some(mut piece) = waiting.next() else {
                    break;
                };
                while piece.tokens() > row_tokens {
                    let (filling, rest) = piece.split(row_tokens);
                    placed.push(filling);
                    piece = rest;
                }
                pool.put(piece);
            }
            let Some(piece) = pool.take_best(space).or_else(|| pool.take_smallest()) else {
                return (placed, row.iter().map(|piece: &Piece| piece.length).sum());
            };
            if piece.tokens() <= space {
                space -= piece.tokens();
                row.push(piece);
                continue;
            }
            let (fitting, rest) = piece.split(space);
            row.push(fitting);
            pool.put(rest);
            space = 0;
        }
        placed.append(&mut row);
    }
}

/// Rows of `row_tokens` with the tokens of a plan, one after the other.
pub fn fill<Id: Copy>(ids: &[Id], pieces: &[Piece], bos: Id) -> Vec<Id> {
    let mut filled = Vec::with_capacity(pieces.iter().map(|piece| piece.tokens()).sum());
    advise_huge(&filled);
    for piece in pieces {
        if piece.rest {
            filled.push(bos);
        }
        filled.extend_from_slice(&ids[piece.start..piece.start + piece.length]);
    }
    filled
}

/// Where documents that may not be split go, best fit, with space left at the ends of rows.
///
/// Documents are placed in order; each goes into the open row (of at most `window`) in which it leaves the least
/// space. One that is longer than a row is cut to it. Returns row and start of each document, and the number of rows.
pub fn plan_padded(lengths: &[i64], row_tokens: usize, window: usize) -> (Vec<i64>, Vec<i64>, usize) {
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new(); // space, row
    let (mut rows, mut row_of, mut start_of) = (0usize, Vec::new(), Vec::new());
    let whole = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
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
        row_of.push(whole(row));
        start_of.push(whole(row_tokens - space));
        if space > length {
            open.insert((space - length, row));
            if open.len() > window {
                open.pop_first();
            }
        }
    }
    (row_of, start_of, rows)
}
