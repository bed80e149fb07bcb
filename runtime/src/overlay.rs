//! Overlays of layers, held by descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, unmount,
};

use crate::mount::{
    NODEV, NOSUID, RDONLY, attach, clone_fd, clone_tree, create, fd_name, open_below, restrict,
};
use crate::sys;

/// What `fstatfs` says of an overlay.
const OVERLAYFS_SUPER_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// The directories of an overlay. The kernel is told their `/proc/self/fd` names, so that no path of the host shows in
/// the mount table, and so that what is mounted over a directory meanwhile does not matter.
pub(crate) struct Overlay {
    lowers: Vec<OwnedFd>,
    writable: Option<(OwnedFd, OwnedFd)>,
    user_xattrs: bool,
    /// Where it can be mounted for a moment, see [`Overlay::mount_at_once`].
    place: PathBuf,
}

/// Whether the kernel takes layers one by one.
enum Context {
    Ready(OwnedFd),
    /// Linux before 6.7.
    TooOld,
}

impl Overlay {
    /// Opens `lowers` (lowest first) and, if given, upper and work directory.
    pub(crate) fn open(
        lowers: &[PathBuf],
        writable: Option<(&Path, &Path)>,
        user_xattrs: bool,
    ) -> io::Result<Overlay> {
        let place = writable
            .map(|(upper, _)| upper)
            .or(lowers.first().map(PathBuf::as_path));
        let place = place.unwrap_or(Path::new("/")).to_owned();
        let lowers = lowers
            .iter()
            .map(|path| open_dir(path))
            .collect::<io::Result<_>>()?;
        let writable = match writable {
            Some((upper, work)) => Some((open_dir(upper)?, open_dir(work)?)),
            None => None,
        };
        Ok(Overlay {
            lowers,
            writable,
            user_xattrs,
            place,
        })
    }

    /// Whether there is no lower directory; one must be added then.
    pub(crate) fn is_empty(&self) -> bool {
        self.lowers.is_empty()
    }

    /// Adds a lower directory below all others.
    pub(crate) fn add_lowest(&mut self, directory: OwnedFd) {
        self.lowers.insert(0, directory);
    }

    /// Mounts it, detached. In a process of one thread, in a mount namespace that nobody else uses.
    pub(crate) fn mount(&self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        match self.context()? {
            Context::Ready(context) => self.create(&context, attributes),
            Context::TooOld => self.mount_at_once(attributes),
        }
    }

    /// The same from among other threads.
    fn mount_aside(&self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        if let Context::Ready(context) = self.context()? {
            return self.create(&context, attributes);
        }
        std::thread::scope(|scope| {
            let aside = scope.spawn(|| {
                // A working directory and mounts of its own.
                sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS)?;
                self.mount_at_once(attributes)
            });
            aside
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("internal error")))
        })
    }

    fn context(&self) -> io::Result<Context> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "overlay")?;
        for (index, directory) in self.lowers.iter().rev().enumerate() {
            match fsconfig_set_string(&context, "lowerdir+", fd_name(directory.as_fd())) {
                Ok(()) => {}
                Err(Errno::INVAL) if index == 0 => return Ok(Context::TooOld),
                Err(error) => return Err(self.explain(&context, error)),
            }
        }
        Ok(Context::Ready(context))
    }

    fn create(&self, context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let set = || {
            if let Some((upper, work)) = &self.writable {
                fsconfig_set_string(context, "upperdir", fd_name(upper.as_fd()))?;
                fsconfig_set_string(context, "workdir", fd_name(work.as_fd()))?;
                // What a power cut leaves is dropped as a whole, so nothing need be synced on the way.
                fsconfig_set_flag(context, "volatile")?;
            }
            if self.user_xattrs {
                fsconfig_set_flag(context, "userxattr")?;
            }
            fsconfig_create(context)
        };
        set().map_err(|error| self.explain(context, error))?;
        Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    /// With one list of all layers, of one page: names are kept short by a working directory of descriptors.
    fn mount_at_once(&self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let name = |fd: &OwnedFd| fd.as_raw_fd().to_string();
        let lowers: Vec<String> = self.lowers.iter().rev().map(name).collect();
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some((upper, work)) = &self.writable {
            options += &format!(",upperdir={},workdir={},volatile", name(upper), name(work));
        }
        if self.user_xattrs {
            options += ",userxattr";
        }
        let options = std::ffi::CString::new(options)?;
        rustix::process::chdir("/proc/self/fd")?;
        mount(
            "overlay",
            &self.place,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )?;
        let tree = clone_fd(open_dir(&self.place)?.as_fd());
        unmount(&self.place, UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        let tree = tree?;
        restrict(tree.as_fd(), attributes)?;
        Ok(tree)
    }

    /// What the kernel, or a look at the file system, adds to an error number.
    fn explain(&self, context: &OwnedFd, error: Errno) -> io::Error {
        let on_overlay = |(upper, _): &(OwnedFd, OwnedFd)| {
            fstatfs(upper).is_ok_and(|stat| stat.f_type == OVERLAYFS_SUPER_MAGIC)
        };
        let mut log = [0; 512];
        let told = context
            .try_clone()
            .map(File::from)
            .and_then(|mut context| context.read(&mut log))
            .unwrap_or(0);
        let told = String::from_utf8_lossy(&log[..told]);
        // A line says how bad it is by its first letter.
        let told = told
            .lines()
            .next()
            .and_then(|line| line.get(2..))
            .unwrap_or_default();
        if self.writable.as_ref().is_some_and(on_overlay) {
            let text = "changes cannot be kept on an overlay file system: keep the store on another one, such as a volume of the container";
            return io::Error::other(format!("{error}: {text}"));
        }
        if told.is_empty() {
            error.into()
        } else {
            io::Error::other(format!("{error}: {told}"))
        }
    }
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("open {}: {error}", path.display()),
        )
    })
}

