//! Chunks processed in parallel, results collected in order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::run_on_threads;

/// Position of a chunk in the order of all chunks: by group, then by index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// Number of the group, from 0.
    pub group: usize,
    /// Index in the group, from 0.
    pub index: usize,
    /// Whether it is the last chunk of its group.
    pub last: bool,
}

impl Position {
    const FIRST: Position = Position { group: 0, index: 0, last: false };

    fn next(self) -> Position {
        if self.last {
            Position { group: self.group + 1, ..Position::FIRST }
        } else {
            Position { index: self.index + 1, ..self }
        }
    }

    fn is(self, other: Position) -> bool {
        (self.group, self.index) == (other.group, other.index)
    }
}

/// A source of chunks for several threads.
pub trait ChunkSource: Sync {
    /// One chunk of work.
    type Chunk;
    /// Why a chunk is not available.
    type Error;

    /// The next chunk, which no other thread gets; `None` at the end.
    ///
    /// # Errors
    /// The chunk is not available, nor are later ones.
    fn next_chunk(&self) -> Result<Option<(Position, Self::Chunk)>, Self::Error>;
}

/// Chunks from a slice, in one group.
pub struct SliceSource<'a, Chunk> {
    chunks: &'a [Chunk],
    next: AtomicUsize,
}

impl<'a, Chunk> SliceSource<'a, Chunk> {
    /// All chunks of the slice.
    pub fn new(chunks: &'a [Chunk]) -> Self {
        SliceSource { chunks, next: AtomicUsize::new(0) }
    }
}

impl<'a, Chunk: Sync> ChunkSource for SliceSource<'a, Chunk> {
    type Chunk = &'a Chunk;
    type Error = Infallible;

    fn next_chunk(&self) -> Result<Option<(Position, &'a Chunk)>, Infallible> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(self.chunks.get(index).map(|chunk| (Position { index, ..Position::FIRST }, chunk)))
    }
}

/// Processes chunks on several threads, the calling one included.
///
/// Each thread has its own state: `new_state` makes it, `work` uses it, `end` receives it. `work` fills an output for
/// each chunk. `collect` receives the outputs in order, on the thread that completes the next one; they are reused.
///
/// # Errors
/// The first error; the other threads stop after their current chunk.
pub fn map_in_order<Chunks: ChunkSource, State, Out: Default + Send, Error: Send + From<Chunks::Error>>(
    chunks: &Chunks,
    threads: usize,
    new_state: impl Fn() -> State + Sync,
    work: impl Fn(&mut State, Chunks::Chunk, &mut Out) -> Result<(), Error> + Sync,
    collect: impl FnMut(&mut Out) -> Result<(), Error> + Send,
    end: impl Fn(State) + Sync,
) -> Result<(), Error> {
    let buffer = Mutex::new(ReorderBuffer {
        collect,
        next: Position::FIRST,
        early: BTreeMap::new(),
        free: Vec::new(),
        error: None,
    });
    let locked = || buffer.lock().unwrap_or_else(PoisonError::into_inner);
    let run_thread = || {
        let (mut state, mut out) = (new_state(), Out::default());
        loop {
            let (position, result) = match chunks.next_chunk() {
                Ok(None) => break,
                Ok(Some((position, chunk))) => (position, work(&mut state, chunk, &mut out)),
                Err(error) => (Position::FIRST, Err(error.into())),
            };
            let mut buffer = locked();
            if buffer.error.is_some() {
                break;
            }
            match result.and_then(|()| buffer.put(position, out)) {
                Ok(free) => out = free,
                Err(error) => {
                    buffer.error = Some(error);
                    break;
                }
            }
        }
        end(state);
    };
    run_on_threads(threads, run_thread);
    let error = locked().error.take();
    error.map_or(Ok(()), Err)
}

/// Holds outputs until all earlier ones are collected.
struct ReorderBuffer<Collect, Out, Error> {
    collect: Collect,
    /// Position of the output to be collected next.
    next: Position,
    /// Outputs that are ready before their turn.
    early: BTreeMap<Position, Out>,
    /// Collected outputs, for reuse.
    free: Vec<Out>,
    error: Option<Error>,
}

impl<Out: Default, Error, Collect: FnMut(&mut Out) -> Result<(), Error>> ReorderBuffer<Collect, Out, Error> {
    /// Adds an output and collects all that are due; returns an output to fill next.
    fn put(&mut self, position: Position, mut out: Out) -> Result<Out, Error> {
        if !position.is(self.next) {
            self.early.insert(position, out);
            return Ok(self.free.pop().unwrap_or_default());
        }
        (self.collect)(&mut out)?;
        self.next = position.next();
        while let Some(first) = self.early.first_entry().filter(|first| first.key().is(self.next)) {
            let (position, mut due) = first.remove_entry();
            (self.collect)(&mut due)?;
            self.next = position.next();
            self.free.push(due);
        }
        Ok(out)
    }
}
