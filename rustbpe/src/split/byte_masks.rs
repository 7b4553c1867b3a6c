//! What the bytes of a block are, as bit masks of 64 bytes: bit `i` describes byte `i`. All bytes of a character have the
//! character's class.

use super::character_class::{CharacterClass, ClassTable};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 64;

/// The bytes of a block by class.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct ByteMasks {
    /// Letters.
    pub letter: u64,
    /// Numbers.
    pub number: u64,
    /// White space, including newlines.
    pub white: u64,
    /// `\r` and `\n`.
    pub newline: u64,
    /// U+0020 only.
    pub space: u64,
    /// U+0027.
    pub apostrophe: u64,
    /// UTF-8 continuation bytes.
    pub continuation: u64,
    /// Bytes whose class is known: all but those of a character that the end of the block cuts.
    pub valid: u64,
}

/// What the SIMD code finds about bytes that are not ASCII; the rest is looked up by character.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct NonAsciiMasks {
    /// Bytes from 0x80.
    pub bytes: u64,
    /// Bytes in 0x80..0xC0.
    pub continuation: u64,
    /// Lead bytes of two-byte characters that are letters.
    pub letter_of_two: u64,
    /// Lead bytes of three-byte characters that are letters.
    pub letter_of_three: u64,
}

impl ByteMasks {
    /// Adds the characters that are not ASCII.
    #[inline(always)]
    pub fn add_non_ascii(&mut self, block: &[u8; BLOCK_BYTES], non_ascii: NonAsciiMasks, classes: &ClassTable) {
        let leads = non_ascii.bytes & !non_ascii.continuation;
        self.continuation = non_ascii.continuation;
        let last = 63 - leads.leading_zeros() as usize; // there is a lead: a block starts with a character
        if last + character_bytes(block[last & 63]) > BLOCK_BYTES {
            self.valid &= (1 << last) - 1;
        }
        let (two, three) = (non_ascii.letter_of_two, non_ascii.letter_of_three);
        self.letter |= two | two << 1 | three | three << 1 | three << 2;
        let mut remaining = leads & !two & !three & self.valid;
        while remaining != 0 {
            let at = remaining.trailing_zeros() as usize;
            remaining &= remaining - 1;
            let (code_point, bytes) = decode(block, at);
            let character = ((1 << bytes) - 1) << at;
            match classes.of(code_point) {
                CharacterClass::Upper | CharacterClass::Lower | CharacterClass::Caseless => self.letter |= character,
                CharacterClass::Number => self.number |= character,
                CharacterClass::Space | CharacterClass::Newline => self.white |= character,
                CharacterClass::Other | CharacterClass::Mark => {}
            }
        }
        self.letter &= self.valid;
    }

    /// Bytes that are not letters, numbers or white space.
    #[inline(always)]
    pub fn other(&self) -> u64 {
        self.valid & !(self.letter | self.number | self.white)
    }

    /// The bytes after the characters with these lead bytes.
    #[inline(always)]
    pub fn after(&self, leads: u64) -> u64 {
        let next = leads << 1;
        // the addition carries each bit over the continuation bytes that follow it
        let carried = (next & self.continuation).wrapping_add(self.continuation);
        (next | carried) & !self.continuation
    }

    /// Lead bytes of the characters with these last bytes.
    #[inline(always)]
    pub fn leads_of(&self, last_bytes: u64) -> u64 {
        let (mut leads, mut inside) = (last_bytes & !self.continuation, last_bytes & self.continuation);
        for _ in 0..3 {
            inside >>= 1;
            leads |= inside & !self.continuation;
            inside &= self.continuation;
        }
        leads
    }
}

/// Eight bytes in one number. A test sets the highest bit of each byte that passes.
#[derive(Clone, Copy)]
pub struct EightBytes(u64);

const ONES: u64 = 0x0101_0101_0101_0101;
const LOW_BITS: u64 = 0x7F * ONES;

impl EightBytes {
    /// ASCII bytes that are at least `byte`, which is ASCII too.
    #[inline(always)]
    pub fn at_least(self, byte: u8) -> u64 {
        (self.0 & LOW_BITS).wrapping_add(u64::from(0x80 - byte) * ONES) & !self.0
    }

    /// Bytes equal to `byte`.
    #[inline(always)]
    pub fn equal(self, byte: u8) -> u64 {
        let differing = self.0 ^ (u64::from(byte) * ONES);
        !((differing & LOW_BITS).wrapping_add(LOW_BITS) | differing)
    }
}

/// The bytes of a block that pass a test.
#[inline(always)]
pub fn find_bytes(block: &[u8; BLOCK_BYTES], test: impl Fn(EightBytes) -> u64) -> u64 {
    let mut found = 0;
    for (index, &eight) in block.as_chunks::<8>().0.iter().enumerate() {
        let passed = test(EightBytes(u64::from_le_bytes(eight))) >> 7 & ONES;
        // moves the bits 0, 8, 16, … next to each other: one term of the product moves each to the top byte
        found |= (passed.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * index);
    }
    found
}

/// Bytes of the character with this lead byte.
#[inline(always)]
fn character_bytes(lead: u8) -> usize {
    match lead {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

/// Code point and length of a character of more than one byte that is wholly in the block.
#[inline(always)]
fn decode(block: &[u8; BLOCK_BYTES], at: usize) -> (u32, usize) {
    let byte = |offset: usize| u32::from(block[(at + offset) & (BLOCK_BYTES - 1)]);
    let low = |offset: usize| byte(offset) & 0x3F;
    match character_bytes(block[at & (BLOCK_BYTES - 1)]) {
        4 => ((byte(0) & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
        3 => ((byte(0) & 0x0F) << 12 | low(1) << 6 | low(2), 3),
        _ => ((byte(0) & 0x1F) << 6 | low(1), 2),
    }
}
