//! RUN: a snapshot on the base, the step's mounts, the process, the commit.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lapstrake_cache::{CacheMount, Layer, Scratch};
use lapstrake_frontend::plan::{self, Mount as PlanMount, Run};
use lapstrake_runtime::{Access, Exit, Mount, MountKind, Process, Root, RunSpec, Security};

use super::Ops;
use super::agent::Agent;
use super::copy::MountSource;
use crate::build::local_platform;
use crate::engine::Task;
use crate::fs::Chain;

/// The status of a program that is there but cannot be executed, as shells have it.
const NOT_EXECUTABLE: i32 = 126;

/// The trees that mounts of the step read, in the order of those mounts.
pub(crate) struct RunJob {
    pub(crate) sources: Vec<MountSource>,
}

/// What must live as long as the step runs.
#[derive(Default)]
struct Held {
    caches: Vec<CacheMount>,
    scratches: Vec<Scratch>,
    agents: Vec<Agent>,
}

/// Runs the step on its base and commits what it changed.
pub(super) fn run(ops: &Ops, task: &Task, run: &Run, base: &Chain, job: &RunJob) -> Result<Layer> {
    let lowers = ops.materialise(task, base)?;
    let active = ops.store.snapshot(&lowers)?;
    let mut mounter = Mounter {
        ops,
        task,
        sources: job.sources.iter(),
        held: Held::default(),
        env: Vec::new(),
    };
    let mounts = mounter.all(run)?;
    let mut process = process(run);
    process.env.append(&mut mounter.env);
    let network = ops.network(run.network);
    let resolv_conf = ops.settings.resolv_conf(&network);
    let spec = RunSpec {
        root: Root {
            lowers,
            upper: active.upper().to_path_buf(),
            work: active.work().to_path_buf(),
        },
        process,
        mounts,
        network,
        hosts: ops.settings.hosts_file(&run.hostname),
        resolv_conf,
        security: match run.security {
            plan::Security::Sandbox => Security::Sandbox,
            plan::Security::Insecure => Security::Insecure,
        },
        limits: ops.settings.limits.clone(),
    };
    let exit = lapstrake_runtime::run(
        &spec,
        &mut |stream, data| ops.events.output(task, stream, data),
        &ops.cancel,
    )
    .context("run the step")?;
    drop(mounter);
    check(exit, run)?;
    ops.store
        .commit(active)
        .context("commit the step's changes")
}

fn process(run: &Run) -> Process {
    let mut env = run.env.clone();
    env.extend(run.proxy.iter().cloned());
    Process {
        argv: run.argv.clone(),
        env,
        cwd: run.cwd.clone(),
        user: run.user.clone(),
        hostname: run.hostname.clone(),
    }
}

/// A command that ended with another status than 0 fails the step.
fn check(exit: Exit, run: &Run) -> Result<()> {
    let how = match exit {
        Exit::Code(0) => return Ok(()),
        // The program could not be started: most often because it is for another machine.
        Exit::Code(NOT_EXECUTABLE)
            if run.platform.architecture != local_platform().architecture =>
        {
            format!(
                "it cannot run here: for {} register an emulator with binfmt_misc, for example by installing qemu-user-static",
                run.platform
            )
        }
        Exit::Code(code) => format!("exit code: {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}"),
        Exit::OutOfMemory => "killed: out of memory (exit code: 137)".to_owned(),
    };
    bail!(
        "process \"{}\" did not complete successfully: {how}",
        run.argv.join(" ")
    )
}

/// Builds the step's mounts one after another.
struct Mounter<'a> {
    ops: &'a Ops,
    task: &'a Task,
    sources: std::slice::Iter<'a, MountSource>,
    held: Held,
    /// Variables that mounts add to the step's environment.
    env: Vec<(String, String)>,
}

