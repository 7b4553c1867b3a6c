//! Text → pieces.
//!
//! The known patterns ([`Scheme`]) are scanned by hand, 64 bytes at a time where the processor has the instructions;
//! any other pattern goes to a regex engine, which is fifty times slower and says so ([`Splitter::is_fast`]).

mod block;
pub mod class;
mod scalar;
pub mod scheme;
mod simd;

use block::{Masks, BLOCK};
use class::Classes;
use scalar::Scalar;
use scheme::Scheme;
pub use simd::Level;
use simd::{Instructions, Portable, Simd};
use std::fmt;

/// Ends of pieces to stop at; the block at hand is finished.
const ENOUGH: usize = 256;
/// Ends that are found at once, at most.
pub const MOST_ENDS: usize = ENOUGH + BLOCK;

/// A text could not be cut, or a pattern is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SplitError(String);

impl fmt::Display for SplitError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for SplitError {}

/// Cuts texts by one pattern; threads may share it.
pub struct Splitter {
    pattern: String,
    way: Way,
}

enum Way {
    Hand(Scheme, Level),
    Regex(Box<fancy_regex::Regex>),
}

/// Ends of pieces, as positions in the text; to be used again and again.
pub struct Ends {
    found: Box<[usize; MOST_ENDS]>,
    count: usize,
}

impl Default for Ends {
    fn default() -> Self {
        Ends { found: Box::new([0; MOST_ENDS]), count: 0 }
    }
}

impl Ends {
    /// The ends, in order.
    #[inline(always)]
    pub fn as_slice(&self) -> &[usize] {
        &self.found[..self.count]
    }

    #[inline(always)]
    fn push(&mut self, end: usize) {
        self.found[self.count] = end;
        self.count += 1;
    }
}

impl Splitter {
    /// By a pattern; the fastest way that this processor has. Fails if the pattern is no regular expression.
    pub fn new(pattern: &str) -> Result<Splitter, SplitError> {
        let way = match Scheme::of(pattern) {
            Some(scheme) => Way::Hand(scheme, Level::best()),
            None => {
                let regex = fancy_regex::Regex::new(pattern)
                    .map_err(|error| SplitError(format!("the split pattern is no regular expression: {error}")))?;
                Way::Regex(Box::new(regex))
            }
        };
        Ok(Splitter { pattern: pattern.to_owned(), way })
    }

    /// The same on another instruction set; for tests.
    #[must_use]
    pub fn on(self, level: Level) -> Splitter {
        let way = match self.way {
            Way::Hand(scheme, _) => Way::Hand(scheme, level),
            regex => regex,
        };
        Splitter { way, ..self }
    }

    /// The pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the pattern is scanned by hand.
    pub fn is_fast(&self) -> bool {
        matches!(self.way, Way::Hand(..))
    }

    /// Finds the ends of the next pieces; the first begins at `start`, which is where an earlier piece ended, or 0.
    /// None are found at the end of the text only. Fails if a regex engine gives up.
    #[inline]
    pub fn next(&self, text: &str, start: usize, ends: &mut Ends) -> Result<(), SplitError> {
        ends.count = 0;
        match &self.way {
            &Way::Hand(scheme, level) => {
                by_hand(scheme, level, text, start, ends);
                Ok(())
            }
            Way::Regex(regex) => by_regex(regex, text, start, ends),
        }
    }

    /// All pieces of a text, for whoever is in no hurry.
    pub fn pieces<'a>(&self, text: &'a str) -> Result<Vec<&'a str>, SplitError> {
        let (mut pieces, mut start, mut ends) = (Vec::new(), 0, Ends::default());
        while start < text.len() {
            self.next(text, start, &mut ends)?;
            for &end in ends.as_slice() {
                pieces.push(&text[start..end]);
                start = end;
            }
        }
        Ok(pieces)
    }

    /// A position near the middle of a text at which a piece begins whatever is around it, if there is one: texts that
    /// are cut there can be encoded apart. A space behind an ASCII letter begins a piece in every scheme.
    pub fn cut(&self, text: &[u8], near: usize) -> Option<usize> {
        if !self.is_fast() {
            return None;
        }
        text.get(near..)?
            .windows(2)
            .position(|pair| pair[0].is_ascii_alphabetic() && pair[1] == b' ')
            .map(|at| near + at + 1)
    }
}

