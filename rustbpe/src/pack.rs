//! Documents → fixed rows, best fit.

use std::collections::{BTreeSet, VecDeque};

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
    fn tokens(self) -> usize {
        self.length + usize::from(self.rest)
    }
}

/// Which pieces fill which row. Every row is full; a row begins with BOS because every piece does.
///
/// The largest document of the pool that fits is taken. When none fits, the smallest is split: what fits stays, and its
/// rest goes back to the pool with a BOS of its own. Only what cannot fill a last row is dropped: its tokens are
/// returned. `offsets` bound the documents, each of which begins with BOS.
pub fn plan(offsets: &[i64], row_tokens: usize) -> (Vec<Vec<Piece>>, usize) {
    let mut waiting: VecDeque<Piece> = offsets
        .windows(2)
        .map(|bounds| Piece {
            start: usize::try_from(bounds[0]).unwrap_or(0),
            length: usize::try_from(bounds[1] - bounds[0]).unwrap_or(0),
            rest: false,
        })
        .filter(|piece| piece.length > 0)
        .collect();
    let mut pool: BTreeSet<(usize, usize, bool, usize)> = BTreeSet::new(); // tokens, start, rest, length
    let mut rows = Vec::new();
    loop {
        let mut row = Vec::new();
        let mut space = row_tokens;
        while space > 0 {
            while pool.len() < POOL {
                let Some(piece) = waiting.pop_front() else {
                    break;
                };
                pool.insert((piece.tokens(), piece.start, piece.rest, piece.length));
            }
            let best = pool.range(..(space + 1, 0, false, 0)).next_back().copied();
            let Some(chosen) = best.or_else(|| pool.first().copied()) else {
                break;
            };
            pool.remove(&chosen);
            let piece = Piece { start: chosen.1, length: chosen.3, rest: chosen.2 };
            if piece.tokens() <= space {
                space -= piece.tokens();
                row.push(piece);
                continue;
            }
            let taken = space - usize::from(piece.rest);
            row.push(Piece { length: taken, ..piece });
            space = 0;
            let rest = Piece { start: piece.start + taken, length: piece.length - taken, rest: true };
            pool.insert((rest.tokens(), rest.start, rest.rest, rest.length));
        }
        if space > 0 {
            let dropped = row.iter().map(|piece: &Piece| piece.length).sum();
            return (rows, dropped);
        }
        rows.push(row);
    }
}

/// Fills rows of `row_tokens` with the tokens of a plan.
pub fn fill<Id: Copy>(ids: &[Id], rows: &[Vec<Piece>], row_tokens: usize, bos: Id) -> Vec<Id> {
    let mut filled = Vec::with_capacity(rows.len() * row_tokens);
    for piece in rows.iter().flatten() {
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
