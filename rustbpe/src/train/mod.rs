//! Texts → merges.
//!
//! Reading order: `counter` counts the pieces of texts on several threads (`thread_counts`, `count_table`); `words` holds
//! the counted pieces; `trainer` merges pairs, with `token_array` (all words in one array), `pair_queue` (the next pair),
//! `place_lists` (where each pair occurs) and `merge_worker` with `neighbors` (one thread's share of a merge).

mod count_table;
mod counter;
mod merge_worker;
mod neighbors;
mod pair_queue;
mod place_lists;
mod thread_counts;
mod token_array;
mod trainer;
mod words;

use std::fmt;

use crate::split::SplitError;
pub use counter::Counter;
pub use trainer::train_merges;
pub use words::Words;

/// Training failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrainError {
    /// The regex engine of a slow pattern failed.
    Split(SplitError),
    /// The unique pieces are too large.
    TooManyPieces,
    /// The system refuses a thread.
    NoThread,
}

impl fmt::Display for TrainError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrainError::Split(error) => error.fmt(formatter),
            TrainError::TooManyPieces => {
                formatter.write_str("the unique pieces of this text have over 2 GB; train on a part of it")
            }
            TrainError::NoThread => formatter.write_str("the system refuses a thread for training"),
        }
    }
}

impl std::error::Error for TrainError {}

impl From<SplitError> for TrainError {
    fn from(error: SplitError) -> TrainError {
        TrainError::Split(error)
    }
}
