//! The inner loop of every product: rows times panels of 16 outputs.

use super::simd::{with_simd, Simd, Work};
use super::PANEL;
use crate::prefetch::prefetch;

/// Most rows that are multiplied at once: more need more registers than AVX2 has.
const ROWS: usize = 6;
/// Inputs that are multiplied before the next: this part of a panel stays in the first cache for all rows.
const INPUT_BLOCK: usize = 256;
/// Numbers of the rows that stay in the second cache while all panels are multiplied with them.
const ROW_NUMBERS: usize = 1 << 16;

/// A weight as it is stored.
pub trait Weight: Copy + Send + Sync {
    /// Sixteen values, without the scale of their outputs.
    fn load<S: Simd>(weights: &[Self; PANEL]) -> S::Numbers;
}

impl Weight for f32 {
    #[inline(always)]
    fn load<S: Simd>(weights: &[f32; PANEL]) -> S::Numbers {
        S::load(weights)
    }
}

/// The upper half of an f32.
impl Weight for u16 {
    #[inline(always)]
    fn load<S: Simd>(weights: &[u16; PANEL]) -> S::Numbers {
        S::load_upper_halves(weights)
    }
}

impl Weight for i8 {
    #[inline(always)]
    fn load<S: Simd>(weights: &[i8; PANEL]) -> S::Numbers {
        S::load_integers(weights)
    }
}

/// Rows (I / 16, N, 16): the inputs of a row are in panels too.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The numbers from the first input of the first row on.
    pub values: &'a [f32],
    /// Rows between two panels.
    pub stride: usize,
    /// N.
    pub count: usize,
}

/// Panels (I, 16) of weights.
#[derive(Clone, Copy)]
pub struct Panels<'a, W> {
    /// The weights from the first panel on.
    pub weights: &'a [W],
    /// Weights from one panel to the next.
    pub stride: usize,
    /// I.
    pub inputs: usize,
    /// Panels.
    pub count: usize,
}

/// Products of rows and panels, to `sums` (panels, N, 16), or added to them. Each sum runs over the inputs in order.
pub fn multiply<W: Weight>(rows: Input<'_>, panels: Panels<'_, W>, sums: &mut [f32], add: bool) {
    with_simd(Product { rows, panels, sums, add });
}

struct Product<'a, W> {
    rows: Input<'a>,
    panels: Panels<'a, W>,
    sums: &'a mut [f32],
    add: bool,
}

impl<W: Weight> Work for Product<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { rows, panels, sums, add } = self;
        match rows.count {
            1 => few_rows::<W, S, 1, 4>(rows, panels, sums, add),
            2 => few_rows::<W, S, 2, 2>(rows, panels, sums, add),
            _ => many_rows::<W, S>(rows, panels, sums, add),
        }
    }
}

/// `Q` panels at a time: the sums of one would wait for each other.
#[inline(always)]
fn few_rows<W: Weight, S: Simd, const R: usize, const Q: usize>(
    rows: Input<'_>,
    panels: Panels<'_, W>,
    sums: &mut [f32],
    add: bool,
) {
    let mut panel = 0;
    while panel < panels.count {
        let weights = &panels.weights[panel * panels.stride..];
        let block = Block { rows: rows.values, row_stride: rows.stride, weights, panel_stride: panels.stride, add };
        let sums = &mut sums[panel * R * PANEL..];
        if panel + Q <= panels.count {
            block.multiply::<S, R, Q>(panels.inputs, sums, R, &[]);
            panel += Q;
        } else {
            block.multiply::<S, R, 1>(panels.inputs, sums, R, &[]);
            panel += 1;
        }
    }
}

#[inline(always)]
fn many_rows<W: Weight, S: Simd>(rows: Input<'_>, panels: Panels<'_, W>, sums: &mut [f32], add: bool) {
    let most = (ROW_NUMBERS / panels.inputs).max(8 * ROWS);
    let chunks = rows.count.div_ceil(most);
    for chunk in 0..chunks {
        let (begin, end) = (chunk * rows.count / chunks, (chunk + 1) * rows.count / chunks);
        let blocks = (end - begin).div_ceil(ROWS);
        for panel in 0..panels.count {
            let sums = &mut sums[panel * rows.count * PANEL..][..rows.count * PANEL];
            let mut input = 0;
            while input < panels.inputs {
                let inputs = (panels.inputs - input).min(INPUT_BLOCK);
                let weights = &panels.weights[panel * panels.stride + input * PANEL..];
                let (weights, ahead) = weights.split_at(inputs * PANEL);
                for number in 0..blocks {
                    let row = begin + number * (end - begin) / blocks;
                    let count = begin + (number + 1) * (end - begin) / blocks - row;
                    let block = Block {
                        rows: &rows.values[(input / PANEL * rows.stride + row) * PANEL..],
                        row_stride: rows.stride,
                        weights,
                        panel_stride: 0,
                        add: add || input > 0,
                    };
                    let sums = &mut sums[row * PANEL..];
                    let ahead = if number == 0 { ahead } else { &[] };
                    match count {
                        1 => block.multiply::<S, 1, 1>(inputs, sums, 0, ahead),
                        2 => block.multiply::<S, 2, 1>(inputs, sums, 0, ahead),
                        3 => block.multiply::<S, 3, 1>(inputs, sums, 0, ahead),
                        4 => block.multiply::<S, 4, 1>(inputs, sums, 0, ahead),
                        5 => block.multiply::<S, 5, 1>(inputs, sums, 0, ahead),
                        _ => block.multiply::<S, 6, 1>(inputs, sums, 0, ahead),
                    }
                }
                input += inputs;
            }
        }
    }
}

/// Some rows and some panels.
struct Block<'a, W> {
    rows: &'a [f32],
    row_stride: usize,
    weights: &'a [W],
    panel_stride: usize,
    add: bool,
}

impl<W: Weight> Block<'_, W> {
    /// R rows by Q panels; the sums of two panels are `sum_stride` rows apart. Loads the weights `ahead` to the cache.
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const Q: usize>(
        &self,
        inputs: usize,
        sums: &mut [f32],
        sum_stride: usize,
        ahead: &[W],
    ) {
        let mut sum = [[S::all(0.0); Q]; R];
        if self.add {
            for r in 0..R {
                for q in 0..Q {
                    sum[r][q] = S::load(panel_of(&sums[(q * sum_stride + r) * PANEL..]));
                }
            }
        }
        let weights: [&[[W; PANEL]]; Q] =
            std::array::from_fn(|q| &self.weights[q * self.panel_stride..][..inputs * PANEL].as_chunks().0[..inputs]);
        for start in (0..inputs).step_by(PANEL) {
            let rows = &self.rows[start * self.row_stride..][..R * PANEL];
            for i in 0..PANEL.min(inputs - start) {
                let input = start + i;
                if let Some(weight) = ahead.get(input * PANEL) {
                    prefetch(weight);
                }
                for q in 0..Q {
                    let weights = W::load::<S>(&weights[q][input]);
                    for r in 0..R {
                        sum[r][q] = S::add_products(S::all(rows[r * PANEL + i]), weights, sum[r][q]);
                    }
                }
            }
        }
        for r in 0..R {
            for q in 0..Q {
                S::store(sum[r][q], &mut sums[(q * sum_stride + r) * PANEL..].as_chunks_mut().0[0]);
            }
        }
    }
}

#[inline(always)]
fn panel_of(numbers: &[f32]) -> &[f32; PANEL] {
    &numbers.as_chunks().0[0]
}
