//! Where a piece ends, character by character: the reference for the faster scanners.
//!
//! Each scheme tries the alternatives of its pattern in their order.

use super::character_class::{CharacterClass, ClassTable};
use super::patterns::Scheme;

/// A text, and the classes of its characters.
#[derive(Clone, Copy)]
pub struct ScalarScanner<'a> {
    text: &'a str,
    classes: &'static ClassTable,
}

impl<'a> ScalarScanner<'a> {
    /// Of a text.
    pub fn new(text: &'a str, classes: &'static ClassTable) -> ScalarScanner<'a> {
        ScalarScanner { text, classes }
    }

    /// End of the piece that starts at `start`, which is a character boundary before the end of the text.
    pub fn piece_end(self, scheme: Scheme, start: usize) -> usize {
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
            class if class.is_letter() => self.run(after, CharacterClass::is_letter),
            // letters may have one character before them that is not a newline, letter or number
            CharacterClass::Space | CharacterClass::Other | CharacterClass::Mark
                if next.is_some_and(CharacterClass::is_letter) =>
            {
                self.run(after, CharacterClass::is_letter)
            }
            CharacterClass::Number => self.numbers(start, digits),
            class if class.is_other() => self.punctuation(after),
            CharacterClass::Space if self.space_before_punctuation(start, next) => self.punctuation(after),
            _ if end_is_whole && self.run(start, CharacterClass::is_white) == self.text.len() => self.text.len(),
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
            class if class.is_letter() => self.run(after, CharacterClass::is_letter),
            CharacterClass::Number => self.run(after, |class| class == CharacterClass::Number),
            class if class.is_other() => self.run(after, CharacterClass::is_other),
            _ => self.white(start, false),
        }
    }

    fn cased(self, start: usize) -> usize {
        let (class, after) = self.at(start);
        let may_be_prefix = class == CharacterClass::Space || class.is_other();
        let word = (if may_be_prefix { self.small_word(after) } else { None })
            .or_else(|| self.small_word(start))
            .or_else(|| if may_be_prefix { self.capitals(after) } else { None })
            .or_else(|| self.capitals(start));
        if let Some(end) = word {
            return self.contraction(end, true).unwrap_or(end);
        }
        match class {
            CharacterClass::Number => self.numbers(start, 3),
            class if class.is_other() => self.punctuation_and_slashes(after),
            CharacterClass::Space if self.space_before_punctuation(start, self.class(after)) => {
                self.punctuation_and_slashes(after)
            }
            _ => self.white(start, true),
        }
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`, if it matches at `start`.
    fn small_word(self, start: usize) -> Option<usize> {
        let (mut at, mut backtracked) = (start, None);
        while let Some(class) = self.class(at).filter(|&class| may_start_word(class)) {
            at = self.at(at).1;
            if may_end_word(class) {
                backtracked = Some(at);
            }
        }
        let end = self.run(at, may_end_word);
        if end > at {
            Some(end)
        } else {
            backtracked
        }
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+`, if it matches at `start`.
    fn capitals(self, start: usize) -> Option<usize> {
        Some(self.run(start, may_start_word)).filter(|&end| end > start)
    }

    /// Class of the character at a position, and where the next one begins.
    fn at(self, at: usize) -> (CharacterClass, usize) {
        match self.text[at..].chars().next() {
            Some(character) => (self.classes.of(character as u32), at + character.len_utf8()),
            None => (CharacterClass::Other, at),
        }
    }

    fn class(self, at: usize) -> Option<CharacterClass> {
        (at < self.text.len()).then(|| self.at(at).0)
    }

    /// End of a run of characters of some classes.
    fn run(self, mut at: usize, wanted: impl Fn(CharacterClass) -> bool) -> usize {
        while at < self.text.len() {
            let (class, after) = self.at(at);
            if !wanted(class) {
                break;
            }
            at = after;
        }
        at
    }

    fn space_before_punctuation(self, space: usize, next: Option<CharacterClass>) -> bool {
        self.text.as_bytes()[space] == b' ' && next.is_some_and(CharacterClass::is_other)
    }

    /// End of a contraction (`'s`, `'LL`, `'ſ`) that starts at `apostrophe`, if there is one.
    fn contraction(self, apostrophe: usize, any_case: bool) -> Option<usize> {
        let rest = self.text[apostrophe..].strip_prefix('\'')?;
        contraction_bytes(rest.as_bytes(), any_case).map(|bytes| apostrophe + 1 + bytes)
    }

    fn numbers(self, start: usize, digits: u8) -> usize {
        let mut at = start;
        for _ in 0..digits {
            match self.class(at) {
                Some(CharacterClass::Number) => at = self.at(at).1,
                _ => break,
            }
        }
        at
    }

    /// End of a run of punctuation and the newlines after it.
    fn punctuation(self, at: usize) -> usize {
        self.run(self.run(at, CharacterClass::is_other), |class| class == CharacterClass::Newline)
    }

    fn punctuation_and_slashes(self, at: usize) -> usize {
        let rest = self.run(at, CharacterClass::is_other);
        let taken = self.text.as_bytes()[rest..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n' | b'/'));
        rest + taken.count()
    }

    /// End of white space: after its last newline, if `newlines` and there is one; else before its last character, if other
    /// text follows; else the end of the text.
    fn white(self, start: usize, newlines: bool) -> usize {
        let (mut at, mut last, mut newline_end) = (start, start, None);
        while at < self.text.len() {
            let (class, after) = self.at(at);
            match class {
                CharacterClass::Newline if newlines => newline_end = Some(after),
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

fn may_start_word(class: CharacterClass) -> bool {
    matches!(class, CharacterClass::Upper | CharacterClass::Caseless | CharacterClass::Mark)
}

fn may_end_word(class: CharacterClass) -> bool {
    matches!(class, CharacterClass::Lower | CharacterClass::Caseless | CharacterClass::Mark)
}

/// Bytes of the contraction after an apostrophe: `s`, `LL`. A pattern that ignores case takes ſ (U+017F) for an s.
pub fn contraction_bytes(rest: &[u8], any_case: bool) -> Option<usize> {
    let lower = |byte: u8| if any_case { byte.to_ascii_lowercase() } else { byte };
    let first = *rest.first()?;
    if matches!(lower(first), b's' | b'd' | b'm' | b't') {
        return Some(1);
    }
    let second = *rest.get(1)?;
    match (lower(first), lower(second)) {
        (b'l', b'l') | (b'v', b'e') | (b'r', b'e') => Some(2),
        _ => (any_case && (first, second) == (0xC5, 0xBF)).then_some(2),
    }
}
