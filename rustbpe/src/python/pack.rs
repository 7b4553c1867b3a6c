//! `pack` and `pack_padded`.

use numpy::{Element, IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::arguments::Array;
use super::{value_error, Int64Array};
use crate::pack as packing;

/// Row and start of each document, and the number of rows.
type Placement<'py> = (Bound<'py, Int64Array>, Bound<'py, Int64Array>, usize);

fn pack_as<'py, Id: Copy + Send + Element>(
    py: Python<'py>,
    ids: &[Id],
    offsets: &[i64],
    row_tokens: usize,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let (packed, dropped) = py.detach(|| packing::pack(ids, offsets, row_tokens)).map_err(value_error)?;
    let rows = packed.len() / row_tokens;
    let array: Bound<'py, PyArray2<Id>> = packed.into_pyarray(py).reshape([rows, row_tokens])?;
    Ok((array.into_any(), dropped))
}

/// Documents that start with BOS → full rows (N, row_tokens) that start with BOS, and the number of tokens dropped.
#[pyfunction]
pub fn pack<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    offsets: Array<'py, i64>,
    row_tokens: usize,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let offsets = offsets.as_slice()?;
    if let Ok(ids) = ids.extract::<Array<'py, u16>>() {
        pack_as(py, ids.as_slice()?, offsets, row_tokens)
    } else if let Ok(ids) = ids.extract::<Array<'py, u32>>() {
        pack_as(py, ids.as_slice()?, offsets, row_tokens)
    } else {
        Err(PyTypeError::new_err("ids must be a contiguous array of uint16 or uint32"))
    }
}

/// Row and start of each document that must not be split (int64), and the number of rows.
#[pyfunction]
pub fn pack_padded<'py>(
    py: Python<'py>,
    lengths: Array<'py, i64>,
    row_tokens: usize,
    open_rows: usize,
) -> PyResult<Placement<'py>> {
    let (row_of, start_of, rows) = packing::pack_padded(lengths.as_slice()?, row_tokens, open_rows);
    Ok((row_of.into_pyarray(py), start_of.into_pyarray(py), rows))
}
