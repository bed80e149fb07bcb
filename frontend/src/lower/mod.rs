//! From stages to a plan: every instruction of the needed stages becomes an op or a change of the config.
//!
//! Stages are walked in source order, so that a stage that is copied from is there when it is asked for. An error in one
//! instruction does not hide those in others.

mod arg;
mod config;
mod copy;
mod expose;
mod graph;
mod mount;
mod name;
mod origin;
mod resolve;
mod run;
mod signal;
mod state;
mod text;

use crate::ast::{Dockerfile, Instruction, Kind};
use crate::diag::{Code, Diagnostic};
use crate::env::Env;
use crate::expand::{self, ExpandError};
use crate::image::{Config, ImageConfig, Platform};
use crate::plan::{Inputs, Lowered, NoCache, OpId, Plan};
use crate::span::{Span, Spanned};
use crate::stage::{Base, Named, Stage, StageId, Stages};
use graph::Graph;
use name::Steps;
use origin::Origin;
use resolve::{Known, Resolved};
use state::{State, empty_image, set_platform};

const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// Lowers a Dockerfile for one platform. Asks for image configs until it has them all.
pub fn lower(dockerfile: &Dockerfile, inputs: &Inputs) -> Result<Lowered, Vec<Diagnostic>> {
    let stages = Stages::new(dockerfile, inputs)?;
    let known = match resolve::resolve(&stages)? {
        Resolved::Need(wanted) => return Ok(Lowered::Need(wanted)),
        Resolved::All(known) => known,
    };
    let mut lowering = Lowering {
        inputs,
        escape: dockerfile.directives.escape,
        labelled: is_labelled(&stages),
        stages: &stages,
        known: &known,
        graph: Graph::default(),
        built: stages.stages.iter().map(|_| None).collect(),
        errors: Vec::new(),
    };
    for id in &known.reachable {
        lowering.stage(*id);
    }
    lowering.finish().map(|plan| Lowered::Ready(Box::new(plan)))
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
}

