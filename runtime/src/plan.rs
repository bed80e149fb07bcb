//! From a [`RunSpec`] to the list of steps that a new process takes: a pure function.
//!
//! Order matters in a few places, and the reasons stand where the steps are put. The list is data, so that
//! `testdata/steps` can pin it and one place ([`crate::init`]) interprets it.

mod check;
mod mounts;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use check::sorted;

use crate::Error;
use crate::caps::{self, Capabilities};
use crate::merge::Take;
use crate::spec::{Device, Network, RunSpec, Security};
use check::check;
use mounts::{dev_size, shm_size};

/// Index of a descriptor that travels with the steps.
pub(crate) type Slot = usize;

/// Standard output of the command.
pub(crate) const STDOUT: Slot = 0;
/// Standard error of the command.
pub(crate) const STDERR: Slot = 1;
/// The first slot of [`Plan::resources`].
pub(crate) const FIRST: Slot = 2;

/// What of the host a plan depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Everything happens in a user namespace: no device nodes.
    pub(crate) user_namespace: bool,
    /// Only one id is mapped: no other owner, no supplementary groups.
    pub(crate) single_id: bool,
    /// How layers become one tree.
    pub(crate) stack: Stack,
}

/// How layers become one tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stack {
    /// As overlays, with attributes `user.*` or `trusted.*`.
    Overlay { user_xattrs: bool },
    /// As copies: that of the root is in its upper directory before the plan is carried out.
    #[default]
    Copy,
}

/// Steps, and the descriptors they refer to.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Slot [`FIRST`] and following.
    pub(crate) resources: Vec<Resource>,
    /// In order.
    pub(crate) steps: Vec<Step>,
}

/// Something that the parent opens and the child uses.
#[derive(Debug)]
pub(crate) enum Resource {
    /// A detached clone of a tree of mounts.
    Tree(PathBuf),
    /// A detached clone of a path in a copy of layers, which is made in a scratch directory.
    Copy {
        target: String,
        lowers: Vec<PathBuf>,
        source: String,
        scratch: PathBuf,
        take: Take,
    },
    /// An anonymous file.
    Bytes(Vec<u8>),
    /// A network namespace, behind this `pasta` or leading nowhere.
    Network(Option<PathBuf>),
    /// An open directory.
    Directory(std::os::fd::OwnedFd),
}

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

/// Docker's size of `/dev`.
const DEV_SIZE: u64 = 64 << 20;

/// Files that Docker, containerd or podman mask.
const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Trees of `/proc` that stay visible and cannot be written.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Computes the steps of `spec` on `host`.
pub(crate) fn plan(spec: &RunSpec, host: Host) -> Result<Plan, Error> {
    check(spec)?;
    let mut plan = Plan {
        resources: Vec::new(),
        steps: Vec::new(),
    };
    plan.namespaces(spec);
    plan.file_systems(spec, host)?;
    plan.mounts(spec, host)?;
    plan.confinement(spec, host);
    Ok(plan)
}

impl Plan {
    fn slot(&mut self, resource: Resource) -> Slot {
        self.resources.push(resource);
        FIRST + self.resources.len() - 1
    }

    fn namespaces(&mut self, spec: &RunSpec) {
        self.steps.extend([Step::Keyring, Step::CgroupNamespace]);
        let own = match &spec.network {
            Network::Host => None,
            Network::None => Some(Resource::Network(None)),
            Network::Isolated { pasta } => Some(Resource::Network(Some(pasta.clone()))),
        };
        if let Some(network) = own {
            let slot = self.slot(network);
            self.steps.push(Step::JoinNetwork(slot));
        }
        self.steps
            .push(Step::Hostname(spec.process.hostname.clone()));
    }

    fn file_systems(&mut self, spec: &RunSpec, host: Host) -> Result<(), Error> {
        let insecure = spec.security == Security::Insecure;
        let (upper, work) = (spec.root.upper.clone(), spec.root.work.clone());
        let root = match host.stack {
            Stack::Overlay { user_xattrs } => Step::Root {
                lowers: spec.root.lowers.clone(),
                upper,
                work,
                user_xattrs,
            },
            Stack::Copy => Step::CopiedRoot {
                tree: self.slot(Resource::Tree(upper.clone())),
                upper,
                work,
            },
        };
        self.steps.push(root);
        self.steps.push(Step::Proc);
        self.steps.push(Step::Dev {
            bind_nodes: host.user_namespace,
            tty_group: !host.single_id,
            size: dev_size(spec)?,
            shm: shm_size(spec),
        });
        // After JoinNetwork: a sysfs shows the network namespace of who mounts it.
        self.steps.push(Step::Sys { writable: insecure });
        if insecure {
            self.steps.push(Step::HostDevices);
        }
        let devices = spec.devices.iter().cloned();
        self.steps.extend(devices.map(Step::Device));
        for (target, text) in [
            ("/etc/resolv.conf", &spec.resolv_conf),
            ("/etc/hosts", &spec.hosts),
        ] {
            let content = self.slot(Resource::Bytes(text.clone().into_bytes()));
            self.steps.push(Step::File {
                target: target.into(),
                content,
                mode: 0o644,
                uid: 0,
                gid: 0,
                exec: false,
            });
        }
        Ok(())
    }

