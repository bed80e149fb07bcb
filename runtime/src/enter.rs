//! Entering the build's namespaces, once, before any thread exists.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create, stat};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::caps;
use crate::keeper::{self, NAME, SOCKET};
use crate::mount::{self, RDONLY};
use crate::plan::{Host, Stack};
use crate::sys::{self, Cloned, Pointers};
use crate::{Error, guard, wire};

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
    if let Some(entered) = ENTERED.get() {
        return Ok(entered.identity);
    }
    if threads().map_err(|source| enter_error("count the threads", source))? != 1 {
        return Err(Error::Threads);
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
    if let Some(entered) = ENTERED.get() {
        return Ok(entered.identity);
    }
    if threads().map_err(|source| enter_error("count the threads", source))? != 1 {
        return Err(Error::Threads);
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
    if name == NAME {
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
        let mut keeper = self
            .keeper
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let keeper = match &mut *keeper {
            Some(keeper) => keeper,
            none => none.insert(start_keeper(self.identity)?),
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
    let ids = mapped_ids().map_err(|source| enter_error("read /proc/self/uid_map", source))?;
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

/// How many ids this process's user namespace has.
fn mapped_ids() -> io::Result<u32> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(mapped(&map).fold(0, |all, (_, count)| all.saturating_add(count)))
}

/// Whether this user and this group exist in the user namespace of this process.
pub fn has_ids(uid: u32, gid: u32) -> io::Result<bool> {
    let has = |file, id: u32| -> io::Result<bool> {
        let map = fs::read_to_string(file)?;
        Ok(mapped(&map).any(|(first, count)| id.checked_sub(first).is_some_and(|at| at < count)))
    };
    Ok(has("/proc/self/uid_map", uid)? && has("/proc/self/gid_map", gid)?)
}

/// The first id of each range of a map, as this namespace has it, and how many there are.
fn mapped(map: &str) -> impl Iterator<Item = (u32, u32)> + '_ {
    map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let first = fields.next()?.parse().ok()?;
        Some((first, fields.nth(1)?.parse().ok()?))
    })
}

fn user_namespace() -> Result<Identity, Error> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let uids = subordinate("/etc/subuid", uid);
    let gids = subordinate("/etc/subgid", uid);
    let mapper = if uids.is_empty() || gids.is_empty() {
        None
    } else {
        let forked = Mapper::fork(&uids, &gids, uid, gid);
        Some(forked.map_err(|source| enter_error("start the mapping of ids", source))?)
    };
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
        let ids = mapped_ids().map_err(|source| enter_error("read /proc/self/uid_map", source))?;
        return Ok(Identity::Range { ids });
    }
    let write = |file: &str, text: String| fs::write(file, text);
    write("/proc/self/setgroups", "deny".into())
        .and_then(|()| write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| write("/proc/self/gid_map", format!("0 {gid} 1")))
        .map_err(|source| {
            enter_error(
                "map the ids of a user namespace (run as root, or allow them to ordinary users)",
                source,
            )
        })?;
    Ok(Identity::Single)
}

/// A process that stays outside of the new user namespace, where the mapping programs have their rights.
struct Mapper {
    socket: OwnedFd,
    process: OwnedFd,
}

impl Mapper {
    fn fork(uids: &[(u32, u32)], gids: &[(u32, u32)], uid: u32, gid: u32) -> io::Result<Mapper> {
        let (here, there) = wire::pair()?;
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        match sys::clone_process(0, None)? {
            Cloned::Parent(process, _) => Ok(Mapper {
                socket: here,
                process,
            }),
            Cloned::Child => {
                drop(here);
                let mapped = matches!(wire::take::<()>(&there), Ok(Some(_)))
                    && run_mapper("newuidmap", parent, uid, uids)
                    && run_mapper("newgidmap", parent, gid, gids);
                let _ = wire::put(&there, &mapped, &[]);
                sys::exit(0)
            }
        }
    }

    /// Maps the ids of this process, which is in the new namespace by now.
    fn map(self) -> bool {
        let mapped = wire::put(&self.socket, &(), &[]).is_ok()
            && matches!(wire::take::<bool>(&self.socket), Ok(Some((true, _))));
        let _ = waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED);
        mapped
    }
}

