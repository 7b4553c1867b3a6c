//! Columns of Parquet files, for Python.

use std::path::PathBuf;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use twox_hash::XxHash3_64;

use super::encoder::{lend, Lendable, PyEncoder};
use super::{value_error, Array, Int64s};
use crate::column::{Column, Document};
use crate::encode::{Batch, ColumnError};
use crate::spare::Spare;
use crate::text::Text;

/// Batches that are ready before they are asked for.
const READY: usize = 2;

/// How the ids of a batch, of either width, become an array; and the rest of the batch.
type Sent = (Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>, Vec<i64>, Arc<Vec<Document>>);

/// What comes, and who makes it.
type Coming = (Receiver<Sent>, JoinHandle<Result<(), ColumnError>>);

/// The batches of a column, while they are encoded.
#[pyclass(name = "Batches", module = "nanochat._rustbpe", frozen)]
pub struct PyBatches {
    rows: usize,
    /// The process whose threads encode: one that is forked from it has none of them.
    process: u32,
    coming: Mutex<Option<Coming>>,
}

impl PyBatches {
    pub(super) fn start<I: Lendable>(
        encoder: &PyEncoder,
        (path, column): (PathBuf, Vec<String>),
        threads: usize,
        around: (Option<u32>, Option<u32>),
    ) -> PyResult<PyBatches> {
        let column = Column::open(&path, &column).map_err(ColumnError::from).map_err(value_error)?;
        let rows = column.rows();
        let (sender, receiver) = sync_channel::<Sent>(READY);
        let (encoder, home): (_, Arc<Spare<I>>) = (encoder.encoder.clone(), I::home(encoder).clone());
        let encode = move || {
            let room = |ids| home.take(ids);
            let give = |Batch { ids, offsets, documents }| {
                let home = home.clone();
                let lent = move |py: Python<'_>| Ok(lend(py, ids, &home)?.into_any().unbind());
                sender.send((Box::new(lent), offsets, documents)).is_ok()
            };
            encoder.encode_column::<I>(&column, threads, around, room, give)
        };
        let encoding = Builder::new().spawn(encode)?;
        Ok(PyBatches { rows, process: std::process::id(), coming: Mutex::new(Some((receiver, encoding))) })
    }

    /// The next batch. At the end, or if that is an error, the threads are gone.
    fn receive(&self) -> Result<Option<Sent>, ColumnError> {
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sent) = coming.as_ref().and_then(|(receiver, _)| receiver.recv().ok()) {
            return Ok(Some(sent));
        }
        let Some((_, encoding)) = coming.take() else { return Ok(None) };
        encoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(|()| None)
    }
}

impl Drop for PyBatches {
    fn drop(&mut self) {
        if let Some((receiver, encoding)) = self.coming.lock().unwrap_or_else(PoisonError::into_inner).take() {
            if self.process != std::process::id() {
                std::mem::forget((receiver, encoding));
                return;
            }
            drop(receiver);
            // it is told with its next batch that nobody wants more
            let _ = encoding.join();
        }
    }
}

#[pymethods]
impl PyBatches {
    /// Documents of the file.
    #[getter]
    fn rows(&self) -> usize {
        self.rows
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PyBatch>> {
        if self.process != std::process::id() {
            return Err(value_error("these batches belong to the process that this one was forked from"));
        }
        let Some((lent, offsets, documents)) = py.detach(|| self.receive()).map_err(value_error)? else {
            return Ok(None);
        };
        Ok(Some(PyBatch { ids: lent(py)?, offsets: offsets.into_pyarray(py).unbind(), documents }))
    }
}

/// Some documents, and their ids.
#[pyclass(name = "Batch", module = "nanochat._rustbpe", frozen)]
pub struct PyBatch {
    ids: Py<PyAny>,
    offsets: Py<Int64s>,
    documents: Arc<Vec<Document>>,
}

#[pymethods]
impl PyBatch {
    /// Ids of all documents: uint16 or uint32.
    #[getter]
    fn ids(&self, py: Python<'_>) -> Py<PyAny> {
        self.ids.clone_ref(py)
    }

    /// Where each document begins among them, and where the last one ends: int64.
    #[getter]
    fn offsets(&self, py: Python<'_>) -> Py<Int64s> {
        self.offsets.clone_ref(py)
    }

    /// Bytes of each document: uint32.
    fn byte_lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        let lengths = self.documents.iter().map(|document| document.bytes().len() as u32);
        lengths.collect::<Vec<_>>().into_pyarray(py)
    }

    /// XXH3 of each document: uint64.
    fn hashes<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        let hash = |document: &Document| XxHash3_64::oneshot(document.bytes());
        py.detach(|| self.documents.iter().map(hash).collect::<Vec<_>>()).into_pyarray(py)
    }

    /// The first bytes of a document.
    fn beginning<'py>(&self, py: Python<'py>, document: usize, bytes: usize) -> PyResult<Bound<'py, PyBytes>> {
        let found = self.documents.get(document).ok_or_else(|| value_error("there is no such document"))?;
        let all = found.bytes();
        Ok(PyBytes::new(py, &all[..bytes.min(all.len())]))
    }

    /// For `pickle` and `copy`: the arguments of `batch_of`.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let function = py.import("nanochat._rustbpe")?.getattr("batch_of")?;
        let documents: Vec<_> = self.documents.iter().map(|document| PyBytes::new(py, document.bytes())).collect();
        Ok((function, (&self.ids, &self.offsets, documents).into_pyobject(py)?))
    }

    fn __len__(&self) -> usize {
        self.documents.len()
    }
}

/// What a batch was pickled as, a batch again.
#[pyfunction]
pub fn batch_of(
    ids: &Bound<'_, PyAny>,
    offsets: Array<'_, i64>,
    documents: Vec<Bound<'_, PyBytes>>,
) -> PyResult<PyBatch> {
    let ids_count =
        if let Ok(ids) = ids.cast::<PyArray1<u16>>() { ids.len()? } else { ids.cast::<PyArray1<u32>>()?.len()? };
    let places = offsets.as_slice()?;
    let whole = places.len() == documents.len() + 1 && places[0] == 0 && places.is_sorted();
    if !whole || places.last().and_then(|&last| usize::try_from(last).ok()) != Some(ids_count) {
        return Err(value_error("the offsets of this batch do not fit its ids and documents"));
    }
    let documents = documents.iter().map(|bytes| Document::from(bytes.as_bytes().to_vec())).collect();
    let offsets = places.to_vec().into_pyarray(ids.py()).unbind();
    Ok(PyBatch { ids: ids.clone().unbind(), offsets, documents: Arc::new(documents) })
}
