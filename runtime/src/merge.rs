//! Layers merged by copying, where nothing can be mounted.
//!
//! [`fill()`] makes of an upper directory what an overlay would show; [`settle()`] makes of it again what an overlay would have
//! left there: what is gone is marked as gone. What is still there and the same is left to who makes a layer of it, which
//! is then the same layer, with one exception: a file of several names that was written to by one of them is changed
//! under all of them, where an overlay parts them.
//! Nothing here follows a symbolic link.

mod file;
mod fill;
mod settle;
mod shown;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Stat, StatxFlags, statx};

pub(crate) use fill::fill;
pub(crate) use settle::settle;
pub use shown::Marks;

/// What becomes of the layers' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// Copies, that may be changed.
    Copy,
    /// Links where that is possible: nobody may write to them.
    Link,
}

/// Of a file of the layers: its device and number.
type Id = (u64, u64);

/// What is known of a directory that was filled.
#[derive(Default)]
pub(crate) struct Filled {
    /// Device nodes that could not be made.
    omitted: HashSet<Id>,
    /// What the directories of the layers became.
    directories: HashMap<Id, Birth>,
}

/// By which a directory is told from one that came into its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Birth {
    number: u64,
    time: Option<Moment>,
}

/// Seconds and nanoseconds.
type Moment = (i64, u64);

fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

fn birth(directory: BorrowedFd<'_>) -> io::Result<Birth> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = statx(directory, c"", AtFlags::EMPTY_PATH, wanted)?;
    let time = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec.into());
    let has_time = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(Birth {
        number: stat.stx_ino,
        time: has_time.then_some(time),
    })
}

#[cfg(test)]
mod tests;
