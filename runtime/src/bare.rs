//! Steps where no namespace can be had: a copy of the layers, what the step mounts put into place, and `chroot`.
//!
//! For containers without user namespaces, and only when asked for ([`crate::enter_bare`]). Nothing here confines a step:
//! it has the processes, the network, the devices and the rights of this process. Steps run one at a time, since what
//! one leaves running can only be told by all of it being the keeper's.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, chmodat, fstat, linkat, makedev, mkdirat, mknodat,
    openat, renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::dev::{LINKS, NODES};
use crate::layers::{self, Copied};
use crate::merge::Take;
use crate::mount;
use crate::plan::sorted;
use crate::spec::{MountKind, Network, RunSpec};
use crate::target::{self, Shape, Stub, Targets};
use crate::{Error, mount::open_dir_below, times};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `step` in the root that `spec` describes, put together by copying, and takes away again what was put there.
pub(crate) fn in_place<T>(
    spec: &RunSpec,
    step: impl FnOnce(OwnedFd) -> Result<T, Error>,
) -> Result<T, Error> {
    refuse(spec)?;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let setup =
        |action: &'static str| move |error: io::Error| Error::Setup(format!("{action}: {error}"));
    let upper = &spec.root.upper;
    let copied = Copied::make(&spec.root)?;
    let root = layers::open(upper).map_err(setup("open the root"))?;
    let mut furniture = Furniture {
        root: root.try_clone().map_err(setup("open the root"))?,
        aside: spec.root.work.clone(),
        stubs: Vec::new(),
        pieces: Vec::new(),
    };
    let result = furniture
        .all(spec)
        .map_err(|(what, error)| Error::Setup(format!("{what}: {error}")))
        .and_then(|()| step(root));
    let removed = furniture
        .remove()
        .map_err(setup("take away what was mounted"));
    let stubs = target::remove_stubs(upper, &furniture.stubs).map_err(setup("remove mount stubs"));
    let settled = copied.map_or(Ok(()), Copied::settle);
    let result = result?;
    removed.and(stubs)?;
    settled?;
    Ok(result)
}

fn refuse(spec: &RunSpec) -> Result<(), Error> {
    let what = match spec {
        RunSpec {
            network: Network::None,
            ..
        } => "no network",
        RunSpec {
            network: Network::Isolated { .. },
            ..
        } => "a network of its own",
        RunSpec { devices, .. } if !devices.is_empty() => "devices",
        _ => return Ok(()),
    };
    Err(Error::Invalid(format!(
        "give a step {what}: that takes namespaces, and there are none"
    )))
}

/// Something in the place where it would be mounted.
struct Piece {
    parent: OwnedFd,
    name: String,
    /// What was there before.
    aside: PathBuf,
    /// Where it came from and goes back to.
    home: Option<PathBuf>,
}

struct Furniture {
    root: OwnedFd,
    aside: PathBuf,
    stubs: Vec<Stub>,
    pieces: Vec<Piece>,
}

impl Furniture {
    fn all(&mut self, spec: &RunSpec) -> Result<(), (String, io::Error)> {
        self.dev()
            .map_err(|error| ("make /dev".to_owned(), error))?;
        for (path, text) in [
            ("/etc/resolv.conf", &spec.resolv_conf),
            ("/etc/hosts", &spec.hosts),
        ] {
            self.file(path, text.as_bytes(), 0o644, (0, 0))
                .map_err(|error| (format!("write {path}"), error))?;
        }
        for (target, kind) in
            sorted(&spec.mounts).map_err(|error| ("mount".to_owned(), io::Error::other(error)))?
        {
            self.mount(&target, kind)
                .map_err(|error| (format!("mount {target}"), error))?;
        }
        Ok(())
    }

