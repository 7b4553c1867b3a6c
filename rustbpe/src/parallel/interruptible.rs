//! Long work on a second thread, while the calling thread polls: Python runs signal handlers on its main thread only.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// Longest time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The latest progress that `poll` has not seen. It is one slot, not a queue: work that reports faster than `poll` runs
/// would fill the memory, and a loop that drains a queue would never end.
type Latest<Progress> = Mutex<Option<Progress>>;

fn exchange<Progress>(latest: &Latest<Progress>, progress: Option<Progress>) -> Option<Progress> {
    std::mem::replace(&mut *latest.lock().unwrap_or_else(PoisonError::into_inner), progress)
}

/// The work's side: reports progress and sees whether to stop.
pub struct Monitor<'a, Progress> {
    latest: &'a Latest<Progress>,
    wake: SyncSender<()>,
    stopped: &'a AtomicBool,
}

impl<Progress> Monitor<'_, Progress> {
    /// Whether the work has to stop.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Reports progress; false if the work has to stop.
    pub fn report(&self, progress: Progress) -> bool {
        exchange(self.latest, Some(progress));
        let _ = self.wake.try_send(()); // fails when the caller has not seen the last one, and will see this progress too
        !self.stopped()
    }
}

/// Runs `work` on a second thread. The calling thread calls `poll` at each progress report, with the latest one, and
/// otherwise with `None` every 50 ms. An error of `poll` stops the work.
///
/// # Errors
/// The system refuses a thread, or `poll` failed; the inner result is the work's.
pub fn run_interruptible<Progress: Send, T: Send, Error: From<io::Error>>(
    work: impl FnOnce(Monitor<'_, Progress>) -> T + Send,
    mut poll: impl FnMut(Option<Progress>) -> Result<(), Error>,
) -> Result<T, Error> {
    let stopped = AtomicBool::new(false);
    let latest = Mutex::new(None);
    let (wake, receiver) = mpsc::sync_channel(1);
    let monitor = Monitor { latest: &latest, wake, stopped: &stopped };
    std::thread::scope(|scope| {
        let worker = Builder::new().spawn_scoped(scope, move || work(monitor))?;
        let mut failure = None;
        loop {
            if receiver.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
            let progress = exchange(&latest, None);
            if failure.is_none() {
                if let Err(error) = poll(progress) {
                    failure = Some(error);
                    stopped.store(true, Ordering::Relaxed);
                }
            }
        }
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        failure.map_or(Ok(result), Err)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_poll_stops_the_work() {
        let count_until_stopped = |monitor: Monitor<'_, usize>| {
            let mut done = 0;
            while monitor.report(done) {
                done += 1;
            }
            done
        };
        let result: io::Result<usize> = run_interruptible(count_until_stopped, |progress| match progress {
            Some(0) | None => Ok(()),
            Some(_) => Err(io::Error::other("interrupted")),
        });
        assert!(result.is_err_and(|error| error.to_string() == "interrupted"));
    }

    #[test]
    fn the_result_and_the_last_progress_arrive() {
        let mut seen = Vec::new();
        let work = |monitor: Monitor<'_, usize>| (1..=3).filter(|&done| monitor.report(done)).count();
        let result: io::Result<usize> = run_interruptible(work, |progress| {
            seen.extend(progress);
            Ok(())
        });
        assert_eq!((result.ok(), seen.last()), (Some(3), Some(&3)));
    }
}
