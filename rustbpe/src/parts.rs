//! Work on many texts by several threads, its results in the order of the texts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

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

/// More threads than these help nobody, and the system may not give them.
const MOST_THREADS: usize = 512;

/// Threads to work with: as many as asked for, or as this process may use if that is 0; never more than some hundreds.
pub fn threads_or_all(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, Into::into),
        threads => threads.min(MOST_THREADS),
    }
}

/// Works on this thread and on so many others as there should be in all, or as the system gives.
pub fn on_threads(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}

/// Where a part is among all of them: they are ordered by group, then by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Groups follow each other, from 0 on.
    pub group: usize,
    /// Number within the group, from 0 on.
    pub part: usize,
    /// Whether it is the last one of its group.
    pub last: bool,
}

impl Place {
    const FIRST: Place = Place { group: 0, part: 0, last: false };

    /// Where the part behind this one is.
    fn next(self) -> Place {
        if self.last {
            Place { group: self.group + 1, ..Place::FIRST }
        } else {
            Place { part: self.part + 1, ..self }
        }
    }

    fn is(self, other: Place) -> bool {
        (self.group, self.part) == (other.group, other.part)
    }
}

/// What several threads take their parts from.
pub trait Source: Sync {
    /// What they work on.
    type Part;
    /// Why there is no part.
    type Error;

    /// A part that nobody has taken; `None` when there are no more.
    ///
    /// # Errors
    /// It cannot be had, and nor can those behind it.
    fn take(&self) -> Result<Option<(Place, Self::Part)>, Self::Error>;
}

/// Parts that are there already.
pub struct There<'a, Part> {
    parts: &'a [Part],
    next: AtomicUsize,
}

impl<'a, Part> There<'a, Part> {
    /// All of these.
    pub fn new(parts: &'a [Part]) -> Self {
        There { parts, next: AtomicUsize::new(0) }
    }
}

impl<'a, Part: Sync> Source for There<'a, Part> {
    type Part = &'a Part;
    type Error = Infallible;

    fn take(&self) -> Result<Option<(Place, &'a Part)>, Infallible> {
        let part = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(self.parts.get(part).map(|there| (Place { part, ..Place::FIRST }, there)))
    }
}

/// Works on parts with several threads, this one among them, each with a state of its own. What comes out is collected
/// in order, by whoever has the next of it; and is handed back to be filled again.
///
/// # Errors
/// The first error met; the other threads stop after the part they are at.
pub fn in_order<Parts: Source, State, Out: Default + Send, Error: Send + From<Parts::Error>>(
    parts: &Parts,
    threads: usize,
    begin: impl Fn() -> State + Sync,
    work: impl Fn(&mut State, Parts::Part, &mut Out) -> Result<(), Error> + Sync,
    collect: impl FnMut(&mut Out) -> Result<(), Error> + Send,
    end: impl Fn(State) + Sync,
) -> Result<(), Error> {
    let line =
        Mutex::new(Line { collect, wanted: Place::FIRST, early: BTreeMap::new(), spare: Vec::new(), failed: None });
    let lined_up = || line.lock().unwrap_or_else(PoisonError::into_inner);
    let one_thread = || {
        let (mut state, mut out) = (begin(), Out::default());
        loop {
            let (place, done) = match parts.take() {
                Ok(None) => break,
                Ok(Some((place, part))) => (place, work(&mut state, part, &mut out)),
                Err(error) => (Place::FIRST, Err(error.into())),
            };
            let mut line = lined_up();
            if line.failed.is_some() {
                break;
            }
            match done.and_then(|()| line.hand_in(place, out)) {
                Ok(spare) => out = spare,
                Err(error) => {
                    line.failed = Some(error);
                    break;
                }
            }
        }
        end(state);
    };
    on_threads(threads, one_thread);
    let failed = lined_up().failed.take();
    failed.map_or(Ok(()), Err)
}

/// What waits to be collected.
struct Line<Collect, Out, Error> {
    collect: Collect,
    /// The part that is collected next.
    wanted: Place,
    /// Those that have come before it.
    early: BTreeMap<Place, Out>,
    spare: Vec<Out>,
    failed: Option<Error>,
}

impl<Out: Default, Error, Collect: FnMut(&mut Out) -> Result<(), Error>> Line<Collect, Out, Error> {
    /// Takes what a part gave; gives something to be filled next.
    fn hand_in(&mut self, place: Place, mut out: Out) -> Result<Out, Error> {
        if !place.is(self.wanted) {
            self.early.insert(place, out);
            return Ok(self.spare.pop().unwrap_or_default());
        }
        (self.collect)(&mut out)?;
        self.wanted = place.next();
        while let Some(next) = self.early.first_entry().filter(|next| next.key().is(self.wanted)) {
            let (place, mut next) = next.remove_entry();
            (self.collect)(&mut next)?;
            self.wanted = place.next();
            self.spare.push(next);
        }
        Ok(out)
    }
}
