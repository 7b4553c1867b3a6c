//! Byte masks without special instructions.

use super::super::byte_masks::{ByteMasks, NonAsciiMasks, BLOCK_BYTES};
use super::super::character_class::ClassTable;
use super::tables::*;
use super::Simd;

/// Byte by byte, on any processor.
pub struct Portable;

impl Simd for Portable {
    #[inline(always)]
    unsafe fn masks(block: &[u8; BLOCK_BYTES], classes: &ClassTable) -> (ByteMasks, NonAsciiMasks) {
        let mut masks = ByteMasks { valid: u64::MAX, ..ByteMasks::default() };
        let mut non_ascii = NonAsciiMasks::default();
        for (at, &byte) in block.iter().enumerate() {
            let flags = ASCII.get(usize::from(byte)).copied().unwrap_or(0);
            let bit = |flag: u8| u64::from(flags & flag != 0) << at;
            masks.letter |= bit(LETTER);
            masks.number |= bit(NUMBER);
            masks.white |= bit(WHITE);
            masks.newline |= bit(NEWLINE);
            masks.space |= bit(SPACE);
            masks.apostrophe |= bit(APOSTROPHE);
            let letters = classes.leads_letters_only(byte);
            non_ascii.bytes |= u64::from(byte >= 0x80) << at;
            non_ascii.continuation |= u64::from((0x80..0xC0).contains(&byte)) << at;
            non_ascii.letter_of_two |= u64::from(letters && byte < 0xE0) << at;
            non_ascii.letter_of_three |= u64::from(letters && byte >= 0xE0) << at;
        }
        (masks, non_ascii)
    }
}
