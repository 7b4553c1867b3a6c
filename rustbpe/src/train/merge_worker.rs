//! One merge, at all places of its pair, on one thread or several.

use rayon::prelude::*;

use super::neighbors::Neighbors;
use super::token_array::{Cell, TokenArray};

/// Places that are processed together, while the next ones are prefetched.
const BATCH_PLACES: usize = 16;
/// Fewer places than this are not worth another thread.
const MIN_THREAD_PLACES: usize = 2048;

/// A pair and the id that replaces it.
pub struct Merge {
    /// Left id of the pair.
    pub left: u32,
    /// Right id of the pair.
    pub right: u32,
    /// The new id.
    pub id: u32,
    /// Cells of the left token.
    pub left_cells: usize,
    /// Cells of both tokens.
    pub cells: usize,
}

/// A place where the pair was replaced, and the ids on both sides.
pub struct Replaced {
    /// First cell of the new token.
    pub place: u32,
    /// Id before it.
    pub before: u32,
    /// Id after it.
    pub after: u32,
}

/// A thread's tallies of one merge.
pub struct MergeWorker {
    /// Ids before the replaced pairs.
    pub before: Neighbors,
    /// Ids after them.
    pub after: Neighbors,
    /// The replaced pairs, in order of place.
    pub replaced: Vec<Replaced>,
}

impl MergeWorker {
    /// For ids below `ids`.
    pub fn new(ids: usize) -> MergeWorker {
        MergeWorker { before: Neighbors::new(ids), after: Neighbors::new(ids), replaced: Vec::new() }
    }

    /// Replaces the pair at those places where it still is.
    fn merge<C: Cell>(&mut self, merge: &Merge, array: &TokenArray<C>, places: &[u32]) {
        let mut present = [0; BATCH_PLACES];
        let mut batches = places.chunks(BATCH_PLACES).peekable();
        array.prefetch(batches.peek().copied().unwrap_or_default());
        while let Some(batch) = batches.next() {
            array.prefetch(batches.peek().copied().unwrap_or_default());
            let mut count = 0;
            for &place in batch {
                let left_is_here = array.id(place as usize) == merge.left;
                let right_is_here = array.id(place as usize + merge.left_cells) == merge.right;
                present[count] = place;
                count += usize::from(left_is_here & right_is_here);
            }
            for &place in &present[..count] {
                self.replace(merge, array, place);
            }
        }
    }

    fn replace<C: Cell>(&mut self, merge: &Merge, array: &TokenArray<C>, place: u32) {
        let start = place as usize;
        let (middle, end) = (start + merge.left_cells, start + merge.cells);
        if array.id(start) != merge.left {
            return; // the pair is one id twice, and the place before has just taken this token
        }
        let before = array.id(start - 1);
        let mut after = array.id(end);
        if after == merge.left && array.id(end + merge.left_cells) == merge.right {
            after = array.separator; // the next pair is replaced too, and then counts this one as its left neighbor
        }
        array.cells[middle].set(array.inside);
        array.cells[start].set(merge.id);
        array.cells[end - 1].set(merge.id);
        let count = array.count(start);
        self.before.add(before, count, 1);
        self.after.add(after, count, 1);
        self.replaced.push(Replaced { place, before, after });
    }
}

/// Replaces a pair at its places. A long list is split among the workers, each with words of its own.
pub fn replace_pair<C: Cell>(workers: &mut [MergeWorker], merge: &Merge, array: &TokenArray<C>, places: &[u32]) {
    for worker in workers.iter_mut() {
        worker.replaced.clear();
    }
    let threads = (places.len() / MIN_THREAD_PLACES).min(workers.len());
    if threads > 1 {
        let parts = array.split_places(places, threads);
        workers.par_iter_mut().zip(parts).for_each(|(worker, part)| worker.merge(merge, array, part));
    } else if let Some(worker) = workers.first_mut() {
        worker.merge(merge, array, places);
    }
}
