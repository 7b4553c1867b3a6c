//! Keys of pieces of up to 15 bytes, and the comparison with four keys at once.

use std::hint::select_unpredictable;

use crate::packed_piece::{pack_piece, MAX_PACKED_BYTES};

/// The two halves of a packed piece. For pieces of up to 7 bytes both are equal, with a top byte that no other key has.
pub type ShortPieceKey = [u64; 2];

/// Key of a piece of up to 15 bytes.
#[inline(always)]
pub fn key_of(piece: &[u8]) -> ShortPieceKey {
    let packed = pack_piece(piece);
    let (low, high) = (packed as u64, (packed >> 64) as u64);
    let both = low | high | 0xF8 << 56;
    let fits_half = piece.len() < 8;
    // no branch: the length of the next piece cannot be predicted
    [select_unpredictable(fits_half, both, low), select_unpredictable(fits_half, both, high)]
}

/// Key of a piece that is too long: equal to no other.
const NO_KEY: ShortPieceKey = [u64::MAX; 2];

/// Bytes that `key_at` reads from the start of a piece, whatever its length.
pub const READ_BYTES: usize = 16;

/// Key of `text[begin..end]`.
#[inline(always)]
pub fn key_in(text: &[u8], begin: usize, end: usize) -> ShortPieceKey {
    if end - begin > MAX_PACKED_BYTES {
        return NO_KEY;
    }
    key_of(&text[begin..end])
}

/// Key of a piece of `bytes` bytes.
///
/// # Safety
/// `READ_BYTES` bytes are readable from `piece`, and the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code)]
pub unsafe fn key_at(piece: *const u8, bytes: usize) -> ShortPieceKey {
    use std::arch::x86_64::*;
    let (order, tag) = &SHAPES[bytes.min(TOO_LONG)];
    // SAFETY: each of the three is 16 bytes; the caller guarantees the first, and the instructions
    unsafe {
        let sixteen = _mm_loadu_si128(piece.cast());
        let order = _mm_load_si128(std::ptr::from_ref(order).cast());
        let tag = _mm_load_si128(std::ptr::from_ref(tag).cast());
        std::mem::transmute::<__m128i, ShortPieceKey>(_mm_or_si128(_mm_shuffle_epi8(sixteen, order), tag))
    }
}

#[derive(Clone, Copy)]
#[repr(align(16))]
struct Sixteen([u8; 16]);

const TOO_LONG: usize = MAX_PACKED_BYTES + 1;

/// By length: the shuffle from bytes of the text to bytes of the key (0x80: zero), and the bits that the length adds.
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

/// Compares the halves of a key with four stored halves; a bit for each that is equal.
///
/// # Safety
/// With `AVX2`, the processor has it.
#[inline(always)]
#[allow(unsafe_code)]
pub unsafe fn equal_keys<const AVX2: bool>(stored: &[u64; 4], [low, high]: ShortPieceKey) -> usize {
    #[cfg(target_arch = "x86_64")]
    if AVX2 {
        use std::arch::x86_64::*;
        // SAFETY: the stored halves are 32 bytes, the key 16; the caller guarantees the instructions
        return unsafe {
            let stored = _mm256_loadu_si256(std::ptr::from_ref(stored).cast());
            let wanted = _mm256_broadcastsi128_si256(_mm_set_epi64x(high as i64, low as i64));
            _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(stored, wanted))) as usize
        };
    }
    usize::from(stored[0] == low)
        | usize::from(stored[1] == high) << 1
        | usize::from(stored[2] == low) << 2
        | usize::from(stored[3] == high) << 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn keys_are_unique_and_the_same_with_avx2() {
        let text: Vec<u8> = (0..32).map(|at| [0, 9, 15, 97, 0xF9, 0xFF][at % 6]).collect();
        let mut seen = std::collections::HashMap::new();
        for begin in 0..text.len() {
            for end in begin + 1..=(begin + MAX_PACKED_BYTES).min(text.len()) {
                let piece = &text[begin..end];
                assert_eq!(key_in(&text, begin, end), key_of(piece));
                #[cfg(target_arch = "x86_64")]
                if begin + READ_BYTES <= text.len() && is_x86_feature_detected!("avx2") {
                    // SAFETY: the bytes are readable, and the processor has AVX2
                    assert_eq!(unsafe { key_at(text[begin..].as_ptr(), piece.len()) }, key_of(piece));
                    // SAFETY: as above
                    assert_eq!(unsafe { key_at(text[begin..].as_ptr(), MAX_PACKED_BYTES + begin + 1) }, NO_KEY);
                }
                assert_eq!(*seen.entry(key_of(piece)).or_insert(piece), piece);
            }
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn equal_halves_are_found() {
        for wanted in [[1, 2], [7, 7]] {
            for bits in 0..16 {
                let stored = std::array::from_fn(|at| if bits >> at & 1 == 1 { wanted[at % 2] } else { 9 });
                // SAFETY: no special instructions
                assert_eq!(unsafe { equal_keys::<false>(&stored, wanted) }, bits);
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2
                    assert_eq!(unsafe { equal_keys::<true>(&stored, wanted) }, bits);
                }
            }
        }
    }
}
