//! Where a piece ends, character by character: the ground truth that faster scanners must equal.
//!
//! A pattern's alternatives are tried in its order at each position, so each scheme is a cascade of the same order.

use super::class::{Class, Classes};
use super::scheme::Scheme;

/// A text, and what its characters are.
#[derive(Clone, Copy)]
pub struct Scalar<'a> {
    text: &'a str,
    classes: &'static Classes,
}

impl<'a> Scalar<'a> {
    /// Of a text.
    pub fn new(text: &'a str, classes: &'static Classes) -> Scalar<'a> {
        Scalar { text, classes }
    }

    /// Where the piece that begins at `start` ends; `start` is a boundary of characters before the end of the text.
    pub fn end(self, scheme: Scheme, start: usize) -> usize {
        match scheme {
            Scheme::Prefixed { digits, end_is_whole } => self.prefixed(start, digits, end_is_whole),
            Scheme::Spaced => self.spaced(start),
            Scheme::Cased => self.cased(start),
        }
    }

    fn prefixed(self, start: usize, digits: u8, end_is_whole: bool) -> usize {
        if let Some(end) = self.contraction(start, true) {
            return end;
        }
        let (class, after) = self.at(start);
        let next = self.class(after);
        match class {
            class if class.is_letter() => self.run(after, Class::is_letter),
            // one character that is no newline, letter or number may lead letters
            Class::Space | Class::Other | Class::Mark if next.is_some_and(Class::is_letter) => {
                self.run(after, Class::is_letter)
            }
            Class::Number => self.numbers(start, digits),
            class if class.is_other() => self.punctuation(after),
            Class::Space if self.leads_punctuation(start, next) => self.punctuation(after),
            _ if end_is_whole && self.run(start, Class::is_white) == self.text.len() => self.text.len(),
            _ => self.white(start, true),
        }
    }

    fn spaced(self, start: usize) -> usize {
        if let Some(end) = self.contraction(start, false) {
            return end;
        }
        let (mut class, mut after) = self.at(start);
        if self.text.as_bytes()[start] == b' ' && self.class(after).is_some_and(|next| !next.is_white()) {
            (class, after) = self.at(after);
        }
        match class {
            class if class.is_letter() => self.run(after, Class::is_letter),
            Class::Number => self.run(after, |class| class == Class::Number),
            class if class.is_other() => self.run(after, Class::is_other),
            _ => self.white(start, false),
        }
    }

    fn cased(self, start: usize) -> usize {
        let (class, after) = self.at(start);
        let may_lead = class == Class::Space || class.is_other();
        let word = (if may_lead { self.small_word(after) } else { None })
            .or_else(|| self.small_word(start))
            .or_else(|| if may_lead { self.capitals(after) } else { None })
            .or_else(|| self.capitals(start));
        if let Some(end) = word {
            return self.contraction(end, true).unwrap_or(end);
        }
        match class {
            Class::Number => self.numbers(start, 3),
            class if class.is_other() => self.punctuation_and_slashes(after),
            Class::Space if self.leads_punctuation(start, self.class(after)) => self.punctuation_and_slashes(after),
            _ => self.white(start, true),
        }
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`, if it is here.
    fn small_word(self, start: usize) -> Option<usize> {
        let (mut at, mut given_back) = (start, None);
        while let Some(class) = self.class(at).filter(|&class| may_begin(class)) {
            at = self.at(at).1;
            if may_end(class) {
                given_back = Some(at);
            }
        }
        let end = self.run(at, may_end);
        if end > at {
            Some(end)
        } else {
            given_back
        }
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+`, if it is here.
    fn capitals(self, start: usize) -> Option<usize> {
        Some(self.run(start, may_begin)).filter(|&end| end > start)
    }

    /// Class of the character at a position, and where the next one begins.
    fn at(self, at: usize) -> (Class, usize) {
        match self.text[at..].chars().next() {
            Some(character) => (self.classes.of(character as u32), at + character.len_utf8()),
            None => (Class::Other, at),
        }
    }

    fn class(self, at: usize) -> Option<Class> {
        (at < self.text.len()).then(|| self.at(at).0)
    }

    /// Where a run of characters of some classes ends.
    fn run(self, mut at: usize, wanted: impl Fn(Class) -> bool) -> usize {
        while at < self.text.len() {
            let (class, after) = self.at(at);
            if !wanted(class) {
                break;
            }
            at = after;
        }
        at
    }

    fn leads_punctuation(self, space: usize, next: Option<Class>) -> bool {
        self.text.as_bytes()[space] == b' ' && next.is_some_and(Class::is_other)
    }

    /// `'s`, `'LL`, `'ſ`: where it ends, if there is one.
    fn contraction(self, apostrophe: usize, any_case: bool) -> Option<usize> {
        let behind = self.text[apostrophe..].strip_prefix('\'')?;
        contraction_bytes(behind.as_bytes(), any_case).map(|bytes| apostrophe + 1 + bytes)
    }

    fn numbers(self, start: usize, digits: u8) -> usize {
        let mut at = start;
        for _ in 0..digits {
            match self.class(at) {
                Some(Class::Number) => at = self.at(at).1,
                _ => break,
            }
        }
        at
    }

    /// The rest of a run of punctuation, and the newlines behind it.
    fn punctuation(self, at: usize) -> usize {
        self.run(self.run(at, Class::is_other), |class| class == Class::Newline)
    }

    fn punctuation_and_slashes(self, at: usize) -> usize {
        let behind = self.run(at, Class::is_other);
        let taken = self.text.as_bytes()[behind..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n' | b'/'));
        behind + taken.count()
    }

    /// White space: up to its last newline if it has one and the pattern minds, else all but the last character before
    /// something else, else all.
    fn white(self, start: usize, newlines: bool) -> usize {
        let (mut at, mut last, mut newline_end) = (start, start, None);
        while at < self.text.len() {
            let (class, after) = self.at(at);
            match class {
                Class::Newline if newlines => newline_end = Some(after),
                class if class.is_white() => {}
                _ => break,
            }
            (last, at) = (at, after);
        }
        match newline_end {
            Some(end) => end,
            None if at < self.text.len() && last > start => last,
            None => at,
        }
    }
}

fn may_begin(class: Class) -> bool {
    matches!(class, Class::Upper | Class::Caseless | Class::Mark)
}

fn may_end(class: Class) -> bool {
    matches!(class, Class::Lower | Class::Caseless | Class::Mark)
}

/// Bytes behind an apostrophe that belong to it: `s`, `LL`; ſ (U+017F) is an s to a pattern that minds no case.
pub fn contraction_bytes(behind: &[u8], any_case: bool) -> Option<usize> {
    let lower = |byte: u8| if any_case { byte.to_ascii_lowercase() } else { byte };
    let first = *behind.first()?;
    if matches!(lower(first), b's' | b'd' | b'm' | b't') {
        return Some(1);
    }
    let second = *behind.get(1)?;
    match (lower(first), lower(second)) {
        (b'l', b'l') | (b'v', b'e') | (b'r', b'e') => Some(2),
        _ => (any_case && (first, second) == (0xC5, 0xBF)).then_some(2),
    }
}
