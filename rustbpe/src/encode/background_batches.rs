//! Batches of a column, encoded in the background while the caller uses the earlier ones.

use std::io;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::encoder::{AroundIds, Encoder, Width};
use super::parquet_batches::{Batch, ColumnError};
use crate::parquet::TextColumn;

/// Batches that are encoded before the caller requests them.
const AHEAD_BATCHES: usize = 2;

/// The channel of batches, and the thread that sends them.
type Running<I> = (Receiver<Batch<I>>, JoinHandle<Result<(), ColumnError>>);

/// Batches of a column, in order.
pub struct BackgroundBatches<I> {
    running: Mutex<Option<Running<I>>>,
    /// The process that the threads belong to: a process forked from it has none of them.
    process: u32,
}

impl<I: Width> BackgroundBatches<I> {
    /// Starts to encode. The ids are in buffers of the encoder's pool.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        encoder: Arc<Encoder>,
        column: TextColumn,
        threads: usize,
        around: AroundIds,
    ) -> io::Result<BackgroundBatches<I>> {
        let (sender, receiver) = sync_channel(AHEAD_BATCHES);
        let encode = move || {
            let buffers = encoder.buffers::<I>();
            let new_buffer = |ids| buffers.take(ids);
            encoder.encode_column(&column, threads, around, new_buffer, |batch| sender.send(batch).is_ok())
        };
        let thread = Builder::new().spawn(encode)?;
        Ok(BackgroundBatches { running: Mutex::new(Some((receiver, thread))), process: std::process::id() })
    }

    /// The next batch; `None` at the end, when the threads have ended too.
    ///
    /// # Errors
    /// Reading or encoding failed, or this process was forked from the one that started.
    pub fn next_batch(&self) -> Result<Option<Batch<I>>, ColumnError> {
        if self.process != std::process::id() {
            return Err(ColumnError::Forked);
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = running.as_ref().and_then(|(receiver, _)| receiver.recv().ok()) {
            return Ok(Some(batch));
        }
        let Some((_, thread)) = running.take() else { return Ok(None) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(|()| None)
    }
}

impl<I> Drop for BackgroundBatches<I> {
    fn drop(&mut self) {
        if let Some((receiver, thread)) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            if self.process != std::process::id() {
                std::mem::forget((receiver, thread));
                return;
            }
            drop(receiver);
            // the thread ends when it fails to send its next batch
            let _ = thread.join();
        }
    }
}
