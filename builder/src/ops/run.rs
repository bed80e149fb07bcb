//! RUN: a snapshot on the base, the step's mounts, the process, the commit.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lapstrake_cache::{CacheMount, Content, Layer, Scratch};
use lapstrake_frontend::plan::{self, Mount as PlanMount, Run, Sharing};
use lapstrake_runtime::{Access, Exit, Mount, MountKind, Process, Root, RunSpec, Security};

use super::agent::Agent;
use super::copy::{Found, MountSource};
use super::{Ops, key_of};
use crate::engine::Task;
use crate::fs::Chain;
use crate::ids;
use crate::machine;
use crate::travel;

/// The status of a program that is there but cannot be executed, as shells have it.
const NOT_EXECUTABLE: i32 = 126;

/// The trees that mounts of the step read, in the order of those mounts.
pub(crate) struct RunJob {
    pub(crate) sources: Vec<MountSource>,
    /// What was found out about each of them, by the digest of what it selects.
    pub(crate) found: Vec<(Content, Found)>,
}

/// What must live as long as the step runs.
#[derive(Default)]
struct Held {
    caches: BTreeMap<String, CacheMount>,
    scratches: Vec<Scratch>,
    agents: Vec<Agent>,
}

/// Runs the step on its base and commits what it changed.
pub(super) fn run(ops: &Ops, task: &Task, run: &Run, base: &Chain, job: &RunJob) -> Result<Layer> {
    for (content, found) in &job.found {
        found.list(ops, content)?;
    }
    let lowers = ops.materialise(task, base)?;
    let active = ops.store.snapshot(&lowers)?;
    let mut mounter = Mounter {
        ops,
        task,
        sources: job.sources.iter(),
        held: Held::default(),
        env: Vec::new(),
    };
    let given = ops.devices.get(&run.devices).cloned().unwrap_or_default();
    // The Dockerfile's own mounts come later, and so count, where both have the same target.
    let mounts = [given.mounts, mounter.all(run)?].concat();
    let mut process = process(run);
    process.env.extend(given.env);
    process.env.append(&mut mounter.env);
    process.additional_groups = given.groups;
    keep_last(&mut process.env);
    let network = ops.network(run.network)?;
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
        devices: given.nodes,
        no_new_privileges: ops.settings.visible.no_new_privileges,
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
    let env = run.env.iter();
    let env = env.map(|(name, value)| (name.to_string(), value.to_string()));
    let env = env.chain(run.proxy.iter().cloned()).collect();
    Process {
        argv: run.argv.iter().map(ToString::to_string).collect(),
        env,
        cwd: run.cwd.to_string(),
        user: run.user.to_string(),
        hostname: run.hostname.to_string(),
        additional_groups: Vec::new(),
    }
}

/// Caches with the same id but another origin, mode or owner are different caches, as in BuildKit.
pub(crate) fn identity(mount: &PlanMount, seed: Option<&[PathBuf]>) -> String {
    match mount {
        PlanMount::Cache {
            id,
            source,
            mode,
            uid,
            gid,
            ..
        } => {
            format!("{id}\0{seed:?}\0{source}\0{mode:o}\0{uid}:{gid}")
        }
        _ => String::new(),
    }
}

/// Of two mounts of one cache in a step the stricter sharing holds.
fn strictness(sharing: Sharing) -> u8 {
    match sharing {
        Sharing::Shared => 0,
        Sharing::Private => 1,
        Sharing::Locked => 2,
    }
}

/// Of equal names the last counts, as programs differ on which one they take.
fn keep_last(env: &mut Vec<(String, String)>) {
    let mut seen = HashSet::new();
    let last: Vec<bool> = env
        .iter()
        .rev()
        .map(|(name, _)| seen.insert(name.clone()))
        .collect();
    let mut last = last.into_iter().rev();
    env.retain(|_| last.next().unwrap_or(true));
}

