//! 64 bytes → masks, on each instruction set; and bits → positions.
//!
//! This is the only part of the scanner that is `unsafe`: instructions that a processor may lack. [`Level`] is the
//! proof that it has them: only [`Level::available`] hands out levels other than the portable ones.
#![allow(unsafe_code)]

use super::block::{Masks, Wide, BLOCK};
use super::class::Classes;

/// How a text is scanned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level(Instructions);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Instructions {
    /// Character by character; no blocks.
    Scalar,
    /// Blocks, byte by byte.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// All that this processor can do, the slowest first.
    pub fn available() -> Vec<Level> {
        let mut levels = vec![Level(Instructions::Scalar), Level(Instructions::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("lzcnt")
            {
                levels.push(Level(Instructions::Avx2));
                if ["avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vbmi2"]
                    .iter()
                    .all(|feature| avx512(feature))
                {
                    levels.push(Level(Instructions::Avx512));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(Level(Instructions::Neon)); // every aarch64 has it
        levels
    }

    /// The fastest that this processor can do.
    pub fn best() -> Level {
        static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| *Level::available().last().unwrap_or(&Level(Instructions::Scalar)))
    }

    /// Its name: `scalar`, `portable`, `avx2`, `avx512`, `neon`.
    pub fn name(self) -> String {
        format!("{:?}", self.0).to_lowercase()
    }

    pub(crate) fn instructions(self) -> Instructions {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512(feature: &str) -> bool {
    match feature {
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512vbmi" => is_x86_feature_detected!("avx512vbmi"),
        _ => is_x86_feature_detected!("avx512vbmi2"),
    }
}

/// What an instruction set has to offer. Its functions may be called where its instructions are known to be there, and
/// are compiled for them when they are inlined into a function that enables them.
pub(crate) trait Simd {
    /// Masks of the bytes that are ASCII, and of those that are not.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn masks(block: &[u8; BLOCK], classes: &Classes) -> (Masks, Wide);

    /// Writes `base` plus the position of each bit that is set, in order; returns how many.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    unsafe fn positions(mut bits: u64, base: usize, out: &mut [usize; BLOCK]) -> usize {
        let count = bits.count_ones() as usize;
        for slots in out.chunks_exact_mut(8).take(count.div_ceil(8)) {
            for slot in slots {
                *slot = base + bits.trailing_zeros() as usize; // past the last bit: not counted
                bits &= bits.wrapping_sub(1);
            }
        }
        count
    }
}

const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const WHITE: u8 = 4;
const NEWLINE: u8 = 8;
const SPACE: u8 = 16;
const APOSTROPHE: u8 = 32;

const fn ascii_flags(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => LETTER,
        b'0'..=b'9' => NUMBER,
        b'\r' | b'\n' => WHITE | NEWLINE,
        b'\t' | 0x0B | 0x0C => WHITE,
        b' ' => WHITE | SPACE,
        b'\'' => APOSTROPHE,
        _ => 0,
    }
}

const fn ascii_table() -> [u8; 128] {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = ascii_flags(byte);
        byte += 1;
    }
    table
}

static ASCII: [u8; 128] = ascii_table();

/// Byte by byte.
pub(crate) struct Portable;

impl Simd for Portable {
    #[inline(always)]
    unsafe fn masks(block: &[u8; BLOCK], classes: &Classes) -> (Masks, Wide) {
        let mut masks = Masks { valid: u64::MAX, ..Masks::default() };
        let mut wide = Wide::default();
        for (at, &byte) in block.iter().enumerate() {
            let flags = ASCII.get(usize::from(byte)).copied().unwrap_or(0);
            let bit = |flag: u8| u64::from(flags & flag != 0) << at;
            masks.letter |= bit(LETTER);
            masks.number |= bit(NUMBER);
            masks.white |= bit(WHITE);
            masks.newline |= bit(NEWLINE);
            masks.space |= bit(SPACE);
            masks.apostrophe |= bit(APOSTROPHE);
            let letters = classes.only_letters_begin_with(byte);
            wide.high |= u64::from(byte >= 0x80) << at;
            wide.continuation |= u64::from((0x80..0xC0).contains(&byte)) << at;
            wide.letter_of_two |= u64::from(letters && byte < 0xE0) << at;
            wide.letter_of_three |= u64::from(letters && byte >= 0xE0) << at;
        }
        (masks, wide)
    }
}

/// For each lower half of a byte, bits that say which upper halves (C, D, E as bits 0, 1, 2) make it a first byte of
/// letters only.
fn letter_leads(classes: &Classes) -> &'static [u8; 16] {
    static LEADS: std::sync::OnceLock<[u8; 16]> = std::sync::OnceLock::new();
    LEADS.get_or_init(|| {
        let mut leads = [0; 16];
        for (low, flags) in (0u8..).zip(leads.iter_mut()) {
            for (bit, high) in [0xC0, 0xD0, 0xE0].into_iter().enumerate() {
                *flags |= u8::from(classes.only_letters_begin_with(high | low)) << bit;
            }
        }
        leads
    })
}

