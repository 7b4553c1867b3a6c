//! Text → pieces, by a split pattern.
//!
//! Known patterns ([`patterns`]) have scanners of their own, which read 64 bytes at a time where the processor has the
//! instructions. Any other pattern runs on a regex engine, about fifty times slower; see [`Splitter::is_fast`].
//!
//! Reading order: [`patterns`], [`character_class`], `scalar` (character by character, the reference for the others),
//! `byte_masks` and `piece_starts` (64 bytes as bit masks), `simd` (masks on each instruction set), `scan` (a text, block
//! by block), `splitter` (the interface).

mod byte_masks;
pub mod character_class;
pub mod patterns;
mod piece_starts;
mod regex;
mod scalar;
mod scan;
mod simd;
mod splitter;

pub use simd::SimdLevel;
pub use splitter::{PieceEnds, SplitError, Splitter, MAX_ENDS};
