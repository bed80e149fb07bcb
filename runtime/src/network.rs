//! Networks of their own for steps, connected to the outside by `pasta` or to nothing.
//!
//! Starting `pasta` takes some 30 ms, ten times as long as everything else, and even a namespace that leads nowhere costs
//! the kernel 4 ms to make and to remove; so a network outlives its step: it goes back to a pool from which the next step
//! takes it. Steps that run at the same time get different ones. Of a step nothing remains that
//! the next could notice: its processes are gone, and it may not change interfaces, routes or settings. Only connections
//! that were just closed (TIME_WAIT) hold the port of their server a while longer; a network with such is not used again.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, open, openat};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::enter::entered;
use crate::keeper::Request;
use crate::mount::{self, NODEV, NOEXEC, NOSUID};
use crate::plan::{FIRST, Step};
use crate::report::Report;
use crate::{Error, sys, wire};

/// The address at which an isolated network forwards name queries to the resolver of the host. For the `resolv_conf` of
/// a step if that of the host names only loopback addresses, which cannot be reached from there.
pub const RESOLVER: &str = "169.254.1.1";

/// The address at which clouds hand credentials to whoever asks; no business of a build.
const METADATA: [u8; 4] = [169, 254, 169, 254];

/// A start that takes longer than this has failed.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

static IDLE: Mutex<Vec<Network>> = Mutex::new(Vec::new());

struct Network {
    /// What connects it, if it is connected.
    pasta: Option<PathBuf>,
    namespace: OwnedFd,
    /// How many connections it has: `/proc/net/sockstat` and the like (proc_pid_net(5)).
    counts: Vec<File>,
    /// Which they are: `/proc/net/tcp` and the like (proc_net_tcp.rst).
    lists: Vec<File>,
}

/// The first port that the kernel gives to who asks for any. Nobody waits for one of these.
const FIRST_EPHEMERAL: u16 = 32768;

impl Network {
    /// Whether every port is free that a server might ask for. Mostly there are no connections; to list them the kernel
    /// looks through those of all networks, which takes many milliseconds.
    fn is_free(&mut self) -> bool {
        let has_none = |text: &str| text.lines().all(|line| connections(line) == Some(0));
        let has_ephemeral = |text: &str| {
            let mut ports = text.lines().skip(1).map(local_port);
            ports.all(|port| port >= Some(FIRST_EPHEMERAL))
        };
        all_say(&mut self.counts, has_none) || all_say(&mut self.lists, has_ephemeral)
    }
}

/// Whether `says` holds for the text of every file, of which there must be one.
fn all_say(files: &mut [File], says: impl Fn(&str) -> bool) -> bool {
    let all = files.iter_mut().all(|file| {
        // So much is seldom there, and a file of /proc has no size that tells.
        let mut text = String::with_capacity(1024);
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        read.is_ok() && says(&text)
    });
    all && !files.is_empty()
}

/// The connections in a line such as `TCP: inuse 2 orphan 0 tw 1 alloc 2 mem 0`: those in use and those just closed. Other
/// lines have none; the orphans are those of all networks, and in use too where they are of this one.
fn connections(line: &str) -> Option<u64> {
    let Some((_, counts)) = line
        .split_once(':')
        .filter(|(kind, _)| kind.starts_with("TCP"))
    else {
        return Some(0);
    };
    let mut words = counts.split_whitespace();
    let mut all = 0_u64;
    while let (Some(name), Some(count)) = (words.next(), words.next()) {
        if matches!(name, "inuse" | "tw") {
            all = all.saturating_add(count.parse().ok()?);
        }
    }
    Some(all)
}

/// The port in a line such as `0: 0100007F:1F90 0100007F:C350 06 …`.
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

/// A network that one step uses; dropping it gives it back.
pub(crate) struct Lease {
    network: Option<Network>,
    reusable: bool,
}

impl Lease {
    /// The network namespace.
    pub(crate) fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.network
            .as_ref()
            .map(|network| network.namespace.as_fd())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let free = |network: &mut Network| self.reusable && network.is_free();
        if self.network.as_mut().is_some_and(free) {
            idle().extend(self.network.take());
        }
    }
}

fn idle() -> std::sync::MutexGuard<'static, Vec<Network>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a network out of the pool or starts one. It is not `reusable` by others if its step may change it.
pub(crate) fn lease(pasta: Option<&Path>, reusable: bool) -> Result<Lease, Error> {
    let found = {
        let mut idle = idle();
        idle.iter()
            .rposition(|network| network.pasta.as_deref() == pasta)
            .map(|index| idle.swap_remove(index))
    };
    let network = match found {
        Some(network) => network,
        None => start(pasta)?,
    };
    Ok(Lease {
        network: Some(network),
        reusable,
    })
}

