//! The Python module: converts arguments and results, maps errors, releases the GIL. No logic.

mod arguments;
mod batches;
mod encoder;
mod network;
mod pack;
mod pooled_array;
mod trainer;

use std::collections::BTreeMap;

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::encode::{ColumnError, EncodeError};
use crate::split::{patterns, SplitError, Splitter};
use crate::train::TrainError;

type Int64Array = PyArray1<i64>;

fn value_error(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}

impl From<SplitError> for PyErr {
    fn from(error: SplitError) -> PyErr {
        value_error(error)
    }
}

impl From<EncodeError> for PyErr {
    fn from(error: EncodeError) -> PyErr {
        value_error(error)
    }
}

impl From<ColumnError> for PyErr {
    fn from(error: ColumnError) -> PyErr {
        value_error(error)
    }
}

impl From<TrainError> for PyErr {
    fn from(error: TrainError) -> PyErr {
        value_error(error)
    }
}

/// Runs the handlers of signals that arrived, for example Ctrl-C.
fn check_signals() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}

/// The pieces of a text.
#[pyfunction]
#[pyo3(signature = (value, pattern=patterns::NANOCHAT))]
fn split_pieces(value: &Bound<'_, PyString>, pattern: &str) -> PyResult<Vec<String>> {
    let value = arguments::text(value)?;
    Ok(Splitter::new(pattern)?.pieces(&value)?.into_iter().map(str::to_owned).collect())
}

/// Whether a pattern has a scanner of its own. Other patterns run on a regex engine, many times slower.
#[pyfunction]
fn is_fast(pattern: &str) -> PyResult<bool> {
    Ok(Splitter::new(pattern)?.is_fast())
}

#[pymodule]
fn _rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PATTERN", patterns::NANOCHAT)?;
    module.add("PATTERNS", BTreeMap::from(patterns::NAMED))?;
    module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    module.add_class::<trainer::PyTrainer>()?;
    module.add_class::<encoder::PyEncoder>()?;
    module.add_class::<network::PyLayer>()?;
    module.add_class::<network::PyNetwork>()?;
    module.add_class::<batches::PyBatches>()?;
    module.add_class::<batches::PyBatch>()?;
    module.add_function(wrap_pyfunction!(encoder::encoder_of, module)?)?;
    module.add_function(wrap_pyfunction!(encoder::derived_merges, module)?)?;
    module.add_function(wrap_pyfunction!(batches::batch_of, module)?)?;
    module.add_function(wrap_pyfunction!(split_pieces, module)?)?;
    module.add_function(wrap_pyfunction!(is_fast, module)?)?;
    module.add_function(wrap_pyfunction!(pack::pack, module)?)?;
    module.add_function(wrap_pyfunction!(pack::pack_padded, module)?)
}
