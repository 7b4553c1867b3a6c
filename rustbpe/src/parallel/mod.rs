//! Work on many texts by several threads.
//!
//! [`chunks`] splits texts into chunks of similar size; [`ordered`] processes chunks in parallel and collects the
//! results in order; [`interruptible`] runs long work so that the calling thread can stop it.

pub mod chunks;
pub mod interruptible;
pub mod ordered;

use std::thread::Builder;

/// Upper limit of threads: more do not help, and the system may refuse them.
const MAX_THREADS: usize = 512;

/// The number of threads to use: `threads`, or all cores of this process if that is 0; at most `MAX_THREADS`.
pub fn threads_or_all(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, Into::into),
        threads => threads.min(MAX_THREADS),
    }
}

/// Runs `work` on `threads` threads, the calling one included; on fewer if the system refuses some.
pub fn run_on_threads(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}
