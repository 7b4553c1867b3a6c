//! Hints to the memory system; they change speed and room, and nothing else.
#![allow(unsafe_code)]

/// Asks for a value that will be read soon.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let address: *const T = value;
    // SAFETY: a prefetch reads nothing that a program can see, and cannot fault, whatever the address
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

/// A table of fixed size that begins where a huge page does, so that huge pages hold all of it.
pub struct Table<T> {
    values: Vec<T>,
    first: usize,
    mask: usize,
}

impl<T: Copy> Table<T> {
    /// Of 2ⁿ equal values.
    pub fn new(bits: u32, value: T) -> Table<T> {
        let count = 1usize << bits;
        let spare = if count * size_of::<T>() < HUGE_PAGE / 4 { 0 } else { HUGE_PAGE / size_of::<T>() };
        let mut values: Vec<T> =
            Vec::with_capacity((count * size_of::<T>()).next_multiple_of(HUGE_PAGE) / size_of::<T>() + spare);
        advise_huge(&values);
        let first = (values.as_ptr() as usize).wrapping_neg() % HUGE_PAGE / size_of::<T>();
        let first = first.min(spare);
        values.resize(first + count, value);
        Table { values, first, mask: count - 1 }
    }

    /// The value at a place; places wrap around.
    #[inline(always)]
    pub fn at(&self, place: usize) -> &T {
        &self.values[self.first + (place & self.mask)]
    }

    /// The same, to change it.
    #[inline(always)]
    pub fn at_mut(&mut self, place: usize) -> &mut T {
        &mut self.values[self.first + (place & self.mask)]
    }
}

impl<T> Table<T> {
    /// All values.
    pub fn as_slice(&self) -> &[T] {
        &self.values[self.first..]
    }
}

const HUGE_PAGE: usize = 2 << 20;

/// Has the allocator give back to the system what is free between things that are not.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: it takes nothing and changes nothing that is in use
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks for huge pages under a vector's memory.
pub fn advise_huge<T>(values: &Vec<T>) {
    const PAGE: usize = 4096;
    let bytes = values.capacity() * size_of::<T>();
    if bytes < HUGE_PAGE {
        return;
    }
    let start = (values.as_ptr() as usize).next_multiple_of(PAGE);
    let length = (values.as_ptr() as usize + bytes - start) & !(PAGE - 1);
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: the range is whole pages inside memory that `values` owns, and the advice keeps its contents; a refusal is
    // no harm
    unsafe {
        libc::madvise(start as *mut libc::c_void, length, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = (start, length);
}
