//! From stages to a plan: every instruction of the needed stages becomes an op or a change of the config.
//!
//! Stages are walked in source order, so that a stage that is copied from is there when it is asked for. An error in one
//! instruction does not hide those in others.

mod arg;
mod begin;
mod budget;
mod config;
mod copy;
mod expose;
mod graph;
mod mount;
mod name;
mod origin;
mod outline;
mod redact;
mod resolve;
mod run;
mod signal;
mod state;

use std::borrow::Cow;

use smol_str::SmolStr;

use crate::ast::{Dockerfile, Instruction, Kind, Word};
use crate::diag::{Code, Diagnostic, MAX_ERRORS};
use crate::expand::{self, ExpandError};
use crate::lint::Warning;
use crate::plan::{Answer, History, Inputs, Lowered, OpId, Plan};
use crate::span::Span;
use crate::stage::{Base, Named, StageId, Stages};
use budget::Budget;
use graph::Graph;
use origin::Taker;
use outline::Facts;
pub use outline::{Outline, OutlineArg, OutlineMount, Target, targets};
pub use redact::redact;
use resolve::{Known, Scope};
use state::{State, set_platform};

const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Of the rules that depend on lowering; [`crate::lint::lint`] takes them in.
    pub warnings: Vec<Warning>,
    /// Why the Dockerfile cannot be built.
    pub errors: Vec<Diagnostic>,
}

/// Lowers a Dockerfile for one platform. Asks for image configs until it has them all.
pub fn lower(dockerfile: &Dockerfile, inputs: &Inputs) -> Result<Lowered, Vec<Diagnostic>> {
    let stages = Stages::new(dockerfile, inputs)?;
    let known = match resolve::resolve(&stages, Scope::Target)? {
        Answer::Need(wanted) => return Ok(Answer::Need(wanted)),
        Answer::Ready(known) => known,
    };
    let mut lowering = Lowering::new(&stages, &known);
    lowering.stages();
    lowering.finish().map(|plan| Answer::Ready(Box::new(plan)))
}

/// Goes through the target with all that it needs, or where no target is given through every stage, for the sake of what
/// is wrong there.
pub fn check(dockerfile: &Dockerfile, inputs: &Inputs) -> Answer<Checked> {
    let mut checked = Checked::default();
    let stages = match Stages::read(dockerfile, inputs, &mut checked.warnings) {
        Ok(stages) => stages,
        Err(errors) => return Answer::Ready(Checked { errors, ..checked }),
    };
    let whole = inputs.target.as_deref().is_none_or(str::is_empty);
    let scope = if whole { Scope::All } else { Scope::Target };
    match resolve::resolve(&stages, scope) {
        Ok(Answer::Need(wanted)) => Answer::Need(wanted),
        Err(errors) => Answer::Ready(Checked {
            warnings: stages.warnings,
            errors,
        }),
        Ok(Answer::Ready(known)) => {
            let mut lowering = Lowering::new(&stages, &known);
            lowering.stages();
            Answer::Ready(Checked {
                warnings: lowering.warnings,
                errors: lowering.errors,
            })
        }
    }
}

/// What can be given to the build of the target.
pub fn outline(
    dockerfile: &Dockerfile,
    inputs: &Inputs,
) -> Result<Answer<Outline>, Vec<Diagnostic>> {
    let stages = Stages::new(dockerfile, inputs)?;
    let known = match resolve::resolve(&stages, Scope::Target)? {
        Answer::Need(wanted) => return Ok(Answer::Need(wanted)),
        Answer::Ready(known) => known,
    };
    let mut lowering = Lowering::new(&stages, &known);
    lowering.stages();
    if lowering.errors.is_empty() {
        Ok(Answer::Ready(lowering.outline(dockerfile)))
    } else {
        Err(lowering.errors)
    }
}

/// A stage that is done.
struct Built {
    fs: OpId,
    facts: Facts,
    /// Its own entries of the history; those before them are its base's.
    history: Vec<History>,
    /// What stages on it go on with; gone with the last of them.
    state: Option<State>,
}

