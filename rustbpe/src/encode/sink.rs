//! Receivers of encoded ids.

use super::EncodeError;
use crate::parallel::interruptible::Monitor;

/// Receives ids in order.
pub trait IdSink<I> {
    /// Takes the next ids.
    ///
    /// # Errors
    /// There is no room, or the caller stopped the encoding.
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError>;
}

impl<I, S: IdSink<I>> IdSink<I> for &mut S {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        (**self).take(ids)
    }
}

impl<I: Copy> IdSink<I> for Vec<I> {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        self.extend_from_slice(ids);
        Ok(())
    }
}

/// Writes ids to the caller's buffer.
pub struct SliceSink<'a, I> {
    /// The part not yet written.
    rest: &'a mut [I],
    room: usize,
}

impl<'a, I> SliceSink<'a, I> {
    /// Writes from the start of a slice.
    pub fn new(slice: &'a mut [I]) -> Self {
        let room = slice.len();
        SliceSink { rest: slice, room }
    }
}

impl<I: Copy> IdSink<I> for SliceSink<'_, I> {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        let rest = std::mem::take(&mut self.rest);
        let (here, after) = rest.split_at_mut_checked(ids.len()).ok_or(EncodeError::BufferFull { room: self.room })?;
        here.copy_from_slice(ids);
        self.rest = after;
        Ok(())
    }
}

/// A sink that fails once the caller has stopped the encoding.
pub struct StoppableSink<'a, S> {
    /// Where the ids go.
    pub sink: S,
    /// Shows whether the caller has stopped the encoding.
    pub monitor: Monitor<'a, ()>,
}

impl<I, S: IdSink<I>> IdSink<I> for StoppableSink<'_, S> {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        if self.monitor.stopped() {
            return Err(EncodeError::Stopped);
        }
        self.sink.take(ids)
    }
}
