//! Large vectors and tables on huge pages, and memory returned to the system. Changes speed and memory use only.
#![allow(unsafe_code)]

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A table of 2ⁿ values, aligned to a huge page if it is large.
pub struct AlignedTable<T> {
    values: Vec<T>,
    /// Index of the first value on the aligned address.
    first: usize,
    mask: usize,
}

impl<T: Copy> AlignedTable<T> {
    /// 2ⁿ copies of a value, n = `bits`.
    pub fn new(bits: u32, value: T) -> AlignedTable<T> {
        let count = 1usize << bits;
        let padding = if count * size_of::<T>() < HUGE_PAGE_BYTES / 4 { 0 } else { HUGE_PAGE_BYTES / size_of::<T>() };
        let mut values: Vec<T> =
            Vec::with_capacity((count * size_of::<T>()).next_multiple_of(HUGE_PAGE_BYTES) / size_of::<T>() + padding);
        advise_huge_pages(&values);
        let first = (values.as_ptr() as usize).wrapping_neg() % HUGE_PAGE_BYTES / size_of::<T>();
        let first = first.min(padding);
        values.resize(first + count, value);
        AlignedTable { values, first, mask: count - 1 }
    }

    /// The value at an index; indices wrap around.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &T {
        &self.values[self.first + (index & self.mask)]
    }

    /// The value at an index, mutable; indices wrap around.
    #[inline(always)]
    pub fn at_mut(&mut self, index: usize) -> &mut T {
        &mut self.values[self.first + (index & self.mask)]
    }
}

impl<T> AlignedTable<T> {
    /// All values.
    pub fn as_slice(&self) -> &[T] {
        &self.values[self.first..]
    }
}

/// Returns the allocator's free memory to the system, also from between blocks in use.
pub fn trim_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: takes no pointer and leaves memory in use as it is
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Requests huge pages for a vector's memory, if it is large enough for one.
pub fn advise_huge_pages<T>(values: &Vec<T>) {
    const PAGE_BYTES: usize = 4096;
    let bytes = values.capacity() * size_of::<T>();
    if bytes < HUGE_PAGE_BYTES {
        return;
    }
    let start = (values.as_ptr() as usize).next_multiple_of(PAGE_BYTES);
    let length = (values.as_ptr() as usize + bytes - start) & !(PAGE_BYTES - 1);
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: the range is whole pages inside memory that `values` owns, and the advice keeps its contents; a failure is
    // harmless
    unsafe {
        libc::madvise(start as *mut libc::c_void, length, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = (start, length);
}
