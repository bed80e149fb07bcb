//! What a program must see to before anything else: signals that arrive while it starts, and streams that it was started
//! without.

use std::io;

use crate::sys;

/// From now on SIGINT and SIGTERM are noted ([`was_interrupted`]) instead of ending the process; a second one ends it with
/// this exit status. Handlers that are installed later take over. Steps and their keeper start with the default actions.
///
/// A file that grows beyond the limit of the process becomes an error of the write, too, instead of its end.
///
/// # Errors
/// When the kernel refuses the handlers.
pub fn note_signals(status: u8) -> io::Result<()> {
    sys::ignore_file_size_limit()?;
    sys::note_interrupts(status)
}

/// Whether SIGINT or SIGTERM came since [`note_signals`].
pub fn was_interrupted() -> bool {
    sys::interrupted()
}

/// Whether the process was started with an open standard output. The standard library opens `/dev/null` in the place of one
/// that is missing, so that later nobody can tell.
pub fn has_stdout() -> bool {
    sys::started_with_stdout()
}
