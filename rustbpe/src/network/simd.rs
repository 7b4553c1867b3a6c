//! Sixteen numbers at a time: in the registers of AVX2 where the processor has them, in portable code elsewhere.
#![allow(unsafe_code)]

use super::PANEL;

/// How a processor computes with 16 numbers.
pub trait Simd: Copy {
    /// Sixteen numbers.
    type Numbers: Copy;
    /// All the same.
    fn all(value: f32) -> Self::Numbers;
    /// From memory.
    fn load(numbers: &[f32; PANEL]) -> Self::Numbers;
    /// The upper halves of 16 numbers.
    fn load_upper_halves(numbers: &[u16; PANEL]) -> Self::Numbers;
    /// From integers.
    fn load_integers(numbers: &[i8; PANEL]) -> Self::Numbers;
    /// To memory.
    fn store(numbers: Self::Numbers, to: &mut [f32; PANEL]);
    /// x w + sum.
    fn add_products(x: Self::Numbers, w: Self::Numbers, sum: Self::Numbers) -> Self::Numbers;
}

/// Work whose loops are compiled for each processor. `run` must be `#[inline(always)]`, with all that it calls.
pub trait Work {
    /// Does it.
    fn run<S: Simd>(self);
}

/// Does the work with the instructions that this processor has.
pub fn with_simd(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions
        return unsafe { avx2::run(work) };
    }
    work.run::<Portable>();
}

/// Arrays.
#[derive(Clone, Copy)]
pub struct Portable;

impl Simd for Portable {
    type Numbers = [f32; PANEL];

    #[inline(always)]
    fn all(value: f32) -> Self::Numbers {
        [value; PANEL]
    }

    #[inline(always)]
    fn load(numbers: &[f32; PANEL]) -> Self::Numbers {
        *numbers
    }

    #[inline(always)]
    fn load_upper_halves(numbers: &[u16; PANEL]) -> Self::Numbers {
        numbers.map(|half| f32::from_bits(u32::from(half) << 16))
    }

    #[inline(always)]
    fn load_integers(numbers: &[i8; PANEL]) -> Self::Numbers {
        numbers.map(f32::from)
    }

    #[inline(always)]
    fn store(numbers: Self::Numbers, to: &mut [f32; PANEL]) {
        *to = numbers;
    }

    #[inline(always)]
    fn add_products(x: Self::Numbers, w: Self::Numbers, sum: Self::Numbers) -> Self::Numbers {
        std::array::from_fn(|i| {
            if cfg!(target_arch = "aarch64") {
                x[i].mul_add(w[i], sum[i])
            } else {
                sum[i] + x[i] * w[i]
            }
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Simd, Work, PANEL};

    #[target_feature(enable = "avx2,fma")]
    pub fn run(work: impl Work) {
        work.run::<Avx2>();
    }

    /// Only `run` may use it.
    #[derive(Clone, Copy)]
    struct Avx2;

    impl Simd for Avx2 {
        type Numbers = (__m256, __m256);

        #[inline(always)]
        fn all(value: f32) -> Self::Numbers {
            // SAFETY: `with_simd` has seen that the processor has the instructions; so everywhere below
            unsafe { (_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }

        #[inline(always)]
        fn load(numbers: &[f32; PANEL]) -> Self::Numbers {
            // SAFETY: 16 numbers are there
            unsafe { (_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(8))) }
        }

        #[inline(always)]
        fn load_upper_halves(numbers: &[u16; PANEL]) -> Self::Numbers {
            // SAFETY: 16 halves are there
            unsafe {
                let half = |at| {
                    let halves = _mm_loadu_si128(numbers.as_ptr().add(at).cast());
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
                };
                (half(0), half(8))
            }
        }

        #[inline(always)]
        fn load_integers(numbers: &[i8; PANEL]) -> Self::Numbers {
            // SAFETY: 16 integers are there
            unsafe {
                let half = |at| {
                    let integers = _mm_loadl_epi64(numbers.as_ptr().add(at).cast());
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(integers))
                };
                (half(0), half(8))
            }
        }

        #[inline(always)]
        fn store(numbers: Self::Numbers, to: &mut [f32; PANEL]) {
            // SAFETY: there is room for 16
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), numbers.0);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), numbers.1);
            }
        }

        #[inline(always)]
        fn add_products(x: Self::Numbers, w: Self::Numbers, sum: Self::Numbers) -> Self::Numbers {
            // SAFETY: as above
            unsafe { (_mm256_fmadd_ps(x.0, w.0, sum.0), _mm256_fmadd_ps(x.1, w.1, sum.1)) }
        }
    }
}
