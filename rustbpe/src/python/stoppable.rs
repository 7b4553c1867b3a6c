//! Encoding that Ctrl-C stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Arc;
use std::thread::Builder;

use pyo3::prelude::*;

use super::{value_error, HEARING};
use crate::encode::{EncodeError, Sink};
use crate::text::Text;

/// Texts of more bytes than these take long enough that somebody may want to stop it.
pub const LONG_BYTES: usize = 64 << 20;

/// Where ids go, until somebody stops it.
pub struct Stoppable<S> {
    sink: S,
    stopped: Arc<AtomicBool>,
}

impl<I, S: Sink<I>> Sink<I> for Stoppable<S> {
    fn take(&mut self, ids: &[I]) -> Result<(), EncodeError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(EncodeError::Stopped);
        }
        self.sink.take(ids)
    }
}

/// Encodes without holding Python. What takes long is done on another thread, so that this one can hear signals.
pub fn stoppable<I, S: Sink<I> + Send>(
    py: Python<'_>,
    texts: &[impl Text],
    sink: S,
    encode: impl FnOnce(&mut Stoppable<S>) -> Result<Vec<i64>, EncodeError> + Send,
) -> PyResult<Vec<i64>> {
    let stopped = Arc::new(AtomicBool::new(false));
    let mut sink = Stoppable { sink, stopped: stopped.clone() };
    if texts.iter().map(|text| text.bytes().len()).sum::<usize>() < LONG_BYTES {
        return py.detach(|| encode(&mut sink)).map_err(value_error);
    }
    py.detach(|| {
        let (ending, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let encoding = Builder::new().spawn_scoped(scope, move || {
                let encoded = encode(&mut sink);
                drop(ending);
                encoded
            })?;
            let mut heard = Ok(());
            while ended.recv_timeout(HEARING) == Err(RecvTimeoutError::Timeout) {
                if heard.is_ok() {
                    heard = Python::attach(|py| py.check_signals());
                    stopped.store(heard.is_err(), Ordering::Relaxed);
                }
            }
            let encoded = encoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            heard.and_then(|()| encoded.map_err(value_error))
        })
    })
}
