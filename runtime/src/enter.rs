//! Entering the build's namespaces, once, before any thread exists.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mount::{MountPropagationFlags, mount_change};

use crate::ids::{self, Mapper};
use crate::plan::{Host, Stack};
use crate::{Error, caps, guard, keeper, sys, wire};

/// Whom this process acts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Root of the host.
    Root,
    /// Root of a user namespace with this many ids.
    Range {
        /// Ids from 0 up that exist.
        ids: u32,
    },
    /// Root of a user namespace in which no other id exists: every file belongs to root there.
    Single,
    /// Whoever started this process, with no namespace and nothing mounted, see [`enter_bare`].
    Bare,
}

/// What [`enter`] leaves behind for [`crate::run`].
pub(crate) struct Entered {
    pub(crate) identity: Identity,
    pub(crate) host: Host,
    /// None until the first step: most builds are cached and have none.
    keeper: Mutex<Option<OwnedFd>>,
}

static ENTERED: OnceLock<Entered> = OnceLock::new();

/// Enters the namespaces of a build.
///
/// As root that is a private mount namespace; otherwise a user namespace too, with the subordinate ids of `/etc/subuid`
/// and `/etc/subgid` where `newuidmap` and `newgidmap` may map them, and with one id where not. Calling it again
/// returns the same identity.
///
/// Must be called at the start of `main`, after [`child_main`], before any thread is started: fails otherwise.
pub fn enter() -> Result<Identity, Error> {
    if let Some(identity) = entered_before()? {
        return Ok(identity);
    }
    let identity = namespaces()?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).map_err(|error| enter_error("make mounts private", error.into()))?;
    Ok(begin(identity))
}

/// In place of [`enter`] where no namespace can be had: steps are confined by nothing but `chroot` then, which keeps
/// no process inside that has root's rights. [`crate::show_layers`] must say then where they are copied.
///
/// The same must hold for it as for [`enter`].
pub fn enter_bare() -> Result<Identity, Error> {
    if let Some(identity) = entered_before()? {
        return Ok(identity);
    }
    let missing = caps::missing_without_namespaces()
        .map_err(|source| enter_error("read the own capabilities", source))?;
    if !missing.is_empty() {
        return Err(Error::Invalid(format!(
            "steps without isolation take root with the capabilities that Docker gives to a container: this process lacks {}",
            missing.join(", ")
        )));
    }
    Ok(begin(Identity::Bare))
}

/// What a former call entered. The first one fails where a thread exists, which would be left behind.
fn entered_before() -> Result<Option<Identity>, Error> {
    if let Some(entered) = ENTERED.get() {
        return Ok(Some(entered.identity));
    }
    match threads().map_err(|source| enter_error("count the threads", source))? {
        1 => Ok(None),
        _ => Err(Error::Threads),
    }
}

fn begin(identity: Identity) -> Identity {
    let host = Host {
        user_namespace: !matches!(identity, Identity::Root | Identity::Bare),
        single_id: identity == Identity::Single,
        stack: Stack::default(),
    };
    let entered = ENTERED.get_or_init(|| Entered {
        identity,
        host,
        keeper: Mutex::default(),
    });
    entered.identity
}

/// Takes over if this process was started as a helper of another one, and does not return then.
///
/// Must be the first thing that `main` does.
pub fn child_main() {
    let name = std::env::args_os().next().unwrap_or_default();
    if name == keeper::NAME {
        keeper::main();
    }
    if name == guard::NAME {
        guard::main();
    }
}

pub(crate) fn entered() -> Result<&'static Entered, Error> {
    ENTERED.get().ok_or(Error::NotEntered)
}

impl Entered {
    /// Asks the keeper, which the first call starts, for a process that takes its steps from `socket`.
    pub(crate) fn start(&self, request: &keeper::Request, socket: &OwnedFd) -> io::Result<()> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = match &mut *keeper {
            Some(keeper) => keeper,
            none => none.insert(keeper::start(self.identity)?),
        };
        wire::put(&*keeper, request, &[socket.as_fd()])
    }
}

fn enter_error(action: &'static str, source: io::Error) -> Error {
    Error::Enter { action, source }
}

fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

fn namespaces() -> Result<Identity, Error> {
    let ids = count_ids()?;
    if rustix::process::geteuid().is_root() {
        match (sys::unshare(libc::CLONE_NEWNS), ids) {
            (Ok(()), u32::MAX) => return Ok(Identity::Root),
            (Ok(()), 1) => return Ok(Identity::Single),
            (Ok(()), ids) => return Ok(Identity::Range { ids }),
            // Root without the right to mount: as any user.
            (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => {}
            (Err(error), _) => return Err(enter_error("create a mount namespace", error)),
        }
    }
    user_namespace()
}

fn count_ids() -> Result<u32, Error> {
    ids::count().map_err(|source| enter_error("read /proc/self/uid_map", source))
}

fn user_namespace() -> Result<Identity, Error> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mapper =
        Mapper::fork(uid, gid).map_err(|source| enter_error("start the mapping of ids", source))?;
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).map_err(|source| {
        // The kernel's "no space left" means that there may be no more of them.
        let source = match source.kind() {
            io::ErrorKind::StorageFull => {
                io::Error::other("the limit is reached (sysctl user.max_user_namespaces)")
            }
            _ => source,
        };
        enter_error(
            "create a user namespace (run as root, or allow them to ordinary users)",
            source,
        )
    })?;
    if mapper.is_some_and(Mapper::map) {
        let ids = count_ids()?;
        return Ok(Identity::Range { ids });
    }
    ids::map_one(uid, gid).map_err(|source| {
        enter_error(
            "map the ids of a user namespace (run as root, or allow them to ordinary users)",
            source,
        )
    })?;
    Ok(Identity::Single)
}
