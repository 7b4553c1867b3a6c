//! Texts → how often each piece is in them.
//!
//! Each thread counts in a small table that stays in its cache; what is pushed out of it goes, a thousand pieces at a
//! time, to one of a few tables that all threads share. So memory grows with the number of different pieces only, and
//! threads hardly ever wait for each other.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::hash::{of_key, Map};
use crate::key::{key_in, NO_KEY};
use crate::memory::prefetch;
use crate::parts::{on_threads, parts, threads_or_all, Part};
use crate::split::{Ends, SplitError, Splitter};
use crate::text::Text;
use crate::train::learn::{learn, Words};

/// Texts could not be trained on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrainError {
    /// The regex engine of a slow pattern gave up.
    Split(SplitError),
    /// There are more different pieces than 32 bits can number.
    TooManyPieces,
    /// The system gives no thread.
    NoThread,
}

impl fmt::Display for TrainError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrainError::Split(error) => error.fmt(formatter),
            TrainError::TooManyPieces => {
                formatter.write_str("the different pieces of this text have over 2 GB; train on a part of it")
            }
            TrainError::NoThread => formatter.write_str("the system gives no thread to learn with"),
        }
    }
}

impl std::error::Error for TrainError {}

impl From<SplitError> for TrainError {
    fn from(error: SplitError) -> TrainError {
        TrainError::Split(error)
    }
}

/// Counts pieces of texts, batch after batch, in 64 bits; memory is bounded by the number of different pieces.
pub struct Counter {
    splitter: Splitter,
    threads: usize,
    fronts: Mutex<Vec<Front>>,
    shared: Shared,
}

const FRONT_BITS: u32 = 15;
const SHARES: usize = 32;
const SPILLED: usize = 1024;
const LARGEST_BYTES: usize = 1 << 31;

struct Shared {
    short: [Mutex<Counts>; SHARES],
    long: Mutex<Map<Box<[u8]>, u64>>,
}

/// How often a piece was met; 24 bytes, where a u128 and a count would take 32.
#[derive(Clone, Copy)]
struct Counted {
    key: [u64; 2],
    count: u64,
}

const NOTHING: Counted = Counted { key: [0; 2], count: 0 };

impl Counted {
    fn new(key: u128, count: u64) -> Counted {
        Counted { key: [key as u64, (key >> 64) as u64], count }
    }

    fn key(self) -> u128 {
        u128::from(self.key[1]) << 64 | u128::from(self.key[0])
    }
}

impl Counter {
    /// That cuts texts so, on that many threads (0: all).
    pub fn new(splitter: Splitter, threads: usize) -> Counter {
        let shared = Shared { short: std::array::from_fn(|_| Mutex::default()), long: Mutex::default() };
        Counter { splitter, threads: threads_or_all(threads), fronts: Mutex::default(), shared }
    }

    /// Counts the pieces of a batch.
    ///
    /// # Errors
    /// The regex engine of a slow pattern gave up.
    pub fn add<T: Text>(&self, texts: &[T]) -> Result<(), TrainError> {
        let parts = parts(texts, &self.splitter);
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<TrainError>> = Mutex::default();
        let work = || {
            let mut front = self.fronts().pop().unwrap_or_default();
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = front.count_part(&self.splitter, &self.shared, texts, part) {
                    locked(&failed).get_or_insert(error.into());
                    break;
                }
            }
            front.hand_over_long(&self.shared);
            self.fronts().push(front);
        };
        on_threads(self.threads.min(parts.len()), work);
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Different pieces met.
    pub fn unique(&self) -> usize {
        self.settle();
        let short: usize = self.shared.short.iter().map(|counts| locked(counts).taken).sum();
        short + locked(&self.shared.long).len()
    }

    /// Learns at most `merges` merges; fewer when the text holds no more pairs. `told(done)` may stop it with false,
    /// and nothing comes back.
    ///
    /// # Errors
    /// There are too many different pieces.
    pub fn learn(
        self,
        merges: usize,
        told: impl FnMut(usize) -> bool + Send,
    ) -> Result<Option<Vec<(u32, u32)>>, TrainError> {
        self.settle();
        let Counter { shared, threads, .. } = self;
        let mut words = Words { short: Vec::new(), long: Vec::new() };
        words.short.reserve_exact(shared.short.iter().map(|counts| locked(counts).taken).sum());
        for counts in shared.short {
            let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
            words
                .short
                .extend(counts.entries.iter().filter(|entry| entry.count > 0).map(|entry| (entry.key(), entry.count)));
        }
        words.long.extend(shared.long.into_inner().unwrap_or_else(PoisonError::into_inner));
        if words.bytes() + words.short.len() + words.long.len() > LARGEST_BYTES {
            return Err(TrainError::TooManyPieces);
        }
        let pool = |threads: &usize| rayon::ThreadPoolBuilder::new().num_threads(*threads).build().ok();
        let pool = [threads, 1].iter().find_map(pool).ok_or(TrainError::NoThread)?;
        Ok(pool.install(|| learn(words, merges, told)))
    }

