//! Texts → merges: pieces are counted, then pairs are merged.

mod cells;
mod count;
mod learn;
mod pairs;

pub use count::{Counter, TrainError};
pub use learn::{learn, Words};
