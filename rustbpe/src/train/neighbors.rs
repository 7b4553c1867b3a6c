//! The tokens on one side of the places of a pair, summed by id.

use std::ops::Range;

/// Count and places of one neighbor; later the index where its next place is written.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Sum of the counts of the words.
    pub count: u64,
    /// Number of places.
    pub places: u32,
    cursor: u32,
}

impl Tally {
    /// Adds a count and places.
    pub fn add(&mut self, count: u64, places: u32) {
        self.count += count;
        self.places += places;
    }

    /// Sets the index at which places are written.
    pub fn write_from(&mut self, cursor: u32) {
        self.cursor = cursor;
    }

    /// Writes a place and, for a pair that is listed, advances. Places of the other pairs overwrite each other.
    pub fn write(&mut self, place: u32, min_count: u64, block: &mut [u32]) {
        block[self.cursor as usize] = place;
        self.cursor += u32::from(self.count >= min_count);
    }
}

/// Tallies of all ids on one side of a pair.
pub struct Neighbors {
    /// By id.
    pub tallies: Vec<Tally>,
    /// The ids whose tallies are not zero, and room for one more.
    seen: Vec<u32>,
    seen_ids: usize,
}

impl Neighbors {
    /// Tallies of `ids` ids, all zero.
    pub fn new(ids: usize) -> Neighbors {
        Neighbors { tallies: vec![Tally::default(); ids], seen: vec![0; ids + 1], seen_ids: 0 }
    }

    /// The ids whose tallies are not zero.
    pub fn seen(&self) -> &[u32] {
        &self.seen[..self.seen_ids]
    }

    /// Adds to the tally of an id.
    pub fn add(&mut self, id: u32, count: u64, places: u32) {
        let tally = &mut self.tallies[id as usize];
        // written always, kept if new: a branch on this would be mispredicted
        self.seen[self.seen_ids] = id;
        self.seen_ids += usize::from(tally.places == 0);
        tally.add(count, places);
    }

    /// Adds the tallies of another thread, and clears them there.
    pub fn absorb(&mut self, other: &mut Neighbors) {
        for &id in other.seen() {
            let tally = other.tallies[id as usize];
            self.add(id, tally.count, tally.places);
        }
        other.clear();
    }

    /// Sets all tallies to zero.
    pub fn clear(&mut self) {
        for &id in &self.seen[..self.seen_ids] {
            self.tallies[id as usize] = Tally::default();
        }
        self.seen_ids = 0;
    }

    /// Number of places of the neighbors whose count is at least `min_count`.
    pub fn listed_places(&self, min_count: u64) -> u32 {
        let tallies = self.seen().iter().map(|&id| self.tallies[id as usize]);
        tallies.filter(|tally| tally.count >= min_count).map(|tally| tally.places).sum()
    }

    /// Gives each neighbor whose count is at least `min_count` a range of a block, and calls `listed` with its id, count
    /// and range. The other neighbors write to `last`.
    pub fn assign_ranges(&mut self, min_count: u64, last: u32, mut listed: impl FnMut(u32, u64, Range<u32>)) {
        let mut end = 0;
        for &id in &self.seen[..self.seen_ids] {
            let tally = &mut self.tallies[id as usize];
            tally.cursor = last;
            if tally.count >= min_count {
                tally.cursor = end;
                end += tally.places;
                listed(id, tally.count, tally.cursor..end);
            }
        }
    }
}
