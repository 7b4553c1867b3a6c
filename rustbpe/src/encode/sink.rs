//! Where ids go, and why they might not.

use std::convert::Infallible;
use std::fmt;

use crate::split::SplitError;

/// Texts could not be encoded.
#[derive(Debug)]
pub enum EncodeError {
    /// The regex engine of a slow pattern gave up.
    Split(SplitError),
    /// The caller's buffer holds fewer ids than there are.
    NoRoom {
        /// Ids that it holds.
        room: usize,
    },
    /// The sink wants no more.
    Stopped,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Split(error) => error.fmt(formatter),
            EncodeError::NoRoom { room } => write!(formatter, "the ids do not fit a buffer of {room}"),
            EncodeError::Stopped => formatter.write_str("stopped"),
        }
    }
}

impl std::error::Error for EncodeError {}

impl From<SplitError> for EncodeError {
    fn from(error: SplitError) -> EncodeError {
        EncodeError::Split(error)
    }
}

impl From<Infallible> for EncodeError {
    fn from(never: Infallible) -> EncodeError {
        match never {}
    }
}

/// Where ids go, in order.
pub trait Sink<I> {
    /// Takes the next ids. Fails if there is no room.
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError>;
}

impl<I, S: Sink<I>> Sink<I> for &mut S {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        (**self).take(ids)
    }
}

impl<I: Copy> Sink<I> for Vec<I> {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        self.extend_from_slice(ids);
        Ok(())
    }
}

/// A caller's buffer.
pub struct Buffer<'a, I> {
    /// What is left of it.
    left: &'a mut [I],
    room: usize,
}

impl<'a, I> Buffer<'a, I> {
    /// Of a slice.
    pub fn new(slice: &'a mut [I]) -> Self {
        let room = slice.len();
        Buffer { left: slice, room }
    }
}

impl<I: Copy> Sink<I> for Buffer<'_, I> {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        let left = std::mem::take(&mut self.left);
        let (here, behind) = left.split_at_mut_checked(ids.len()).ok_or(EncodeError::NoRoom { room: self.room })?;
        here.copy_from_slice(ids);
        self.left = behind;
        Ok(())
    }
}
