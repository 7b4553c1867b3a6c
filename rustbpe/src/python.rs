//! The Python face: types in, GIL released, errors mapped; no logic.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::encode::{Cache, Encoder};
use crate::train::Counter;
use crate::vocab::Vocab;
use crate::{pack as packing, split};

type Int64s = PyArray1<i64>;

/// A text from Python; lone surrogates become U+FFFD, as tiktoken has it.
fn text(value: &Bound<'_, PyString>) -> PyResult<String> {
    if let Ok(whole) = value.to_str() {
        return Ok(whole.to_owned());
    }
    let units = value.call_method1("encode", ("utf-16-le", "surrogatepass"))?;
    let units: Vec<u16> = units
        .cast::<PyBytes>()?
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Ok(String::from_utf16_lossy(&units))
}

fn all_texts(values: &[Bound<'_, PyString>]) -> PyResult<Vec<String>> {
    values.iter().map(text).collect()
}

fn pool(threads: usize) -> PyResult<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Slices of an Arrow string array: its data buffer and its offsets.
fn slices<'a>(data: &'a [u8], offsets: &[i64]) -> PyResult<Vec<std::borrow::Cow<'a, str>>> {
    offsets
        .windows(2)
        .map(|bounds| {
            let range = usize::try_from(bounds[0])
                .ok()
                .zip(usize::try_from(bounds[1]).ok())
                .filter(|&(start, end)| start <= end && end <= data.len());
            let (start, end) = range.ok_or_else(|| PyValueError::new_err("offsets do not fit the data"))?;
            Ok(String::from_utf8_lossy(&data[start..end]))
        })
        .collect()
}

/// Counts pieces, then learns merges.
#[pyclass(name = "Trainer")]
struct PyTrainer {
    counter: Counter,
    pool: rayon::ThreadPool,
}

#[pymethods]
impl PyTrainer {
    #[new]
    fn new(threads: usize) -> PyResult<Self> {
        Ok(PyTrainer { counter: Counter::default(), pool: pool(threads)? })
    }

    /// Counts a batch of str.
    fn add(&mut self, py: Python<'_>, texts: Vec<Bound<'_, PyString>>) -> PyResult<()> {
        let texts = all_texts(&texts)?;
        let PyTrainer { counter, pool } = self;
        py.detach(|| pool.install(|| counter.add(&texts)));
        Ok(())
    }

    /// Counts a batch given as UTF-8 bytes and offsets.
    fn add_buffer(
        &mut self,
        py: Python<'_>,
        data: PyReadonlyArray1<'_, u8>,
        offsets: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<()> {
        let texts = slices(data.as_slice()?, offsets.as_slice()?)?;
        let PyTrainer { counter, pool } = self;
        py.detach(|| pool.install(|| counter.add(&texts)));
        Ok(())
    }

    /// Learns at most so many merges; `told(done)` is called now and then.
    fn merges(&self, py: Python<'_>, merges: usize, told: Option<Py<PyAny>>) -> PyResult<Vec<(u32, u32)>> {
        let mut failed: Option<PyErr> = None;
        let learnt = py.detach(|| {
            self.pool.install(|| {
                self.counter.merges(merges, |done| {
                    Python::attach(|py| {
                        let answer = py.check_signals().and_then(|()| match &told {
                            Some(callback) => callback.call1(py, (done,)).map(|_| ()),
                            None => Ok(()),
                        });
                        match answer {
                            Ok(()) => true,
                            Err(error) => {
                                failed = Some(error);
                                false
                            }
                        }
                    })
                })
            })
        });
        match (failed, learnt) {
            (Some(error), _) => Err(error),
            (None, learnt) => Ok(learnt.unwrap_or_default()),
        }
    }

    /// Different pieces counted.
    #[getter]
    fn unique(&self) -> usize {
        self.counter.unique()
    }
}

/// Encodes and decodes with one vocabulary; ids 0..255 are bytes, then the merges. Special tokens are the caller's.
#[pyclass(name = "Encoder", frozen)]
struct PyEncoder {
    encoder: Encoder,
}

#[pymethods]
impl PyEncoder {
    #[new]
    fn new(merges: Vec<(u32, u32)>) -> PyResult<Self> {
        let vocab = Vocab::new(merges).map_err(PyValueError::new_err)?;
        Ok(PyEncoder { encoder: Encoder::new(vocab) })
    }

    /// Ids of one text.
    fn encode(&self, py: Python<'_>, value: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        let value = text(value)?;
        Ok(py.detach(|| {
            let mut ids = Vec::new();
            self.encoder.encode(&value, &mut Cache::default(), &mut ids);
            ids
        }))
    }