struct Lowering<'a> {
    inputs: &'a Inputs,
    stages: &'a Stages<'a>,
    known: &'a Known,
    escape: char,
    /// Steps are named after their stage.
    labelled: bool,
    graph: Graph,
    /// The stages that are done.
    built: Vec<Option<Built>>,
    /// How many stages still go on with the state of each; the target counts as one.
    children: Vec<usize>,
    budget: Budget,
    /// The plan is too large: nothing more is looked at.
    stopped: bool,
    errors: Vec<Diagnostic>,
    warnings: Vec<Warning>,
}

impl<'a> Lowering<'a> {
    fn new(stages: &'a Stages<'a>, known: &'a Known) -> Self {
        Self {
            inputs: stages.inputs,
            stages,
            known,
            escape: stages.escape,
            labelled: is_labelled(stages),
            graph: Graph::default(),
            built: stages.stages.iter().map(|_| None).collect(),
            children: children(stages, known),
            budget: Budget::new(stages.length()),
            stopped: false,
            errors: Vec::new(),
            warnings: stages.warnings.clone(),
        }
    }

    fn stages(&mut self) {
        for id in &self.known.reachable {
            if !self.stopped && self.errors.len() < MAX_ERRORS {
                self.stage(*id);
            }
        }
    }

    fn stage(&mut self, id: StageId) {
        let stages = self.stages;
        let stage = stages.get(id);
        let mut state = self.begin(id, stage);
        if stage.context.is_none() {
            state.take_over_config();
            state.steps.onbuild = true;
            for trigger in self.known.triggers(id) {
                if let Err(error) = self.step(&mut state, trigger) {
                    self.errors
                        .push(resolve::at_from(error, stage.span, &trigger.text));
                }
            }
            state.steps.onbuild = false;
            for instruction in stage.instructions {
                if let Err(error) = self.step(&mut state, instruction) {
                    self.errors.push(error);
                }
            }
        }
        self.warnings.append(&mut state.warnings);
        self.built[id.0] = Some(Built {
            fs: state.fs,
            facts: std::mem::take(&mut state.facts),
            history: std::mem::take(&mut state.history),
            state: Some(state).filter(|_| self.children[id.0] > 0),
        });
    }

    /// One instruction, and what it takes of the budget.
    fn step(&mut self, state: &mut State, instruction: &Instruction) -> Result<(), Diagnostic> {
        if self.stopped || self.errors.len() >= MAX_ERRORS {
            return Ok(());
        }
        let result = self.instruction(state, instruction);
        let used = std::mem::take(&mut state.used);
        if let Err(error) = self.budget.take(used, instruction.span) {
            self.stop(error);
        }
        result
    }

    fn stop(&mut self, error: Diagnostic) {
        self.stopped = true;
        self.errors.push(error);
    }

    fn instruction(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        state.at = instruction.span;
        match &instruction.kind {
            // Divided into stages before.
            Kind::From(_) => Ok(()),
            Kind::Arg(args) => self.arg(state, instruction, args),
            Kind::Env(pairs) => self.env(state, pairs),
            Kind::Label(pairs) => self.label(state, pairs),
            Kind::Run(run) => self.run(state, instruction, run),
            Kind::Copy(copy) => self.copy(state, instruction, copy, copy::Verb::Copy),
            Kind::Add(copy) => self.copy(state, instruction, copy, copy::Verb::Add),
            Kind::Workdir(path) => self.workdir(state, instruction, path),
            Kind::User(user) => self.user(state, user),
            Kind::Cmd(command) => {
                self.cmd(state, instruction, command);
                Ok(())
            }
            Kind::Entrypoint(command) => {
                self.entrypoint(state, instruction, command);
                Ok(())
            }
            Kind::Shell(shell) => {
                self.shell(state, shell);
                Ok(())
            }
            Kind::Expose(ports) => self.expose(state, ports),
            Kind::Volume(paths) => self.volume(state, paths),
            Kind::Stopsignal(signal) => self.stopsignal(state, signal),
            Kind::Healthcheck(check) => {
                self.healthcheck(state, check);
                Ok(())
            }
            Kind::Onbuild(onbuild) => {
                state
                    .config
                    .config
                    .on_build
                    .push(onbuild.trigger.value.clone());
                Ok(())
            }
            Kind::Maintainer(name) => {
                state.config.author = Some(name.to_string());
                state.record(format!("MAINTAINER {name}"));
                Ok(())
            }
        }
    }

