//! `Trainer`.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::arguments::{all_texts, arrow_texts, ArrowStrings};
use super::value_error;
use crate::split::{patterns, Splitter};
use crate::train::Counter;

/// Counts pieces, then trains merges.
#[pyclass(name = "Trainer", module = "nanochat._rustbpe")]
pub struct PyTrainer {
    /// `None` after training.
    counter: Option<Counter>,
}

impl PyTrainer {
    fn counter(&self) -> PyResult<&Counter> {
        self.counter.as_ref().ok_or_else(|| value_error("this trainer has already been used; create another"))
    }
}

#[pymethods]
impl PyTrainer {
    #[new]
    #[pyo3(signature = (threads=0, pattern=patterns::NANOCHAT))]
    fn new(threads: usize, pattern: &str) -> PyResult<Self> {
        Ok(PyTrainer { counter: Some(Counter::new(Splitter::new(pattern)?, threads)) })
    }

    /// Counts a batch of str.
    fn add(&self, py: Python<'_>, texts: Vec<Bound<'_, PyString>>) -> PyResult<()> {
        let texts = all_texts(&texts)?;
        let counter = self.counter()?;
        Ok(py.detach(|| counter.add(&texts))?)
    }

    /// Counts a batch of Arrow string arrays, given by their buffers.
    fn add_buffers(&self, py: Python<'_>, chunks: Vec<ArrowStrings<'_>>) -> PyResult<()> {
        let texts = arrow_texts(&chunks)?;
        let counter = self.counter()?;
        Ok(py.detach(|| counter.add(&texts))?)
    }

    /// Trains at most `merges` merges, once. `progress(done)` is called from time to time, and at the end.
    #[pyo3(signature = (merges, progress=None))]
    fn merges(&mut self, py: Python<'_>, merges: usize, progress: Option<Py<PyAny>>) -> PyResult<Vec<(u32, u32)>> {
        self.counter()?;
        let Some(counter) = self.counter.take() else { return Ok(Vec::new()) };
        let mut poll = |done: Option<usize>| {
            Python::attach(|py| {
                py.check_signals()?;
                match (&progress, done) {
                    (Some(progress), Some(done)) => progress.call1(py, (done,)).map(|_| ()),
                    _ => Ok(()),
                }
            })
        };
        py.detach(|| {
            let trained = counter.train_interruptible(merges, &mut poll)?;
            poll(Some(trained.len()))?;
            Ok(trained)
        })
    }

    /// Number of unique pieces counted.
    #[getter]
    fn unique(&self, py: Python<'_>) -> PyResult<usize> {
        let counter = self.counter()?;
        Ok(py.detach(|| counter.unique()))
    }
}