fn run_mapper(program: &str, process: i32, own: u32, ranges: &[(u32, u32)]) -> bool {
    let mut command = Command::new(program);
    command.args([process.to_string(), "0".into(), own.to_string(), "1".into()]);
    let mut next: u32 = 1;
    for (start, count) in ranges {
        command.args([next.to_string(), start.to_string(), count.to_string()]);
        next = next.saturating_add(*count);
    }
    command
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The ranges that `file` gives to the user: start, count.
fn subordinate(file: &str, uid: u32) -> Vec<(u32, u32)> {
    let name = fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|text| user_name(&text, uid))
        .unwrap_or_default();
    let text = fs::read_to_string(file).unwrap_or_default();
    ranges_of(&text, &name, uid)
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let line = passwd.lines().find(|line| {
        line.split(':')
            .nth(2)
            .is_some_and(|field| field.parse() == Ok(uid))
    })?;
    line.split(':').next().map(str::to_owned)
}

fn ranges_of(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (!owner.is_empty() && (owner == name || owner == uid) && count > 0)
            .then_some((start, count))
    };
    text.lines().filter_map(range).collect()
}

fn start_keeper(identity: Identity) -> io::Result<OwnedFd> {
    let (here, there) = wire::pair()?;
    let namespace = stat("/proc/self/ns/pid")?.st_ino;
    let process = format!("{namespace}-{}", std::process::id());
    let namespaces = match identity {
        Identity::Bare => 0,
        _ => libc::CLONE_NEWPID as u64,
    };
    let (argv, env) = ([CString::new(NAME)?, CString::new(process)?], []);
    let (argv, env) = (Pointers::new(&argv), Pointers::new(&env));
    // Out of the way of the socket.
    let program = rustix::io::fcntl_dupfd_cloexec(unwritable_program()?, SOCKET + 1)?;
    if let Cloned::Child = sys::clone_process(namespaces, None)? {
        // Other threads may exist, and their locks here for ever: system calls only.
        if prepare_keeper(&there).is_ok() {
            sys::exec_file(program.as_fd(), &argv, &env);
        }
        sys::exit(127);
    }
    Ok(here)
}

fn prepare_keeper(socket: &OwnedFd) -> io::Result<()> {
    keeper::detach()?;
    // The socket's number is what the keeper knows it by.
    match socket.as_raw_fd() {
        SOCKET => rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())?,
        _ => sys::duplicate_to(socket.as_fd(), SOCKET)?,
    }
    sys::close_from_on_exec(SOCKET + 1)
}

/// This program, as a file that nobody can write, whatever its permissions.
fn unwritable_program() -> io::Result<OwnedFd> {
    let running = stat("/proc/self/exe")?;
    let path = fs::read_link("/proc/self/exe")?;
    // By its path: what /proc/self/exe leads to is a mount of the namespace that was left.
    if let Ok(program) = mount::clone_tree(CWD, &path) {
        let found = fstat(&program)?;
        if (found.st_dev, found.st_ino) == (running.st_dev, running.st_ino) {
            mount::restrict(program.as_fd(), RDONLY)?;
            return Ok(program);
        }
    }
    // Its file was replaced meanwhile, or cannot be reached: a sealed copy.
    let copy = memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let text = "alice:100000:65536\n1000:300000:10\nbob:1:2\nalice:x:1\n:5:6\nalice:7:0\n";
        assert_eq!(
            ranges_of(text, "alice", 1000),
            [(100_000, 65536), (300_000, 10)]
        );
        assert_eq!(ranges_of(text, "", 7), []);
    }

    #[test]
    fn a_map_has_ranges() {
        let map = "         0       1000          1\n         1     100000      65536\nx\n";
        assert_eq!(mapped(map).collect::<Vec<_>>(), [(0, 1), (1, 65536)]);
    }

    #[test]
    fn a_user_is_found_by_number() {
        assert_eq!(
            user_name("root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:", 1000).as_deref(),
            Some("alice")
        );
    }
}