/// A command that ended with another status than 0 fails the step.
fn check(exit: Exit, run: &Run) -> Result<()> {
    let how = match exit {
        Exit::Code(0) => return Ok(()),
        // The program could not be started: most often because it is for another machine.
        Exit::Code(NOT_EXECUTABLE)
            if run.platform.architecture != machine::platform().architecture =>
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
        let sources: Vec<Option<Vec<PathBuf>>> = run
            .mounts
            .iter()
            .map(|mount| self.source_of(mount))
            .collect::<Result<_>>()?;
        self.open_caches(run, &sources)?;
        for (mount, source) in run.mounts.iter().zip(sources) {
            mounts.extend(self.one(mount, source)?);
        }
        Ok(mounts)
    }

    fn one(&mut self, mount: &PlanMount, from: Option<Vec<PathBuf>>) -> Result<Option<Mount>> {
        let (target, kind) = match mount {
            PlanMount::Bind {
                target,
                source,
                writable,
                ..
            } => (target, self.bind(from, source, *writable)?),
            PlanMount::Cache { target, .. } => (target, self.cache(mount, from.as_deref())?),
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
                ids::check((*uid, *gid))?;
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
                let Some(path) = self.ops.secrets.ssh_socket(id, *required)? else {
                    return Ok(None);
                };
                ids::check((*uid, *gid))?;
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

    /// The layers that a mount reads, if it reads any.
    fn source_of(&mut self, mount: &PlanMount) -> Result<Option<Vec<PathBuf>>> {
        match mount {
            PlanMount::Bind { .. } | PlanMount::Cache { from: Some(_), .. } => {
                let source = self.sources.next().context("a mount has no source")?;
                source.lowers(self.ops, self.task).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn bind(
        &mut self,
        from: Option<Vec<PathBuf>>,
        source: &str,
        writable: bool,
    ) -> Result<MountKind> {
        let lowers = from.context("a mount has no source")?;
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

    /// Opens each cache of the step once, in the order of their names: steps that wait for each other's caches would wait
    /// for ever otherwise.
    fn open_caches(&mut self, run: &Run, sources: &[Option<Vec<PathBuf>>]) -> Result<()> {
        let mut wanted: BTreeMap<String, (Sharing, usize)> = BTreeMap::new();
        for (at, mount) in run.mounts.iter().enumerate() {
            if let PlanMount::Cache { sharing, .. } = mount {
                let entry = wanted
                    .entry(identity(mount, sources[at].as_deref()))
                    .or_insert((*sharing, at));
                if strictness(*sharing) > strictness(entry.0) {
                    entry.0 = *sharing;
                }
            }
        }
        for (identity, (sharing, at)) in wanted {
            let cache =
                self.open_cache(&identity, sharing, &run.mounts[at], sources[at].as_deref())?;
            self.held.caches.insert(identity, cache);
        }
        Ok(())
    }

    /// Opens a cache; when it is new it is made like its `from`, or given its mode and owner.
    fn open_cache(
        &self,
        identity: &str,
        sharing: Sharing,
        mount: &PlanMount,
        seed: Option<&[PathBuf]>,
    ) -> Result<CacheMount> {
        let PlanMount::Cache {
            source,
            mode,
            uid,
            gid,
            ..
        } = mount
        else {
            bail!("not a cache mount")
        };
        if self.task.node.ignore_cache {
            self.ops.renew_cache_mount(identity)?;
        }
        // Nobody else sees it before it is filled.
        let _lock = self
            .ops
            .store
            .lock_key(&key_of("cache mount", &[identity.as_bytes()]), &mut || ())?;
        let found = self
            .ops
            .store
            .cache_mount(identity, super::sharing(sharing))?;
        if found.fresh() {
            match seed {
                Some(lowers) => {
                    super::copy::seed(lowers, source, found.path())?;
                    super::owner::give_as(found.path(), lowers, source)?;
                }
                None => super::owner::give(found.path(), *mode, *uid, *gid)?,
            }
        }
        if seed.is_none() && !self.task.node.ignore_cache && found.is_empty()? {
            let step = self.ops.events.of(self.task);
            travel::fill(self.ops, &step, identity, &found)?;
            super::owner::give(found.path(), *mode, *uid, *gid)?;
        }
        Ok(found)
    }

    fn cache(&self, mount: &PlanMount, seed: Option<&[PathBuf]>) -> Result<MountKind> {
        let PlanMount::Cache { readonly, .. } = mount else {
            bail!("not a cache mount")
        };
        let found = self
            .held
            .caches
            .get(&identity(mount, seed))
            .context("a cache was not opened")?;
        Ok(MountKind::Bind {
            source: found.path().to_path_buf(),
            readonly: *readonly,
        })
    }
}
