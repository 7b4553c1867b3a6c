//! Byte-pair encoding for nanochat: split, train, encode, and pack documents into rows.
//!
//! Pure Rust; the Python face is behind the feature `python`.

#[cfg(feature = "parquet")]
pub mod column;
pub mod encode;
mod hash;
mod key;
mod memory;
pub mod pack;
mod parts;
pub mod split;
pub mod text;
pub mod train;
pub mod vocab;

#[cfg(feature = "python")]
mod python;
#[cfg(any(feature = "python", test))]
mod spare;
