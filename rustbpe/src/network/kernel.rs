//! The inner loop of every product: rows times a panel of 16 outputs.
//!
//! The code is portable; it is compiled a second time for AVX2 with FMA, and used where the processor has both.
#![allow(unsafe_code)]

use super::PANEL;

/// Rows that the kernel multiplies at once: more need more registers than AVX2 has.
const ROWS: usize = 6;

/// A weight as it is stored.
pub trait Weight: Copy + Send + Sync {
    /// Its value, without the scale of its output.
    fn value(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

/// The upper half of an f32.
impl Weight for u16 {
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
}

impl Weight for i8 {
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from(self)
    }
}

/// Rows of numbers, `stride` apart, of which the product reads `inputs` from `start` on.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// All numbers.
    pub values: &'a [f32],
    /// Index of the first number of the first row.
    pub start: usize,
    /// Numbers from one row to the next.
    pub stride: usize,
    /// Rows.
    pub count: usize,
}

/// Adds to `sums` (N, 16) the products of the rows and a panel (I, 16). Each sum runs over the inputs in order.
pub fn add_products<W: Weight>(rows: Rows<'_>, panel: &[W], sums: &mut [[f32; PANEL]]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions.
        return unsafe { add_products_avx2(rows, panel, sums) };
    }
    add_products_in_blocks::<W, { cfg!(target_arch = "aarch64") }>(rows, panel, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products_avx2<W: Weight>(rows: Rows<'_>, panel: &[W], sums: &mut [[f32; PANEL]]) {
    add_products_in_blocks::<W, true>(rows, panel, sums);
}

#[inline(always)]
fn add_products_in_blocks<W: Weight, const FUSED: bool>(rows: Rows<'_>, panel: &[W], sums: &mut [[f32; PANEL]]) {
    let mut row = 0;
    let mut sums = sums;
    while row < rows.count {
        let block = (rows.count - row).min(ROWS);
        let (now, later) = sums.split_at_mut(block);
        let start = rows.start + row * rows.stride;
        match block {
            1 => block_of::<W, 1, FUSED>(rows, start, panel, now),
            2 => block_of::<W, 2, FUSED>(rows, start, panel, now),
            3 => block_of::<W, 3, FUSED>(rows, start, panel, now),
            4 => block_of::<W, 4, FUSED>(rows, start, panel, now),
            5 => block_of::<W, 5, FUSED>(rows, start, panel, now),
            _ => block_of::<W, 6, FUSED>(rows, start, panel, now),
        }
        sums = later;
        row += block;
    }
}

#[inline(always)]
fn block_of<W: Weight, const R: usize, const FUSED: bool>(
    rows: Rows<'_>,
    start: usize,
    panel: &[W],
    sums: &mut [[f32; PANEL]],
) {
    let inputs = panel.len() / PANEL;
    let row: [&[f32]; R] = std::array::from_fn(|r| &rows.values[start + r * rows.stride..][..inputs]);
    let mut sum: [[f32; PANEL]; R] = std::array::from_fn(|r| sums[r]);
    for (input, weights) in panel.chunks_exact(PANEL).enumerate() {
        let weights: [f32; PANEL] = std::array::from_fn(|output| weights[output].value());
        for r in 0..R {
            let x = row[r][input];
            for output in 0..PANEL {
                sum[r][output] = if FUSED {
                    x.mul_add(weights[output], sum[r][output])
                } else {
                    sum[r][output] + x * weights[output]
                };
            }
        }
    }
    sums[..R].copy_from_slice(&sum);
}
