//! The Python face: types in, GIL released, errors mapped; no logic.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use numpy::ndarray::ArrayView1;
use numpy::{Element, IntoPyArray, PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::encode::{likely_ids, Buffer, EncodeError, Encoder, Output, Rules};
use crate::spare::Spare;
use crate::split::{scheme, Splitter};
use crate::text::{Text, Unchecked};
use crate::train::{Counter, TrainError};
use crate::vocab::Vocab;

mod column;
mod pack;

use column::{PyBatch, PyBatches};

type Int64s = PyArray1<i64>;
/// An Arrow string array: its bytes (uint8) and its offsets (int32 or int64).
type Chunk<'py> = (PyReadonlyArray1<'py, u8>, Bound<'py, PyAny>);

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
        if let Ok(offsets) = offsets.extract::<PyReadonlyArray1<'_, i32>>() {
            append_texts(bytes.as_slice()?, offsets.as_slice()?, &mut texts)?;
        } else if let Ok(offsets) = offsets.extract::<PyReadonlyArray1<'_, i64>>() {
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

/// Counts pieces, then learns merges.
#[pyclass(name = "Trainer")]
struct PyTrainer {
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
    const HEARING: Duration = Duration::from_millis(50);
    let stopped = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let stop = &stopped;
    std::thread::scope(|scope| {
        let learning = scope.spawn(move || {
            counter.learn(merges, move |done| {
                let _ = sender.send(done);
                !stop.load(Ordering::Relaxed)
            })
        });
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

/// Encodes and decodes with one vocabulary. Special tokens are the caller's.
#[pyclass(name = "Encoder", frozen)]
struct PyEncoder {
    encoder: Arc<Encoder>,
    narrow: Arc<Spare<u16>>,
    wide: Arc<Spare<u32>>,
}

impl From<Encoder> for PyEncoder {
    fn from(encoder: Encoder) -> PyEncoder {
        PyEncoder { encoder: Arc::new(encoder), narrow: Arc::default(), wide: Arc::default() }
    }
}

/// Ids that an encoder lends to Python.
trait Lendable: Output + Element {
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
fn lend<'py, I: Lendable>(py: Python<'py>, mut ids: Vec<I>, home: &Arc<Spare<I>>) -> PyResult<Bound<'py, PyArray1<I>>> {
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
        let splitter = Splitter::new(pattern).map_err(value_error)?;
        let encoder = py.detach(|| {
            let vocab = Vocab::from_merges(&merges)?;
            let rules = Rules::by_rank(&vocab);
            Ok::<_, String>(Encoder::new(splitter, vocab, rules, true))
        });
        Ok(encoder.map_err(value_error)?.into())
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
        let splitter = Splitter::new(pattern).map_err(value_error)?;
        let tokens: Vec<Option<&[u8]>> =
            tokens.iter().map(|token| token.as_ref().map(|token| token.as_bytes())).collect();
        let encoder = py.detach(|| {
            let vocab = Vocab::from_tokens(&tokens)?;
            let rules = match merges {
                Some(merges) => Rules::by_list(&vocab, &merges)?,
                None => Rules::by_rank(&vocab),
            };
            Ok::<_, String>(Encoder::new(splitter, vocab, rules, whole))
        });
        Ok(encoder.map_err(value_error)?.into())
    }

    /// Ids of one text.
    fn encode(&self, py: Python<'_>, value: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        const WORTH_IT_BYTES: usize = 4096;
        let value = text(value)?;
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

    /// The same of a column of a Parquet file, batch by batch, while it is read.
    #[pyo3(signature = (path, column, threads, wide, before=None, after=None))]
    #[allow(clippy::too_many_arguments)]
    fn encode_parquet(
        &self,
        path: std::path::PathBuf,
        column: &str,
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
    ) -> PyResult<PyBatches> {
        self.check_width(wide, (before, after))?;
        let start = if wide { PyBatches::start::<u32> } else { PyBatches::start::<u16> };
        start(self, (path, column), threads, (before, after))
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

fn ids_of(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, u16>>() {
        return Ok(ids.as_array().iter().map(|&id| u32::from(id)).collect());
    }
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, u32>>() {
        return Ok(ids.as_array().to_vec());
    }
    let ids: Vec<i64> = match ids.extract::<PyReadonlyArray1<'_, i64>>() {
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
        let failed = |error: EncodeError| value_error(error);
        if let Some(out) = out {
            let mut array: PyReadwriteArray1<'py, I> = out.extract().map_err(|_| {
                PyTypeError::new_err("`out` must be a writable, contiguous array of the type of the ids")
            })?;
            let slice = array.as_slice_mut()?;
            let offsets = py.detach(|| {
                let mut sink = Buffer::new(slice);
                self.encoder.encode_batch::<I, _, _>(texts, threads, before, after, &mut sink)
            });
            let offsets = offsets.map_err(failed)?;
            drop(array);
            let count = offsets.last().copied().unwrap_or(0);
            let view = out.get_item(pyo3::types::PySlice::new(py, 0, count as isize, 1))?;
            return Ok((view, offsets.into_pyarray(py)));
        }
        let home = I::home(self);
        let encoded = py.detach(|| {
            let mut ids = home.take(likely_ids(texts));
            let offsets = self.encoder.encode_batch(texts, threads, before, after, &mut ids)?;
            Ok((ids, offsets))
        });
        let (ids, offsets) = encoded.map_err(failed)?;
        Ok((lend(py, ids, home)?.into_any(), offsets.into_pyarray(py)))
    }
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
    module.add_class::<PyTrainer>()?;
    module.add_class::<PyEncoder>()?;
    module.add_class::<PyBatches>()?;
    module.add_class::<PyBatch>()?;
    module.add_function(wrap_pyfunction!(split_pieces, module)?)?;
    module.add_function(wrap_pyfunction!(is_fast, module)?)?;
    module.add_function(wrap_pyfunction!(pack::pack, module)?)?;
    module.add_function(wrap_pyfunction!(pack::plan_padded, module)?)
}