/// What no alternative matches is a piece too, so that no text is lost.
fn by_regex(regex: &fancy_regex::Regex, text: &str, start: usize, ends: &mut Ends) -> Result<(), SplitError> {
    let (mut at, mut from) = (start, start);
    while at < text.len() && ends.count < ENOUGH {
        let found = regex.find_from_pos(text, from).map_err(|error| {
            SplitError(format!("the regex engine gave up on the split pattern at byte {from} of a text: {error}"))
        })?;
        match found {
            Some(found) if found.start() < found.end() => {
                if found.start() > at {
                    ends.push(found.start());
                }
                ends.push(found.end());
                (at, from) = (found.end(), found.end());
            }
            Some(empty) if empty.start() < text.len() => {
                from = empty.start() + text[empty.start()..].chars().next().map_or(1, char::len_utf8);
            }
            _ => {
                ends.push(text.len());
                at = text.len();
            }
        }
    }
    Ok(())
}

fn by_hand(scheme: Scheme, level: Level, text: &str, start: usize, ends: &mut Ends) {
    #![allow(unsafe_code)]
    match (scheme, level.instructions()) {
        (_, Instructions::Scalar) => {
            let scalar = Scalar::new(text, Classes::get());
            let mut at = start;
            while at < text.len() && ends.count < ENOUGH {
                at = scalar.end(scheme, at);
                ends.push(at);
            }
        }
        // SAFETY: the portable code needs no instructions of its own
        (_, Instructions::Portable) => unsafe { blocks::<Portable>(scheme, text, start, ends) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level names only instructions that were found on this processor
        (_, Instructions::Avx2) => unsafe { avx2(scheme, text, start, ends) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level names only instructions that were found on this processor
        (_, Instructions::Avx512) => unsafe { avx512(scheme, text, start, ends) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every aarch64 has NEON
        (_, Instructions::Neon) => unsafe { blocks::<simd::arm::Neon>(scheme, text, start, ends) },
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx2,bmi1,lzcnt,popcnt")]
unsafe fn avx2(scheme: Scheme, text: &str, start: usize, ends: &mut Ends) {
    // SAFETY: this function is compiled for, and only called with, these instructions
    unsafe { blocks::<simd::x86::Avx2>(scheme, text, start, ends) }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx2,bmi1,lzcnt,popcnt")]
unsafe fn avx512(scheme: Scheme, text: &str, start: usize, ends: &mut Ends) {
    // SAFETY: this function is compiled for, and only called with, these instructions
    unsafe { blocks::<simd::x86::Avx512>(scheme, text, start, ends) }
}

/// Block after block; what a block cannot settle (a piece that fills it, white space at the end of the text) is left
/// to the scalar cascade.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn blocks<S: Simd>(scheme: Scheme, text: &str, start: usize, ends: &mut Ends) {
    let classes = Classes::get();
    let bytes = text.as_bytes();
    let mut at = start;
    while ends.count < ENOUGH {
        let Some(block) = bytes.get(at..).and_then(|left| left.first_chunk::<BLOCK>()) else {
            break;
        };
        // SAFETY: as the caller vouches
        let starts = unsafe { starts_in::<S>(scheme, block, classes, u64::MAX) };
        if starts == 1 {
            at = Scalar::new(text, classes).end(scheme, at);
            ends.push(at);
            continue;
        }
        let Some(room) = ends.found[ends.count..].first_chunk_mut::<BLOCK>() else {
            return;
        };
        // SAFETY: as the caller vouches
        ends.count += unsafe { S::positions(starts & !1, at, room) };
        at += 63 - starts.leading_zeros() as usize;
    }
    let left = bytes.len() - at;
    if left == 0 || left >= BLOCK {
        return;
    }
    let mut padded = [0; BLOCK];
    padded[..left].copy_from_slice(&bytes[at..]);
    let inside = (1 << left) - 1;
    // SAFETY: as the caller vouches
    let starts = unsafe { starts_in::<S>(scheme, &padded, classes, inside) };
    let Some(room) = ends.found[ends.count..].first_chunk_mut::<BLOCK>() else {
        return;
    };
    // SAFETY: as the caller vouches
    ends.count += unsafe { S::positions(starts & !1, at, room) };
    at += 63 - starts.leading_zeros() as usize;
    while at < bytes.len() && ends.count < MOST_ENDS {
        at = Scalar::new(text, classes).end(scheme, at);
        ends.push(at);
    }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn starts_in<S: Simd>(scheme: Scheme, block: &[u8; BLOCK], classes: &Classes, inside: u64) -> u64 {
    if scheme == Scheme::Cased && (block[0] | block[1]) >= 0x80 {
        return 1; // a word of another script, most likely
    }
    // SAFETY: as the caller vouches
    let (mut masks, wide): (Masks, _) = unsafe { S::masks(block, classes) };
    masks.valid = inside;
    if scheme == Scheme::Cased {
        return masks.cased(block, wide.high);
    }
    if wide.high != 0 {
        masks.add_wide(block, wide, classes);
    }
    match scheme {
        Scheme::Prefixed { digits, .. } => masks.prefixed(block, digits),
        _ => masks.spaced(block),
    }
}
