//! The mounts of the caller, and what comes on top of them.

use super::{DEV_SIZE, Host, Plan, Resource, Stack, Step, sorted};
use crate::Error;
use crate::merge::Take;
use crate::spec::{Access, Limits, MountKind, RunSpec, Security};

impl Plan {
    /// Those of the caller.
    pub(super) fn mounts(&mut self, spec: &RunSpec, host: Host) -> Result<(), Error> {
        for (target, kind) in sorted(&spec.mounts)? {
            if is_new_dev(&target, kind) {
                continue;
            }
            let again = again(&target, spec, host);
            let step = self.mount(target, kind, (host, spec.security));
            self.steps.push(step);
            self.steps.extend(again);
        }
        Ok(())
    }

    fn mount(&mut self, target: String, kind: &MountKind, on: (Host, Security)) -> Step {
        let (host, security) = on;
        match kind {
            MountKind::Bind { source, readonly } => Step::Bind {
                target,
                source: self.slot(Resource::Tree(source.clone())),
                readonly: *readonly,
            },
            MountKind::Socket { path } => Step::Bind {
                target,
                source: self.slot(Resource::Tree(path.clone())),
                readonly: false,
            },
            MountKind::View {
                lowers,
                source,
                access,
                scratch,
            } => {
                let (lowers, source) = (lowers.clone(), source.clone());
                let (scratch, readonly) = (scratch.clone(), *access == Access::ReadOnly);
                match host.stack {
                    Stack::Overlay { user_xattrs } => Step::View {
                        target,
                        lowers,
                        source,
                        readonly,
                        scratch,
                        user_xattrs,
                    },
                    Stack::Copy => {
                        // A command that is not confined can make a mount writable.
                        let take = match security {
                            Security::Sandbox if readonly => Take::Link,
                            _ => Take::Copy,
                        };
                        let source = self.slot(Resource::Copy {
                            target: target.clone(),
                            lowers,
                            source,
                            scratch,
                            take,
                        });
                        Step::Bind {
                            target,
                            source,
                            readonly,
                        }
                    }
                }
            }
            MountKind::Tmpfs { size, mode } => Step::Tmpfs {
                target,
                size: *size,
                mode: mode.unwrap_or(0o1777),
            },
            MountKind::File {
                content,
                mode,
                uid,
                gid,
            } => {
                let content = self.slot(Resource::Bytes(content.clone()));
                Step::File {
                    target,
                    content,
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    exec: true,
                }
            }
        }
    }
}

/// What is in a directory that a mount of the caller covers, and comes on top of it, as with BuildKit.
fn again(target: &str, spec: &RunSpec, host: Host) -> Option<Step> {
    match target {
        "/dev" => Some(Step::DevAgain {
            tty_group: !host.single_id,
            shm: shm_size(spec),
        }),
        "/sys" => Some(Step::CgroupAgain {
            writable: spec.security == Security::Insecure,
        }),
        _ => None,
    }
}

pub(super) fn shm_size(spec: &RunSpec) -> u64 {
    spec.limits.shm_size.unwrap_or(Limits::DEFAULT_SHM)
}

/// A `tmpfs` on `/dev` takes the place of ours, as with BuildKit: the same devices are in it, its size is the caller's.
/// Anything else there covers ours, devices and all.
fn is_new_dev(target: &str, kind: &MountKind) -> bool {
    target == "/dev" && matches!(kind, MountKind::Tmpfs { .. })
}

/// How much `/dev` may hold in files; without a number the kernel bounds it.
pub(super) fn dev_size(spec: &RunSpec) -> Result<Option<u64>, Error> {
    let mounts = sorted(&spec.mounts)?;
    let given = mounts
        .iter()
        .find(|(target, kind)| is_new_dev(target, kind));
    Ok(match given {
        Some((_, MountKind::Tmpfs { size, .. })) => *size,
        _ => Some(DEV_SIZE),
    })
}
