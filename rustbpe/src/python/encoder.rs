//! `Encoder`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use numpy::{Element, IntoPyArray, PyArray1, PyArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PySlice, PyString, PyTuple};

use super::arguments::{all_texts, arrow_texts, ids, text, token_slices, unknown_id, ArrowStrings};
use super::batches::PyBatches;
use super::pooled_array::pooled_array;
use super::{check_signals, value_error, Int64Array};
use crate::encode::{derive_merges, estimate_ids, AroundIds, Encoder, SliceSink, Width};
use crate::split::{patterns, Splitter};
use crate::text::Text;
use crate::vocab::Vocab;

/// Shorter texts are encoded faster than the GIL is released.
const RELEASE_GIL_BYTES: usize = 4096;

/// Encodes and decodes with one vocabulary. Special tokens are left to the caller.
#[pyclass(name = "Encoder", module = "nanochat._rustbpe", frozen)]
pub struct PyEncoder(Arc<Encoder>);

impl PyEncoder {
    fn build(
        py: Python<'_>,
        pattern: &str,
        whole: bool,
        merges: Option<Vec<(u32, u32)>>,
        vocab: impl FnOnce() -> Result<Vocab, String> + Send,
    ) -> PyResult<PyEncoder> {
        let splitter = Splitter::new(pattern)?;
        let encoder = py.detach(|| Encoder::new(splitter, vocab()?, merges, whole)).map_err(value_error)?;
        Ok(PyEncoder(Arc::new(encoder)))
    }

    fn check_width(&self, wide: bool, around: AroundIds) -> PyResult<()> {
        if wide || self.0.fits_narrow(around) {
            return Ok(());
        }
        Err(value_error("these ids do not fit into 16 bits"))
    }

    fn encode_texts<'py>(
        &self,
        py: Python<'py>,
        texts: &[impl Text],
        threads: usize,
        wide: bool,
        around: AroundIds,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64Array>)> {
        self.check_width(wide, around)?;
        if wide {
            self.encode_as::<u32>(py, texts, threads, around, out)
        } else {
            self.encode_as::<u16>(py, texts, threads, around, out)
        }
    }

    fn encode_as<'py, I: Width + Element>(
        &self,
        py: Python<'py>,
        texts: &[impl Text],
        threads: usize,
        around: AroundIds,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64Array>)> {
        let encoder = &self.0;
        let Some(out) = out else {
            let pool = encoder.buffers::<I>();
            let (ids, offsets) = py.detach(|| {
                let mut ids = pool.take(estimate_ids(texts));
                let offsets = encoder.encode_batch_interruptible(texts, threads, around, &mut ids, check_signals)?;
                Ok::<_, PyErr>((ids, offsets))
            })?;
            return Ok((pooled_array(py, ids, pool)?.into_any(), offsets.into_pyarray(py)));
        };
        let array = out.cast::<PyArray1<I>>().ok().and_then(|array| array.try_readwrite().ok());
        let wrong = || PyTypeError::new_err("`out` must be a writable, contiguous array of the type of the ids");
        let mut array = array.ok_or_else(wrong)?;
        let sink = SliceSink::new(array.as_slice_mut().map_err(|_| wrong())?);
        let offsets = py.detach(|| encoder.encode_batch_interruptible(texts, threads, around, sink, check_signals))?;
        drop(array);
        let count = offsets.last().copied().unwrap_or(0);
        let view = out.get_item(PySlice::new(py, 0, count as isize, 1))?;
        Ok((view, offsets.into_pyarray(py)))
    }
}

#[pymethods]
impl PyEncoder {
    /// From merges: ids 0..255 are bytes, then the merges.
    #[new]
    #[pyo3(signature = (merges, pattern=patterns::NANOCHAT))]
    fn new(py: Python<'_>, merges: Vec<(u32, u32)>, pattern: &str) -> PyResult<Self> {
        PyEncoder::build(py, pattern, true, None, || Vocab::from_merges(&merges))
    }

