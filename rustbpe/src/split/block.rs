//! 64 bytes → where pieces begin, as bits: one algebra for all instruction sets.
//!
//! A block is read *at the beginning of a piece*, so nothing has to be carried into it. From masks that say what each
//! byte is (all bytes of a character are what the character is) it follows with a few dozen operations on `u64` where
//! pieces begin. What depends on bytes behind the block is left out; the next block begins at the last beginning that
//! is certain. `x << 1` reads "behind x".

use super::class::{Class, Classes};
use super::scalar::contraction_bytes;

/// Bytes of a block.
pub const BLOCK: usize = 64;

/// What the bytes of a block are; bit `i` speaks of byte `i`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Masks {
    /// Letters.
    pub letter: u64,
    /// Numbers.
    pub number: u64,
    /// White space, newlines too.
    pub white: u64,
    /// `\r` and `\n`.
    pub newline: u64,
    /// U+0020 only.
    pub space: u64,
    /// U+0027.
    pub apostrophe: u64,
    /// All bytes but the first of a character.
    pub continuation: u64,
    /// Bytes of which the above are known: all, unless a character is cut by the end of the block.
    pub valid: u64,
}

/// What an instruction set finds out about bytes that are not ASCII; the rest is looked up by character.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Wide {
    /// Bytes from 0x80.
    pub high: u64,
    /// Those of 0x80..0xC0.
    pub continuation: u64,
    /// First bytes of characters of two bytes that are letters.
    pub letter_of_two: u64,
    /// First bytes of characters of three bytes that are letters.
    pub letter_of_three: u64,
}