/// Classes of ASCII by halves of the byte: a byte has class bit `b` if both tables have it for its halves.
/// Bits: 0 letters of rows 4 and 6, 1 letters of rows 5 and 7, 2 numbers, 3 white space but the space, 4 newlines,
/// 5 space, 6 apostrophe.
const fn half_tables() -> ([u8; 16], [u8; 16]) {
    let (mut low, mut high) = ([0u8; 16], [0u8; 16]);
    let mut half = 0;
    while half < 16 {
        let n = half as u8;
        low[half] = (n >= 1) as u8
            | ((n <= 10) as u8) << 1
            | ((n <= 9) as u8) << 2
            | ((n >= 9 && n <= 13) as u8) << 3
            | ((n == 10 || n == 13) as u8) << 4
            | ((n == 0) as u8) << 5
            | ((n == 7) as u8) << 6;
        high[half] = (n == 4 || n == 6) as u8
            | ((n == 5 || n == 7) as u8) << 1
            | ((n == 3) as u8) << 2
            | ((n == 0) as u8) << 3
            | ((n == 0) as u8) << 4
            | ((n == 2) as u8) << 5
            | ((n == 2) as u8) << 6;
        half += 1;
    }
    (low, high)
}

static LOW_HALVES: [u8; 16] = half_tables().0;
static HIGH_HALVES: [u8; 16] = half_tables().1;
/// For each upper half of a byte: C, D, E as bits 0, 1, 2.
static LEAD_ROWS: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 0];

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    /// Two halves of 32 bytes, classified by shuffles.
    pub(crate) struct Avx2;

    impl Simd for Avx2 {
        #[inline(always)]
        unsafe fn masks(block: &[u8; BLOCK], classes: &Classes) -> (Masks, Wide) {
            // SAFETY: the caller vouches for AVX2; the two loads read bytes 0..32 and 32..64 of `block`, the others 16
            // bytes of arrays of 16.
            unsafe {
                let twice = |table: &[u8; 16]| _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                let (low_table, high_table) = (twice(&LOW_HALVES), twice(&HIGH_HALVES));
                let nibble = _mm256_set1_epi8(0x0F);
                let bytes =
                    [_mm256_loadu_si256(block.as_ptr().cast()), _mm256_loadu_si256(block.as_ptr().add(32).cast())];
                let low = bytes.map(|half| _mm256_and_si256(half, nibble));
                let high = bytes.map(|half| _mm256_and_si256(_mm256_srli_epi16::<4>(half), nibble));
                let joined = |halves: [__m256i; 2]| {
                    let bits = halves.map(|half| u64::from(_mm256_movemask_epi8(half) as u32));
                    bits[0] | bits[1] << 32
                };
                let class: [__m256i; 2] = std::array::from_fn(|half| {
                    _mm256_and_si256(
                        _mm256_shuffle_epi8(low_table, low[half]),
                        _mm256_shuffle_epi8(high_table, high[half]),
                    )
                });
                // a bit of each byte is shifted to its top, which a movemask takes
                macro_rules! bit {
                    ($of:expr, $bit:literal) => {
                        joined($of.map(|half| _mm256_slli_epi16::<{ 7 - $bit }>(half)))
                    };
                }
                let (newline, space) = (bit!(class, 4), bit!(class, 5));
                let masks = Masks {
                    letter: bit!(class, 0) | bit!(class, 1),
                    number: bit!(class, 2),
                    white: bit!(class, 3) | space,
                    newline,
                    space,
                    apostrophe: bit!(class, 6),
                    continuation: 0,
                    valid: u64::MAX,
                };
                let mut wide = Wide { high: joined(bytes), ..Wide::default() };
                if wide.high != 0 {
                    let lead_table = twice(letter_leads(classes));
                    let rows = twice(&LEAD_ROWS);
                    let letters: [__m256i; 2] = std::array::from_fn(|half| {
                        _mm256_and_si256(
                            _mm256_shuffle_epi8(lead_table, low[half]),
                            _mm256_shuffle_epi8(rows, high[half]),
                        )
                    });
                    wide.letter_of_two = bit!(letters, 0) | bit!(letters, 1);
                    wide.letter_of_three = bit!(letters, 2);
                    let first_lead = _mm256_set1_epi8(0xC0u8 as i8);
                    wide.continuation = joined(bytes.map(|half| _mm256_cmpgt_epi8(first_lead, half)));
                }
                (masks, wide)
            }
        }
    }

    /// 64 bytes at once: one permutation of two registers looks every byte up in a table of 128.
    pub(crate) struct Avx512;

    impl Simd for Avx512 {
        #[inline(always)]
        unsafe fn masks(block: &[u8; BLOCK], classes: &Classes) -> (Masks, Wide) {
            // SAFETY: the caller vouches for AVX-512 F, BW, VL, VBMI; the loads read the 64 bytes of `block`, the two
            // halves of a table of 128 bytes, and 16 bytes of arrays of 16.
            unsafe {
                let bytes = _mm512_loadu_si512(block.as_ptr().cast());
                let high = _mm512_movepi8_mask(bytes);
                let table =
                    [_mm512_loadu_si512(ASCII.as_ptr().cast()), _mm512_loadu_si512(ASCII.as_ptr().add(64).cast())];
                let flags = _mm512_maskz_permutex2var_epi8(!high, table[0], bytes, table[1]);
                let has = |flags: __m512i, flag: u8| _mm512_test_epi8_mask(flags, _mm512_set1_epi8(flag as i8));
                let masks = Masks {
                    letter: has(flags, LETTER),
                    number: has(flags, NUMBER),
                    white: has(flags, WHITE),
                    newline: has(flags, NEWLINE),
                    space: has(flags, SPACE),
                    apostrophe: has(flags, APOSTROPHE),
                    continuation: 0,
                    valid: u64::MAX,
                };
                let mut wide = Wide { high, ..Wide::default() };
                if high != 0 {
                    let four = |table: &[u8; 16]| _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                    let nibble = _mm512_set1_epi8(0x0F);
                    let low = _mm512_and_si512(bytes, nibble);
                    let row = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble);
                    let letters = _mm512_and_si512(
                        _mm512_shuffle_epi8(four(letter_leads(classes)), low),
                        _mm512_shuffle_epi8(four(&LEAD_ROWS), row),
                    );
                    wide.letter_of_two = has(letters, 3);
                    wide.letter_of_three = has(letters, 4);
                    wide.continuation = _mm512_cmplt_epi8_mask(bytes, _mm512_set1_epi8(0xC0u8 as i8));
                }
                (masks, wide)
            }
        }

        #[inline(always)]
        unsafe fn positions(bits: u64, base: usize, out: &mut [usize; BLOCK]) -> usize {
            let count = bits.count_ones() as usize;
            // SAFETY: the caller vouches for AVX-512 VBMI2; `out` has room for 64 positions, written 8 at a time.
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

    static NUMBERS: [u8; 64] = {
        let mut numbers = [0; 64];
        let mut at = 0;
        while at < 64 {
            numbers[at] = at as u8;
            at += 1;
        }
        numbers
    };
    static NEXT_EIGHT: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 7];
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod arm {
    use super::*;
    use std::arch::aarch64::*;

    /// Four quarters of 16 bytes, classified by table lookups.
    pub(crate) struct Neon;

    impl Simd for Neon {
        #[inline(always)]
        unsafe fn masks(block: &[u8; BLOCK], classes: &Classes) -> (Masks, Wide) {
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
                let has =
                    |flags: [uint8x16_t; 4], flag: u8| bits(flags.map(|quarter| vtstq_u8(quarter, vdupq_n_u8(flag))));
                let class = look_up(&LOW_HALVES, &HIGH_HALVES);
                let masks = Masks {
                    letter: has(class, 1 | 2),
                    number: has(class, 4),
                    white: has(class, 8 | 32),
                    newline: has(class, 16),
                    space: has(class, 32),
                    apostrophe: has(class, 64),
                    continuation: 0,
                    valid: u64::MAX,
                };
                let mut wide = Wide { high: has(bytes, 0x80), ..Wide::default() };
                if wide.high != 0 {
                    let letters = look_up(letter_leads(classes), &LEAD_ROWS);
                    wide.letter_of_two = has(letters, 1 | 2);
                    wide.letter_of_three = has(letters, 4);
                    wide.continuation = wide.high & !has(bytes, 0x40);
                }
                (masks, wide)
            }
        }
    }

    /// A bit for each byte that is not zero: each keeps a bit of its own in its group of eight, and groups are added up.
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
}
