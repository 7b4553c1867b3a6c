//! Python's strings and arrays as the crate's types, without a copy where possible.

use std::borrow::Cow;
use std::ops::Deref;

use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::value_error;
use crate::text::{append_arrow_texts, Unchecked};

/// An Arrow string array: its bytes (uint8) and its offsets (int32 or int64).
pub type ArrowStrings<'py> = (Array<'py, u8>, Bound<'py, PyAny>);

/// An array to read. (Extracting numpy's own type panics while another thread writes to the array.)
pub struct Array<'py, T: Element>(PyReadonlyArray1<'py, T>);

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

/// A Python string. One with lone surrogates is copied, and they become U+FFFD, as in tiktoken.
pub fn text<'a>(value: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, str>> {
    if let Ok(utf8) = value.to_str() {
        return Ok(Cow::Borrowed(utf8));
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

/// Python strings.
pub fn all_texts<'a>(values: &'a [Bound<'_, PyString>]) -> PyResult<Vec<Cow<'a, str>>> {
    values.iter().map(text).collect()
}

/// The texts of Arrow string arrays.
pub fn arrow_texts<'a>(arrays: &'a [ArrowStrings<'_>]) -> PyResult<Vec<Unchecked<'a>>> {
    let mut texts = Vec::new();
    for (bytes, offsets) in arrays {
        let bytes = bytes.as_slice()?;
        if let Ok(offsets) = offsets.extract::<Array<'_, i32>>() {
            append_arrow_texts(bytes, offsets.as_slice()?, &mut texts).map_err(value_error)?;
        } else if let Ok(offsets) = offsets.extract::<Array<'_, i64>>() {
            append_arrow_texts(bytes, offsets.as_slice()?, &mut texts).map_err(value_error)?;
        } else {
            return Err(PyTypeError::new_err("offsets must be a contiguous array of int32 or int64"));
        }
    }
    Ok(texts)
}

/// The bytes of tokens.
pub fn token_slices<'a>(tokens: &'a [Option<Bound<'_, PyBytes>>]) -> Vec<Option<&'a [u8]>> {
    tokens.iter().map(|token| token.as_ref().map(|token| token.as_bytes())).collect()
}

/// Ids from an array of uint16, uint32 or int64, or from a sequence of int.
pub fn ids(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(ids) = ids.extract::<Array<'_, u16>>() {
        return Ok(ids.as_array().iter().map(|&id| u32::from(id)).collect());
    }
    if let Ok(ids) = ids.extract::<Array<'_, u32>>() {
        return Ok(ids.as_array().to_vec());
    }
    let ids: Vec<i64> = match ids.extract::<Array<'_, i64>>() {
        Ok(ids) => ids.as_array().to_vec(),
        Err(_) => ids.extract()?,
    };
    ids.into_iter().map(|id| u32::try_from(id).map_err(|_| unknown_id(id))).collect()
}

/// `KeyError` for an id that is not in the vocabulary.
pub fn unknown_id(id: impl std::fmt::Display) -> PyErr {
    PyKeyError::new_err(format!("there is no token {id}"))
}
