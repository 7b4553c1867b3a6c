//! The splitter: one pattern, and the fastest way to apply it on this processor.

use std::fmt;

use super::byte_masks::BLOCK_BYTES;
use super::patterns::Scheme;
use super::regex::split_by_regex;
use super::scan::scan;
use super::simd::SimdLevel;

/// A call of [`Splitter::next`] finds about this many ends: it stops after the block that reaches them.
pub const TARGET_ENDS: usize = 256;
/// Most ends that one call finds.
pub const MAX_ENDS: usize = TARGET_ENDS + BLOCK_BYTES;

/// A pattern is not a regular expression, or the regex engine failed on a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SplitError(pub(super) String);

impl fmt::Display for SplitError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for SplitError {}

/// Splits texts by one pattern; threads may share it.
pub struct Splitter {
    pattern: String,
    method: Method,
}

enum Method {
    Scanner(Scheme, SimdLevel),
    Regex(Box<fancy_regex::Regex>),
}

/// Ends of pieces, as byte positions in the text. Reused from call to call.
pub struct PieceEnds {
    pub(super) positions: Box<[usize; MAX_ENDS]>,
    pub(super) count: usize,
}

impl Default for PieceEnds {
    fn default() -> Self {
        PieceEnds { positions: Box::new([0; MAX_ENDS]), count: 0 }
    }
}

impl PieceEnds {
    /// The ends, ascending.
    #[inline(always)]
    pub fn as_slice(&self) -> &[usize] {
        &self.positions[..self.count]
    }

    #[inline(always)]
    pub(super) fn push(&mut self, end: usize) {
        self.positions[self.count] = end;
        self.count += 1;
    }
}

impl Splitter {
    /// A splitter for a pattern, with the fastest method of this processor.
    ///
    /// # Errors
    /// The pattern is not a regular expression.
    pub fn new(pattern: &str) -> Result<Splitter, SplitError> {
        let method = match Scheme::of(pattern) {
            Some(scheme) => Method::Scanner(scheme, SimdLevel::best()),
            None => {
                let regex = fancy_regex::Regex::new(pattern)
                    .map_err(|error| SplitError(format!("the split pattern is no regular expression: {error}")))?;
                Method::Regex(Box::new(regex))
            }
        };
        Ok(Splitter { pattern: pattern.to_owned(), method })
    }

    /// The same splitter on another instruction set; for tests.
    #[must_use]
    pub fn with_level(self, level: SimdLevel) -> Splitter {
        let method = match self.method {
            Method::Scanner(scheme, _) => Method::Scanner(scheme, level),
            regex => regex,
        };
        Splitter { method, ..self }
    }

    /// The pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the pattern has a scanner of its own.
    pub fn is_fast(&self) -> bool {
        matches!(self.method, Method::Scanner(..))
    }

    /// Finds the ends of the next pieces. `start` is 0 or the end of an earlier piece. At least one end is found, unless
    /// `start` is the end of the text.
    ///
    /// # Errors
    /// The regex engine of a slow pattern failed.
    #[inline]
    pub fn next(&self, text: &str, start: usize, ends: &mut PieceEnds) -> Result<(), SplitError> {
        ends.count = 0;
        match &self.method {
            &Method::Scanner(scheme, level) => {
                scan(scheme, level, text, start, ends);
                Ok(())
            }
            Method::Regex(regex) => split_by_regex(regex, text, start, ends),
        }
    }

    /// All pieces of a text; simple rather than fast.
    ///
    /// # Errors
    /// The regex engine of a slow pattern failed.
    pub fn pieces<'a>(&self, text: &'a str) -> Result<Vec<&'a str>, SplitError> {
        let (mut pieces, mut start, mut ends) = (Vec::new(), 0, PieceEnds::default());
        while start < text.len() {
            self.next(text, start, &mut ends)?;
            for &end in ends.as_slice() {
                pieces.push(&text[start..end]);
                start = end;
            }
        }
        Ok(pieces)
    }

    /// A position at or after `near` where the text can be cut and both parts encoded independently, if there is one. A
    /// space after an ASCII letter starts a piece in every scheme, whatever is around it.
    pub fn find_cut(&self, text: &[u8], near: usize) -> Option<usize> {
        if !self.is_fast() {
            return None;
        }
        text.get(near..)?
            .windows(2)
            .position(|pair| pair[0].is_ascii_alphabetic() && pair[1] == b' ')
            .map(|at| near + at + 1)
    }
}