    /// Expands a word with what the stage has in scope. Variables that are not are warned of.
    fn expand(&self, state: &mut State, raw: &Word) -> Result<SmolStr, Diagnostic> {
        match self.expand_text(state, &raw.value) {
            Ok(Cow::Borrowed(text)) if text.len() == raw.value.len() => Ok(raw.value.clone()),
            Ok(text) => Ok(text.into()),
            Err(error) => Err(error.diagnostic(raw)),
        }
    }

    fn expand_text<'t>(
        &self,
        state: &mut State,
        raw: &'t str,
    ) -> Result<Cow<'t, str>, ExpandError> {
        let expanded = expand::word(raw, self.escape, &|name| state.env.lookup(name))?;
        state.warn_of_unset(&expanded.unset);
        Ok(expanded.text)
    }

    /// An instruction as the name of its step shows it.
    fn shown<'t>(&self, state: &State, text: &'t str) -> Cow<'t, str> {
        expand::word(text, self.escape, &|name| state.env.lookup(name))
            .map_or(Cow::Borrowed(text), |expanded| expanded.text)
    }

    /// The entries of a stage after those of the stages that it stands on.
    fn history(&mut self, target: StageId) -> Vec<History> {
        let mut parts = Vec::new();
        let mut next = Some(target);
        while let Some(id) = next {
            let built = self.built[id.0].as_mut();
            parts.extend(built.map(|built| std::mem::take(&mut built.history)));
            let stage = self.stages.get(id);
            next = match (stage.context, &stage.base) {
                (None, Base::Stage(base)) => Some(*base),
                _ => None,
            };
        }
        parts.into_iter().rev().flatten().collect()
    }

    fn finish(mut self) -> Result<Plan, Vec<Diagnostic>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let target = self.stages.target;
        let built = self.built[target.0].as_mut();
        let Some((fs, state)) = built.and_then(|built| Some((built.fs, built.state.take()?)))
        else {
            let message = "the target stage was not built";
            return Err(vec![Diagnostic::error(
                Code::Target,
                Span::default(),
                message,
            )]);
        };
        let mut config = state.config;
        let mut history = self.history(target);
        for (name, value) in &self.inputs.labels {
            config.config.labels.insert(name.into(), value.into());
        }
        if !self.inputs.implicit_platform {
            set_platform(&mut config, &self.inputs.target_platform);
        }
        let normal = config.platform().normalized();
        (config.architecture, config.variant) = (normal.architecture, normal.variant);
        let (nodes, result) = self.graph.prune(fs, &mut history);
        Ok(Plan {
            nodes,
            result,
            platform: self.inputs.target_platform.clone(),
            config,
            history,
            source_date_epoch: self.inputs.epoch.flatten(),
            stages: self.known.reachable.iter().map(|id| id.0).collect(),
            warnings: self.warnings,
        })
    }
}

/// How many stages go on with the state of each.
fn children(stages: &Stages<'_>, known: &Known) -> Vec<usize> {
    let mut children = vec![0; stages.stages.len()];
    children[stages.target.0] = 1;
    for id in &known.reachable {
        let stage = stages.get(*id);
        if let (None, Base::Stage(base)) = (stage.context, &stage.base) {
            children[base.0] += 1;
        }
    }
    children
}

/// BuildKit names steps after their stage where there is more than one, and counts each image that is copied from and
/// each mount without a stage as one.
fn is_labelled(stages: &Stages<'_>) -> bool {
    let takes_more = |instruction: &Instruction| match &instruction.kind {
        Kind::Run(run) => !run.mounts.is_empty(),
        Kind::Copy(copy) => copy
            .from
            .as_ref()
            .is_some_and(|from| !matches!(stages.resolve(from), Ok(Named::Stage(_)))),
        _ => false,
    };
    // What triggers add comes too late to count.
    let own = stages.stages.iter().flat_map(|stage| stage.instructions);
    stages.stages.len() > 1 || own.into_iter().any(takes_more)
}