impl Masks {
    /// Adds the characters that are not ASCII to masks of those that are.
    #[inline(always)]
    pub fn add_wide(&mut self, block: &[u8; BLOCK], wide: Wide, classes: &Classes) {
        let leads = wide.high & !wide.continuation;
        self.continuation = wide.continuation;
        let last = 63 - leads.leading_zeros() as usize; // wide.high is not empty, and a block begins with a lead
        if last + length_of(block[last & 63]) > BLOCK {
            self.valid &= (1 << last) - 1;
        }
        let (two, three) = (wide.letter_of_two, wide.letter_of_three);
        self.letter |= two | two << 1 | three | three << 1 | three << 2;
        let mut left = leads & !two & !three & self.valid;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            let (code, bytes) = decode(block, at);
            let here = ((1 << bytes) - 1) << at;
            match classes.of(code) {
                Class::Upper | Class::Lower | Class::Caseless => self.letter |= here,
                Class::Number => self.number |= here,
                Class::Space | Class::Newline => self.white |= here,
                Class::Other | Class::Mark => {}
            }
        }
        self.letter &= self.valid;
    }

    /// Behind the characters whose first bytes are marked.
    #[inline(always)]
    fn behind(&self, first_bytes: u64) -> u64 {
        let next = first_bytes << 1;
        // adding carries a mark over the continuation bytes that follow it
        let carried = (next & self.continuation).wrapping_add(self.continuation);
        (next | carried) & !self.continuation
    }

    /// First bytes of the characters whose last bytes are marked.
    #[inline(always)]
    fn first_bytes(&self, last_bytes: u64) -> u64 {
        let (mut found, mut inside) = (last_bytes & !self.continuation, last_bytes & self.continuation);
        for _ in 0..3 {
            inside >>= 1;
            found |= inside & !self.continuation;
            inside &= self.continuation;
        }
        found
    }

    /// Where pieces of `Scheme::Prefixed` begin; bit 0 always.
    #[inline(always)]
    pub fn prefixed(&self, block: &[u8; BLOCK], digits: u8) -> u64 {
        let other = self.valid & !(self.letter | self.number | self.white);
        let other_start = other & !(other << 1) & !(self.space << 1);
        let plain_white = self.white & !self.newline;
        // a word takes the character before it, if that is white space, or punctuation that stands alone
        let led = plain_white << 1 | self.behind(other_start);
        let letter_start = self.letter & !(self.letter << 1) & !led;

        // newlines behind punctuation belong to it
        let taken_from = self.newline & (other << 1);
        let taken = self.newline & !self.newline.wrapping_add(taken_from);
        let (white, newline) = (self.white & !taken, self.newline & !taken);
        let white_start = white & !(white << 1);
        let behind_newlines = self.behind_last_newline(plain_white, newline);
        let before_others = self.first_bytes(plain_white & !(self.white >> 1));

        let starts = 1
            | other_start
            | letter_start
            | self.number_starts(digits)
            | self.contractions(block, other_start, true).1
            | white_start
            | behind_newlines
            | before_others;
        self.certain(starts, white, white_start)
    }

    /// Where pieces of `Scheme::Spaced` begin; bit 0 always.
    #[inline(always)]
    pub fn spaced(&self, block: &[u8; BLOCK]) -> u64 {
        let other = self.valid & !(self.letter | self.number | self.white);
        let starts_of = |run: u64| run & !(run << 1) & !(self.space << 1);
        let other_start = starts_of(other);
        let (apostrophes, behind_contractions) = self.contractions(block, other_start, false);
        let white_start = self.white & !(self.white << 1);
        let before_others = self.first_bytes(self.white & !(self.white >> 1));
        let starts = 1
            | other_start
            | starts_of(self.letter) & !(apostrophes << 1)
            | starts_of(self.number)
            | behind_contractions
            | white_start
            | before_others;
        self.certain(starts, self.white, white_start)
    }

    /// Where pieces of `Scheme::Cased` begin; bit 0 always. Only up to the first character that is not ASCII, one of
    /// `high`: what a letter of another script or a mark does to a word depends on what is around it.
    #[inline(always)]
    pub fn cased(&self, block: &[u8; BLOCK], high: u64) -> u64 {
        let known = self.valid & (high & high.wrapping_neg()).wrapping_sub(1);
        let upper = find(block, |eight| eight.at_least(b'A') & !eight.at_least(b'Z' + 1));
        let plain_white = self.white & !self.newline;

        // newlines behind punctuation belong to it, and slashes behind those
        let other = self.valid & !(self.letter | self.number | self.white);
        let taken = self.taken_with_slashes(block, other);
        let (white, newline) = (self.white & !taken & known, self.newline & !taken);

        // a word takes its contraction, and the character before it, if that is white space or stands alone
        let suffixes = self.suffixes(block, known);
        let other = other & !taken;
        let other_start = other & !(other << 1) & !(self.space << 1) & !suffixes.taken;
        let led = (plain_white | other_start) << 1;
        let letter_start = self.letter & !(self.letter << 1) & !led;
        let case_start = upper & ((self.letter & !upper) << 1);

        let white_start = white & !(white << 1);
        let starts = 1
            | other_start
            | (letter_start | case_start) & !suffixes.taken
            | suffixes.behind
            | self.number_starts(3)
            | white_start
            | self.behind_last_newline(plain_white, newline)
            | plain_white & !(self.white >> 1);
        Masks { valid: suffixes.known, ..*self }.certain(starts, white, white_start) | 1
    }

    /// Newlines behind punctuation, and slashes and newlines behind these.
    #[inline(always)]
    fn taken_with_slashes(&self, block: &[u8; BLOCK], other: u64) -> u64 {
        let mut taken = self.newline & (other << 1);
        let mut run = self.newline;
        if taken != 0 {
            run |= find(block, |eight| eight.equal(b'/'));
        }
        for step in [1, 2, 4, 8, 16, 32] {
            taken |= run & (taken << step);
            run &= run << step;
        }
        taken
    }

    /// The contractions that words take with them.
    #[inline(always)]
    fn suffixes(&self, block: &[u8; BLOCK], known: u64) -> Suffixes {
        let mut found = Suffixes { taken: 0, behind: 0, known };
        let mut left = self.apostrophe & (self.letter << 1) & known;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            if found.behind >> at & 1 == 1 {
                continue; // the letter before it is a contraction's: here something new begins
            }
            let contraction = contraction_bytes(&block[(at + 1).min(BLOCK)..], true);
            let seen = known >> at >> 1 & 1 == 1 && (contraction.is_some() || at + 2 < BLOCK);
            if !seen {
                found.known &= (1 << at) - 1;
                break;
            }
            if let Some(bytes) = contraction {
                found.taken |= ((2 << bytes) - 1) << at;
                found.behind |= 1u64.checked_shl((at + 1 + bytes) as u32).unwrap_or(0);
            }
        }
        found
    }

    /// Of white space that reaches the end of what is known, only its beginning is certain.
    #[inline(always)]
    fn certain(&self, starts: u64, white: u64, white_start: u64) -> u64 {
        let last = self.valid ^ (self.valid >> 1);
        let starts = starts & self.valid;
        if white & last == 0 {
            return starts;
        }
        let run = 63 - white_start.leading_zeros();
        starts & (u64::MAX >> (63 - run))
    }

    /// Runs of numbers are cut every `digits` characters.
    #[inline(always)]
    fn number_starts(&self, digits: u8) -> u64 {
        let mut group = self.number & !(self.number << 1);
        let mut starts = group;
        while group != 0 {
            for _ in 0..digits {
                group = self.behind(group) & self.number;
            }
            starts |= group;
        }
        starts
    }

    /// White space behind the last newline of its run.
    #[inline(always)]
    fn behind_last_newline(&self, plain_white: u64, newline: u64) -> u64 {
        let mut found = plain_white & (newline << 1);
        let run_ends = found.wrapping_add(plain_white) & !plain_white;
        let mut more_newlines = run_ends & newline;
        while more_newlines != 0 {
            let end = more_newlines & more_newlines.wrapping_neg();
            more_newlines ^= end;
            let before = found & (end - 1);
            found ^= 1 << (63 - before.leading_zeros());
        }
        found
    }

    /// The apostrophes of `'s`, `'ll` and so on, and what is behind them; one counts where a piece may begin with it.
    #[inline(always)]
    fn contractions(&self, block: &[u8; BLOCK], other_start: u64, any_case: bool) -> (u64, u64) {
        let mut left = self.apostrophe & other_start & (self.letter >> 1);
        let (mut apostrophes, mut behind) = (0, 0);
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            if let Some(bytes) = contraction_bytes(&block[(at + 1).min(BLOCK)..], any_case) {
                apostrophes |= 1 << at;
                behind |= 1u64.checked_shl((at + 1 + bytes) as u32).unwrap_or(0);
            } else if at + 2 == BLOCK {
                apostrophes |= 1 << at; // it may be one: what is behind it is not certain
            }
        }
        (apostrophes, behind)
    }
}

