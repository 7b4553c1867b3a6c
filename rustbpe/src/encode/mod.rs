//! Text → ids.
//!
//! Reading order: `encoder` (the interface) and `worker` (one thread: split, look up, merge, remember); the caches
//! `short_piece_cache` (with `short_piece_key`) and `long_piece_cache`; `merge` (ids of a piece that is in no cache), with
//! `merge_rules` (which ids merge) and `derived_merges` (the merges of a vocabulary without a list); `sink` (where ids
//! go); `parquet_batches` and `background_batches` (ids of a Parquet column).

#[cfg(feature = "parquet")]
mod background_batches;
mod derived_merges;
mod encoder;
mod long_piece_cache;
mod merge;
mod merge_rules;
#[cfg(feature = "parquet")]
mod parquet_batches;
mod short_piece_cache;
mod short_piece_key;
mod sink;
mod token_id;
mod worker;

use std::convert::Infallible;
use std::fmt;

use crate::split::SplitError;
#[cfg(feature = "parquet")]
pub use background_batches::BackgroundBatches;
pub use derived_merges::derive_merges;
pub use encoder::{estimate_ids, AroundIds, Encoder, Width};
#[cfg(feature = "parquet")]
pub use parquet_batches::{byte_lengths, content_hashes, offsets_fit, Batch, ColumnError};
pub use sink::{IdSink, SliceSink};
pub use token_id::TokenId;

/// Encoding failed.
#[derive(Debug)]
pub enum EncodeError {
    /// The regex engine of a slow pattern failed.
    Split(SplitError),
    /// The caller's buffer is too small.
    BufferFull {
        /// Ids that it holds.
        room: usize,
    },
    /// The caller stopped the encoding.
    Stopped,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Split(error) => error.fmt(formatter),
            EncodeError::BufferFull { room } => write!(formatter, "the ids do not fit a buffer of {room}"),
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