/// A detached, read-only mount of layers merged.
pub(crate) fn view(lowers: &[PathBuf], user_xattrs: bool) -> io::Result<OwnedFd> {
    let attributes = RDONLY | NODEV | NOSUID;
    let empty = || create("tmpfs", &[("mode", "0755")], attributes);
    match lowers {
        [] => empty(),
        // An overlay without an upper directory wants at least two; since Linux 6.15 one may be detached. Older kernels
        // show the layer as it is, and its whiteouts with it.
        [only] => {
            let mut overlay = Overlay::open(lowers, None, user_xattrs)?;
            overlay.add_lowest(empty()?);
            overlay.mount_aside(attributes).or_else(|_| {
                let tree = clone_tree(CWD, only)?;
                restrict(tree.as_fd(), attributes)?;
                Ok(tree)
            })
        }
        _ => Overlay::open(lowers, None, user_xattrs)?.mount_aside(attributes),
    }
}

/// A detached mount of layers merged; changes go to `upper`, after those of earlier such mounts that are closed.
pub(crate) fn writable_view(
    lowers: &[PathBuf],
    upper: &Path,
    work: &Path,
    user_xattrs: bool,
) -> io::Result<OwnedFd> {
    // An upper directory of a volatile mount is not taken again while its mark is there.
    match std::fs::remove_dir_all(work.join("work")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut overlay = Overlay::open(lowers, Some((upper, work)), user_xattrs)?;
    if lowers.is_empty() {
        let empty = work.with_file_name("empty");
        rustix::fs::mkdir(&empty, Mode::from_raw_mode(0o755))?;
        overlay.add_lowest(open_dir(&empty)?);
    }
    overlay.mount_aside(NODEV | NOSUID)
}

/// The path `source` in a merged view of `lowers`, as a detached tree. Writes to it go to `scratch`.
pub(crate) fn view_of(
    lowers: &[PathBuf],
    source: &str,
    scratch: &Path,
    user_xattrs: bool,
) -> io::Result<OwnedFd> {
    let at = openat(
        CWD,
        scratch,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let [upper, work, empty] = ["upper", "work", "empty"].map(|name| scratch.join(name));
    for name in ["upper", "work", "empty"] {
        rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
    }
    let none = [empty];
    let lowers = if lowers.is_empty() { &none } else { lowers };
    let overlay = Overlay::open(lowers, Some((&upper, &work)), user_xattrs)?.mount(NODEV)?;
    // Only what is attached can be cloned in part.
    attach(overlay.as_fd(), at.as_fd())?;
    clone_fd(open_below(overlay.as_fd(), source)?.as_fd())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mount::PLAIN;

    /// The way of old kernels works on new ones too.
    #[test]
    fn many_layers_at_once() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: many_layers_at_once: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..120)
            .map(|n| dir.path().join(format!("layer,with:odd-name-{n}")))
            .collect();
        for (number, path) in paths.iter().enumerate() {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("top"), number.to_string()).unwrap();
        }
        let [upper, work] = ["upper", "work"].map(|name| dir.path().join(name));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        let read =
            |tree: &OwnedFd| std::fs::read_to_string(fd_name(tree.as_fd()).join("top")).unwrap();
        std::thread::scope(|scope| {
            let aside = scope.spawn(|| {
                sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
                let mounts = rustix::mount::MountPropagationFlags::REC
                    | rustix::mount::MountPropagationFlags::PRIVATE;
                rustix::mount::mount_change("/", mounts).unwrap();
                let overlay = Overlay::open(&paths, Some((&upper, &work)), false).unwrap();
                let tree = overlay.mount_at_once(PLAIN).unwrap();
                assert_eq!(read(&tree), "119");
                std::fs::write(fd_name(tree.as_fd()).join("new"), "").unwrap();
                let overlay = Overlay::open(&paths, None, false).unwrap();
                let tree = overlay.mount_at_once(RDONLY).unwrap();
                assert_eq!(read(&tree), "119");
                assert!(std::fs::write(fd_name(tree.as_fd()).join("new"), "").is_err());
            });
            aside.join().unwrap();
        });
        assert!(upper.join("new").exists());
    }
}