    /// Ids of many texts: one array of uint16 (`wide` false) or uint32, and int64 offsets.
    #[pyo3(signature = (texts, threads, wide, before=None, after=None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray1<i64>>)> {
        let texts = all_texts(&texts)?;
        self.batch(py, &texts, threads, wide, before, after)
    }

    /// The same of an Arrow string array's buffers.
    #[pyo3(signature = (data, offsets, threads, wide, before=None, after=None))]
    #[allow(clippy::too_many_arguments)]
    fn encode_buffer<'py>(
        &self,
        py: Python<'py>,
        data: PyReadonlyArray1<'py, u8>,
        offsets: PyReadonlyArray1<'py, i64>,
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray1<i64>>)> {
        let texts = slices(data.as_slice()?, offsets.as_slice()?)?;
        self.batch(py, &texts, threads, wide, before, after)
    }

    /// Bytes of ids.
    fn decode<'py>(&self, py: Python<'py>, ids: Vec<u32>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        self.encoder.decode(&ids, &mut bytes).map_err(|id| PyKeyError::new_err(format!("there is no token {id}")))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Bytes of every id.
    fn token_bytes<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.encoder.vocab().bytes.iter().map(|bytes| PyBytes::new(py, bytes)).collect()
    }
}

impl PyEncoder {
    fn batch<'py, T: AsRef<str> + Sync>(
        &self,
        py: Python<'py>,
        texts: &[T],
        threads: usize,
        wide: bool,
        before: Option<u32>,
        after: Option<u32>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray1<i64>>)> {
        let pool = pool(threads)?;
        if wide {
            let (ids, offsets) = py.detach(|| pool.install(|| self.encoder.batch::<T, u32>(texts, before, after)));
            Ok((ids.into_pyarray(py).into_any(), offsets.into_pyarray(py)))
        } else {
            let (ids, offsets) = py.detach(|| pool.install(|| self.encoder.batch::<T, u16>(texts, before, after)));
            Ok((ids.into_pyarray(py).into_any(), offsets.into_pyarray(py)))
        }
    }
}

/// The pieces of a text.
#[pyfunction]
fn split_pieces(value: &Bound<'_, PyString>) -> PyResult<Vec<String>> {
    let value = text(value)?;
    Ok(split::pieces(&value).map(str::to_owned).collect())
}

fn rows<'py, Id: Copy + Send + numpy::Element>(
    py: Python<'py>,
    ids: &[Id],
    offsets: &[i64],
    row_tokens: usize,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let last = offsets.last().copied().unwrap_or(0);
    if row_tokens < 2 || usize::try_from(last).ok() != Some(ids.len()) || !offsets.is_sorted() {
        return Err(PyValueError::new_err("offsets do not fit the ids, or rows have less than 2 tokens"));
    }
    let (filled, count, dropped) = py.detach(|| {
        let (plan, dropped) = packing::plan(offsets, row_tokens);
        let filled = ids.first().map_or_else(Vec::new, |&bos| packing::fill(ids, &plan, row_tokens, bos));
        (filled, plan.len(), dropped)
    });
    let array: Bound<'py, PyArray2<Id>> = filled.into_pyarray(py).reshape([count, row_tokens])?;
    Ok((array.into_any(), dropped))
}

/// Documents that begin with BOS → rows (N, row_tokens) that begin with BOS and are full, and the tokens dropped.
#[pyfunction]
fn pack<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    offsets: PyReadonlyArray1<'py, i64>,
    row_tokens: usize,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let offsets = offsets.as_slice()?;
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'py, u16>>() {
        rows(py, ids.as_slice()?, offsets, row_tokens)
    } else if let Ok(ids) = ids.extract::<PyReadonlyArray1<'py, u32>>() {
        rows(py, ids.as_slice()?, offsets, row_tokens)
    } else {
        Err(PyTypeError::new_err("ids must be a contiguous array of uint16 or uint32"))
    }
}

/// Row and start of each document that may not be split (int64), and the number of rows.
#[pyfunction]
fn plan_padded<'py>(
    py: Python<'py>,
    lengths: PyReadonlyArray1<'py, i64>,
    row_tokens: usize,
    window: usize,
) -> PyResult<(Bound<'py, Int64s>, Bound<'py, Int64s>, usize)> {
    let (row_of, start_of, rows) = packing::plan_padded(lengths.as_slice()?, row_tokens, window);
    Ok((row_of.into_pyarray(py), start_of.into_pyarray(py), rows))
}

#[pymodule]
fn _rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PATTERN", split::PATTERN)?;
    module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
    module.add_class::<PyTrainer>()?;
    module.add_class::<PyEncoder>()?;
    module.add_function(wrap_pyfunction!(split_pieces, module)?)?;
    module.add_function(wrap_pyfunction!(pack, module)?)?;
    module.add_function(wrap_pyfunction!(plan_padded, module)?)
}
