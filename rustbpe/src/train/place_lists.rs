//! The places of each pair, in one vector.

use std::ops::Range;

/// Lists of places, one after the other. The space of freed lists is reused.
#[derive(Default)]
pub struct PlaceLists {
    /// All lists.
    pub places: Vec<u32>,
    /// The free range that is used next.
    free: Range<u32>,
}

impl PlaceLists {
    /// The list at a range.
    pub fn list(&self, range: &Range<u32>) -> &[u32] {
        &self.places[range.start as usize..range.end as usize]
    }

    /// Frees a list; only the largest free range is kept.
    pub fn free(&mut self, range: Range<u32>) {
        if range.len() > self.free.len() {
            self.free = range;
        }
    }

    /// Start of a range of `places` places.
    pub fn allocate(&mut self, places: u32) -> u32 {
        if places as usize <= self.free.len() {
            self.free.start += places;
            return self.free.start - places;
        }
        let start = self.places.len();
        self.places.resize(start + places as usize, 0);
        assert!(u32::try_from(self.places.len()).is_ok(), "too many unique pieces");
        start as u32
    }
}