    fn confinement(&mut self, spec: &RunSpec, host: Host) {
        let sandbox = spec.security == Security::Sandbox;
        if sandbox {
            // After the mounts of the caller, so that none of them uncovers what is hidden.
            self.steps.push(Step::Protect {
                masked: MASKED.map(String::from).into(),
                readonly: READONLY.map(String::from).into(),
            });
        }
        self.steps.push(Step::Pivot);
        let capabilities = match spec.security {
            Security::Sandbox => Capabilities::Bounded(caps::DEFAULT),
            Security::Insecure => Capabilities::OfAnyone,
        };
        self.command(spec, host, capabilities);
    }

    /// What comes when the root is there; with the filter of system calls if `capabilities` are bounded.
    fn command(&mut self, spec: &RunSpec, host: Host, capabilities: Capabilities) {
        let ulimits = spec.limits.ulimits.iter();
        self.steps.push(Step::Ulimits(
            ulimits
                .map(|limit| (limit.name.clone(), limit.soft, limit.hard))
                .collect(),
        ));
        // After Pivot: names are those of the image. Cwd before Privileges: it may have to be created.
        self.steps.push(Step::User {
            user: spec.process.user.clone(),
            groups: !host.single_id,
            more: spec.process.additional_groups.clone(),
        });
        self.steps.push(Step::Cwd(spec.process.cwd.clone()));
        if matches!(capabilities, Capabilities::Bounded(_)) {
            // Before Privileges: without no_new_privs, loading a filter needs a capability that is dropped there.
            self.steps.push(Step::Seccomp);
        }
        self.steps.push(Step::Privileges { capabilities });
        if spec.no_new_privileges {
            self.steps.push(Step::NoNewPrivileges);
        }
        self.steps.push(Step::Exec {
            argv: spec.process.argv.clone(),
            env: spec.process.env.clone(),
        });
    }
}

/// The steps of `spec` where its root is put together beforehand ([`crate::bare`]): the directory in slot [`FIRST`].
pub(crate) fn bare_plan(spec: &RunSpec, root: std::os::fd::OwnedFd) -> Result<Plan, Error> {
    check(spec)?;
    let mut plan = Plan {
        resources: vec![Resource::Directory(root)],
        steps: vec![Step::Keyring, Step::Chroot(FIRST)],
    };
    plan.command(spec, Host::default(), Capabilities::OfRoot);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The plan as text: one line a step, one line a descriptor.
    fn render(plan: &Plan) -> String {
        let mut text = String::new();
        for step in &plan.steps {
            text.push_str(&serde_json::to_string(step).unwrap());
            text.push('\n');
        }
        for (index, resource) in plan.resources.iter().enumerate() {
            let what = match resource {
                Resource::Copy {
                    lowers,
                    source,
                    take,
                    ..
                } => format!("copy {take:?} {lowers:?} {source}"),
                Resource::Tree(path) => format!("tree {}", path.display()),
                Resource::Bytes(bytes) => format!("bytes {:?}", String::from_utf8_lossy(bytes)),
                Resource::Network(pasta) => format!("network {pasta:?}"),
                Resource::Directory(_) => "a directory".into(),
            };
            text.push_str(&format!("{} = {what}\n", FIRST + index));
        }
        text
    }

    /// Set `UPDATE=1` to write the expectations anew.
    #[test]
    fn steps_are_as_expected() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/steps");
        let mut seen = 0;
        for entry in fs::read_dir(directory).unwrap() {
            let case = entry.unwrap().path();
            let spec: RunSpec =
                serde_json::from_str(&fs::read_to_string(case.join("spec.json")).unwrap()).unwrap();
            let name = case.file_name().unwrap().to_string_lossy().into_owned();
            let host = Host {
                user_namespace: name.starts_with("user-"),
                single_id: name == "user-single",
                stack: match name.starts_with("copies") {
                    true => Stack::Copy,
                    false => Stack::Overlay {
                        user_xattrs: name.starts_with("user-"),
                    },
                },
            };
            let got =
                plan(&spec, host).map_or_else(|error| format!("{error}\n"), |plan| render(&plan));
            let expected = case.join("steps.txt");
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&expected, &got).unwrap();
            }
            assert_eq!(
                got,
                fs::read_to_string(&expected).unwrap_or_default(),
                "{name}"
            );
            seen += 1;
        }
        assert!(seen > 0);
    }
}