    /// An own one, as with namespaces, but for terminals.
    fn dev(&mut self) -> io::Result<()> {
        for name in ["proc", "sys", "dev"] {
            target::lasting_directory(self.root.as_fd(), name)?;
        }
        let place = self.make_room("/dev", Shape::Directory)?;
        mkdirat(&place.0, "dev", Mode::from_raw_mode(0o755))?;
        let dev = open_dir_below(self.root.as_fd(), "dev")?;
        for (name, major, minor) in NODES {
            let mode = Mode::from_raw_mode(0o666);
            mknodat(
                &dev,
                name,
                FileType::CharacterDevice,
                mode,
                makedev(major, minor),
            )
            .map_err(|error| {
                io::Error::other(format!(
                    "make the device {name}: {error}: steps without namespaces need CAP_MKNOD"
                ))
            })?;
            chmodat(&dev, name, mode, AtFlags::empty())?;
        }
        for (name, to) in LINKS {
            symlinkat(to, &dev, name)?;
        }
        mkdirat(&dev, "shm", Mode::from_raw_mode(0o1777))?;
        Ok(chmodat(
            &dev,
            "shm",
            Mode::from_raw_mode(0o1777),
            AtFlags::empty(),
        )?)
    }

    fn mount(&mut self, target: &str, kind: &MountKind) -> io::Result<()> {
        match kind {
            MountKind::File {
                content,
                mode,
                uid,
                gid,
            } => self.file(target, content, *mode, (*uid, *gid)),
            MountKind::Tmpfs { mode, .. } => {
                let (parent, name) = self.make_room(target, Shape::Directory)?;
                let mode = Mode::from_raw_mode(mode.unwrap_or(0o1777));
                mkdirat(&parent, &*name, mode)?;
                Ok(chmodat(&parent, &*name, mode, AtFlags::empty())?)
            }
            MountKind::Bind { source, .. } => {
                let shape = Shape::of(
                    openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?.as_fd(),
                )?;
                let (parent, name) = self.make_room(target, shape)?;
                renameat(CWD, source, &parent, &*name)?;
                if let Some(piece) = self.pieces.last_mut() {
                    piece.home = Some(source.clone());
                }
                Ok(())
            }
            MountKind::View {
                lowers,
                source,
                scratch,
                ..
            } => {
                let found = layers::copied_part(lowers, source, scratch, Take::Copy)?;
                let (parent, name) = self.make_room(target, Shape::of(found.part.as_fd())?)?;
                Ok(renameat(CWD, &found.path, &parent, &*name)?)
            }
            MountKind::Socket { path } => {
                let (parent, name) = self.make_room(target, Shape::File)?;
                Ok(linkat(CWD, path, &parent, &*name, AtFlags::empty())?)
            }
        }
    }

    fn file(
        &mut self,
        target: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> io::Result<()> {
        let (parent, name) = self.make_room(target, Shape::File)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, &*name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = std::fs::File::from(file);
        file.write_all(content)?;
        std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Makes the name at `target` free, its parents made where they are missing; what was there comes back.
    fn make_room(&mut self, target: &str, shape: Shape) -> io::Result<(OwnedFd, String)> {
        let there = Targets::new(self.root.as_fd(), &mut self.stubs).open(target, shape)?;
        let path = mount::path_below(self.root.as_fd(), there.as_fd())?;
        let path = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        let (parent, name) = target::split(path);
        let parent = open_dir_below(self.root.as_fd(), parent)?;
        let aside = self.aside.join(format!("aside-{}", self.pieces.len()));
        let before = fstat(&parent)?;
        renameat(&parent, name, CWD, &aside)?;
        times::set(parent.as_fd(), &before)?;
        self.pieces.push(Piece {
            parent: parent.try_clone()?,
            name: name.to_owned(),
            aside,
            home: None,
        });
        Ok((parent, name.to_owned()))
    }

    /// In the reverse order, so that what lies within another goes first.
    fn remove(&mut self) -> io::Result<()> {
        while let Some(piece) = self.pieces.pop() {
            let Piece {
                parent,
                name,
                aside,
                home,
            } = piece;
            let before = fstat(&parent)?;
            match &home {
                Some(home) => match renameat(&parent, &*name, CWD, home) {
                    // The step removed it, which a mount would have prevented.
                    Err(Errno::NOENT) => std::fs::create_dir(home)?,
                    other => other?,
                },
                None => remove(parent.as_fd(), &name)?,
            }
            renameat(CWD, aside, &parent, &*name)?;
            times::set(parent.as_fd(), &before)?;
        }
        Ok(())
    }
}

/// Removes a file or a tree without following links.
fn remove(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => std::fs::remove_dir_all(mount::fd_name(parent).join(name)),
        Err(error) => Err(error.into()),
    }
}
