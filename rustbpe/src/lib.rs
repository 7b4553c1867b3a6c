//! The native code of nanochat: byte-pair encoding (BPE), packing of documents into rows, and generation on a CPU.
//!
//! Pure Rust; the Python module is behind the feature `python`.
//!
//! Reading order:
//! 1. [`vocab`]: token ids and their bytes.
//! 2. [`split`]: text → pieces. Merges never cross the border of a piece.
//! 3. [`train`]: pieces of a corpus → merges.
//! 4. [`encode`]: text → ids, with the merges of a vocabulary.
//! 5. [`parquet`]: texts from a column of a Parquet file (feature `parquet`).
//! 6. [`pack`]: documents of ids → rows of equal length.
//! 7. [`network`]: ids → logits, for generation on a CPU. It is here because it is native code of the same package.
//!
//! Below these: `text` (texts that may not be valid UTF-8), `parallel` (threads), `packed_piece` and `hash` (short pieces
//! as keys), `huge_pages`, `prefetch` and `buffer_pool` (memory). Above them: `python` (argument conversion, errors and
//! the GIL; no logic).

mod buffer_pool;
pub mod encode;
mod hash;
mod huge_pages;
pub mod network;
pub mod pack;
mod packed_piece;
mod parallel;
#[cfg(feature = "parquet")]
pub mod parquet;
mod prefetch;
#[cfg(feature = "python")]
mod python;
pub mod split;
pub mod text;
pub mod train;
pub mod vocab;
