//! The forward pass of a language model on a CPU, for generation: keys and values of many answers are kept in slots, and
//! one call adds a token to each of several slots, or several tokens to one.
//!
//! A row (a token's activations) has the same bits whatever rows are computed with it: every sum of a product runs over
//! its inputs in order, in one accumulator, and a sum over keys runs over positions in order.
//!
//! 1. [`product`]: matrices in panels of 16 outputs, in 32, 16 or 8 bits.
//! 2. [`slots`]: keys and values in the same panels; a layer with a window keeps a ring.
//! 3. [`attention`]: scores, softmax, and the weighted sum of values, with the kernel of the products.
//! 4. [`elementwise`]: norms, rotary positions, exponentials.
//! 5. [`forward`]: the layers.
//!
//! Letters in comments: N rows · I inputs · O outputs · C channels · H query heads · K key/value heads · D channels of a
//! head · S columns of a slot.

mod attention;
mod elementwise;
pub mod forward;
mod kernel;
pub mod product;
pub mod slots;

/// Outputs (or keys, or channels of values) that are computed together.
pub const PANEL: usize = 16;