/// Starts an isolated network ahead of the first step that wants one, and tells whether that is possible here.
pub fn prepare_network(pasta: &Path) -> Result<(), Error> {
    lease(Some(pasta), true).map(drop)
}

fn start(pasta: Option<&Path>) -> Result<Network, Error> {
    let network =
        new_network(pasta).map_err(|error| Error::Setup(format!("make a network: {error}")))?;
    if let Some(pasta) = pasta {
        connect(pasta, network.namespace.as_fd())
            .map_err(|error| Error::Setup(format!("start {}: {error}", pasta.display())))?;
    }
    Ok(network)
}

/// A new network namespace, not connected yet. A thread of its own enters it, so that no other one leaves the host's.
fn new_network(pasta: Option<&Path>) -> io::Result<Network> {
    let pasta = pasta.map(Path::to_owned);
    let make = || -> io::Result<Network> {
        sys::unshare(libc::CLONE_NEWNET)?;
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        sys::loopback_up(socket.as_fd())?;
        if pasta.is_some() {
            sys::reject_route(socket.as_fd(), METADATA)?;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = open("/proc/thread-self/ns/net", flags, Mode::empty())?;
        // A kernel without IPv6 has only the first.
        let open = |names: [&str; 2]| -> Vec<File> {
            let paths = names.map(|name| format!("/proc/thread-self/net/{name}"));
            let files = paths.iter().filter_map(|path| File::open(path).ok());
            files.collect()
        };
        Ok(Network {
            pasta,
            namespace,
            counts: open(["sockstat", "sockstat6"]),
            lists: open(["tcp", "tcp6"]),
        })
    };
    let thread = std::thread::Builder::new()
        .name("network".into())
        .spawn(make)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("internal error")))
}

/// Runs `pasta`, which goes into the background when the network works. It stays until the build ends.
fn connect(pasta: &Path, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let (socket, theirs) = wire::pair()?;
    let entered = entered().map_err(io::Error::other)?;
    entered.start(
        &Request {
            namespaces: libc::CLONE_NEWNS as u64,
            group: None,
        },
        &theirs,
    )?;
    drop(theirs);
    let (directory, file) = place();
    let (program, file_path) = (pasta.to_string_lossy(), format!("{directory}/{file}"));
    // Its own sandbox has no use for another user, who could not enter the namespace.
    let argv = format!(
        "--quiet --config-net --no-map-gw --dns-forward {RESOLVER} -t none -u none -T none -U none --runas 0 --netns"
    );
    let argv = [&*program]
        .into_iter()
        .chain(argv.split(' '))
        .chain([&*file_path])
        .map(str::to_owned)
        .collect();
    let steps = [
        Step::NetworkFile {
            directory: directory.into(),
            file: file.into(),
            namespace: FIRST,
        },
        Step::Exec {
            argv,
            env: Vec::new(),
        },
    ];
    let output = memfd_create("output", MemfdFlags::CLOEXEC)?;
    wire::put(
        &socket,
        &steps,
        &[output.as_fd(), output.as_fd(), namespace],
    )?;
    wait(&socket, output)
}

fn wait(socket: &OwnedFd, output: OwnedFd) -> io::Result<()> {
    let mut reason = None;
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE)))? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it does not answer",
            ));
        }
        match wire::take::<Report>(socket)? {
            Some((Report::Ready { .. }, _)) => {}
            Some((Report::Failed { message, .. } | Report::NotExecuted { message, .. }, _)) => {
                reason = Some(message);
            }
            Some((Report::Exited { code: Some(0), .. }, _)) => return Ok(()),
            Some((Report::Exited { .. }, _)) | None => break,
        }
    }
    let mut text = String::new();
    let mut output = File::from(output);
    output.rewind()?;
    output.take(4096).read_to_string(&mut text)?;
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.ends_with("bytes to syslog"))
        .collect();
    Err(io::Error::other(reason.unwrap_or_else(|| lines.join(", "))))
}

/// Where `pasta` is shown the namespace: it gives up its descriptors and the rights to look into other processes, and
/// where AppArmor confines it, it may read such a file only below `/run/user`.
fn place() -> (&'static str, &'static str) {
    for (directory, file) in [
        ("/run/user", "0/netns/lapstrake"),
        ("/run/netns", "lapstrake"),
    ] {
        if Path::new(directory).is_dir() {
            return (directory, file);
        }
    }
    ("/tmp", "lapstrake")
}

/// In a mount namespace of its own: covers `directory` by an empty file system in which `file` is the namespace.
pub(crate) fn show(directory: &str, file: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let tree = mount::create("tmpfs", &[("mode", "0755")], NOSUID | NODEV | NOEXEC)?;
    let target = openat(
        CWD,
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    mount::attach(tree.as_fd(), target.as_fd())?;
    let path = Path::new(directory).join(file);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let target = File::create(&path)?;
    mount::attach(mount::clone_fd(namespace)?.as_fd(), target.as_fd())
}
