//! Threads, where there may be few of them. What starts one without asking panics there.

use std::error::Error as _;
use std::io;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

use rayon::ThreadPoolBuilder;
use rustix::process::{Resource, getrlimit};

/// Who may have more threads and processes than this has enough.
const ENOUGH: u64 = 1024;
/// So many are left to others than rayon.
const OTHERS: usize = 4;

/// Why there is no thread, and what to do.
pub fn no_threads() -> io::Error {
    io::Error::new(
        io::ErrorKind::WouldBlock,
        "this user can have no more threads: raise the limit on processes (ulimit -u)",
    )
}

/// Starts a thread that ends with `scope`.
pub(crate) fn spawn<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    work: impl FnOnce() -> T + Send + 's,
) -> io::Result<ScopedJoinHandle<'s, T>> {
    let spawned = Builder::new().spawn_scoped(scope, work);
    spawned.map_err(|_| no_threads())
}

/// Has rayon's threads started, as many as can be had. To be called before rayon is used.
pub fn prepare_rayon() -> io::Result<()> {
    static PREPARED: OnceLock<bool> = OnceLock::new();
    let prepare = || {
        let wanted = thread::available_parallelism().map_or(1, usize::from);
        let limit = getrlimit(Resource::Nproc).current;
        let count = match limit.is_some_and(|limit| limit < ENOUGH) {
            // rayon gives up for good if it cannot start all that it was told to.
            true => match count_possible(wanted + OTHERS) {
                0 => return false,
                possible => possible.saturating_sub(OTHERS).clamp(1, wanted),
            },
            false => wanted,
        };
        let built = ThreadPoolBuilder::new().num_threads(count).build_global();
        // An error without a source: the threads are there already.
        built.map_or_else(|error| error.source().is_none(), |()| true)
    };
    match PREPARED.get_or_init(prepare) {
        true => Ok(()),
        false => Err(no_threads()),
    }
}

/// How many of so many threads can be had at once.
fn count_possible(wanted: usize) -> usize {
    let gate = RwLock::new(());
    thread::scope(|scope| {
        let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
        let wait = || drop(gate.read());
        let count = (0..wanted)
            .take_while(|_| spawn(scope, wait).is_ok())
            .count();
        drop(closed);
        count
    })
}
