//! The class of every code point, as far as split patterns distinguish them.

use std::sync::OnceLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// A class of characters. No known pattern needs finer ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CharacterClass {
    /// Everything else: punctuation, symbols, control characters, unassigned code points.
    Other,
    /// `\p{M}`: most patterns treat marks like `Other`.
    Mark,
    /// `\r` or `\n`.
    Newline,
    /// White space except newlines.
    Space,
    /// `\p{N}`.
    Number,
    /// `\p{Lu}` and `\p{Lt}`.
    Upper,
    /// `\p{Ll}`.
    Lower,
    /// `\p{Lm}` and `\p{Lo}`: letters without case.
    Caseless,
}

impl CharacterClass {
    /// `\p{L}`.
    pub const fn is_letter(self) -> bool {
        matches!(self, CharacterClass::Upper | CharacterClass::Lower | CharacterClass::Caseless)
    }

    /// `\s`.
    pub const fn is_white(self) -> bool {
        matches!(self, CharacterClass::Newline | CharacterClass::Space)
    }

    /// `[^\s\p{L}\p{N}]`.
    pub const fn is_other(self) -> bool {
        matches!(self, CharacterClass::Other | CharacterClass::Mark)
    }
}

const PAGE_CODE_POINTS: usize = 256;
const PAGES: usize = 0x11_0000 / PAGE_CODE_POINTS;

/// The classes of all code points, in pages of 256; equal pages are stored once.
pub struct ClassTable {
    page_of: Vec<u8>,
    pages: Vec<[CharacterClass; PAGE_CODE_POINTS]>,
    /// Lead bytes (0xC0 + index) of which every character is a letter.
    letter_leads: [bool; 64],
}

impl ClassTable {
    /// The table; built on first use.
    pub fn get() -> &'static ClassTable {
        static CLASSES: OnceLock<ClassTable> = OnceLock::new();
        CLASSES.get_or_init(ClassTable::build)
    }

    /// Class of a code point; `Other` above U+10FFFF.
    #[inline]
    pub fn of(&self, code_point: u32) -> CharacterClass {
        let code_point = code_point as usize;
        match self.page_of.get(code_point / PAGE_CODE_POINTS) {
            Some(&page) => self.pages[usize::from(page)][code_point % PAGE_CODE_POINTS],
            None => CharacterClass::Other,
        }
    }

    /// Whether every character with this lead byte is a letter.
    pub fn leads_letters_only(&self, lead: u8) -> bool {
        lead >= 0xC0 && self.letter_leads[usize::from(lead - 0xC0)]
    }

    fn build() -> ClassTable {
        let mut all = vec![CharacterClass::Other; PAGES * PAGE_CODE_POINTS];
        let classes = [
            (r"\p{M}", CharacterClass::Mark),
            (r"\s", CharacterClass::Space),
            (r"[\r\n]", CharacterClass::Newline),
            (r"\p{N}", CharacterClass::Number),
            (r"[\p{Lu}\p{Lt}]", CharacterClass::Upper),
            (r"\p{Ll}", CharacterClass::Lower),
            (r"[\p{Lm}\p{Lo}]", CharacterClass::Caseless),
        ];
        for (pattern, class) in classes {
            for (first, last) in ranges(pattern) {
                all[first..=last].fill(class);
            }
        }
        let mut pages: Vec<[CharacterClass; PAGE_CODE_POINTS]> = Vec::new();
        let mut page_of = Vec::with_capacity(PAGES);
        for chunk in all.chunks_exact(PAGE_CODE_POINTS) {
            let index = pages.iter().position(|page| page == chunk).unwrap_or_else(|| {
                let mut page = [CharacterClass::Other; PAGE_CODE_POINTS];
                page.copy_from_slice(chunk);
                pages.push(page);
                pages.len() - 1
            });
            page_of.push(u8::try_from(index).expect("Unicode has fewer than 256 different pages"));
        }
        let mut letter_leads = [false; 64];
        for (lead, only_letters) in (0xC0u32..).zip(letter_leads.iter_mut()) {
            let code_points = match lead {
                0xC2..=0xDF => (lead & 0x1F) << 6..((lead & 0x1F) + 1) << 6,
                0xE1..=0xEC | 0xEE..=0xEF => (lead & 0xF) << 12..((lead & 0xF) + 1) << 12,
                _ => continue, // never in UTF-8, or only for a part of its range
            };
            *only_letters =
                all[code_points.start as usize..code_points.end as usize].iter().all(|class| class.is_letter());
        }
        ClassTable { page_of, pages, letter_leads }
    }
}

/// The code points of a regex class, as inclusive ranges.
fn ranges(class: &str) -> Vec<(usize, usize)> {
    let parsed = regex_syntax::parse(class).expect("a valid class");
    match parsed.into_kind() {
        HirKind::Class(HirClass::Unicode(found)) => {
            found.ranges().iter().map(|range| (range.start() as usize, range.end() as usize)).collect()
        }
        kind => unreachable!("{class} is {kind:?}, not a class of code points"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_unusual_characters() {
        let classes = ClassTable::get();
        for (character, class) in [
            ('\u{85}', CharacterClass::Space),
            ('\u{2028}', CharacterClass::Space),
            ('\u{b}', CharacterClass::Space),
            ('\u{1c}', CharacterClass::Other),
            ('\u{200b}', CharacterClass::Other),
            ('\u{180e}', CharacterClass::Other),
            ('\u{feff}', CharacterClass::Other),
            ('²', CharacterClass::Number),
            ('Ⅷ', CharacterClass::Number),
            ('\u{301}', CharacterClass::Mark),
            ('ſ', CharacterClass::Lower),
            ('ǅ', CharacterClass::Upper),
            ('東', CharacterClass::Caseless),
            ('\r', CharacterClass::Newline),
        ] {
            assert_eq!(classes.of(character as u32), class, "{character:?}");
        }
        assert_eq!(classes.of(u32::MAX), CharacterClass::Other);
    }

    #[test]
    fn lead_bytes_of_letters_only() {
        let classes = ClassTable::get();
        for (lead, only_letters) in
            [(0xC3, false), (0xD0, true), (0xE5, true), (0xE2, false), (0xF0, false), (b'a', false)]
        {
            assert_eq!(classes.leads_letters_only(lead), only_letters, "{lead:x}");
        }
    }
}
