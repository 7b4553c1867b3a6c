//! Byte masks on x86-64: AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::super::byte_masks::{ByteMasks, NonAsciiMasks, BLOCK_BYTES};
use super::super::character_class::ClassTable;
use super::tables::*;
use super::Simd;

/// AVX2: two registers of 32 bytes, classified by shuffles.
pub struct Avx2;

impl Simd for Avx2 {
    #[inline(always)]
    unsafe fn masks(block: &[u8; BLOCK_BYTES], classes: &ClassTable) -> (ByteMasks, NonAsciiMasks) {
        // SAFETY: the caller guarantees AVX2; the two loads read bytes 0..32 and 32..64 of `block`, the others 16
        // bytes of arrays of 16.
        unsafe {
            let twice = |table: &[u8; 16]| _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let (low_table, high_table) = (twice(&LOW_NIBBLES), twice(&HIGH_NIBBLES));
            let nibble = _mm256_set1_epi8(0x0F);
            let bytes = [_mm256_loadu_si256(block.as_ptr().cast()), _mm256_loadu_si256(block.as_ptr().add(32).cast())];
            let low = bytes.map(|half| _mm256_and_si256(half, nibble));
            let high = bytes.map(|half| _mm256_and_si256(_mm256_srli_epi16::<4>(half), nibble));
            let joined = |halves: [__m256i; 2]| {
                let bits = halves.map(|half| u64::from(_mm256_movemask_epi8(half) as u32));
                bits[0] | bits[1] << 32
            };
            let class: [__m256i; 2] = std::array::from_fn(|half| {
                _mm256_and_si256(_mm256_shuffle_epi8(low_table, low[half]), _mm256_shuffle_epi8(high_table, high[half]))
            });
            // shifts a bit of each byte to its top, where movemask reads it
            macro_rules! bit {
                ($of:expr, $bit:literal) => {
                    joined($of.map(|half| _mm256_slli_epi16::<{ 7 - $bit }>(half)))
                };
            }
            let (newline, space) = (bit!(class, 4), bit!(class, 5));
            let masks = ByteMasks {
                letter: bit!(class, 0) | bit!(class, 1),
                number: bit!(class, 2),
                white: bit!(class, 3) | space,
                newline,
                space,
                apostrophe: bit!(class, 6),
                continuation: 0,
                valid: u64::MAX,
            };
            let mut non_ascii = NonAsciiMasks { bytes: joined(bytes), ..NonAsciiMasks::default() };
            if non_ascii.bytes != 0 {
                let lead_table = twice(letter_leads(classes));
                let rows = twice(&LEAD_ROWS);
                let letters: [__m256i; 2] = std::array::from_fn(|half| {
                    _mm256_and_si256(_mm256_shuffle_epi8(lead_table, low[half]), _mm256_shuffle_epi8(rows, high[half]))
                });
                non_ascii.letter_of_two = bit!(letters, 0) | bit!(letters, 1);
                non_ascii.letter_of_three = bit!(letters, 2);
                let first_lead = _mm256_set1_epi8(0xC0u8 as i8);
                non_ascii.continuation = joined(bytes.map(|half| _mm256_cmpgt_epi8(first_lead, half)));
            }
            (masks, non_ascii)
        }
    }
}

/// AVX-512: 64 bytes at once; one permutation looks up every byte in a table of 128.
pub struct Avx512;

impl Simd for Avx512 {
    #[inline(always)]
    unsafe fn masks(block: &[u8; BLOCK_BYTES], classes: &ClassTable) -> (ByteMasks, NonAsciiMasks) {
        // SAFETY: the caller guarantees AVX-512 F, BW, VL, VBMI; the loads read the 64 bytes of `block`, the two
        // halves of a table of 128 bytes, and 16 bytes of arrays of 16.
        unsafe {
            let bytes = _mm512_loadu_si512(block.as_ptr().cast());
            let high = _mm512_movepi8_mask(bytes);
            let table = [_mm512_loadu_si512(ASCII.as_ptr().cast()), _mm512_loadu_si512(ASCII.as_ptr().add(64).cast())];
            let flags = _mm512_maskz_permutex2var_epi8(!high, table[0], bytes, table[1]);
            let has = |flags: __m512i, flag: u8| _mm512_test_epi8_mask(flags, _mm512_set1_epi8(flag as i8));
            let masks = ByteMasks {
                letter: has(flags, LETTER),
                number: has(flags, NUMBER),
                white: has(flags, WHITE),
                newline: has(flags, NEWLINE),
                space: has(flags, SPACE),
                apostrophe: has(flags, APOSTROPHE),
                continuation: 0,
                valid: u64::MAX,
            };
            let mut non_ascii = NonAsciiMasks { bytes: high, ..NonAsciiMasks::default() };
            if high != 0 {
                let four = |table: &[u8; 16]| _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                let nibble = _mm512_set1_epi8(0x0F);
                let low = _mm512_and_si512(bytes, nibble);
                let row = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble);
                let letters = _mm512_and_si512(
                    _mm512_shuffle_epi8(four(letter_leads(classes)), low),
                    _mm512_shuffle_epi8(four(&LEAD_ROWS), row),
                );
                non_ascii.letter_of_two = has(letters, 3);
                non_ascii.letter_of_three = has(letters, 4);
                non_ascii.continuation = _mm512_cmplt_epi8_mask(bytes, _mm512_set1_epi8(0xC0u8 as i8));
            }
            (masks, non_ascii)
        }
    }

    #[inline(always)]
    unsafe fn positions(bits: u64, base: usize, out: &mut [usize; BLOCK_BYTES]) -> usize {
        let count = bits.count_ones() as usize;
        // SAFETY: the caller guarantees AVX-512 VBMI2; `out` has room for 64 positions, written 8 at a time.
        unsafe {
            let mut numbers = _mm512_maskz_compress_epi8(bits, _mm512_loadu_si512(NUMBERS.as_ptr().cast()));
            let base = _mm512_set1_epi64(base as i64);
            let mut written = 0;
            while written < count {
                let eight = _mm512_cvtepu8_epi64(_mm512_castsi512_si128(numbers));
                _mm512_storeu_si512(out.as_mut_ptr().add(written).cast(), _mm512_add_epi64(eight, base));
                numbers = _mm512_permutexvar_epi64(_mm512_loadu_si512(NEXT_EIGHT.as_ptr().cast()), numbers);
                written += 8;
            }
        }
        count
    }
}

/// 0, 1, 2, …
static NUMBERS: [u8; 64] = {
    let mut numbers = [0; 64];
    let mut at = 0;
    while at < 64 {
        numbers[at] = at as u8;
        at += 1;
    }
    numbers
};
/// Moves each group of eight bytes one group down.
static NEXT_EIGHT: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 7];
