//! 64 bytes → byte masks, and bits → positions, on each instruction set.
//!
//! This code is `unsafe` because a processor may lack the instructions. [`SimdLevel`] proves that it has them: other
//! levels than the portable ones come only from [`SimdLevel::available`].
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
pub mod arm;
mod portable;
mod tables;
#[cfg(target_arch = "x86_64")]
pub mod x86;

use std::sync::OnceLock;

use super::byte_masks::{ByteMasks, NonAsciiMasks, BLOCK_BYTES};
use super::character_class::ClassTable;
pub use portable::Portable;

/// An instruction set that this processor has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimdLevel(Instructions);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Instructions {
    /// Character by character, without blocks.
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

impl SimdLevel {
    /// All levels of this processor, the slowest first.
    pub fn available() -> Vec<SimdLevel> {
        let mut levels = vec![SimdLevel(Instructions::Scalar), SimdLevel(Instructions::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("lzcnt")
            {
                levels.push(SimdLevel(Instructions::Avx2));
                if has_avx512() {
                    levels.push(SimdLevel(Instructions::Avx512));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(SimdLevel(Instructions::Neon)); // every aarch64 has it
        levels
    }

    /// The fastest level of this processor.
    pub fn best() -> SimdLevel {
        static BEST: OnceLock<SimdLevel> = OnceLock::new();
        *BEST.get_or_init(|| *SimdLevel::available().last().unwrap_or(&SimdLevel(Instructions::Scalar)))
    }

    /// Name of the level: `scalar`, `portable`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> String {
        format!("{:?}", self.0).to_lowercase()
    }

    pub(crate) fn instructions(self) -> Instructions {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
}

/// The operations of an instruction set. They are inlined into functions that enable its instructions.
pub(crate) trait Simd {
    /// Masks of the ASCII bytes, and of the others.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn masks(block: &[u8; BLOCK_BYTES], classes: &ClassTable) -> (ByteMasks, NonAsciiMasks);

    /// Writes `base` plus the position of each set bit, ascending; returns their number.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    unsafe fn positions(mut bits: u64, base: usize, out: &mut [usize; BLOCK_BYTES]) -> usize {
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