impl Lowering<'_> {
    fn stage(&mut self, id: StageId) {
        let stages = self.stages;
        let stage = stages.get(id);
        let mut state = self.begin(id, stage);
        if stage.context.is_none() {
            state.take_over_config();
            let triggers = self
                .known
                .triggers
                .get(&id)
                .map(Vec::as_slice)
                .unwrap_or_default();
            for instruction in triggers {
                state.steps.onbuild = true;
                if let Err(error) = self.instruction(&mut state, instruction) {
                    self.errors.push(Diagnostic {
                        span: stage.span,
                        ..error
                    });
                }
            }
            state.steps.onbuild = false;
            for instruction in stage.instructions {
                if let Err(error) = self.instruction(&mut state, instruction) {
                    self.errors.push(error);
                }
            }
        }
        self.built[id.0] = Some(state);
    }

    /// The state after the `FROM`.
    fn begin(&mut self, id: StageId, stage: &Stage<'_>) -> State {
        let platform = stage
            .platform
            .as_ref()
            .unwrap_or(&self.inputs.target_platform);
        let mut state = State {
            id,
            fs: OpId(0),
            platform: platform.clone(),
            config: empty_image(platform),
            history: Vec::new(),
            env: Env::default(),
            args: Vec::new(),
            cwd: "/".to_owned(),
            has_cmd: false,
            steps: self.steps(id, stage),
            stage: stage.name.clone().unwrap_or_else(|| id.0.to_string()),
            ignore_cache: self.ignores_cache(stage),
        };
        match (stage.context, &stage.base) {
            (Some((name, context)), _) => {
                state.config.config = Config::default();
                self.begin_with(&mut state, stage, Origin::of_context(name, context));
                if !state.config.os.is_empty() && !state.config.architecture.is_empty() {
                    state.platform = state.config.platform();
                }
            }
            (None, Base::Image(reference)) => {
                self.begin_with(
                    &mut state,
                    stage,
                    Origin::of_image(self.stages, reference, platform),
                );
            }
            (None, Base::Scratch) => {
                state.platform = self.inputs.target_platform.clone();
                state.config = empty_image(&state.platform);
                state.fs = self.graph.scratch();
            }
            (None, Base::Stage(base)) => {
                if let Some(base) = self.built.get(base.0).and_then(Option::as_ref) {
                    let (steps, stage, ignore_cache) =
                        (state.steps, state.stage, state.ignore_cache);
                    state = State {
                        id,
                        has_cmd: false,
                        steps,
                        stage,
                        ignore_cache,
                        ..base.clone()
                    };
                    state.config.config.on_build.clear();
                }
            }
        }
        state
    }

    /// Begins with an image or a `--build-context`.
    fn begin_with(&mut self, state: &mut State, stage: &Stage<'_>, origin: Origin<'_>) {
        let config = origin
            .image()
            .and_then(|image| self.known.config(image, &state.platform));
        if let Some(config) = config {
            if stage.platform.is_none() && self.inputs.implicit_platform {
                state.platform = self.detect(config);
            }
            state.config = ImageConfig {
                created: None,
                ..config.clone()
            };
            state.config.config.on_build.clear();
        }
        let (steps, env, platform) = (&mut state.steps, &state.env, &state.platform);
        let name = |text: &str| steps.next(text, platform, env);
        let wanted = stage
            .platform
            .as_ref()
            .unwrap_or(&self.inputs.target_platform);
        state.fs = origin.node(
            &mut self.graph,
            wanted,
            config,
            (stage.span, &state.stage),
            name,
        );
    }

    /// Without `--platform`, an image that is for this machine too keeps its own platform.
    fn detect(&self, config: &ImageConfig) -> Platform {
        let target = &self.inputs.target_platform;
        let build = &self.inputs.build_platform;
        let same = |p: &Platform| p.os == config.os && p.architecture == config.architecture;
        if !same(target) && same(build) {
            build.clone()
        } else {
            target.clone()
        }
    }

    fn steps(&self, id: StageId, stage: &Stage<'_>) -> Steps {
        let own = stage.instructions.iter().filter(|i| {
            matches!(
                i.kind,
                Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
            )
        });
        let triggers = self.known.triggers.get(&id).map_or(0, Vec::len);
        let from = usize::from(matches!(stage.base, Base::Image(_)));
        Steps {
            label: if self.labelled {
                self.stages.label(id)
            } else {
                String::new()
            },
            total: from + own.count() + triggers,
            with_platform: self.inputs.multi_platform,
            ..Steps::default()
        }
    }

    fn ignores_cache(&self, stage: &Stage<'_>) -> bool {
        match &self.inputs.no_cache {
            NoCache::Use => false,
            NoCache::All => true,
            NoCache::Stages(names) => {
                let own = stage.name.as_deref().unwrap_or_default();
                names.iter().any(|name| name.eq_ignore_ascii_case(own))
            }
        }
    }

    fn instruction(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        match &instruction.kind {
            // Divided into stages before.
            Kind::From(_) => Ok(()),
            Kind::Arg(args) => self.arg(state, args),
            Kind::Env(pairs) => self.env(state, pairs),
            Kind::Label(pairs) => self.label(state, pairs),
            Kind::Run(run) => self.run(state, instruction, run),
            Kind::Copy(copy) => self.copy(state, instruction, copy, copy::Verb::Copy),
            Kind::Add(copy) => self.copy(state, instruction, copy, copy::Verb::Add),
            Kind::Workdir(path) => self.workdir(state, instruction, path),
            Kind::User(user) => self.user(state, user),
            Kind::Cmd(command) => {
                self.cmd(state, command);
                Ok(())
            }
            Kind::Entrypoint(command) => {
                self.entrypoint(state, command);
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

    /// Expands a word with what the stage has in scope.
    fn expand(&self, state: &State, raw: &Spanned<String>) -> Result<String, Diagnostic> {
        self.expand_text(state, &raw.value)
            .map_err(|error| error.diagnostic(raw))
    }

    fn expand_text(&self, state: &State, raw: &str) -> Result<String, ExpandError> {
        expand::word(raw, self.escape, &|name| state.env.lookup(name)).map(|expanded| expanded.text)
    }

    /// The name of a step from its instruction.
    fn step_name(&self, state: &mut State, text: &str) -> String {
        let shown = self
            .expand_text(state, text)
            .unwrap_or_else(|_| text.to_owned());
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
