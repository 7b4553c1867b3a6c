//! Work on many texts by several threads, its results in the order of the texts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::split::Splitter;
use crate::text::Text;

/// Bytes of text that a thread takes at a time: its ids stay in the cache until they are collected.
const PART_BYTES: usize = 128 << 10;
/// A text is cut only if it is this long.
const LONG_TEXT_BYTES: usize = 8 * PART_BYTES;

/// Some whole texts, or a stretch of a long one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// These texts.
    Texts(Range<usize>),
    /// These bytes of a text.
    Stretch(usize, Range<usize>),
}

/// Cuts texts into parts.
pub fn parts<T: Text>(texts: &[T], splitter: &Splitter) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let text = text.bytes();
        if text.len() >= LONG_TEXT_BYTES {
            if first < index {
                parts.push(Part::Texts(first..index));
            }
            (first, bytes) = (index + 1, 0);
            let mut start = 0;
            while let Some(end) = splitter.cut(text, start + PART_BYTES) {
                parts.push(Part::Stretch(index, start..end));
                start = end;
            }
            parts.push(Part::Stretch(index, start..text.len()));
            continue;
        }
        bytes += text.len();
        if bytes >= PART_BYTES {
            parts.push(Part::Texts(first..index + 1));
            (first, bytes) = (index + 1, 0);
        }
    }
    if first < texts.len() {
        parts.push(Part::Texts(first..texts.len()));
    }
    parts
}

/// Threads to work with: as many as asked for, or as this process may use if that is 0.
pub fn threads_or_all(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, Into::into),
        threads => threads,
    }
}

/// Works on parts with several threads, this one among them, each with a state of its own. What comes out is collected
/// in order, by whoever has the next of it; and is handed back to be filled again.
///
/// # Errors
/// The first error met; the other threads stop after the part they are at.
pub fn in_order<Part: Sync, State, Out: Default + Send, Error: Send>(
    parts: &[Part],
    threads: usize,
    begin: impl Fn() -> State + Sync,
    work: impl Fn(&mut State, &Part, &mut Out) -> Result<(), Error> + Sync,
    collect: impl FnMut(&Out) -> Result<(), Error> + Send,
    end: impl Fn(State) + Sync,
) -> Result<(), Error> {
    let threads = threads_or_all(threads).min(parts.len());
    let next = AtomicUsize::new(0);
    let line = Mutex::new(Line { collect, wanted: 0, early: BTreeMap::new(), spare: Vec::new(), failed: None });
    let lined_up = || line.lock().unwrap_or_else(PoisonError::into_inner);
    let one_thread = || {
        let (mut state, mut out) = (begin(), Out::default());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(index) else { break };
            let done = work(&mut state, part, &mut out);
            let mut line = lined_up();
            if line.failed.is_some() {
                break;
            }
            match done.and_then(|()| line.hand_in(index, out)) {
                Ok(spare) => out = spare,
                Err(error) => {
                    line.failed = Some(error);
                    break;
                }
            }
        }
        end(state);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(one_thread);
        }
        one_thread();
    });
    let failed = lined_up().failed.take();
    failed.map_or(Ok(()), Err)
}

/// What waits to be collected.
struct Line<Collect, Out, Error> {
    collect: Collect,
    /// The part that is collected next.
    wanted: usize,
    /// Those that have come before it.
    early: BTreeMap<usize, Out>,
    spare: Vec<Out>,
    failed: Option<Error>,
}

impl<Out: Default, Error, Collect: FnMut(&Out) -> Result<(), Error>> Line<Collect, Out, Error> {
    /// Takes what a part gave; gives something to be filled next.
    fn hand_in(&mut self, index: usize, out: Out) -> Result<Out, Error> {
        if index != self.wanted {
            self.early.insert(index, out);
            return Ok(self.spare.pop().unwrap_or_default());
        }
        (self.collect)(&out)?;
        self.wanted += 1;
        while let Some(next) = self.early.remove(&self.wanted) {
            (self.collect)(&next)?;
            self.wanted += 1;
            self.spare.push(next);
        }
        Ok(out)
    }
}
