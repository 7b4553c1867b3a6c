//! Buffers that somebody is done with, for the next who needs one: memory that is fresh from the system takes longer to
//! be written to than ids take to be found.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::memory::advise_huge;

/// Buffers in all.
const MOST_BYTES: usize = 128 << 20;
/// An allocator does as well with smaller ones.
const LEAST_BYTES: usize = 64 << 10;

/// Empty buffers, the one that came last at the end.
pub struct Spare<I>(Mutex<VecDeque<Vec<I>>>);

impl<I> Default for Spare<I> {
    fn default() -> Self {
        Spare(Mutex::default())
    }
}

impl<I> Spare<I> {
    /// An empty buffer with this much room, and at most twice as much. A new one has up to a quarter more, for the next
    /// who needs about as much.
    pub fn take(&self, room: usize) -> Vec<I> {
        let room = room.next_multiple_of(room.next_power_of_two().div_ceil(8));
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<I>| (room..=room.saturating_mul(2)).contains(&buffer.capacity());
        if let Some(buffer) = spare.iter().rposition(fits).and_then(|place| spare.remove(place)) {
            return buffer;
        }
        drop(spare);
        let buffer = Vec::with_capacity(room);
        advise_huge(&buffer);
        buffer
    }

    /// Takes a buffer back. Those that nobody took for longest make room for it.
    pub fn give(&self, mut buffer: Vec<I>) {
        let bytes = |buffer: &Vec<I>| buffer.capacity() * size_of::<I>();
        if !(LEAST_BYTES..=MOST_BYTES).contains(&bytes(&buffer)) {
            return;
        }
        buffer.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push_back(buffer);
        while spare.iter().map(bytes).sum::<usize>() > MOST_BYTES {
            spare.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = LEAST_BYTES;

    #[test]
    fn a_buffer_comes_again_if_it_fits() {
        let spare: Spare<u16> = Spare::default();
        spare.give(vec![7; ROOM]);
        assert_eq!(spare.take(ROOM + 1).capacity(), ROOM / 4 * 5, "it is too small");
        assert_eq!(spare.take(ROOM / 3).capacity(), ROOM / 8 * 3, "it is too large");
        let again = spare.take(ROOM - 1);
        assert_eq!((again.capacity(), again.len()), (ROOM, 0));
        spare.give(Vec::with_capacity(ROOM / 2));
        assert_eq!(spare.take(ROOM - 1).capacity(), ROOM, "it is taken");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let spare: Spare<u8> = Spare::default();
        spare.give(Vec::with_capacity(LEAST_BYTES - 1));
        spare.give(Vec::with_capacity(MOST_BYTES + 1));
        assert!(spare.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
        for number in 1..=9 {
            spare.give(Vec::with_capacity(MOST_BYTES / 8 + number));
        }
        let kept = spare.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            kept.iter().map(|buffer| buffer.capacity() - MOST_BYTES / 8).collect::<Vec<_>>(),
            [3, 4, 5, 6, 7, 8, 9]
        );
    }
}
