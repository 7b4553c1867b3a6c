//! NumPy arrays whose memory returns to the encoder's pool when Python is done with them.

use std::sync::Arc;

use numpy::ndarray::ArrayView1;
use numpy::{Element, PyArray1};
use pyo3::prelude::*;

use crate::buffer_pool::BufferPool;

/// A buffer that returns to its pool when it is dropped.
struct Pooled<I> {
    ids: Vec<I>,
    pool: Arc<BufferPool<I>>,
}

impl<I> Drop for Pooled<I> {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.ids));
    }
}

/// The base object of an array: keeps its memory alive.
#[pyclass(frozen)]
struct Owner {
    _buffer: Box<dyn Send + Sync>,
}

/// An array of these ids.
#[allow(unsafe_code)]
pub fn pooled_array<'py, I: Element + 'static>(
    py: Python<'py>,
    mut ids: Vec<I>,
    pool: &Arc<BufferPool<I>>,
) -> PyResult<Bound<'py, PyArray1<I>>> {
    let (count, first) = (ids.len(), ids.as_mut_ptr());
    let owner = Bound::new(py, Owner { _buffer: Box::new(Pooled { ids, pool: pool.clone() }) })?;
    // SAFETY: the owner, which the array keeps, does not move or change these ids, and no other code can reach them
    Ok(unsafe { PyArray1::borrow_from_array(&ArrayView1::from_shape_ptr(count, first), owner.into_any()) })
}
