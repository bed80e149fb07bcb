//! What a caller asks for: plain data, no descriptors, no handles.
//!
//! Paths of the host ([`PathBuf`]) are trusted: the caller resolved them. Paths inside the image ([`String`]) are not:
//! they are looked up by directory descriptor and cannot leave the new root.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One command to run in one root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The root file system.
    pub root: Root,
    /// The command.
    pub process: Process,
    /// Additional mounts. They are made in the order of their targets, so that a parent precedes its children; of two
    /// with the same target the later one counts.
    pub mounts: Vec<Mount>,
    /// Which network the command sees.
    pub network: Network,
    /// Content of `/etc/hosts`.
    pub hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Devices of the host that the command may use, beside the harmless ones.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// How much the command is confined.
    pub security: Security,
    /// Whether programs with set-user-ID bits or file capabilities give nothing to who executes them (`no_new_privs`).
    /// `sudo` does not work then.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Bounds on resources.
    pub limits: Limits,
}

/// An overlay of committed layers and one writable directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Layers, lowest first; may be empty. At most 500.
    pub lowers: Vec<PathBuf>,
    /// Takes all changes.
    pub upper: PathBuf,
    /// The overlay's work directory: empty, on the file system of `upper`.
    pub work: PathBuf,
}

/// The command and what it starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; a program without `/` is looked up in the `PATH` of `env`, inside the root.
    pub argv: Vec<String>,
    /// The whole environment, except that `HOME` is added from the image's passwd file if it is missing.
    pub env: Vec<(String, String)>,
    /// Working directory; created, owned by the user, if missing.
    pub cwd: String,
    /// `name|uid[:group|gid]`, resolved inside the root; empty means root.
    pub user: String,
    /// Name of the host.
    pub hostname: String,
    /// Groups beside those of the user.
    #[serde(default)]
    pub additional_groups: Vec<u32>,
}

/// One device of the host, given to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where, inside the root.
    pub target: String,
    /// The node of the host.
    pub source: PathBuf,
    /// Which of the two kinds.
    pub kind: DeviceKind,
    /// The number of its driver.
    pub major: u32,
    /// Which of the driver's.
    pub minor: u32,
    /// Letters of `rwm`: reading, writing, making nodes.
    pub access: String,
    /// Permissions; those of the host's node if none.
    pub mode: Option<u32>,
    /// Owner; root if none.
    pub uid: Option<u32>,
    /// Group; root's if none.
    pub gid: Option<u32>,
}

/// The two kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A stream of bytes.
    Character,
    /// A disk.
    Block,
}

/// One mount below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, inside the root. Neither `/` nor anything in `/proc`.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// Already resolved by the caller; `/proc/self/fd/N` is fine.
        source: PathBuf,
        /// Whether writing is refused.
        readonly: bool,
    },
    /// A path in another file system made of layers.
    View {
        /// Layers, lowest first.
        lowers: Vec<PathBuf>,
        /// Path in the merged view, resolved inside it.
        source: String,
        /// What happens to writes.
        access: Access,
        /// An empty directory for the overlay's own use, on a file system that can be an overlay's upper; the caller
        /// removes it afterwards.
        scratch: PathBuf,
    },
    /// A new, empty tmpfs.
    Tmpfs {
        /// Size limit in bytes.
        size: Option<u64>,
        /// Permissions of its root; 0o1777 if none.
        mode: Option<u32>,
    },
    /// A read-only file that exists in memory only: secrets, scripts.
    File {
        /// The bytes.
        content: Vec<u8>,
        /// Permissions.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A listening Unix socket of the host, such as that of an SSH agent.
    Socket {
        /// The socket.
        path: PathBuf,
    },
}

/// What happens to writes to a [`MountKind::View`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// They are refused.
    ReadOnly,
    /// They succeed and are thrown away.
    Discard,
}

/// Which network a command sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A network namespace of its own with nothing but loopback.
    None,
    /// That of the host.
    Host,
    /// A network namespace of its own, connected by `pasta`: the outside is reachable, the host's loopback is not.
    Isolated {
        /// The program `pasta` of the host.
        pasta: PathBuf,
    },
}

/// How much a command is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's defaults or tighter.
    Sandbox,
    /// All capabilities, all system calls, all devices. For callers that were told so explicitly.
    Insecure,
}

/// Bounds on resources; absent means unlimited, except where noted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; `-1` for no bound on swap.
    pub memory_swap: Option<i64>,
    /// Number of tasks; [`Limits::DEFAULT_PIDS`] if none, and then only where a control group can be had.
    pub pids: Option<u64>,
    /// Relative share of the processors, in Docker's scale (2 to 262144, 1024 by default).
    pub cpu_shares: Option<u64>,
    /// Length of the scheduler's period in microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota: Option<i64>,
    /// Processors, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, such as `0`.
    pub cpuset_mems: Option<String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm`; [`Limits::DEFAULT_SHM`] if none.
    pub shm_size: Option<u64>,
    /// The control group below which the command's own is made, in place of that of this process.
    pub cgroup_parent: Option<String>,
}

impl Limits {
    /// A fork bomb meets this bound before the host runs out of process ids (often 32768 in all, proc_sys_kernel(5)) or
    /// of processor time for others; an ordinary build never does.
    pub const DEFAULT_PIDS: u64 = 4096;
    /// Docker's size of `/dev/shm`.
    pub const DEFAULT_SHM: u64 = 64 << 20;
}

/// One resource limit, as of `setrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name as Docker writes it: `nofile`, `nproc`, `core` …
    pub name: String,
    /// The bound in force; `-1` for none.
    pub soft: i64,
    /// The bound up to which the process may raise it; `-1` for none.
    pub hard: i64,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself. 126 and 127: it could not be executed, was not found.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel killed it, or a process of it, because memory ran out.
    OutOfMemory,
}

/// Which of its two outputs a command wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
