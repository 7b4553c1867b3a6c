//! Pieces of up to 15 bytes as two numbers, and how four of these are compared at once.

use std::hint::select_unpredictable;

use crate::key::{key_of, KEY_BYTES};

/// A piece as it is looked up: its two halves. Those of up to 7 bytes have equal halves, with a byte at the top that no
/// text has, so that they are nobody else's.
pub type Halves = [u64; 2];

/// The halves of a piece of up to 15 bytes.
#[inline(always)]
pub fn halves(piece: &[u8]) -> Halves {
    let key = key_of(piece);
    let (low, high) = (key as u64, (key >> 64) as u64);
    let both = low | high | 0xF8 << 56;
    let small = piece.len() < 8;
    // no branch: nobody can guess how long the next word is
    [select_unpredictable(small, both, low), select_unpredictable(small, both, high)]
}

/// The halves of a piece that is too long: nobody's.
const NO_HALVES: Halves = [u64::MAX; 2];

/// Bytes behind the beginning of a piece that `halves_at` reads, whatever its length.
pub const READ_BYTES: usize = 16;

/// Halves of `text[begin..end]`.
#[inline(always)]
pub fn halves_in(text: &[u8], begin: usize, end: usize) -> Halves {
    if end - begin > KEY_BYTES {
        return NO_HALVES;
    }
    halves(&text[begin..end])
}

/// Halves of a piece of so many bytes.
///
/// # Safety
/// At `piece` there are `READ_BYTES` bytes, and the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code)]
pub unsafe fn halves_at(piece: *const u8, bytes: usize) -> Halves {
    use std::arch::x86_64::*;
    let (order, tag) = &SHAPES[bytes.min(TOO_LONG)];
    // SAFETY: each of the three is 16 bytes; the caller vouches for the first, and for the instructions
    unsafe {
        let sixteen = _mm_loadu_si128(piece.cast());
        let order = _mm_load_si128(std::ptr::from_ref(order).cast());
        let tag = _mm_load_si128(std::ptr::from_ref(tag).cast());
        std::mem::transmute::<__m128i, Halves>(_mm_or_si128(_mm_shuffle_epi8(sixteen, order), tag))
    }
}

#[derive(Clone, Copy)]
#[repr(align(16))]
struct Sixteen([u8; 16]);

const TOO_LONG: usize = KEY_BYTES + 1;

/// For each length: which byte of the text goes where (none: 0x80), and what the length adds.
static SHAPES: [(Sixteen, Sixteen); TOO_LONG + 1] = shapes();

const fn shapes() -> [(Sixteen, Sixteen); TOO_LONG + 1] {
    let mut shapes = [(Sixteen([0x80; 16]), Sixteen([0; 16])); TOO_LONG + 1];
    shapes[TOO_LONG].1 = Sixteen([0xFF; 16]);
    let mut bytes = 0;
    while bytes < TOO_LONG {
        let (order, tag) = (&mut shapes[bytes].0 .0, &mut shapes[bytes].1 .0);
        let mut at = 0;
        while at < bytes {
            order[at] = at as u8;
            if bytes < 8 {
                order[8 + at] = at as u8;
            }
            at += 1;
        }
        tag[15] = bytes as u8;
        if bytes < 8 {
            tag[7] = 0xF8 | bytes as u8;
            tag[15] = 0xF8 | bytes as u8;
        }
        bytes += 1;
    }
    shapes
}

/// Which keys are equal to their half, a bit for each.
///
/// # Safety
/// `AVX2` needs a processor that has it.
#[inline(always)]
#[allow(unsafe_code)]
pub unsafe fn equal<const AVX2: bool>(keys: &[u64; 4], [low, high]: Halves) -> usize {
    #[cfg(target_arch = "x86_64")]
    if AVX2 {
        use std::arch::x86_64::*;
        // SAFETY: the keys are 32 bytes, the halves 16; the caller vouches for the instructions
        return unsafe {
            let keys = _mm256_loadu_si256(std::ptr::from_ref(keys).cast());
            let wanted = _mm256_broadcastsi128_si256(_mm_set_epi64x(high as i64, low as i64));
            _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(keys, wanted))) as usize
        };
    }
    usize::from(keys[0] == low)
        | usize::from(keys[1] == high) << 1
        | usize::from(keys[2] == low) << 2
        | usize::from(keys[3] == high) << 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn both_ways_agree_and_no_two_pieces_share_halves() {
        let text: Vec<u8> = (0..32).map(|at| [0, 9, 15, 97, 0xF9, 0xFF][at % 6]).collect();
        let mut seen = std::collections::HashMap::new();
        for begin in 0..text.len() {
            for end in begin + 1..=(begin + KEY_BYTES).min(text.len()) {
                let piece = &text[begin..end];
                assert_eq!(halves_in(&text, begin, end), halves(piece));
                #[cfg(target_arch = "x86_64")]
                if begin + READ_BYTES <= text.len() && is_x86_feature_detected!("avx2") {
                    // SAFETY: there are so many bytes, and the processor has it
                    assert_eq!(unsafe { halves_at(text[begin..].as_ptr(), piece.len()) }, halves(piece));
                    // SAFETY: as above
                    assert_eq!(unsafe { halves_at(text[begin..].as_ptr(), KEY_BYTES + begin + 1) }, NO_HALVES);
                }
                assert_eq!(*seen.entry(halves(piece)).or_insert(piece), piece);
            }
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn equal_keys_are_found() {
        for wanted in [[1, 2], [7, 7]] {
            for bits in 0..16 {
                let keys = std::array::from_fn(|at| if bits >> at & 1 == 1 { wanted[at % 2] } else { 9 });
                // SAFETY: no instructions are asked for
                assert_eq!(unsafe { equal::<false>(&keys, wanted) }, bits);
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has it
                    assert_eq!(unsafe { equal::<true>(&keys, wanted) }, bits);
                }
            }
        }
    }
}
