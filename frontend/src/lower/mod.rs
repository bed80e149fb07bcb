//! From stages to a plan: every instruction of the needed stages becomes an op or a change of the config.
//!
//! Stages are walked in source order, so that a stage that is copied from is there when it is asked for. An error in one
//! instruction does not hide those in others.

mod arg;
mod begin;
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
mod text;

use crate::ast::{Dockerfile, Instruction, Kind};
use crate::diag::{Code, Diagnostic};
use crate::expand::{self, ExpandError};
use crate::lint::Warning;
use crate::plan::{Inputs, Lowered, OpId, Plan, Wanted};
use crate::span::{Span, Spanned};
use crate::stage::{Named, StageId, Stages};
use graph::Graph;
use origin::Origin;
pub use outline::{Outline, OutlineArg, OutlineMount, Target, targets};
use resolve::{Known, Resolved, Scope};
use state::{State, set_platform};

const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// An answer for which image configs may be needed first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// As [`Lowered::Need`].
    Need(Vec<Wanted>),
    /// Done.
    Ready(T),
}

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
        Resolved::Need(wanted) => return Ok(Lowered::Need(wanted)),
        Resolved::All(known) => known,
    };
    let mut lowering = Lowering::new(&stages, &known);
    lowering.stages();
    lowering.finish().map(|plan| Lowered::Ready(Box::new(plan)))
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
        Ok(Resolved::Need(wanted)) => Answer::Need(wanted),
        Err(errors) => Answer::Ready(Checked {
            warnings: stages.warnings,
            errors,
        }),
        Ok(Resolved::All(known)) => {
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
        Resolved::Need(wanted) => return Ok(Answer::Need(wanted)),
        Resolved::All(known) => known,
    };
    let mut lowering = Lowering::new(&stages, &known);
    lowering.stages();
    if lowering.errors.is_empty() {
        Ok(Answer::Ready(lowering.outline(dockerfile)))
    } else {
        Err(lowering.errors)
    }
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
    built: Vec<Option<State>>,
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
            errors: Vec::new(),
            warnings: stages.warnings.clone(),
        }
    }

    fn stages(&mut self) {
        for id in &self.known.reachable {
            self.stage(*id);
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
                if let Err(error) = self.instruction(&mut state, trigger) {
                    self.errors
                        .push(resolve::at_from(error, stage.span, &trigger.text));
                }
            }
            state.steps.onbuild = false;
            for instruction in stage.instructions {
                if let Err(error) = self.instruction(&mut state, instruction) {
                    self.errors.push(error);
                }
            }
        }
        self.warnings.append(&mut state.warnings);
        self.built[id.0] = Some(state);
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
                state.config.author = Some(name.clone());
                state.record(format!("MAINTAINER {name}"));
                Ok(())
            }
        }
    }

    /// Expands a word with what the stage has in scope. Variables that are not are warned of.
    fn expand(&self, state: &mut State, raw: &Spanned<String>) -> Result<String, Diagnostic> {
        self.expand_text(state, &raw.value)
            .map_err(|error| error.diagnostic(raw))
    }

    fn expand_text(&self, state: &mut State, raw: &str) -> Result<String, ExpandError> {
        let expanded = expand::word(raw, self.escape, &|name| state.env.lookup(name))?;
        state.warn_of_unset(&expanded.unset);
        Ok(expanded.text)
    }

    /// The name of a step from its instruction.
    fn step_name(&self, state: &mut State, text: &str) -> String {
        let shown = expand::word(text, self.escape, &|name| state.env.lookup(name));
        let shown = shown.map_or_else(|_| text.to_owned(), |expanded| expanded.text);
        state.steps.next(
            &name::upper_case_keyword(&shown),
            &state.platform,
            &state.env,
        )
    }

    /// The file system that a `--from` names.
    fn source(
        &mut self,
        state: &State,
        from: &Spanned<String>,
        user: &str,
        span: Span,
    ) -> Result<OpId, Diagnostic> {
        match self.stages.resolve(from)? {
            Named::Scratch => Ok(self.graph.scratch()),
            Named::Image(reference) => {
                let platform = &self.inputs.target_platform;
                let origin = Origin::of_image(self.stages, &reference, platform);
                let config = origin
                    .image()
                    .and_then(|image| self.known.config(image, platform));
                Ok(origin.node(
                    &mut self.graph,
                    platform,
                    config,
                    (span, &state.stage),
                    str::to_owned,
                ))
            }
            Named::Stage(id) => match &self.built[id.0] {
                Some(built) => Ok(built.fs),
                None => Err(
                    Diagnostic::error(Code::StageReference, from.span, user).hint(format!(
                        "move the stage {} before this one",
                        self.stages.label(id)
                    )),
                ),
            },
        }
    }

    fn finish(mut self) -> Result<Plan, Vec<Diagnostic>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let Some(state) = self.built[self.stages.target.0].take() else {
            let message = "the target stage was not built";
            return Err(vec![Diagnostic::error(
                Code::Target,
                Span::default(),
                message,
            )]);
        };
        let State {
            fs,
            mut config,
            mut history,
            ..
        } = state;
        for (name, value) in &self.inputs.labels {
            config.config.labels.insert(name.clone(), value.clone());
        }
        if !self.inputs.implicit_platform {
            set_platform(&mut config, &self.inputs.target_platform);
        }
        let normal = config.platform().normalized();
        (config.architecture, config.variant) = (normal.architecture, normal.variant);
        let (nodes, result) = self.graph.prune(fs, &mut history);
        let epoch = self
            .inputs
            .build_args
            .get("SOURCE_DATE_EPOCH")
            .map(String::as_str);
        let epoch = epoch.or_else(|| {
            self.stages
                .globals
                .get("SOURCE_DATE_EPOCH")
                .filter(|e| !e.is_empty())
        });
        Ok(Plan {
            nodes,
            result,
            platform: self.inputs.target_platform.clone(),
            config,
            history,
            source_date_epoch: epoch.map(str::to_owned),
            stages: self.known.reachable.iter().map(|id| id.0).collect(),
            warnings: self.warnings,
        })
    }
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