/// What words take with them.
struct Suffixes {
    /// Apostrophes, and the letters behind them.
    taken: u64,
    /// What is behind those.
    behind: u64,
    /// Bytes that nothing behind the block can change.
    known: u64,
}

/// Eight bytes; a question is answered by the highest bit of each.
#[derive(Clone, Copy)]
struct Eight(u64);

const ONES: u64 = 0x0101_0101_0101_0101;
const LOW_BITS: u64 = 0x7F * ONES;

impl Eight {
    /// Of bytes that are ASCII: whether they are at least this one, which is ASCII too.
    #[inline(always)]
    fn at_least(self, byte: u8) -> u64 {
        (self.0 & LOW_BITS).wrapping_add(u64::from(0x80 - byte) * ONES) & !self.0
    }

    #[inline(always)]
    fn equal(self, byte: u8) -> u64 {
        let differing = self.0 ^ (u64::from(byte) * ONES);
        !((differing & LOW_BITS).wrapping_add(LOW_BITS) | differing)
    }
}

/// The bytes of a block that answer a question with yes.
#[inline(always)]
fn find(block: &[u8; BLOCK], question: impl Fn(Eight) -> u64) -> u64 {
    let mut found = 0;
    for (place, &eight) in block.as_chunks::<8>().0.iter().enumerate() {
        let answers = question(Eight(u64::from_le_bytes(eight))) >> 7 & ONES;
        // the bits 0, 8, 16 … of a number side by side: each is moved to the top byte by one term of the product
        found |= (answers.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * place);
    }
    found
}

/// Bytes of the character that begins with a byte.
#[inline(always)]
fn length_of(lead: u8) -> usize {
    match lead {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

/// Code point and bytes of a character of more than one byte that lies in the block as a whole.
#[inline(always)]
fn decode(block: &[u8; BLOCK], at: usize) -> (u32, usize) {
    let byte = |behind: usize| u32::from(block[(at + behind) & (BLOCK - 1)]);
    let low = |behind: usize| byte(behind) & 0x3F;
    match length_of(block[at & (BLOCK - 1)]) {
        4 => ((byte(0) & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
        3 => ((byte(0) & 0x0F) << 12 | low(1) << 6 | low(2), 3),
        _ => ((byte(0) & 0x1F) << 6 | low(1), 2),
    }
}
