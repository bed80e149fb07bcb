//! What a new process is told to do: data, which travels to it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::caps::Capabilities;
use crate::spec::Device;

/// Index of a descriptor that travels with the steps.
pub(crate) type Slot = usize;

/// Standard output of the command.
pub(crate) const STDOUT: Slot = 0;
/// Standard error of the command.
pub(crate) const STDERR: Slot = 1;
/// The first slot of [`Plan::resources`](super::Plan::resources).
pub(crate) const FIRST: Slot = 2;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// An empty session keyring, so that none of the builder's keys is visible.
    Keyring,
    /// The control group of this process becomes the root of what it sees.
    CgroupNamespace,
    /// Into an existing network namespace.
    JoinNetwork(Slot),
    /// A network namespace becomes a file below a directory that is covered, for a helper.
    NetworkFile {
        directory: String,
        file: String,
        namespace: Slot,
    },
    /// Name of the host.
    Hostname(String),
    /// The overlay becomes the new root.
    Root {
        lowers: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
        user_xattrs: bool,
    },
    /// A copy of the layers, in the upper directory, becomes the new root.
    CopiedRoot {
        tree: Slot,
        upper: PathBuf,
        work: PathBuf,
    },
    /// `/proc`.
    Proc,
    /// A minimal `/dev` with its own `pts`, `shm` and `mqueue`.
    Dev {
        bind_nodes: bool,
        tty_group: bool,
        size: Option<u64>,
        shm: u64,
    },
    /// What is mounted in a `/dev`, once more, in the caller's.
    DevAgain { tty_group: bool, shm: u64 },
    /// `/sys`.
    Sys { writable: bool },
    /// The control groups once more, in the caller's `/sys`.
    CgroupAgain { writable: bool },
    /// All devices of the host, in `/dev`.
    HostDevices,
    /// One device of the host.
    Device(Device),
    /// A file in memory, read-only.
    File {
        target: String,
        content: Slot,
        mode: u32,
        uid: u32,
        gid: u32,
        exec: bool,
    },
    /// A tree of the host.
    Bind {
        target: String,
        source: Slot,
        readonly: bool,
    },
    /// A path of another overlay.
    View {
        target: String,
        lowers: Vec<PathBuf>,
        source: String,
        readonly: bool,
        scratch: PathBuf,
        user_xattrs: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        target: String,
        size: Option<u64>,
        mode: u32,
    },
    /// Paths of `/proc` and `/sys` that tell of or act on the host.
    Protect {
        masked: Vec<String>,
        readonly: Vec<String>,
    },
    /// The new root becomes the only one.
    Pivot,
    /// A directory becomes the root, of this process alone.
    Chroot(Slot),
    /// Resource limits: name of the resource, soft, hard.
    Ulimits(Vec<(String, i64, i64)>),
    /// Who runs the command.
    User {
        user: String,
        groups: bool,
        more: Vec<u32>,
    },
    /// Where it runs.
    Cwd(String),
    /// The filter of system calls.
    Seccomp,
    /// No program gives rights to who executes it.
    NoNewPrivileges,
    /// Drops to the user and to these capabilities.
    Privileges { capabilities: Capabilities },
    /// Becomes the command.
    Exec {
        argv: Vec<String>,
        env: Vec<(String, String)>,
    },
}

impl Step {
    /// What it does, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Step::Keyring => "make a session keyring".into(),
            Step::CgroupNamespace => "make a control group namespace".into(),
            Step::JoinNetwork(_) => "join the network".into(),
            Step::NetworkFile { .. } => "show the network".into(),
            Step::Hostname(name) => format!("set the host name {name:?}"),
            Step::Root { .. } => "mount overlay".into(),
            Step::CopiedRoot { .. } => "mount the copy of the layers".into(),
            Step::Proc => "mount /proc".into(),
            Step::Dev { .. } => "mount /dev".into(),
            Step::DevAgain { .. } => "mount what belongs in /dev".into(),
            Step::Sys { .. } => "mount /sys".into(),
            Step::CgroupAgain { .. } => "mount /sys/fs/cgroup".into(),
            Step::HostDevices => "add the devices of the host".into(),
            Step::Device(device) => format!("add the device {}", device.target),
            Step::File { target, .. } | Step::Bind { target, .. } | Step::View { target, .. } => {
                format!("mount {target}")
            }
            Step::Tmpfs { target, .. } => format!("mount tmpfs on {target}"),
            Step::Protect { .. } => "protect /proc and /sys".into(),
            Step::Pivot | Step::Chroot(_) => "change the root".into(),
            Step::Ulimits(_) => "set resource limits".into(),
            Step::User { user, .. } => format!("resolve user {user:?}"),
            Step::Cwd(path) => format!("change to working directory {path:?}"),
            Step::Seccomp => "load the filter of system calls".into(),
            Step::NoNewPrivileges => "refuse new privileges".into(),
            Step::Privileges { .. } => "drop privileges".into(),
            Step::Exec { .. } => "run the command".into(),
        }
    }
}
