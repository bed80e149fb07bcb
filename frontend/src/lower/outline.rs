//! What a target takes from outside: the answers to `--call=targets` and `--call=outline`.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::resolve::Known;
use super::{Lowering, State};
use crate::ast::{Dockerfile, Instruction, Kind};
use crate::plan::Mount;
use crate::span::Span;
use crate::stage::{Base, StageId, Stages};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// In lower case.
    pub name: Option<String>,
    /// The comment above the `FROM` that begins with the name, without it.
    pub description: Option<String>,
    /// It is built where no target is given.
    pub default: bool,
    /// What it is built on, as written.
    pub base: SmolStr,
    /// `--platform`, as written.
    pub platform: Option<SmolStr>,
    /// The `FROM`.
    pub span: Span,
}

/// What can be given to the build of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name.
    pub name: Option<String>,
    /// The comment above its `FROM` that begins with the name, without it.
    pub description: Option<String>,
    /// Build arguments, in source order.
    pub args: Vec<OutlineArg>,
    /// Secrets, in source order.
    pub secrets: Vec<OutlineMount>,
    /// SSH agents, in source order.
    pub ssh: Vec<OutlineMount>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// As `--build-arg` names it.
    pub name: SmolStr,
    /// The comment above the `ARG` that begins with the name, without it.
    pub description: Option<String>,
    /// Given or by default.
    pub value: Option<SmolStr>,
    /// The `ARG`.
    pub span: Span,
}

/// A secret or an SSH agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
    /// The `RUN`.
    pub span: Span,
}

/// What one stage takes from outside.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    args: BTreeMap<SmolStr, OutlineArg>,
    /// The names of arguments that come from before the first `FROM`.
    globals: BTreeSet<SmolStr>,
    secrets: BTreeMap<String, OutlineMount>,
    ssh: BTreeMap<String, OutlineMount>,
}

/// The stages that can be built, in source order.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let froms = dockerfile
        .instructions
        .iter()
        .filter_map(|instruction| match &instruction.kind {
            Kind::From(from) => Some((instruction, from)),
            _ => None,
        });
    let mut targets: Vec<Target> = froms
        .map(|(instruction, from)| {
            let name = from.name.as_ref().map(|name| name.value.to_lowercase());
            Target {
                description: name
                    .as_ref()
                    .and_then(|name| description(instruction, name)),
                name,
                default: false,
                base: from.image.value.clone(),
                platform: from
                    .platform
                    .as_ref()
                    .map(|platform| platform.value.clone()),
                span: instruction.span,
            }
        })
        .collect();
    if let Some(last) = targets.last_mut() {
        last.default = true;
    }
    targets
}

/// The rest of the comment line that begins with the name.
fn description(instruction: &Instruction, name: &str) -> Option<String> {
    let lines = instruction
        .comments
        .iter()
        .map(|comment| comment.value.as_str());
    lines
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .next()
        .map(str::to_owned)
}

impl State {
    /// Notes an `ARG`. One that only takes over a global one is described there.
    pub(super) fn note_arg(
        &mut self,
        instruction: &Instruction,
        name: &SmolStr,
        value: Option<&SmolStr>,
        from_global: bool,
    ) {
        if from_global {
            self.facts.globals.insert(name.clone());
            return;
        }
        let arg = OutlineArg {
            name: name.clone(),
            description: description(instruction, name),
            value: value.cloned(),
            span: self.at,
        };
        self.facts.args.insert(name.clone(), arg);
    }

    /// Notes the secrets and agents of a step. Of each the first counts.
    pub(super) fn note_mounts(&mut self, mounts: &[Mount]) {
        for mount in mounts {
            let (known, name, required) = match mount {
                Mount::Secret { id, required, .. } => (&mut self.facts.secrets, id, *required),
                Mount::Ssh { id, required, .. } => (&mut self.facts.ssh, id, *required),
                Mount::Bind { .. } | Mount::Cache { .. } | Mount::Tmpfs { .. } => continue,
            };
            let mount = OutlineMount {
                name: name.clone(),
                required,
                span: self.at,
            };
            known.entry(name.clone()).or_insert(mount);
        }
    }
}

impl Lowering<'_> {
    /// Gathers what the target and the stages under it take; what is nearer to the target counts.
    pub(super) fn outline(&self, dockerfile: &Dockerfile) -> Outline {
        let mut all = Facts::default();
        for id in nearest_first(self.stages, self.known) {
            let Some(built) = self.built.get(id.0).and_then(Option::as_ref) else {
                continue;
            };
            let globals = self
                .global_args(&built.facts, id)
                .into_iter()
                .map(|arg| (arg.name.clone(), arg));
            add(
                &mut all.args,
                built.facts.args.clone().into_iter().chain(globals),
            );
            add(&mut all.secrets, built.facts.secrets.clone());
            add(&mut all.ssh, built.facts.ssh.clone());
        }
        let target = targets(dockerfile).into_iter().nth(self.stages.target.0);
        let (name, description) = target
            .map(|target| (target.name, target.description))
            .unwrap_or_default();
        Outline {
            name,
            description,
            args: sorted(all.args, |arg| arg.span),
            secrets: sorted(all.secrets, |secret| secret.span),
            ssh: sorted(all.ssh, |agent| agent.span),
        }
    }

    /// The global arguments that a stage uses, and those that they are made of.
    fn global_args(&self, facts: &Facts, id: StageId) -> Vec<OutlineArg> {
        let mut names: Vec<&SmolStr> = facts
            .globals
            .iter()
            .chain(&self.stages.get(id).uses)
            .collect();
        let mut seen = BTreeSet::new();
        let mut args = Vec::new();
        while let Some(name) = names.pop() {
            let Some(arg) = self
                .stages
                .global_args
                .get(name)
                .filter(|_| seen.insert(name))
            else {
                continue;
            };
            names.extend(&arg.uses);
            args.push(OutlineArg {
                name: name.clone(),
                description: description(arg.instruction, name),
                value: arg.value.clone(),
                span: arg.instruction.span,
            });
        }
        args
    }
}

fn add<K: Ord, T>(all: &mut BTreeMap<K, T>, more: impl IntoIterator<Item = (K, T)>) {
    for (name, item) in more {
        all.entry(name).or_insert(item);
    }
}

fn sorted<K, T>(all: BTreeMap<K, T>, span: impl Fn(&T) -> Span) -> Vec<T> {
    let mut all: Vec<T> = all.into_values().collect();
    all.sort_by_key(span);
    all
}

/// The target, what it is built on, and what these take from.
fn nearest_first(stages: &Stages<'_>, known: &Known) -> Vec<StageId> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![stages.target];
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        order.push(id);
        open.extend(known.trigger_sources(id).iter().rev());
        open.extend(
            stages
                .get(id)
                .sources
                .iter()
                .rev()
                .map(|(source, _)| source),
        );
        if let Base::Stage(base) = stages.get(id).base {
            open.push(base);
        }
    }
    order
}
