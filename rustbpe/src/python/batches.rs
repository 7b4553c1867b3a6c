//! `Batches` and `Batch`: ids of a Parquet column.

use std::path::Path;
use std::sync::Arc;

use numpy::{Element, IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::arguments::Array;
use super::pooled_array::pooled_array;
use super::{value_error, Int64Array};
use crate::encode::{
    byte_lengths, content_hashes, offsets_fit, AroundIds, BackgroundBatches, Batch, ColumnError, Encoder, Width,
};
use crate::parquet::{Document, TextColumn};
use crate::text::Text;

/// The batches of a column.
#[pyclass(name = "Batches", module = "nanochat._rustbpe", frozen)]
pub struct PyBatches {
    rows: usize,
    encoder: Arc<Encoder>,
    batches: AnyWidth,
}

enum AnyWidth {
    Narrow(BackgroundBatches<u16>),
    Wide(BackgroundBatches<u32>),
}

impl PyBatches {
    /// Opens the column and starts to encode.
    pub fn start(
        encoder: Arc<Encoder>,
        path: &Path,
        column: &[String],
        threads: usize,
        wide: bool,
        around: AroundIds,
    ) -> PyResult<PyBatches> {
        let column = TextColumn::open(path, column).map_err(ColumnError::from)?;
        let rows = column.rows();
        let batches = if wide {
            AnyWidth::Wide(BackgroundBatches::start(encoder.clone(), column, threads, around)?)
        } else {
            AnyWidth::Narrow(BackgroundBatches::start(encoder.clone(), column, threads, around)?)
        };
        Ok(PyBatches { rows, encoder, batches })
    }

    fn next_batch<I: Width + Element>(
        &self,
        py: Python<'_>,
        batches: &BackgroundBatches<I>,
    ) -> PyResult<Option<PyBatch>> {
        let Some(Batch { ids, offsets, documents }) = py.detach(|| batches.next_batch())? else { return Ok(None) };
        let ids = pooled_array(py, ids, self.encoder.buffers::<I>())?.into_any().unbind();
        Ok(Some(PyBatch { ids, offsets: offsets.into_pyarray(py).unbind(), documents }))
    }
}

#[pymethods]
impl PyBatches {
    /// Number of documents in the file.
    #[getter]
    fn rows(&self) -> usize {
        self.rows
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PyBatch>> {
        match &self.batches {
            AnyWidth::Narrow(batches) => self.next_batch(py, batches),
            AnyWidth::Wide(batches) => self.next_batch(py, batches),
        }
    }
}

/// Documents of a column, and their ids.
#[pyclass(name = "Batch", module = "nanochat._rustbpe", frozen)]
pub struct PyBatch {
    ids: Py<PyAny>,
    offsets: Py<Int64Array>,
    documents: Arc<Vec<Document>>,
}

#[pymethods]
impl PyBatch {
    /// Ids of all documents: uint16 or uint32.
    #[getter]
    fn ids(&self, py: Python<'_>) -> Py<PyAny> {
        self.ids.clone_ref(py)
    }

    /// Start of each document among the ids, and the end of the last one: int64.
    #[getter]
    fn offsets(&self, py: Python<'_>) -> Py<Int64Array> {
        self.offsets.clone_ref(py)
    }

    /// Bytes of each document: uint32.
    fn byte_lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        byte_lengths(&self.documents).into_pyarray(py)
    }

    /// XXH3 of each document: uint64.
    fn hashes<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        py.detach(|| content_hashes(&self.documents)).into_pyarray(py)
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

/// Restores a pickled batch.
#[pyfunction]
pub fn batch_of(
    ids: &Bound<'_, PyAny>,
    offsets: Array<'_, i64>,
    documents: Vec<Bound<'_, PyBytes>>,
) -> PyResult<PyBatch> {
    let ids_count =
        if let Ok(ids) = ids.cast::<PyArray1<u16>>() { ids.len()? } else { ids.cast::<PyArray1<u32>>()?.len()? };
    if !offsets_fit(offsets.as_slice()?, ids_count, documents.len()) {
        return Err(value_error("the offsets of this batch do not fit its ids and documents"));
    }
    let documents = documents.iter().map(|bytes| Document::from(bytes.as_bytes().to_vec())).collect();
    let offsets = offsets.as_slice()?.to_vec().into_pyarray(ids.py()).unbind();
    Ok(PyBatch { ids: ids.clone().unbind(), offsets, documents: Arc::new(documents) })
}
