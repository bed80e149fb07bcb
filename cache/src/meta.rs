//! The facts of a file that a layer or a tree digest is made of.

use rustix::fs::{FileType, Stat, Timespec, Timestamps};

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// A moment, as the file system keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970.
    pub secs: i64,
    /// Nanoseconds on top of the seconds.
    pub nanos: u32,
}

/// What `stat` says of a file, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The kind of the file.
    pub kind: Kind,
    /// Permissions, set-id bits and the sticky bit.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The number of bytes; for a symbolic link those of its target.
    pub size: u64,
    /// The device that holds the file.
    pub dev: u64,
    /// The file's number on that device.
    pub ino: u64,
    /// How many names the file has.
    pub nlink: u64,
    /// Major and minor number of a device node.
    pub rdev: (u32, u32),
    /// When the file was last read; on many mounts only roughly.
    pub atime: Time,
    /// When the content was changed.
    pub mtime: Time,
    /// When content or metadata were changed, by the kernel's own clock; [`Time::ANY`] where that says nothing.
    pub ctime: Time,
}

impl Time {
    /// Instead of the time of a change that is of no interest.
    pub const ANY: Self = Self::from_secs(i64::MIN);

    /// The moment `secs` seconds after 1970.
    pub const fn from_secs(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }

    pub(crate) fn as_timespec(self) -> Timespec {
        Timespec {
            tv_sec: self.secs,
            tv_nsec: self.nanos.into(),
        }
    }

    /// For setting both the time of access and of change.
    pub fn as_timestamps(self) -> Timestamps {
        Timestamps {
            last_access: self.as_timespec(),
            last_modification: self.as_timespec(),
        }
    }
}

impl Meta {
    /// Whether this is how the folder of a layer says that a name is deleted: see [`crate::Marks`].
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::Socket || (self.kind == Kind::Char && self.rdev == (0, 0))
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

// The widths of `Stat` differ between architectures, so some of these conversions do nothing here.
#[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
impl From<&Stat> for Meta {
    fn from(stat: &Stat) -> Self {
        let time = |secs, nanos| Time { secs, nanos };
        Self {
            kind: kind_of(stat),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            dev: stat.st_dev,
            ino: stat.st_ino,
            nlink: stat.st_nlink.into(),
            rdev: (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            ),
            atime: time(stat.st_atime, stat.st_atime_nsec as u32),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }
}

fn kind_of(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}
