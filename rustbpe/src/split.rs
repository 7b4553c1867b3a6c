//! Text → pieces: nanochat's split pattern, by hand.
//!
//! ```text
//! '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+
//! ```
//!
//! The alternatives are tried in this order at each position, so the scanner is a cascade of the same order. It is
//! the ground truth that faster versions must equal.

use std::sync::OnceLock;

/// The pattern, as others write it.
pub const PATTERN: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// What the pattern can tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Letter,
    Number,
    /// `\r` or `\n`.
    Newline,
    /// White space but newlines.
    Space,
    Other,
}

struct Tables {
    ascii: [Class; 128],
    letters: Vec<(u32, u32)>,
    numbers: Vec<(u32, u32)>,
    spaces: Vec<(u32, u32)>,
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let (letters, numbers, spaces) = (ranges(r"\p{L}"), ranges(r"\p{N}"), ranges(r"\s"));
        let mut ascii = [Class::Other; 128];
        for (code, class) in (0u32..).zip(ascii.iter_mut()) {
            *class = slow_class(code, &letters, &numbers, &spaces);
        }
        Tables { ascii, letters, numbers, spaces }
    })
}

/// The code points of a regex class, as sorted ranges.
fn ranges(class: &str) -> Vec<(u32, u32)> {
    match regex_syntax::parse(class).map(regex_syntax::hir::Hir::into_kind) {
        Ok(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(found))) => {
            found.ranges().iter().map(|range| (range.start() as u32, range.end() as u32)).collect()
        }
        _ => Vec::new(),
    }
}

fn contains(ranges: &[(u32, u32)], code: u32) -> bool {
    let next = ranges.partition_point(|range| range.1 < code);
    ranges.get(next).is_some_and(|range| range.0 <= code)
}

fn slow_class(code: u32, letters: &[(u32, u32)], numbers: &[(u32, u32)], spaces: &[(u32, u32)]) -> Class {
    if code == 10 || code == 13 {
        Class::Newline
    } else if contains(spaces, code) {
        Class::Space
    } else if contains(letters, code) {
        Class::Letter
    } else if contains(numbers, code) {
        Class::Number
    } else {
        Class::Other
    }
}

/// Cuts a text into pieces, one after the other.
pub struct Pieces<'a> {
    text: &'a str,
    at: usize,
    tables: &'static Tables,
}

/// The pieces of a text; joined, they are the text.
pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces { text, at: 0, tables: tables() }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.at >= self.text.len() {
            return None;
        }
        let start = self.at;
        self.at = self.end(start);
        Some(&self.text[start..self.at])
    }
}

impl Pieces<'_> {
    /// Class and length in bytes of the character at a position, if there is one.
    fn class(&self, at: usize) -> Option<(Class, usize)> {
        let first = *self.text.as_bytes().get(at)?;
        if first < 128 {
            return Some((self.tables.ascii[first as usize], 1));
        }
        let character = self.text[at..].chars().next()?;
        let tables = self.tables;
        Some((slow_class(character as u32, &tables.letters, &tables.numbers, &tables.spaces), character.len_utf8()))
    }

    /// Where a run of characters of some classes ends.
    fn run(&self, mut at: usize, wanted: impl Fn(Class) -> bool) -> usize {
        while let Some((class, length)) = self.class(at) {
            if !wanted(class) {
                break;
            }
            at += length;
        }
        at
    }

    /// Where the piece that begins at `start` ends.
    fn end(&self, start: usize) -> usize {
        let Some((class, length)) = self.class(start) else {
            return self.text.len();
        };
        if self.text.as_bytes()[start] == b'\'' {
            if let Some(end) = self.contraction(start + 1) {
                return end;
            }
        }
        let after = start + length;
        let next = self.class(after).map(|found| found.0);
        match class {
            Class::Letter => self.run(after, |class| class == Class::Letter),
            // one character that is no newline, letter or number may stand before letters
            Class::Space | Class::Other if next == Some(Class::Letter) => {
                self.run(after, |class| class == Class::Letter)
            }
            Class::Number => match self.class(after) {
                Some((Class::Number, more)) => after + more,
                _ => after,
            },
            Class::Other => self.punctuation(after),
            Class::Space if self.text.as_bytes()[start] == b' ' && next == Some(Class::Other) => {
                self.punctuation(after)
            }
            Class::Space | Class::Newline => self.white(start),
        }
    }

    /// `'s`, `'LL`, `'ſ`: the end of the letters behind an apostrophe that belong to it.
    fn contraction(&self, at: usize) -> Option<usize> {
        let mut characters = self.text[at..].chars();
        let first = characters.next()?;
        if matches!(first, 's' | 'S' | 'd' | 'D' | 'm' | 'M' | 't' | 'T' | '\u{17f}') {
            return Some(at + first.len_utf8());
        }
        let second = characters.next()?;
        let pair = (first.to_ascii_lowercase(), second.to_ascii_lowercase());
        matches!(pair, ('l', 'l') | ('v', 'e') | ('r', 'e')).then_some(at + 2)
    }

    /// The rest of a run of punctuation, and the newlines behind it.
    fn punctuation(&self, at: usize) -> usize {
        let end = self.run(at, |class| class == Class::Other);
        self.run(end, |class| class == Class::Newline)
    }

    /// White space: up to its last newline if it has one, else all but the last character before a word, else all.
    fn white(&self, start: usize) -> usize {
        let (mut at, mut last, mut newline_end) = (start, start, None);
        while let Some((class, length)) = self.class(at) {
            match class {
                Class::Newline => newline_end = Some(at + length),
                Class::Space => {}
                _ => break,
            }
            last = at;
            at += length;
        }
        match newline_end {
            Some(end) => end,
            None if at < self.text.len() && last > start => last,
            None => at,
        }
    }
}
