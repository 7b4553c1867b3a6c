//! Byte masks on aarch64: NEON.

use std::arch::aarch64::*;

use super::super::byte_masks::{ByteMasks, NonAsciiMasks, BLOCK_BYTES};
use super::super::character_class::ClassTable;
use super::tables::*;
use super::Simd;

/// NEON: four registers of 16 bytes, classified by table lookups.
pub struct Neon;

impl Simd for Neon {
    #[inline(always)]
    unsafe fn masks(block: &[u8; BLOCK_BYTES], classes: &ClassTable) -> (ByteMasks, NonAsciiMasks) {
        // SAFETY: every aarch64 has NEON; the loads read the four quarters of `block` and arrays of 16.
        unsafe {
            let nibble = vdupq_n_u8(0x0F);
            let bytes: [uint8x16_t; 4] = std::array::from_fn(|quarter| vld1q_u8(block.as_ptr().add(16 * quarter)));
            let low = bytes.map(|quarter| vandq_u8(quarter, nibble));
            let high = bytes.map(|quarter| vshrq_n_u8::<4>(quarter));
            let look_up = |low_table: &[u8; 16], high_table: &[u8; 16]| -> [uint8x16_t; 4] {
                let tables = (vld1q_u8(low_table.as_ptr()), vld1q_u8(high_table.as_ptr()));
                std::array::from_fn(|at| vandq_u8(vqtbl1q_u8(tables.0, low[at]), vqtbl1q_u8(tables.1, high[at])))
            };
            let has = |flags: [uint8x16_t; 4], flag: u8| bits(flags.map(|quarter| vtstq_u8(quarter, vdupq_n_u8(flag))));
            let class = look_up(&LOW_NIBBLES, &HIGH_NIBBLES);
            let masks = ByteMasks {
                letter: has(class, 1 | 2),
                number: has(class, 4),
                white: has(class, 8 | 32),
                newline: has(class, 16),
                space: has(class, 32),
                apostrophe: has(class, 64),
                continuation: 0,
                valid: u64::MAX,
            };
            let mut non_ascii = NonAsciiMasks { bytes: has(bytes, 0x80), ..NonAsciiMasks::default() };
            if non_ascii.bytes != 0 {
                let letters = look_up(letter_leads(classes), &LEAD_ROWS);
                non_ascii.letter_of_two = has(letters, 1 | 2);
                non_ascii.letter_of_three = has(letters, 4);
                non_ascii.continuation = non_ascii.bytes & !has(bytes, 0x40);
            }
            (masks, non_ascii)
        }
    }
}

/// A bit for each byte that is not zero: each byte keeps its own bit of a group of eight, and the groups are summed.
#[inline(always)]
unsafe fn bits(bytes: [uint8x16_t; 4]) -> u64 {
    static WEIGHTS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: every aarch64 has NEON; the load reads an array of 16.
    unsafe {
        let weights = vld1q_u8(WEIGHTS.as_ptr());
        let [a, b, c, d] = bytes.map(|quarter| vandq_u8(quarter, weights));
        let halves = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
        vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(halves, halves)))
    }
}