    /// From the bytes of each id and a list of merges. Without a list, any two neighbors whose joined bytes are a token
    /// merge, the lowest id first.
    #[staticmethod]
    #[pyo3(signature = (tokens, merges=None, pattern=patterns::NANOCHAT, whole=true))]
    fn from_tokens(
        py: Python<'_>,
        tokens: Vec<Option<Bound<'_, PyBytes>>>,
        merges: Option<Vec<(u32, u32)>>,
        pattern: &str,
        whole: bool,
    ) -> PyResult<Self> {
        let tokens = token_slices(&tokens);
        PyEncoder::build(py, pattern, whole, merges, || Vocab::from_tokens(&tokens))
    }

    /// For `pickle` and `copy`: the arguments of `from_tokens`, which checks them again.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let function = py.import("nanochat._rustbpe")?.getattr("encoder_of")?;
        let merges = self.0.merges().map(<[_]>::to_vec);
        let state = (self.token_bytes(py), merges, self.0.splitter().pattern(), self.0.matches_whole_pieces());
        Ok((function, state.into_pyobject(py)?))
    }

    /// Ids of one text.
    fn encode(&self, py: Python<'_>, value: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        let value = text(value)?;
        let encoder = &self.0;
        if value.len() < RELEASE_GIL_BYTES {
            return Ok(encoder.encode(&value)?);
        }
        py.detach(|| encoder.encode_interruptible(&value, check_signals))
    }

    /// Ids of many texts: one array of uint16, or uint32 if `wide`, and int64 offsets.
    #[pyo3(signature = (texts, threads, wide, before=None, after=None, out=None))]
    #[allow(clippy::too_many_arguments)]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64Array>)> {
        self.encode_texts(py, &all_texts(&texts)?, threads, wide, (before, after), out)
    }

    /// The same for Arrow string arrays, given by their buffers.
    #[pyo3(signature = (chunks, threads, wide, before=None, after=None, out=None))]
    #[allow(clippy::too_many_arguments)]
    fn encode_buffers<'py>(
        &self,
        py: Python<'py>,
        chunks: Vec<ArrowStrings<'py>>,
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64Array>)> {
        self.encode_texts(py, &arrow_texts(&chunks)?, threads, wide, (before, after), out)
    }

    /// The same for a column of a Parquet file, batch by batch, while it is read. The column is given by the names on its
    /// path: a field of a struct has several.
    #[pyo3(signature = (path, column, threads, wide, before=None, after=None))]
    #[allow(clippy::too_many_arguments)]
    fn encode_parquet(
        &self,
        py: Python<'_>,
        path: &[u8],
        column: Vec<String>,
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
    ) -> PyResult<PyBatches> {
        self.check_width(wide, (before, after))?;
        let path = Path::new(OsStr::from_bytes(path));
        py.detach(|| PyBatches::start(self.0.clone(), path, &column, threads, wide, (before, after)))
    }

    /// Bytes of ids.
    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        self.0.vocab().decode(&self::ids(ids)?, &mut bytes).map_err(unknown_id)?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Bytes of every id; `None` for an id without bytes.
    fn token_bytes<'py>(&self, py: Python<'py>) -> Vec<Option<Bound<'py, PyBytes>>> {
        let vocab = self.0.vocab();
        (0..vocab.len() as u32).map(|id| vocab.token(id).map(|bytes| PyBytes::new(py, bytes))).collect()
    }

    /// Number of ids.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab().len()
    }
}

/// Restores a pickled encoder.
#[pyfunction]
pub fn encoder_of(
    py: Python<'_>,
    tokens: Vec<Option<Bound<'_, PyBytes>>>,
    merges: Option<Vec<(u32, u32)>>,
    pattern: &str,
    whole: bool,
) -> PyResult<PyEncoder> {
    PyEncoder::from_tokens(py, tokens, merges, pattern, whole)
}

/// The pair of ids that makes each token of two bytes or more by tiktoken's rule, in the order of the tokens' ids.
/// Tokens that no merges make, and that are matched as whole pieces only, have no pair.
#[pyfunction]
pub fn derived_merges(py: Python<'_>, tokens: Vec<Option<Bound<'_, PyBytes>>>) -> PyResult<Vec<(u32, u32)>> {
    let tokens = token_slices(&tokens);
    let merges = py.detach(|| Ok::<_, String>(derive_merges(&Vocab::from_tokens(&tokens)?)));
    Ok(merges.map_err(value_error)?.into_iter().map(|(left, right, _)| (left, right)).collect())
}
