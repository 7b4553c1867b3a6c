//! Texts from a column of a Parquet file.
//!
//! Reading order: `column` (finds the column, reads row groups), `document` (a text in its page), `parallel_reader`
//! (reading by the threads that process the texts), `shared_file` (one file, several readers).

mod column;
mod document;
mod parallel_reader;
mod shared_file;

pub use column::TextColumn;
pub use document::Document;
pub use parallel_reader::{DocumentChunk, ParallelReader};
