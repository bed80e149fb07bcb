//! From a [`RunSpec`] to the list of steps that a new process takes: a pure function.
//!
//! Order matters in a few places, and the reasons stand where the steps are put. The list is data, so that
//! `testdata/steps` can pin it and one place ([`crate::init`]) interprets it.

mod check;
mod mounts;
mod step;

use std::path::PathBuf;

pub(crate) use check::sorted;
pub(crate) use step::{FIRST, STDERR, STDOUT, Slot, Step};

use crate::Error;
use crate::caps::{self, Capabilities};
use crate::merge::Take;
use crate::spec::{Network, RunSpec, Security};
use check::check;
use mounts::{dev_size, shm_size};

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
