//! Work for which this thread lets go of the interpreter.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use pyo3::Python;

/// `Python::detach`; and a daemon thread whose interpreter has ended meanwhile waits for the end of the process.
///
/// Up to 3.13, Python ends such a thread when it comes back, by unwinding it. At PyO3's border that aborts the process,
/// so it must not get there. (From 3.14 on, Python has the thread wait itself.)
pub fn detached<T: Send>(py: Python<'_>, work: impl Send + FnOnce() -> T) -> T {
    let waits = WaitsForEver;
    let worked = py.detach(|| catch_unwind(AssertUnwindSafe(work)));
    std::mem::forget(waits);
    worked.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Is dropped only by a thread that is being ended.
struct WaitsForEver;

impl Drop for WaitsForEver {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}
