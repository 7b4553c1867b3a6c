//! Work on many texts by several threads, its results in the order of the texts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Mutex, PoisonError};

use crate::split::Splitter;

/// Bytes of text that a thread takes at a time: its ids stay in the cache until they are collected.
const PART_BYTES: usize = 256 << 10;
/// A text is cut only if it is this long.
const LONG_TEXT_BYTES: usize = 4 * PART_BYTES;

/// Some whole texts, or a stretch of a long one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// These texts.
    Texts(Range<usize>),
    /// These bytes of a text.
    Stretch(usize, Range<usize>),
}

/// Cuts texts into parts.
pub fn parts<T: AsRef<str>>(texts: &[T], splitter: &Splitter) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let text = text.as_ref();
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

/// Works on parts with several threads, each with a state of its own, and collects what comes out, in order, on the
/// calling thread. Results are handed back to be filled again.
///
/// # Errors
/// The first error met; the other threads stop after the part they are at.
pub fn in_order<Part: Sync, State, Out: Default + Send, Error: Send>(
    parts: &[Part],
    threads: usize,
    begin: impl Fn() -> State + Sync,
    work: impl Fn(&mut State, &Part, &mut Out) -> Result<(), Error> + Sync,
    mut collect: impl FnMut(&Out) -> Result<(), Error>,
    end: impl Fn(State) + Sync,
) -> Result<(), Error> {
    let threads = threads_or_all(threads).min(parts.len());
    if threads <= 1 {
        let (mut state, mut out) = (begin(), Out::default());
        let done = parts.iter().try_for_each(|part| {
            work(&mut state, part, &mut out)?;
            collect(&out)
        });
        end(state);
        return done;
    }
    let next = AtomicUsize::new(0);
    let spare: Mutex<Vec<Out>> = Mutex::default();
    let take_spare = || spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
    let (sender, receiver) = mpsc::sync_channel(2 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (begin, work, end, next, take_spare) = (&begin, &work, &end, &next, &take_spare);
            scope.spawn(move || {
                let mut state = begin();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(part) = parts.get(index) else { break };
                    let mut out = take_spare();
                    let done = work(&mut state, part, &mut out).map(|()| out);
                    let failed = done.is_err();
                    if sender.send((index, done)).is_err() || failed {
                        break;
                    }
                }
                end(state);
            });
        }
        drop(sender);
        let mut early: BTreeMap<usize, Out> = BTreeMap::new();
        let mut wanted = 0;
        for (index, done) in receiver {
            early.insert(index, done?);
            while let Some(out) = early.remove(&wanted) {
                collect(&out)?;
                spare.lock().unwrap_or_else(PoisonError::into_inner).push(out);
                wanted += 1;
            }
        }
        Ok(())
    })
}
