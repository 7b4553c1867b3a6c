//! The forward pass of a language model on a CPU, for generation: keys and values of many answers are kept in slots, and
//! one call adds a token to each of several slots, or several tokens to one.
//!
//! A row (a token's activations) has the same bits whatever rows are computed with it: every sum of a product runs over
//! its inputs in order, in one accumulator, and a sum over keys runs over positions in order.
//!
//! 1. [`simd`], [`kernel`]: rows times panels of 16 outputs, the inner loop of everything.
//! 2. [`rows`]: activations, in panels too: the outputs of a product are the inputs of the next as they are.
//! 3. [`product`]: matrices in panels, in 32, 16 or 8 bits.
//! 4. [`slots`]: keys and values in panels; a layer with a window keeps a ring.
//! 5. [`attention`]: scores, softmax, and the weighted sum of values.
//! 6. [`elementwise`]: norms, rotary positions, exponentials.
//! 7. [`layers`]: the layers of a network, for the tokens that one thread computes.
//! 8. [`forward`]: how a pass is divided between threads.
//!
//! Letters in comments: N rows · I inputs · O outputs · C channels · H query heads · K key/value heads · D channels of a
//! head · S columns of a slot.

mod attention;
mod elementwise;
pub mod forward;
mod kernel;
mod layers;
pub mod product;
mod rows;
mod simd;
pub mod slots;

/// Outputs (or keys, or channels of values) that are computed together.
pub const PANEL: usize = 16;
/// Bytes of a cache line, on which large arrays begin.
const CACHE_LINE: usize = 64;
