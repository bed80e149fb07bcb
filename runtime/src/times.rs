//! The times of a file, kept while it is changed or given to a copy.

use std::os::fd::BorrowedFd;

use rustix::fs::{Stat, Timespec, Timestamps, futimens};

/// Those that `stat` tells, to be set.
pub(crate) fn of(stat: &Stat) -> Timestamps {
    let time = |sec: i64, nsec: u64| Timespec {
        tv_sec: sec,
        tv_nsec: nsec as _,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Gives what is open as `fd` the times that `stat` tells.
pub(crate) fn set(fd: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
    futimens(fd, &of(stat))
}
