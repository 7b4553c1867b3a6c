//! The encoder, for Python.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use numpy::ndarray::ArrayView1;
use numpy::{Element, IntoPyArray, PyArray1, PyArrayMethods};
use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::column::PyBatches;
use super::stoppable::{stoppable, LONG_BYTES};
use super::{all_texts, chunk_texts, text, value_error, Array, Chunk, Int64s};
use crate::encode::{derived, likely_ids, Buffer, Encoder, Output, Rules};
use crate::spare::Spare;
use crate::split::{scheme, Splitter};
use crate::text::Text;
use crate::vocab::Vocab;

/// Encodes and decodes with one vocabulary. Special tokens are the caller's.
#[pyclass(name = "Encoder", module = "nanochat._rustbpe", frozen)]
pub struct PyEncoder {
    pub(super) encoder: Arc<Encoder>,
    /// The list of merges, where there is one.
    merges: Option<Vec<(u32, u32)>>,
    narrow: Arc<Spare<u16>>,
    wide: Arc<Spare<u32>>,
}

impl PyEncoder {
    /// Without a list of merges, tiktoken's rule is followed.
    fn made(
        py: Python<'_>,
        pattern: &str,
        whole: bool,
        merges: Option<Vec<(u32, u32)>>,
        vocab: impl FnOnce() -> Result<Vocab, String> + Send,
    ) -> PyResult<PyEncoder> {
        let splitter = Splitter::new(pattern).map_err(value_error)?;
        let encoder = py.detach(|| {
            let vocab = vocab()?;
            let rules = match &merges {
                Some(merges) => Rules::by_list(&vocab, merges)?,
                None => Rules::by_rank(&vocab),
            };
            Ok::<_, String>(Encoder::new(splitter, vocab, rules, whole))
        });
        let encoder = Arc::new(encoder.map_err(value_error)?);
        Ok(PyEncoder { encoder, merges, narrow: Arc::default(), wide: Arc::default() })
    }
}

/// Ids that an encoder lends to Python.
pub trait Lendable: Output + Element {
    /// Where their memory comes from and goes to.
    fn home(encoder: &PyEncoder) -> &Arc<Spare<Self>>;
}

impl Lendable for u16 {
    fn home(encoder: &PyEncoder) -> &Arc<Spare<u16>> {
        &encoder.narrow
    }
}

impl Lendable for u32 {
    fn home(encoder: &PyEncoder) -> &Arc<Spare<u32>> {
        &encoder.wide
    }
}

struct Loan<I> {
    ids: Vec<I>,
    home: Arc<Spare<I>>,
}

impl<I> Drop for Loan<I> {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.ids));
    }
}

/// Who owns the ids of an array.
#[pyclass(frozen)]
struct Owner {
    _loan: Box<dyn Send + Sync>,
}

/// An array of these ids; when Python is done with it, their memory goes home.
#[allow(unsafe_code)]
pub fn lend<'py, I: Lendable>(
    py: Python<'py>,
    mut ids: Vec<I>,
    home: &Arc<Spare<I>>,
) -> PyResult<Bound<'py, PyArray1<I>>> {
    let (count, first) = (ids.len(), ids.as_mut_ptr());
    let owner = Bound::new(py, Owner { _loan: Box::new(Loan { ids, home: home.clone() }) })?;
    // SAFETY: the owner, which the array keeps, leaves these ids where they are, and nobody else can reach them
    Ok(unsafe { PyArray1::borrow_from_array(&ArrayView1::from_shape_ptr(count, first), owner.into_any()) })
}

#[pymethods]
impl PyEncoder {
    /// Ids 0..255 are bytes, then the merges.
    #[new]
    #[pyo3(signature = (merges, pattern=scheme::NANOCHAT))]
    fn new(py: Python<'_>, merges: Vec<(u32, u32)>, pattern: &str) -> PyResult<Self> {
        PyEncoder::made(py, pattern, true, None, || Vocab::from_merges(&merges))
    }

    /// Bytes by id, and merges in their order, or none: any two neighbours whose bytes are a token, the lowest first.
    #[staticmethod]
    #[pyo3(signature = (tokens, merges=None, pattern=scheme::NANOCHAT, whole=true))]
    fn from_tokens(
        py: Python<'_>,
        tokens: Vec<Option<Bound<'_, PyBytes>>>,
        merges: Option<Vec<(u32, u32)>>,
        pattern: &str,
        whole: bool,
    ) -> PyResult<Self> {
        let tokens = token_slices(&tokens);
        PyEncoder::made(py, pattern, whole, merges, || Vocab::from_tokens(&tokens))
    }