impl Mounter<'_> {
    fn all(&mut self, run: &Run) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for (name, text) in &run.script {
            let content = text.clone().into_bytes();
            let kind = MountKind::File {
                content,
                mode: 0o755,
                uid: 0,
                gid: 0,
            };
            mounts.push(Mount {
                target: format!("/dev/pipes/{name}"),
                kind,
            });
        }
        for mount in &run.mounts {
            mounts.extend(self.one(mount)?);
        }
        Ok(mounts)
    }

    fn one(&mut self, mount: &PlanMount) -> Result<Option<Mount>> {
        let (target, kind) = match mount {
            PlanMount::Bind {
                target,
                source,
                writable,
                ..
            } => (target, self.bind(source, *writable)?),
            PlanMount::Cache { target, .. } => (target, self.cache(mount)?),
            PlanMount::Tmpfs { target, size } => (
                target,
                MountKind::Tmpfs {
                    size: *size,
                    mode: None,
                },
            ),
            PlanMount::Secret {
                target,
                id,
                env,
                required,
                mode,
                uid,
                gid,
            } => {
                let secret = self.ops.secrets.get(id, *required)?;
                if let Some(name) = env {
                    let value = secret
                        .as_deref()
                        .map(String::from_utf8_lossy)
                        .unwrap_or_default();
                    self.env.push((name.clone(), value.into_owned()));
                }
                let (Some(target), Some(content)) = (target, secret) else {
                    return Ok(None);
                };
                (
                    target,
                    MountKind::File {
                        content,
                        mode: *mode,
                        uid: *uid,
                        gid: *gid,
                    },
                )
            }
            PlanMount::Ssh {
                target,
                id,
                required,
                mode,
                uid,
                gid,
            } => {
                self.env.push(("SSH_AUTH_SOCK".into(), target.clone()));
                let Some(path) = self.ops.secrets.ssh_socket(id, *required)? else {
                    return Ok(None);
                };
                let scratch = self.ops.store.scratch()?;
                let agent = Agent::start(scratch, &path, *mode, (*uid, *gid))?;
                let path = agent.socket();
                self.held.agents.push(agent);
                (target, MountKind::Socket { path })
            }
        };
        Ok(Some(Mount {
            target: target.clone(),
            kind,
        }))
    }

    fn next_source(&mut self) -> Result<Vec<PathBuf>> {
        let source = self.sources.next().context("a mount has no source")?;
        source.lowers(self.ops, self.task)
    }

    fn bind(&mut self, source: &str, writable: bool) -> Result<MountKind> {
        let lowers = self.next_source()?;
        let access = if writable {
            Access::Discard
        } else {
            Access::ReadOnly
        };
        let scratch = self.ops.store.scratch()?;
        let path = scratch.path().to_path_buf();
        self.held.scratches.push(scratch);
        Ok(MountKind::View {
            lowers,
            source: source.to_owned(),
            access,
            scratch: path,
        })
    }

    /// A cache mount's directory; when it is new it is seeded from `from` or given its mode and owner.
    fn cache(&mut self, mount: &PlanMount) -> Result<MountKind> {
        let PlanMount::Cache {
            id,
            sharing,
            readonly,
            from,
            source,
            mode,
            uid,
            gid,
            ..
        } = mount
        else {
            bail!("not a cache mount");
        };
        let seed = if from.is_some() {
            Some(self.next_source()?)
        } else {
            None
        };
        // Caches with the same id but another origin, mode or owner are different caches, as in BuildKit.
        let identity = format!("{id}\0{seed:?}\0{source}\0{mode:o}\0{uid}:{gid}");
        if self.task.node.ignore_cache {
            self.ops.renew_cache_mount(&identity)?;
        }
        let found = self
            .ops
            .store
            .cache_mount(&identity, super::sharing(*sharing))?;
        if found.fresh() {
            match &seed {
                Some(lowers) => super::copy::seed(lowers, source, found.path())?,
                None => super::owner::give(found.path(), *mode, *uid, *gid)?,
            }
        }
        let path = found.path().to_path_buf();
        self.held.caches.push(found);
        Ok(MountKind::Bind {
            source: path,
            readonly: *readonly,
        })
    }
}
