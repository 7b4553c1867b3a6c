//! A text → ends of pieces, in blocks of 64 bytes.

#![allow(unsafe_code)]

use super::byte_masks::{ByteMasks, BLOCK_BYTES};
use super::character_class::ClassTable;
use super::patterns::Scheme;
use super::scalar::ScalarScanner;
use super::simd::{Instructions, Portable, Simd, SimdLevel};
use super::splitter::{PieceEnds, MAX_ENDS, TARGET_ENDS};

/// Finds the ends of the next pieces.
pub fn scan(scheme: Scheme, level: SimdLevel, text: &str, start: usize, ends: &mut PieceEnds) {
    match (scheme, level.instructions()) {
        (_, Instructions::Scalar) => {
            let scalar = ScalarScanner::new(text, ClassTable::get());
            let mut at = start;
            while at < text.len() && ends.count < TARGET_ENDS {
                at = scalar.piece_end(scheme, at);
                ends.push(at);
            }
        }
        // SAFETY: the portable code needs no special instructions
        (_, Instructions::Portable) => unsafe { scan_blocks::<Portable>(scheme, text, start, ends) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level exists only for instructions that this processor has
        (_, Instructions::Avx2) => unsafe { scan_avx2(scheme, text, start, ends) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level exists only for instructions that this processor has
        (_, Instructions::Avx512) => unsafe { scan_avx512(scheme, text, start, ends) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every aarch64 has NEON
        (_, Instructions::Neon) => unsafe { scan_blocks::<super::simd::arm::Neon>(scheme, text, start, ends) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,lzcnt,popcnt")]
unsafe fn scan_avx2(scheme: Scheme, text: &str, start: usize, ends: &mut PieceEnds) {
    // SAFETY: this function is compiled for these instructions and called only where the processor has them
    unsafe { scan_blocks::<super::simd::x86::Avx2>(scheme, text, start, ends) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx2,bmi1,lzcnt,popcnt")]
unsafe fn scan_avx512(scheme: Scheme, text: &str, start: usize, ends: &mut PieceEnds) {
    // SAFETY: this function is compiled for these instructions and called only where the processor has them
    unsafe { scan_blocks::<super::simd::x86::Avx512>(scheme, text, start, ends) }
}

/// Scans block by block. What a block does not decide (a piece that fills it, white space at the end of the text) is
/// left to the scalar scanner.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn scan_blocks<S: Simd>(scheme: Scheme, text: &str, start: usize, ends: &mut PieceEnds) {
    let classes = ClassTable::get();
    let bytes = text.as_bytes();
    let mut at = start;
    while ends.count < TARGET_ENDS {
        let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<BLOCK_BYTES>()) else {
            break;
        };
        // SAFETY: the caller guarantees the instructions
        let starts = unsafe { piece_starts::<S>(scheme, block, classes, u64::MAX) };
        if starts == 1 {
            at = ScalarScanner::new(text, classes).piece_end(scheme, at);
            ends.push(at);
            continue;
        }
        let Some(room) = ends.positions[ends.count..].first_chunk_mut::<BLOCK_BYTES>() else {
            return;
        };
        // SAFETY: the caller guarantees the instructions
        ends.count += unsafe { S::positions(starts & !1, at, room) };
        at += 63 - starts.leading_zeros() as usize;
    }
    let rest = bytes.len() - at;
    if rest == 0 || rest >= BLOCK_BYTES {
        return;
    }
    let mut padded = [0; BLOCK_BYTES];
    padded[..rest].copy_from_slice(&bytes[at..]);
    let inside = (1 << rest) - 1;
    // SAFETY: the caller guarantees the instructions
    let starts = unsafe { piece_starts::<S>(scheme, &padded, classes, inside) };
    let Some(room) = ends.positions[ends.count..].first_chunk_mut::<BLOCK_BYTES>() else {
        return;
    };
    // SAFETY: the caller guarantees the instructions
    ends.count += unsafe { S::positions(starts & !1, at, room) };
    at += 63 - starts.leading_zeros() as usize;
    while at < bytes.len() && ends.count < MAX_ENDS {
        at = ScalarScanner::new(text, classes).piece_end(scheme, at);
        ends.push(at);
    }
}

/// Where pieces start in a block, as bits. `inside`: the bytes that belong to the text.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn piece_starts<S: Simd>(scheme: Scheme, block: &[u8; BLOCK_BYTES], classes: &ClassTable, inside: u64) -> u64 {
    if scheme == Scheme::Cased && (block[0] | block[1]) >= 0x80 {
        return 1; // most likely a word of another script
    }
    // SAFETY: the caller guarantees the instructions
    let (mut masks, non_ascii): (ByteMasks, _) = unsafe { S::masks(block, classes) };
    masks.valid = inside;
    if scheme == Scheme::Cased {
        return masks.cased(block, non_ascii.bytes);
    }
    if non_ascii.bytes != 0 {
        masks.add_non_ascii(block, non_ascii, classes);
    }
    match scheme {
        Scheme::Prefixed { digits, .. } => masks.prefixed(block, digits),
        _ => masks.spaced(block),
    }
}