    /// For `pickle` and `copy`: the arguments of `from_tokens`, which checks them again.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let function = py.import("nanochat._rustbpe")?.getattr("encoder_of")?;
        let state =
            (self.token_bytes(py), self.merges.clone(), self.encoder.splitter().pattern(), self.encoder.whole());
        Ok((function, state.into_pyobject(py)?))
    }

    /// Ids of one text.
    fn encode(&self, py: Python<'_>, value: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        const WORTH_IT_BYTES: usize = 4096;
        let value = text(value)?;
        if value.len() >= LONG_BYTES {
            let (texts, mut ids) = ([&*value], Vec::new());
            stoppable(py, &texts, &mut ids, |sink| {
                self.encoder.encode_batch::<u32, _, _>(&texts, 1, None, None, sink)
            })?;
            return Ok(ids);
        }
        let ids = match value.len() {
            ..WORTH_IT_BYTES => self.encoder.encode(&value),
            _ => py.detach(|| self.encoder.encode(&value)),
        };
        ids.map_err(value_error)
    }

    /// Ids of many texts: one array of uint16 (`wide` false) or uint32, and int64 offsets.
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
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64s>)> {
        self.batch(py, &all_texts(&texts)?, threads, wide, (before, after), out)
    }

    /// The same of the buffers of Arrow string arrays.
    #[pyo3(signature = (chunks, threads, wide, before=None, after=None, out=None))]
    #[allow(clippy::too_many_arguments)]
    fn encode_buffers<'py>(
        &self,
        py: Python<'py>,
        chunks: Vec<Chunk<'py>>,
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64s>)> {
        self.batch(py, &chunk_texts(&chunks)?, threads, wide, (before, after), out)
    }

    /// The same of a column of a Parquet file, batch by batch, while it is read. A column is named by its parts: a field
    /// of a struct has several.
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
        let start = if wide { PyBatches::start::<u32> } else { PyBatches::start::<u16> };
        let path = PathBuf::from(OsStr::from_bytes(path));
        py.detach(|| start(self, (path, column), threads, (before, after)))
    }

    /// Bytes of ids.
    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        let ids = ids_of(ids)?;
        self.encoder
            .vocab()
            .decode(&ids, &mut bytes)
            .map_err(|id| PyKeyError::new_err(format!("there is no token {id}")))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Bytes of every id; `None` of those that are not ours.
    fn token_bytes<'py>(&self, py: Python<'py>) -> Vec<Option<Bound<'py, PyBytes>>> {
        let vocab = self.encoder.vocab();
        (0..vocab.len() as u32).map(|id| vocab.token(id).map(|bytes| PyBytes::new(py, bytes))).collect()
    }

    /// Ids in all.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.encoder.vocab().len()
    }
}

fn token_slices<'a>(tokens: &'a [Option<Bound<'_, PyBytes>>]) -> Vec<Option<&'a [u8]>> {
    tokens.iter().map(|token| token.as_ref().map(|token| token.as_bytes())).collect()
}

/// What an encoder was pickled as, an encoder again.
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

/// The pair of ids that yields each token of two bytes or more by tiktoken's rule, in the order of the tokens' ids.
/// Tokens that no merges yield, and that are found as whole pieces only, have no pair.
#[pyfunction]
pub fn derived_merges(py: Python<'_>, tokens: Vec<Option<Bound<'_, PyBytes>>>) -> PyResult<Vec<(u32, u32)>> {
    let tokens = token_slices(&tokens);
    let merges = py.detach(|| {
        let vocab = Vocab::from_tokens(&tokens)?;
        Ok::<_, String>(derived(&vocab).into_iter().map(|(left, right, _)| (left, right)).collect())
    });
    merges.map_err(value_error)
}

fn ids_of(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
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
    ids.into_iter()
        .map(|id| u32::try_from(id).map_err(|_| PyKeyError::new_err(format!("there is no token {id}"))))
        .collect()
}

impl PyEncoder {
    fn check_width(&self, wide: bool, around: (Option<u32>, Option<u32>)) -> PyResult<()> {
        let fits = |id: Option<u32>| id.is_none_or(|id| id <= u32::from(u16::MAX));
        if wide || self.encoder.is_narrow() && fits(around.0) && fits(around.1) {
            return Ok(());
        }
        Err(value_error("these ids do not fit into 16 bits"))
    }

    fn batch<'py>(
        &self,
        py: Python<'py>,
        texts: &[impl Text],
        threads: usize,
        wide: bool,
        around: (Option<u32>, Option<u32>),
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64s>)> {
        self.check_width(wide, around)?;
        if wide {
            self.batch_of::<u32>(py, texts, threads, around, out)
        } else {
            self.batch_of::<u16>(py, texts, threads, around, out)
        }
    }

    fn batch_of<'py, I: Lendable>(
        &self,
        py: Python<'py>,
        texts: &[impl Text],
        threads: usize,
        (before, after): (Option<u32>, Option<u32>),
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Int64s>)> {
        if let Some(out) = out {
            let array = out.cast::<PyArray1<I>>().ok().and_then(|array| array.try_readwrite().ok());
            let wrong = || PyTypeError::new_err("`out` must be a writable, contiguous array of the type of the ids");
            let mut array = array.ok_or_else(wrong)?;
            let slice = array.as_slice_mut().map_err(|_| wrong())?;
            let offsets = stoppable(py, texts, Buffer::new(slice), |sink| {
                self.encoder.encode_batch::<I, _, _>(texts, threads, before, after, sink)
            })?;
            drop(array);
            let count = offsets.last().copied().unwrap_or(0);
            let view = out.get_item(pyo3::types::PySlice::new(py, 0, count as isize, 1))?;
            return Ok((view, offsets.into_pyarray(py)));
        }
        let home = I::home(self);
        let mut ids = py.detach(|| home.take(likely_ids(texts)));
        let offsets =
            stoppable(py, texts, &mut ids, |sink| self.encoder.encode_batch(texts, threads, before, after, sink))?;
        Ok((lend(py, ids, home)?.into_any(), offsets.into_pyarray(py)))
    }
}
