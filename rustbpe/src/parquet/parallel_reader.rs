//! A column read by the threads that process its texts.
//!
//! A thread that finds little text left reads the next batch of a row group, while the others process texts. So reading
//! needs no thread of its own, and a text is processed while it is in the processor's cache. Row groups are read in
//! parallel; their chunks are numbered in the order of the file.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ::parquet::errors::{ParquetError, Result};

use super::column::{RowGroupReader, TextColumn};
use super::document::Document;
use crate::parallel::chunks::{split_into_chunks, Chunk};
use crate::parallel::ordered::{ChunkSource, Position};
use crate::split::Splitter;
use crate::text::total_bytes;

/// More text is read while less than this is ready for each thread.
const MIN_READY_BYTES: usize = 1 << 20;
/// Limit of the text that is read of a row group before the one before it is finished: its results have to wait.
const MAX_AHEAD_BYTES: usize = 16 << 20;

/// A chunk of a batch of documents.
pub struct DocumentChunk {
    /// The batch.
    pub batch: Arc<Vec<Document>>,
    /// The part of it.
    pub chunk: Chunk,
    /// Whether it is the last chunk of the batch.
    pub last: bool,
}

impl DocumentChunk {
    /// Bytes of text in the chunk.
    fn bytes(&self) -> usize {
        match &self.chunk {
            Chunk::Texts(range) => total_bytes(&self.batch[range.clone()]),
            Chunk::PartOf(_, bytes) => bytes.len(),
        }
    }
}

/// Reads a column for several threads.
pub struct ParallelReader<'a> {
    column: &'a TextColumn,
    splitter: &'a Splitter,
    threads: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: BTreeMap<Position, DocumentChunk>,
    ready_bytes: usize,
    /// Row groups that are open, and that no thread reads now.
    idle: BTreeMap<usize, RowGroupReader>,
    /// Row groups that a thread reads now.
    busy: Vec<usize>,
    /// The row group to open next.
    next: usize,
    failed: bool,
}

impl<'a> ParallelReader<'a> {
    /// Reads from the start, for `threads` threads.
    pub fn new(column: &'a TextColumn, splitter: &'a Splitter, threads: usize) -> ParallelReader<'a> {
        ParallelReader { column, splitter, threads, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a row group to read from; `None` if there is none now.
    fn reserve(&self, state: &mut State) -> Option<Result<(usize, RowGroupReader)>> {
        let first_busy = state.busy.iter().copied().min().unwrap_or(usize::MAX);
        let allowed = |(&number, group): (&usize, &RowGroupReader)| {
            (number < first_busy || group.bytes < MAX_AHEAD_BYTES).then_some(number)
        };
        let first = state.idle.iter().next().and_then(allowed);
        if let Some((number, group)) = first.and_then(|number| state.idle.remove_entry(&number)) {
            state.busy.push(number);
            return Some(Ok((number, group)));
        }
        if state.next < self.column.row_groups() && state.busy.len() + state.idle.len() < self.threads {
            let number = state.next;
            state.next += 1;
            state.busy.push(number);
            return Some(self.column.row_group(number).map(|group| (number, group)));
        }
        None
    }

    /// Reads a batch of a row group, and makes its chunks available.
    fn read(&self, number: usize, mut group: RowGroupReader) -> Result<()> {
        let read = catch_unwind(AssertUnwindSafe(|| group.read_batch()));
        let batch = read
            .unwrap_or_else(|_| Err(ParquetError::General("a page is malformed".to_owned())))
            .map_err(|error| ParquetError::General(format!("its texts are damaged or encrypted ({error})")))?;
        let batch = Arc::new(batch);
        let mut chunks = split_into_chunks(&batch, self.splitter);
        let ended = batch.is_empty();
        if ended {
            chunks.push(Chunk::Texts(0..0));
        }
        let bytes = total_bytes(&batch);
        let (first, count) = (group.chunks, chunks.len());
        let mut state = self.state();
        for (at, chunk) in chunks.into_iter().enumerate() {
            let position = Position { group: number, index: first + at, last: ended };
            state.ready.insert(position, DocumentChunk { batch: batch.clone(), chunk, last: at + 1 == count });
        }
        state.ready_bytes += bytes;
        group.chunks += count;
        if !ended {
            state.idle.insert(number, group);
        }
        state.busy.retain(|&other| other != number);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}

impl ChunkSource for ParallelReader<'_> {
    type Chunk = DocumentChunk;
    type Error = ParquetError;

    fn next_chunk(&self) -> Result<Option<(Position, DocumentChunk)>> {
        let mut state = self.state();
        loop {
            if state.failed {
                return Ok(None);
            }
            if state.ready_bytes < self.threads * MIN_READY_BYTES {
                if let Some(reserved) = self.reserve(&mut state) {
                    drop(state);
                    let read = reserved.and_then(|(number, group)| self.read(number, group));
                    state = self.state();
                    if let Err(error) = read {
                        state.failed = true;
                        self.changed.notify_all();
                        return Err(error);
                    }
                    continue;
                }
            }
            if let Some((position, chunk)) = state.ready.pop_first() {
                state.ready_bytes -= chunk.bytes();
                return Ok(Some((position, chunk)));
            }
            if state.busy.is_empty() && state.idle.is_empty() && state.next == self.column.row_groups() {
                return Ok(None);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
