//! `Network`.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use super::value_error;
use crate::network::forward::{Layer, Network, Shape, Token};
use crate::network::product::{Precision, Product};

type Matrix<'py> = PyReadonlyArray2<'py, f32>;

fn precision_of(name: &str) -> PyResult<Precision> {
    match name {
        "fp32" => Ok(Precision::Float32),
        "bf16" => Ok(Precision::BFloat16),
        "int8" => Ok(Precision::Int8),
        _ => Err(value_error("the weights must be fp32, bf16 or int8")),
    }
}

fn product(weights: &Matrix<'_>, precision: Precision) -> PyResult<Product> {
    let inputs = weights.as_array().ncols();
    if inputs == 0 {
        return Err(value_error("a matrix has no inputs"));
    }
    Ok(Product::new(weights.as_slice()?, inputs, precision))
}

/// A network's layer, packed: (joined, out, up, down) matrices, value table (V, K D), residual factors, window, columns.
#[pyclass(name = "Layer", module = "nanochat._rustbpe")]
pub struct PyLayer(Option<Layer>);

#[pymethods]
impl PyLayer {
    #[new]
    #[pyo3(signature = (matrices, value_table, residual, window, columns, weights))]
    fn new(
        matrices: (Matrix<'_>, Matrix<'_>, Matrix<'_>, Matrix<'_>),
        value_table: Option<Matrix<'_>>,
        residual: Option<(f32, f32)>,
        window: usize,
        columns: usize,
        weights: &str,
    ) -> PyResult<PyLayer> {
        let precision = precision_of(weights)?;
        let (joined, out, up, down) = matrices;
        Ok(PyLayer(Some(Layer {
            joined: product(&joined, precision)?,
            out: product(&out, precision)?,
            up: product(&up, precision)?,
            down: product(&down, precision)?,
            value_table: value_table.map_or(Ok(Vec::new()), |table| table.as_slice().map(<[f32]>::to_vec))?,
            residual,
            window,
            columns,
        })))
    }
}

/// The forward pass for generation on a CPU; see `rustbpe/src/network`.
#[pyclass(name = "Network", module = "nanochat._rustbpe")]
pub struct PyNetwork {
    network: Network,
    width: usize,
    vocab_size: usize,
}

#[pymethods]
impl PyNetwork {
    /// `heads` is (H, K, D), `scalars` (backout, scale of scores, gain of value gates, epsilon), `rotation` cos and sin.
    #[new]
    #[pyo3(signature = (heads, embedding, smear, rotation, scalars, layers, head, weights, slots, threads))]
    #[expect(clippy::too_many_arguments)]
    fn new(
        heads: (usize, usize, usize),
        embedding: Matrix<'_>,
        smear: Option<PyReadonlyArray1<'_, f32>>,
        rotation: (Matrix<'_>, Matrix<'_>),
        scalars: (f32, f32, f32, f32),
        mut layers: Vec<PyRefMut<'_, PyLayer>>,
        head: Matrix<'_>,
        weights: &str,
        slots: usize,
        threads: usize,
    ) -> PyResult<PyNetwork> {
        let (backout, scale, value_gate_gain, epsilon) = scalars;
        let width = embedding.as_array().ncols();
        let shape = Shape {
            width,
            heads: heads.0,
            kv_heads: heads.1,
            head_dim: heads.2,
            embedding: embedding.as_slice()?.to_vec(),
            smear: smear.map_or(Ok(Vec::new()), |smear| smear.as_slice().map(<[f32]>::to_vec))?,
            backout,
            cos: rotation.0.as_slice()?.to_vec(),
            sin: rotation.1.as_slice()?.to_vec(),
            scale,
            value_gate_gain,
            epsilon,
        };
        let layers: Option<Vec<Layer>> = layers.iter_mut().map(|layer| layer.0.take()).collect();
        let layers = layers.ok_or_else(|| value_error("a layer is used twice"))?;
        let head = product(&head, precision_of(weights)?)?;
        let vocab_size = head.outputs;
        let network = Network::new(shape, layers, head, slots, threads).map_err(value_error)?;
        Ok(PyNetwork { network, width, vocab_size })
    }

    /// Slots, positions, ids and previous ids of tokens, to the normed output of the last layer (N, C).
    fn forward<'py>(
        &mut self,
        py: Python<'py>,
        slots: Vec<usize>,
        positions: Vec<usize>,
        ids: Vec<usize>,
        previous: Vec<usize>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let tokens: Vec<Token> = slots
            .into_iter()
            .zip(positions)
            .zip(ids.into_iter().zip(previous))
            .map(|((slot, position), (id, previous))| Token { slot, position, id, previous })
            .collect();
        let hidden = py.detach(|| self.network.forward(&tokens));
        hidden.into_pyarray(py).reshape([tokens.len(), self.width])
    }

    /// Output of the last layer (N, C) to logits (N, V), with a soft cap; 0: none.
    #[pyo3(signature = (hidden, cap = 0.0))]
    fn logits<'py>(&mut self, py: Python<'py>, hidden: Matrix<'_>, cap: f32) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (rows, hidden) = (hidden.as_array().nrows(), hidden.as_slice()?);
        let logits = py.detach(|| self.network.logits(hidden, cap));
        logits.into_pyarray(py).reshape([rows, self.vocab_size])
    }

    /// Keys and values of the positions `start` to `stop` of a slot.
    fn save<'py>(&self, py: Python<'py>, slot: usize, start: usize, stop: usize) -> Bound<'py, PyArray1<f32>> {
        self.network.save(slot, start, stop).into_pyarray(py)
    }

    /// Writes what `save` returned to the positions from `start` on.
    fn load(&mut self, slot: usize, start: usize, saved: PyReadonlyArray1<'_, f32>) -> PyResult<()> {
        self.network.load(slot, start, saved.as_slice()?);
        Ok(())
    }

    /// Bytes of the caches, and of the matrices.
    #[getter]
    fn bytes(&self) -> (usize, usize) {
        self.network.bytes()
    }
}
