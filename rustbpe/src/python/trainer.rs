//! The trainer, for Python.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::Builder;

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{all_texts, chunk_texts, value_error, Chunk, HEARING};
use crate::split::{scheme, Splitter};
use crate::train::{Counter, TrainError};

/// Counts pieces, then learns merges.
#[pyclass(name = "Trainer", module = "nanochat._rustbpe")]
pub struct PyTrainer {
    counter: Option<Counter>,
}

impl PyTrainer {
    fn counter(&self) -> PyResult<&Counter> {
        self.counter.as_ref().ok_or_else(|| value_error("this trainer has learnt its merges; make another"))
    }
}

#[pymethods]
impl PyTrainer {
    #[new]
    #[pyo3(signature = (threads=0, pattern=scheme::NANOCHAT))]
    fn new(threads: usize, pattern: &str) -> PyResult<Self> {
        let splitter = Splitter::new(pattern).map_err(value_error)?;
        Ok(PyTrainer { counter: Some(Counter::new(splitter, threads)) })
    }

    /// Counts a batch of str.
    fn add(&self, py: Python<'_>, texts: Vec<Bound<'_, PyString>>) -> PyResult<()> {
        let texts = all_texts(&texts)?;
        let counter = self.counter()?;
        py.detach(|| counter.add(&texts)).map_err(value_error)
    }

    /// Counts a batch given as the buffers of Arrow string arrays.
    fn add_buffers(&self, py: Python<'_>, chunks: Vec<Chunk<'_>>) -> PyResult<()> {
        let texts = chunk_texts(&chunks)?;
        let counter = self.counter()?;
        py.detach(|| counter.add(&texts)).map_err(value_error)
    }

    /// Learns at most so many merges, once; `told(done)` is called now and then.
    #[pyo3(signature = (merges, told=None))]
    fn merges(&mut self, py: Python<'_>, merges: usize, told: Option<Py<PyAny>>) -> PyResult<Vec<(u32, u32)>> {
        self.counter()?;
        let Some(counter) = self.counter.take() else { return Ok(Vec::new()) };
        py.detach(|| learn_and_tell(counter, merges, told.as_ref()))
    }

    /// Different pieces counted.
    #[getter]
    fn unique(&self, py: Python<'_>) -> PyResult<usize> {
        let counter = self.counter()?;
        Ok(py.detach(|| counter.unique()))
    }
}

/// Learns on another thread, so that this one can hear signals and call back: Python heeds them on its main thread only.
fn learn_and_tell(counter: Counter, merges: usize, told: Option<&Py<PyAny>>) -> PyResult<Vec<(u32, u32)>> {
    let stopped = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let stop = &stopped;
    std::thread::scope(|scope| {
        let learn = move || {
            counter.learn(merges, move |done| {
                let _ = sender.send(done);
                !stop.load(Ordering::Relaxed)
            })
        };
        let learning = Builder::new().spawn_scoped(scope, learn)?;
        let mut failed = None;
        loop {
            let done = match receiver.recv_timeout(HEARING) {
                Ok(done) => Some(receiver.try_iter().last().unwrap_or(done)),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if failed.is_some() {
                continue;
            }
            let answer = Python::attach(|py| {
                py.check_signals()?;
                match (told, done) {
                    (Some(told), Some(done)) => told.call1(py, (done,)).map(|_| ()),
                    _ => Ok(()),
                }
            });
            if let Err(error) = answer {
                failed = Some(error);
                stopped.store(true, Ordering::Relaxed);
            }
        }
        let learnt: Result<_, TrainError> = learning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Some(error) = failed {
            return Err(error);
        }
        let learnt = learnt.map_err(value_error)?.unwrap_or_default();
        if let Some(told) = told {
            Python::attach(|py| told.call1(py, (learnt.len(),)).map(|_| ()))?;
        }
        Ok(learnt)
    })
}
