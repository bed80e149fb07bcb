//! `/sys`, and the control groups in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::MountAttrFlags;

use crate::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::{protect, target};

/// Mounts `/sys`; `empty` is a directory without anything in it.
pub(crate) fn mount(root: BorrowedFd<'_>, empty: BorrowedFd<'_>, writable: bool) -> io::Result<()> {
    let target = target::lasting_directory(root, "sys")?;
    match mount::fresh("sysfs", target.as_fd(), attributes(writable)) {
        // In a user namespace a sysfs can only be mounted with a network namespace of one's own.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let tree = mount::clone_tree(CWD, Path::new("/sys"))?;
            mount::restrict(tree.as_fd(), attributes(false))?;
            mount::attach(tree.as_fd(), target.as_fd())?;
            // The machine's groups come with it.
            if let Ok(groups) = mount::open_plain(root, "sys/fs/cgroup") {
                protect::cover(groups.as_fd(), empty)?;
            }
        }
        done => done?,
    }
    mount_cgroup(root, writable)
}

/// Mounts the step's own control groups in `/sys`, which may be the caller's: there directories that are missing are made,
/// and where they cannot be made nothing is mounted. A link in their place is refused.
pub(crate) fn mount_cgroup(root: BorrowedFd<'_>, writable: bool) -> io::Result<()> {
    if !std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|groups| groups.lines().count() == 1)
    {
        // Version 1 somewhere: programs would draw wrong conclusions from seeing the other.
        return Ok(());
    }
    let mut target = mount::open_plain(root, "sys")?;
    for name in ["fs", "cgroup"] {
        target = match target::lasting_directory(target.as_fd(), name) {
            Err(error) if is_fixed(&error) => return Ok(()),
            made => made?,
        };
    }
    match mount::create("cgroup2", &[], attributes(writable)) {
        Ok(tree) => mount::attach(tree.as_fd(), target.as_fd()),
        Err(_) => Ok(()),
    }
}

fn attributes(writable: bool) -> MountAttrFlags {
    let common = NOSUID | NODEV | NOEXEC;
    if writable { common } else { common | RDONLY }
}

/// Whether a directory is missing where none can be made.
fn is_fixed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}
