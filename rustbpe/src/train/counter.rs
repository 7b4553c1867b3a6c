//! Texts → how often each piece occurs, and then merges.
//!
//! Each thread counts in a small table that stays in its processor's cache; evicted pieces go, a thousand at a time, to
//! tables that all threads share. So memory depends on the number of unique pieces only, and threads rarely wait for
//! each other.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::thread_counts::{locked, SharedCounts, ThreadCounts};
use super::trainer::train_merges;
use super::words::Words;
use super::TrainError;
use crate::parallel::chunks::split_into_chunks;
use crate::parallel::interruptible::{run_interruptible, Monitor};
use crate::parallel::{run_on_threads, threads_or_all};
use crate::split::Splitter;
use crate::text::Text;

/// Largest training text: the bytes of all unique pieces, and a separator for each.
const MAX_WORD_BYTES: usize = 1 << 31;

/// Counts the pieces of texts, batch after batch, in 64 bits. Memory is bounded by the number of unique pieces.
pub struct Counter {
    splitter: Splitter,
    threads: usize,
    /// Counts of threads that are not running.
    idle: Mutex<Vec<ThreadCounts>>,
    shared: SharedCounts,
}

impl Counter {
    /// A counter with this splitter, on `threads` threads (0: all cores).
    pub fn new(splitter: Splitter, threads: usize) -> Counter {
        Counter { splitter, threads: threads_or_all(threads), idle: Mutex::default(), shared: SharedCounts::default() }
    }

    /// Counts the pieces of a batch of texts.
    ///
    /// # Errors
    /// The regex engine of a slow pattern failed.
    pub fn add<T: Text>(&self, texts: &[T]) -> Result<(), TrainError> {
        let chunks = split_into_chunks(texts, &self.splitter);
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<TrainError>> = Mutex::default();
        let work = || {
            let idle = locked(&self.idle).pop();
            let mut counts = idle.unwrap_or_default();
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = counts.count_chunk(&self.splitter, &self.shared, texts, chunk) {
                    locked(&failure).get_or_insert(error.into());
                    break;
                }
            }
            counts.flush_long(&self.shared);
            locked(&self.idle).push(counts);
        };
        run_on_threads(self.threads.min(chunks.len()), work);
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Number of unique pieces so far.
    pub fn unique(&self) -> usize {
        self.flush();
        self.shared.pieces()
    }

    /// Trains at most `merges` merges on the counts; fewer if the text has no more pairs. `progress(done)` stops the
    /// training by returning false, and the result is then `None`.
    ///
    /// # Errors
    /// The unique pieces are too large, or the system refuses a thread.
    pub fn train(
        self,
        merges: usize,
        progress: impl FnMut(usize) -> bool + Send,
    ) -> Result<Option<Vec<(u32, u32)>>, TrainError> {
        self.flush();
        let Counter { shared, threads, .. } = self;
        let mut words = Words { short: Vec::new(), long: Vec::new() };
        words.short.reserve_exact(shared.short_pieces());
        for table in shared.short {
            words.short.extend(table.into_inner().unwrap_or_else(PoisonError::into_inner).counts());
        }
        words.long.extend(shared.long.into_inner().unwrap_or_else(PoisonError::into_inner));
        if words.bytes() + words.short.len() + words.long.len() > MAX_WORD_BYTES {
            return Err(TrainError::TooManyPieces);
        }
        let pool = |threads: &usize| rayon::ThreadPoolBuilder::new().num_threads(*threads).build().ok();
        let pool = [threads, 1].iter().find_map(pool).ok_or(TrainError::NoThread)?;
        Ok(pool.install(|| train_merges(words, merges, progress)))
    }

    /// Like [`Counter::train`] on another thread, while the calling thread calls `poll` every 50 ms, with the number of
    /// merges so far if there are new ones. An error of `poll` stops the training.
    ///
    /// # Errors
    /// Training failed, `poll` failed, or the system refuses a thread.
    pub fn train_interruptible<Error: From<TrainError> + From<io::Error>>(
        self,
        merges: usize,
        poll: impl FnMut(Option<usize>) -> Result<(), Error>,
    ) -> Result<Vec<(u32, u32)>, Error> {
        let train = |monitor: Monitor<'_, usize>| self.train(merges, |done| monitor.report(done));
        Ok(run_interruptible(train, poll)??.unwrap_or_default())
    }

    /// Moves the counts of all threads to the shared tables.
    fn flush(&self) {
        for mut counts in locked(&self.idle).drain(..) {
            counts.flush_short(&self.shared);
        }
    }
}
