//! What a split pattern can tell apart: the class of every code point.

use std::sync::OnceLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// Classes that no pattern we scan by hand needs to tell apart further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    /// None of the others: punctuation, symbols, control characters, what is not assigned.
    Other,
    /// `\p{M}`: for most patterns no letter, so the same as `Other`.
    Mark,
    /// `\r` or `\n`.
    Newline,
    /// White space but newlines.
    Space,
    /// `\p{N}`.
    Number,
    /// `\p{Lu}` and `\p{Lt}`.
    Upper,
    /// `\p{Ll}`.
    Lower,
    /// `\p{Lm}` and `\p{Lo}`: letters that have no case.
    Caseless,
}

impl Class {
    /// `\p{L}`.
    pub const fn is_letter(self) -> bool {
        matches!(self, Class::Upper | Class::Lower | Class::Caseless)
    }

    /// `\s`.
    pub const fn is_white(self) -> bool {
        matches!(self, Class::Newline | Class::Space)
    }

    /// `[^\s\p{L}\p{N}]`.
    pub const fn is_other(self) -> bool {
        matches!(self, Class::Other | Class::Mark)
    }
}

const PAGE: usize = 256;
const PAGES: usize = 0x11_0000 / PAGE;

/// Classes of all code points, page by page; equal pages are stored once.
pub struct Classes {
    page_of: Vec<u8>,
    pages: Vec<[Class; PAGE]>,
    /// Lead bytes (0xC0 + index) under which every character is a letter.
    letter_leads: [bool; 64],
}

impl Classes {
    /// The table; built once.
    pub fn get() -> &'static Classes {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(Classes::build)
    }

    /// Class of a code point; of what is none, `Other`.
    #[inline]
    pub fn of(&self, code: u32) -> Class {
        let code = code as usize;
        match self.page_of.get(code / PAGE) {
            Some(&page) => self.pages[usize::from(page)][code % PAGE],
            None => Class::Other,
        }
    }

    /// Whether every character that begins with this byte is a letter.
    pub fn only_letters_begin_with(&self, lead: u8) -> bool {
        lead >= 0xC0 && self.letter_leads[usize::from(lead - 0xC0)]
    }

    fn build() -> Classes {
        let mut all = vec![Class::Other; PAGES * PAGE];
        let classes = [
            (r"\p{M}", Class::Mark),
            (r"\s", Class::Space),
            (r"[\r\n]", Class::Newline),
            (r"\p{N}", Class::Number),
            (r"[\p{Lu}\p{Lt}]", Class::Upper),
            (r"\p{Ll}", Class::Lower),
            (r"[\p{Lm}\p{Lo}]", Class::Caseless),
        ];
        for (pattern, class) in classes {
            for (first, last) in ranges(pattern) {
                all[first..=last].fill(class);
            }
        }
        let mut pages: Vec<[Class; PAGE]> = Vec::new();
        let mut page_of = Vec::with_capacity(PAGES);
        for chunk in all.chunks_exact(PAGE) {
            let known = pages.iter().position(|page| page == chunk).unwrap_or_else(|| {
                let mut page = [Class::Other; PAGE];
                page.copy_from_slice(chunk);
                pages.push(page);
                pages.len() - 1
            });
            page_of.push(u8::try_from(known).expect("Unicode has fewer than 256 different pages"));
        }
        let mut letter_leads = [false; 64];
        for (lead, only_letters) in (0xC0u32..).zip(letter_leads.iter_mut()) {
            let begun = match lead {
                0xC2..=0xDF => (lead & 0x1F) << 6..((lead & 0x1F) + 1) << 6,
                0xE1..=0xEC | 0xEE..=0xEF => (lead & 0xF) << 12..((lead & 0xF) + 1) << 12,
                _ => continue, // never UTF-8, or not all of its range is
            };
            *only_letters = all[begun.start as usize..begun.end as usize].iter().all(|class| class.is_letter());
        }
        Classes { page_of, pages, letter_leads }
    }
}

/// The code points of a regex class, as ranges with both ends.
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
    fn traps() {
        let classes = Classes::get();
        for (character, class) in [
            ('\u{85}', Class::Space),
            ('\u{2028}', Class::Space),
            ('\u{b}', Class::Space),
            ('\u{1c}', Class::Other),
            ('\u{200b}', Class::Other),
            ('\u{180e}', Class::Other),
            ('\u{feff}', Class::Other),
            ('²', Class::Number),
            ('Ⅷ', Class::Number),
            ('\u{301}', Class::Mark),
            ('ſ', Class::Lower),
            ('ǅ', Class::Upper),
            ('東', Class::Caseless),
            ('\r', Class::Newline),
        ] {
            assert_eq!(classes.of(character as u32), class, "{character:?}");
        }
        assert_eq!(classes.of(u32::MAX), Class::Other);
    }

    #[test]
    fn leads() {
        let classes = Classes::get();
        for (lead, only_letters) in
            [(0xC3, false), (0xD0, true), (0xE5, true), (0xE2, false), (0xF0, false), (b'a', false)]
        {
            assert_eq!(classes.only_letters_begin_with(lead), only_letters, "{lead:x}");
        }
    }
}