    fn fronts(&self) -> std::sync::MutexGuard<'_, Vec<Front>> {
        locked(&self.fronts)
    }

    /// Moves what the threads still hold to what they share.
    fn settle(&self) {
        for mut front in self.fronts().drain(..) {
            front.hand_over_short(&self.shared);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread's own counts.
struct Front {
    slots: Vec<Counted>,
    spilled: [Vec<Counted>; SHARES],
    long: Map<Box<[u8]>, u64>,
    ends: Ends,
    keys: Vec<(u128, u64)>,
}

impl Default for Front {
    fn default() -> Front {
        Front {
            slots: vec![NOTHING; 1 << FRONT_BITS],
            spilled: std::array::from_fn(|_| Vec::with_capacity(SPILLED)),
            long: Map::default(),
            ends: Ends::default(),
            keys: Vec::new(),
        }
    }
}

impl Front {
    fn count_part<T: Text>(
        &mut self,
        splitter: &Splitter,
        shared: &Shared,
        texts: &[T],
        part: &Part,
    ) -> Result<(), SplitError> {
        match part {
            Part::Texts(range) => {
                let mut whole = texts[range.clone()].iter().map(|text| text.stretch(0..text.bytes().len()));
                whole.try_for_each(|text| self.count_text(splitter, shared, &text))
            }
            Part::Stretch(index, bytes) => self.count_text(splitter, shared, &texts[*index].stretch(bytes.clone())),
        }
    }

    fn count_text(&mut self, splitter: &Splitter, shared: &Shared, text: &str) -> Result<(), SplitError> {
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            splitter.next(text, start, &mut self.ends)?;
            self.keys.clear();
            for &end in self.ends.as_slice() {
                let key = key_in(bytes, start, end);
                if key == NO_KEY {
                    count_long(&mut self.long, &bytes[start..end]);
                } else {
                    self.keys.push((key, of_key(key)));
                }
                start = end;
            }
            for at in 0..self.keys.len() {
                let (key, hash) = self.keys[at];
                let slot = &mut self.slots[(hash >> (64 - FRONT_BITS)) as usize];
                if slot.key() == key {
                    slot.count += 1;
                } else {
                    let pushed_out = std::mem::replace(slot, Counted::new(key, 1));
                    self.spill(shared, pushed_out);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn spill(&mut self, shared: &Shared, counted: Counted) {
        if counted.count == 0 {
            return;
        }
        let share = of_key(counted.key()) as usize % SHARES;
        let spilled = &mut self.spilled[share];
        spilled.push(counted);
        if spilled.len() == SPILLED {
            locked(&shared.short[share]).add_all(spilled);
            spilled.clear();
        }
    }

    fn hand_over_short(&mut self, shared: &Shared) {
        for slot in std::mem::take(&mut self.slots) {
            self.spill(shared, slot);
        }
        for (spilled, counts) in self.spilled.iter_mut().zip(&shared.short) {
            locked(counts).add_all(spilled);
            spilled.clear();
        }
    }

    fn hand_over_long(&mut self, shared: &Shared) {
        let mut long = locked(&shared.long);
        for (piece, count) in self.long.drain() {
            *long.entry(piece).or_default() += count;
        }
    }
}

fn count_long(counts: &mut Map<Box<[u8]>, u64>, piece: &[u8]) {
    match counts.get_mut(piece) {
        Some(count) => *count += 1,
        None => {
            counts.insert(piece.into(), 1);
        }
    }
}

/// Counts of short pieces: open addressing, at most three quarters full.
#[derive(Default)]
struct Counts {
    entries: Vec<Counted>,
    taken: usize,
}

const FEWEST_ENTRIES: usize = 1 << 10;
const AHEAD: usize = 8;

impl Counts {
    fn add_all(&mut self, many: &[Counted]) {
        while (self.taken + many.len()) * 4 > self.entries.len() * 3 {
            let larger = vec![NOTHING; (self.entries.len() * 2).max(FEWEST_ENTRIES)];
            let old = std::mem::replace(&mut self.entries, larger);
            self.taken = 0;
            for entry in old.into_iter().filter(|entry| entry.count > 0) {
                self.add(entry);
            }
        }
        for (at, &counted) in many.iter().enumerate() {
            if let Some(coming) = many.get(at + AHEAD) {
                prefetch(&self.entries[self.place(coming.key())]);
            }
            self.add(counted);
        }
    }

    fn place(&self, key: u128) -> usize {
        // the lowest bits say which share it is, the highest where it was in front
        (of_key(key) >> 8) as usize & (self.entries.len() - 1)
    }

    fn add(&mut self, counted: Counted) {
        let mut at = self.place(counted.key());
        loop {
            let entry = &mut self.entries[at];
            if entry.count == 0 {
                *entry = counted;
                self.taken += 1;
                return;
            }
            if entry.key() == counted.key() {
                entry.count += counted.count;
                return;
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
    }
}
