//! The packer, for Python.

use numpy::{Element, IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::{Array, Int64s};
use crate::pack as packing;

/// A list is kept for each number of tokens that a document may have.
const MOST_ROW_TOKENS: usize = 1 << 24;

fn rows<'py, Id: Copy + Send + Element>(
    py: Python<'py>,
    ids: &[Id],
    offsets: &[i64],
    row_tokens: usize,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    if first < 0 || usize::try_from(last).ok() != Some(ids.len()) || !offsets.is_sorted() {
        return Err(PyValueError::new_err("the offsets do not fit the ids"));
    }
    if !(2..=MOST_ROW_TOKENS).contains(&row_tokens) {
        return Err(PyValueError::new_err(format!("a row has 2 to {MOST_ROW_TOKENS} tokens, not {row_tokens}")));
    }
    let (filled, count, dropped) = py.detach(|| {
        let (plan, dropped) = packing::plan(offsets, row_tokens);
        let filled = ids.first().map_or_else(Vec::new, |&bos| packing::fill(ids, &plan, bos));
        let count = filled.len() / row_tokens;
        (filled, count, dropped)
    });
    let array: Bound<'py, PyArray2<Id>> = filled.into_pyarray(py).reshape([count, row_tokens])?;
    Ok((array.into_any(), dropped))
}

/// Documents that begin with BOS → rows (N, row_tokens) that begin with BOS and are full, and the tokens dropped.
#[pyfunction]
pub fn pack<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    offsets: Array<'py, i64>,
    row_tokens: usize,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let offsets = offsets.as_slice()?;
    if let Ok(ids) = ids.extract::<Array<'py, u16>>() {
        rows(py, ids.as_slice()?, offsets, row_tokens)
    } else if let Ok(ids) = ids.extract::<Array<'py, u32>>() {
        rows(py, ids.as_slice()?, offsets, row_tokens)
    } else {
        Err(PyTypeError::new_err("ids must be a contiguous array of uint16 or uint32"))
    }
}

/// Row and start of each document that may not be split (int64), and the number of rows.
#[pyfunction]
pub fn plan_padded<'py>(
    py: Python<'py>,
    lengths: Array<'py, i64>,
    row_tokens: usize,
    window: usize,
) -> PyResult<(Bound<'py, Int64s>, Bound<'py, Int64s>, usize)> {
    let (row_of, start_of, rows) = packing::plan_padded(lengths.as_slice()?, row_tokens, window);
    Ok((row_of.into_pyarray(py), start_of.into_pyarray(py), rows))
}
