//! A hint to the processor to load a cache line before it is needed. It changes speed only.
#![allow(unsafe_code)]

/// Starts to load the cache line of a value that will be read soon.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let address: *const T = value;
    // SAFETY: a prefetch has no visible effect and cannot fault, whatever the address
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    // SAFETY: as above
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(miri)))))]
    let _ = address;
}
