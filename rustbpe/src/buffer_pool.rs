//! Reuses large buffers of ids: writing to memory that is fresh from the system takes longer than finding the ids.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::huge_pages::advise_huge_pages;

/// Limit of all pooled buffers together.
const MAX_POOL_BYTES: usize = 128 << 20;
/// Smaller buffers are not pooled: the allocator is as fast.
const MIN_BUFFER_BYTES: usize = 64 << 10;

/// Empty buffers, the most recently returned last.
pub struct BufferPool<I>(Mutex<VecDeque<Vec<I>>>);

impl<I> Default for BufferPool<I> {
    fn default() -> Self {
        BufferPool(Mutex::default())
    }
}

impl<I> BufferPool<I> {
    /// An empty buffer whose capacity is `room` to twice that. A new one has up to a quarter more than `room`, so that
    /// it fits later requests of about the same size.
    pub fn take(&self, room: usize) -> Vec<I> {
        let room = room.next_multiple_of(room.next_power_of_two().div_ceil(8));
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<I>| (room..=room.saturating_mul(2)).contains(&buffer.capacity());
        if let Some(buffer) = pool.iter().rposition(fits).and_then(|index| pool.remove(index)) {
            return buffer;
        }
        drop(pool);
        let buffer = Vec::with_capacity(room);
        advise_huge_pages(&buffer);
        buffer
    }

    /// Returns a buffer. The least recently returned ones are freed while the pool is over its limit.
    pub fn put_back(&self, mut buffer: Vec<I>) {
        let bytes = |buffer: &Vec<I>| buffer.capacity() * size_of::<I>();
        if !(MIN_BUFFER_BYTES..=MAX_POOL_BYTES).contains(&bytes(&buffer)) {
            return;
        }
        buffer.clear();
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pool.push_back(buffer);
        while pool.iter().map(bytes).sum::<usize>() > MAX_POOL_BYTES {
            pool.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = MIN_BUFFER_BYTES;

    #[test]
    fn a_buffer_that_fits_is_reused() {
        let pool: BufferPool<u16> = BufferPool::default();
        pool.put_back(vec![7; ROOM]);
        assert_eq!(pool.take(ROOM + 1).capacity(), ROOM / 4 * 5, "too small");
        assert_eq!(pool.take(ROOM / 3).capacity(), ROOM / 8 * 3, "too large");
        let reused = pool.take(ROOM - 1);
        assert_eq!((reused.capacity(), reused.len()), (ROOM, 0));
        pool.put_back(Vec::with_capacity(ROOM / 2));
        assert_eq!(pool.take(ROOM - 1).capacity(), ROOM, "in use");
    }

    #[test]
    fn the_pool_is_bounded() {
        let pool: BufferPool<u8> = BufferPool::default();
        pool.put_back(Vec::with_capacity(MIN_BUFFER_BYTES - 1));
        pool.put_back(Vec::with_capacity(MAX_POOL_BYTES + 1));
        assert!(pool.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
        for number in 1..=9 {
            pool.put_back(Vec::with_capacity(MAX_POOL_BYTES / 8 + number));
        }
        let kept = pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            kept.iter().map(|buffer| buffer.capacity() - MAX_POOL_BYTES / 8).collect::<Vec<_>>(),
            [3, 4, 5, 6, 7, 8, 9]
        );
    }
}
