//! Byte masks of a block → where pieces start, as bits; the same on all instruction sets.
//!
//! A block starts *at the start of a piece*, so no state is carried into it. A few dozen operations on `u64` find the
//! starts. Starts that depend on bytes after the block are left out; the next block begins at the last certain start.
//! In these masks `x << 1` means "the byte after x".

use super::byte_masks::{find_bytes, ByteMasks, BLOCK_BYTES};
use super::scalar::contraction_bytes;

impl ByteMasks {
    /// Starts of pieces in `Scheme::Prefixed`; bit 0 is always set.
    #[inline(always)]
    pub fn prefixed(&self, block: &[u8; BLOCK_BYTES], digits: u8) -> u64 {
        let other = self.other();
        let other_start = other & !(other << 1) & !(self.space << 1);
        let plain_white = self.white & !self.newline;
        // a word takes the character before it, if that is white space, or punctuation that stands alone
        let prefixed = plain_white << 1 | self.after(other_start);
        let letter_start = self.letter & !(self.letter << 1) & !prefixed;

        // newlines after punctuation belong to it
        let taken_from = self.newline & (other << 1);
        let taken = self.newline & !self.newline.wrapping_add(taken_from);
        let (white, newline) = (self.white & !taken, self.newline & !taken);
        let white_start = white & !(white << 1);
        let after_newlines = self.after_last_newline(plain_white, newline);
        let before_others = self.leads_of(plain_white & !(self.white >> 1));

        let starts = 1
            | other_start
            | letter_start
            | self.number_starts(digits)
            | self.contractions(block, other_start, true).1
            | white_start
            | after_newlines
            | before_others;
        self.certain(starts, white, white_start)
    }

    /// Starts of pieces in `Scheme::Spaced`; bit 0 is always set.
    #[inline(always)]
    pub fn spaced(&self, block: &[u8; BLOCK_BYTES]) -> u64 {
        let starts_of = |run: u64| run & !(run << 1) & !(self.space << 1);
        let other_start = starts_of(self.other());
        let (apostrophes, after_contractions) = self.contractions(block, other_start, false);
        let white_start = self.white & !(self.white << 1);
        let before_others = self.leads_of(self.white & !(self.white >> 1));
        let starts = 1
            | other_start
            | starts_of(self.letter) & !(apostrophes << 1)
            | starts_of(self.number)
            | after_contractions
            | white_start
            | before_others;
        self.certain(starts, self.white, white_start)
    }

    /// Starts of pieces in `Scheme::Cased`, up to the first byte that is not ASCII (`non_ascii`); bit 0 is always set.
    /// What a letter of another script or a mark does to a word depends on what is around it.
    #[inline(always)]
    pub fn cased(&self, block: &[u8; BLOCK_BYTES], non_ascii: u64) -> u64 {
        let known = self.valid & (non_ascii & non_ascii.wrapping_neg()).wrapping_sub(1);
        let upper = find_bytes(block, |bytes| bytes.at_least(b'A') & !bytes.at_least(b'Z' + 1));
        let plain_white = self.white & !self.newline;

        // newlines after punctuation belong to it, and so do slashes after those
        let other = self.other();
        let taken = self.taken_with_slashes(block, other);
        let (white, newline) = (self.white & !taken & known, self.newline & !taken);

        // a word takes its contraction, and the character before it, if that is white space or stands alone
        let suffixes = self.contraction_suffixes(block, known);
        let other = other & !taken;
        let other_start = other & !(other << 1) & !(self.space << 1) & !suffixes.taken;
        let prefixed = (plain_white | other_start) << 1;
        let letter_start = self.letter & !(self.letter << 1) & !prefixed;
        let case_start = upper & ((self.letter & !upper) << 1);

        let white_start = white & !(white << 1);
        let starts = 1
            | other_start
            | (letter_start | case_start) & !suffixes.taken
            | suffixes.after
            | self.number_starts(3)
            | white_start
            | self.after_last_newline(plain_white, newline)
            | plain_white & !(self.white >> 1);
        ByteMasks { valid: suffixes.known, ..*self }.certain(starts, white, white_start) | 1
    }

    /// Newlines after punctuation, and the slashes and newlines after these.
    #[inline(always)]
    fn taken_with_slashes(&self, block: &[u8; BLOCK_BYTES], other: u64) -> u64 {
        let mut taken = self.newline & (other << 1);
        let mut run = self.newline;
        if taken != 0 {
            run |= find_bytes(block, |bytes| bytes.equal(b'/'));
        }
        for step in [1, 2, 4, 8, 16, 32] {
            taken |= run & (taken << step);
            run &= run << step;
        }
        taken
    }

    /// The contractions that belong to the word before them.
    #[inline(always)]
    fn contraction_suffixes(&self, block: &[u8; BLOCK_BYTES], known: u64) -> Suffixes {
        let mut found = Suffixes { taken: 0, after: 0, known };
        let mut remaining = self.apostrophe & (self.letter << 1) & known;
        while remaining != 0 {
            let at = remaining.trailing_zeros() as usize;
            remaining &= remaining - 1;
            if found.after >> at & 1 == 1 {
                continue; // the letter before it belongs to a contraction: a new piece starts here
            }
            let contraction = contraction_bytes(&block[(at + 1).min(BLOCK_BYTES)..], true);
            let decided = known >> at >> 1 & 1 == 1 && (contraction.is_some() || at + 2 < BLOCK_BYTES);
            if !decided {
                found.known &= (1 << at) - 1;
                break;
            }
            if let Some(bytes) = contraction {
                found.taken |= ((2 << bytes) - 1) << at;
                found.after |= 1u64.checked_shl((at + 1 + bytes) as u32).unwrap_or(0);
            }
        }
        found
    }

    /// Removes starts that bytes after the block may change: of white space at its end, only the first start is certain.
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

    /// Starts of numbers: a run is cut every `digits` characters.
    #[inline(always)]
    fn number_starts(&self, digits: u8) -> u64 {
        let mut group = self.number & !(self.number << 1);
        let mut starts = group;
        while group != 0 {
            for _ in 0..digits {
                group = self.after(group) & self.number;
            }
            starts |= group;
        }
        starts
    }

    /// White space after the last newline of its run.
    #[inline(always)]
    fn after_last_newline(&self, plain_white: u64, newline: u64) -> u64 {
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

    /// The apostrophes of contractions (`'s`, `'ll`) that start a piece, and the bytes after the contractions.
    #[inline(always)]
    fn contractions(&self, block: &[u8; BLOCK_BYTES], other_start: u64, any_case: bool) -> (u64, u64) {
        let mut remaining = self.apostrophe & other_start & (self.letter >> 1);
        let (mut apostrophes, mut after) = (0, 0);
        while remaining != 0 {
            let at = remaining.trailing_zeros() as usize;
            remaining &= remaining - 1;
            if let Some(bytes) = contraction_bytes(&block[(at + 1).min(BLOCK_BYTES)..], any_case) {
                apostrophes |= 1 << at;
                after |= 1u64.checked_shl((at + 1 + bytes) as u32).unwrap_or(0);
            } else if at + 2 == BLOCK_BYTES {
                apostrophes |= 1 << at; // the block ends before this is decided
            }
        }
        (apostrophes, after)
    }
}

/// Contractions that belong to the word before them.
struct Suffixes {
    /// Apostrophes and the letters after them.
    taken: u64,
    /// The bytes after those.
    after: u64,
    /// Bytes whose classification does not depend on bytes after the block.
    known: u64,
}
