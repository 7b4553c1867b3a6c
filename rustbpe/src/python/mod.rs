//! The Python face: types in, GIL released, errors mapped; no logic.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::split::{scheme, Splitter};
use crate::text::Unchecked;

mod column;
mod encoder;
mod pack;
mod stoppable;
mod trainer;

/// So often does the main thread look for signals while others work: Python heeds them there only.
const HEARING: Duration = Duration::from_millis(50);

type Int64s = PyArray1<i64>;
/// An Arrow string array: its bytes (uint8) and its offsets (int32 or int64).
type Chunk<'py> = (Array<'py, u8>, Bound<'py, PyAny>);

/// An array that is read. (Extracting numpy's own type panics while another thread writes to the array.)
struct Array<'py, T: Element>(PyReadonlyArray1<'py, T>);

impl<'py, T: Element> FromPyObject<'_, 'py> for Array<'py, T> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let array = value.cast::<PyArray1<T>>()?;
        Ok(Array(array.try_readonly().map_err(|_| value_error("an array that is being written to cannot be read"))?))
    }
}

impl<'py, T: Element> Deref for Array<'py, T> {
    type Target = PyReadonlyArray1<'py, T>;

    fn deref(&self) -> &PyReadonlyArray1<'py, T> {
        &self.0
    }
}

fn value_error(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A text from Python, as it lies there; in a copy, lone surrogates become U+FFFD, as tiktoken has it.
fn text<'a>(value: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, str>> {
    if let Ok(whole) = value.to_str() {
        return Ok(Cow::Borrowed(whole));
    }
    let units = value.call_method1("encode", ("utf-16-le", "surrogatepass"))?;
    let units: Vec<u16> = units
        .cast::<PyBytes>()?
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Ok(Cow::Owned(String::from_utf16_lossy(&units)))
}

fn all_texts<'a>(values: &'a [Bound<'_, PyString>]) -> PyResult<Vec<Cow<'a, str>>> {
    values.iter().map(text).collect()
}

/// The texts of Arrow string arrays, as they lie there.
fn chunk_texts<'a>(chunks: &'a [Chunk<'_>]) -> PyResult<Vec<Unchecked<'a>>> {
    let mut texts = Vec::new();
    for (bytes, offsets) in chunks {
        if let Ok(offsets) = offsets.extract::<Array<'_, i32>>() {
            append_texts(bytes.as_slice()?, offsets.as_slice()?, &mut texts)?;
        } else if let Ok(offsets) = offsets.extract::<Array<'_, i64>>() {
            append_texts(bytes.as_slice()?, offsets.as_slice()?, &mut texts)?;
        } else {
            return Err(PyTypeError::new_err("offsets must be a contiguous array of int32 or int64"));
        }
    }
    Ok(texts)
}

fn append_texts<'a, Offset: Copy + TryInto<usize>>(
    bytes: &'a [u8],
    offsets: &[Offset],
    texts: &mut Vec<Unchecked<'a>>,
) -> PyResult<()> {
    let at = |offset: Offset| offset.try_into().unwrap_or(usize::MAX);
    for bounds in offsets.windows(2) {
        let text = bytes.get(at(bounds[0])..at(bounds[1]));
        texts.push(Unchecked(text.ok_or_else(|| value_error("the offsets do not fit the bytes"))?));
    }
    Ok(())
}

/// The pieces of a text.
#[pyfunction]
#[pyo3(signature = (value, pattern=scheme::NANOCHAT))]
fn split_pieces(value: &Bound<'_, PyString>, pattern: &str) -> PyResult<Vec<String>> {
    let value = text(value)?;
    let splitter = Splitter::new(pattern).map_err(value_error)?;
    Ok(splitter.pieces(&value).map_err(value_error)?.into_iter().map(str::to_owned).collect())
}

/// Whether a pattern is scanned by hand; others are run by a regex engine, many times slower.
#[pyfunction]
fn is_fast(pattern: &str) -> PyResult<bool> {
    Ok(Splitter::new(pattern).map_err(value_error)?.is_fast())
}

#[pymodule]
fn _rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PATTERN", scheme::NANOCHAT)?;
    module.add("PATTERNS", BTreeMap::from(scheme::NAMED))?;
    module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    module.add_class::<trainer::PyTrainer>()?;
    module.add_class::<encoder::PyEncoder>()?;
    module.add_class::<column::PyBatches>()?;
    module.add_class::<column::PyBatch>()?;
    module.add_function(wrap_pyfunction!(encoder::encoder_of, module)?)?;
    module.add_function(wrap_pyfunction!(encoder::derived_merges, module)?)?;
    module.add_function(wrap_pyfunction!(column::batch_of, module)?)?;
    module.add_function(wrap_pyfunction!(split_pieces, module)?)?;
    module.add_function(wrap_pyfunction!(is_fast, module)?)?;
    module.add_function(wrap_pyfunction!(pack::pack, module)?)?;
    module.add_function(wrap_pyfunction!(pack::plan_padded, module)?)
}
