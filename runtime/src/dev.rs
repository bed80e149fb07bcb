//! A minimal `/dev`, on a file system of its own: the image's is never used.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, chmodat, chownat, fstat, makedev, mkdirat, mknodat,
    openat, symlinkat, unlinkat,
};
use rustix::process::{Gid, Uid};

use crate::mount::{self, NODEV, NOEXEC, NOSUID};
use crate::spec::{Device, DeviceKind};
use crate::target;

/// Name, major and minor number of what every Linux program may expect.
pub(crate) const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

pub(crate) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Mounts a new `/dev` over `target`, which holds so much, and its `shm` so much. Nodes are made, or, with `bind_nodes`,
/// those of the host are mounted. Gives back the device null, open for reading.
pub(crate) fn mount(
    target: BorrowedFd<'_>,
    bind_nodes: bool,
    tty_group: bool,
    (size, shm): (Option<u64>, u64),
) -> io::Result<OwnedFd> {
    let size = size.map(|bytes| bytes.to_string());
    let mut options = vec![("mode", "0755")];
    options.extend(size.as_deref().map(|bytes| ("size", bytes)));
    let dev = mount::create("tmpfs", &options, NOSUID)?;
    for (name, to) in LINKS {
        symlinkat(to, &dev, name)?;
    }
    for (name, major, minor) in NODES {
        let kind = if bind_nodes {
            FileType::RegularFile
        } else {
            FileType::CharacterDevice
        };
        mknodat(
            &dev,
            name,
            kind,
            Mode::from_raw_mode(0o666),
            if bind_nodes { 0 } else { makedev(major, minor) },
        )?;
    }
    mount::attach(dev.as_fd(), target)?;
    if bind_nodes {
        mount::restrict(dev.as_fd(), NODEV)?;
        for (name, major, minor) in NODES {
            bind_node(dev.as_fd(), name, makedev(major, minor))?;
        }
    }
    mount_below(dev.as_fd(), tty_group, shm)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(&dev, "null", flags, Mode::empty())?)
}

/// Mounts what is on top of any `/dev`, also one of the caller. There a directory that is missing is made, and one that
/// cannot be made is left out; a link in its place is refused.
pub(crate) fn mount_below(dev: BorrowedFd<'_>, tty_group: bool, shm: u64) -> io::Result<()> {
    let attach = |kind: &str, name: &str, options: &[(&str, &str)], attributes| -> io::Result<()> {
        let target = match target::lasting_directory(dev, name) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(()),
            target => target?,
        };
        let tree = mount::create(kind, options, attributes)?;
        mount::attach(tree.as_fd(), target.as_fd())
    };
    let mut pts = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    if tty_group {
        pts.push(("gid", "5"));
    }
    attach("devpts", "pts", &pts, NOSUID | NOEXEC)?;
    attach(
        "tmpfs",
        "shm",
        &[("mode", "1777"), ("size", &shm.to_string())],
        NOSUID | NODEV | NOEXEC,
    )?;
    attach("mqueue", "mqueue", &[], NOSUID | NODEV | NOEXEC)
}

/// Mounts the host's node `name` over the file of that name, if it really is the device `number`.
fn bind_node(dev: BorrowedFd<'_>, name: &str, number: u64) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(CWD, format!("/dev/{name}"), flags, Mode::empty())?;
    let stat = fstat(&node)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != number
    {
        return Err(io::Error::other(format!(
            "/dev/{name} of the host is not what it should be"
        )));
    }
    mount::attach(
        mount::clone_fd(node.as_fd())?.as_fd(),
        mount::open_plain(dev, name)?.as_fd(),
    )
}

fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
    }
}

/// Makes the node `name` of a device in a directory of the new `/dev`, in place of what is there.
pub(crate) fn add_device(dir: BorrowedFd<'_>, name: &str, device: &Device) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mode = match device.mode {
        Some(mode) => mode,
        None => rustix::fs::stat(&device.source)?.st_mode & 0o7777,
    };
    let mode = Mode::from_raw_mode(mode);
    let number = makedev(device.major, device.minor);
    mknodat(dir, name, file_type(device.kind), mode, number)?;
    let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(
        dir,
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        flags,
    )?;
    Ok(chmodat(dir, name, mode, AtFlags::empty())?)
}

/// The host's node as a detached mount, if it really is that device.
pub(crate) fn host_device(device: &Device) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let node = openat(CWD, &device.source, flags, Mode::empty())?;
    let stat = fstat(&node)?;
    let same = FileType::from_raw_mode(stat.st_mode) == file_type(device.kind)
        && stat.st_rdev == makedev(device.major, device.minor);
    if !same {
        let text = format!("{} is another device", device.source.display());
        return Err(io::Error::other(text));
    }
    mount::clone_fd(node.as_fd())
}

/// Adds every device of the host that `/dev` does not have yet, for commands that are not confined. Left out are folders
/// that are file systems of their own, and those that this user may not read.
pub(crate) fn add_host_devices(root: BorrowedFd<'_>) -> io::Result<()> {
    let host = Path::new("/dev");
    let device = rustix::fs::stat(host)?.st_dev;
    add_devices_of(host, device, mount::open_plain(root, "dev")?.as_fd())
}

fn add_devices_of(folder: &Path, device: u64, dev: BorrowedFd<'_>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_hidden(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let stat = match rustix::fs::lstat(entry.path()) {
            Err(error) if is_hidden(&error.into()) => continue,
            stat => stat?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory && stat.st_dev == device {
            match mkdirat(dev, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = openat(dev, &name, flags, Mode::empty())?;
            add_devices_of(&entry.path(), device, below.as_fd())?;
        }
        if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            continue;
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match mknodat(dev, &name, kind, mode, stat.st_rdev) {
            Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether something is not for this user, or has gone since it was listed.
fn is_hidden(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_of_other_file_systems_have_no_devices_for_steps() {
        let (host, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(host.path().join("net/deep")).unwrap();
        let device = rustix::fs::stat(host.path()).unwrap().st_dev;
        let dev = std::fs::File::open(new.path()).unwrap();
        add_devices_of(host.path(), device + 1, dev.as_fd()).unwrap();
        assert!(!new.path().join("net").exists());
        add_devices_of(host.path(), device, dev.as_fd()).unwrap();
        assert!(new.path().join("net/deep").is_dir());
        let gone = host.path().join("gone");
        add_devices_of(&gone, device, dev.as_fd()).unwrap();
    }
}
