//! Stages: what each is built on, which names and numbers mean which, and which of them the target needs.

pub(crate) mod epoch;
mod from;
mod globals;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use crate::ast::{Dockerfile, Instruction, Kind};
use crate::diag::{Code, Diagnostic, MAX_ERRORS};
use crate::env::Env;
use crate::image::{ImageRef, Platform, normalize_context_name};
use crate::lint::{self, Warning};
use crate::plan::{Inputs, NamedContext};
use crate::span::Span;
use crate::suggest;
use from::warn_of_defaults;
use globals::{globals, platform_args, target_name};

pub(crate) use globals::GlobalArg;
pub use sources::Named;

/// The name of the empty image.
pub(crate) const SCRATCH: &str = "scratch";

/// The index of a stage in [`Stages::stages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageId(pub usize);

/// The stages of a Dockerfile, with all names resolved.
#[derive(Debug)]
pub struct Stages<'a> {
    /// In source order.
    pub stages: Vec<Stage<'a>>,
    /// The stage to build.
    pub target: StageId,
    /// The variables of the `FROM` lines.
    pub(crate) globals: Env,
    /// The `ARG`s before the first `FROM`.
    pub(crate) global_args: BTreeMap<SmolStr, GlobalArg<'a>>,
    pub(crate) inputs: &'a Inputs,
    /// Of the rules about `FROM`.
    pub(crate) warnings: Vec<Warning>,
    /// The last stage of each name.
    names: BTreeMap<String, StageId>,
    pub(crate) escape: char,
}

/// One stage.
#[derive(Debug)]
pub struct Stage<'a> {
    /// In lower case.
    pub name: Option<String>,
    /// Of the `FROM`.
    pub span: Span,
    /// What the `FROM` names, expanded.
    pub image: String,
    /// What it begins with.
    pub base: Base,
    /// `--platform`.
    pub platform: Option<Platform>,
    /// The instructions after the `FROM`. Not run where `context` replaces the stage.
    pub instructions: &'a [Instruction],
    /// The `--build-context` that bears the stage's name, with its own name.
    pub context: Option<(&'a str, &'a NamedContext)>,
    /// The stages that `COPY --from` and `RUN --mount` take from, with the instruction.
    pub sources: Vec<(StageId, Span)>,
    /// The images that they take from.
    pub(crate) images: Vec<(ImageRef, Span)>,
    /// The variables in its `FROM`.
    pub(crate) uses: BTreeSet<SmolStr>,
}

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(StageId),
    /// An image, or the `--build-context` that bears its name.
    Image(ImageRef),
}

impl<'a> Stages<'a> {
    /// Resolves every name of the file. All independent errors are reported.
    pub fn new(dockerfile: &'a Dockerfile, inputs: &'a Inputs) -> Result<Self, Vec<Diagnostic>> {
        Self::read(dockerfile, inputs, &mut Vec::new())
    }

    /// [`Stages::new`], which where it fails still gives the warnings found so far.
    pub(crate) fn read(
        dockerfile: &'a Dockerfile,
        inputs: &'a Inputs,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let escape = dockerfile.directives.escape;
        let (head, chunks) = sections(dockerfile);
        let platforms = platform_args(inputs, target_name(&chunks, inputs));
        warn_of_defaults(&chunks, head, escape, &platforms, warnings);
        let (mut globals, global_args) = globals(head, escape, &inputs.build_args, platforms)?;
        inputs.put_epoch(&mut globals);
        let mut stages = Self {
            stages: Vec::new(),
            target: StageId(chunks.len().saturating_sub(1)),
            globals,
            global_args,
            inputs,
            warnings: std::mem::take(warnings),
            names: BTreeMap::new(),
            escape,
        };
        let mut errors = Vec::new();
        let check = inputs.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
        errors.extend(lint::validate(dockerfile, check.map(String::as_str)).err());
        for chunk in chunks {
            if errors.len() >= MAX_ERRORS {
                return Err(errors);
            }
            if let Some((
                Instruction {
                    kind: Kind::From(from),
                    span,
                    ..
                },
                instructions,
            )) = chunk.split_first()
            {
                let stage = stages.stage(from, *span, instructions, &mut errors);
                let id = StageId(stages.stages.len());
                stages
                    .names
                    .extend(stage.name.clone().map(|name| (name, id)));
                stages.stages.push(stage);
            }
        }
        if stages.stages.is_empty() {
            let message = "dockerfile contains no stages to build";
            return Err(vec![Diagnostic::error(
                Code::NoStages,
                Span::default(),
                message,
            )]);
        }
        stages.find_target(&mut errors);
        stages.find_sources(&mut errors);
        if errors.is_empty() {
            stages.refuse_cycles(&mut errors);
        }
        if errors.is_empty() {
            return Ok(stages);
        }
        *warnings = stages.warnings;
        Err(errors)
    }

    /// The bytes of the source up to the end of the last stage.
    pub(crate) fn length(&self) -> usize {
        let last = self.stages.last();
        let end = last.map(|stage| {
            stage
                .instructions
                .last()
                .map_or(stage.span, |last| last.span)
                .end
        });
        end.unwrap_or_default() as usize
    }

    /// The stage of an id.
    pub fn get(&self, id: StageId) -> &Stage<'a> {
        &self.stages[id.0]
    }

    /// The stage of a name, in any case. Of several the last.
    pub fn find(&self, name: &str) -> Option<StageId> {
        let id = self.names.get(name);
        id.or_else(|| self.names.get(&name.to_lowercase())).copied()
    }

    /// The stages that `target` is built from, itself included. `more` adds sources that only triggers name.
    pub fn reachable(&self, more: impl Fn(StageId) -> Vec<StageId>) -> BTreeSet<StageId> {
        let mut seen = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(id) = open.pop() {
            let stage = self.get(id);
            if !seen.insert(id) || stage.context.is_some() {
                continue;
            }
            if let Base::Stage(base) = stage.base {
                open.push(base);
            }
            open.extend(stage.sources.iter().map(|(source, _)| *source));
            open.extend(more(id));
        }
        seen
    }

    /// The `--build-context` for a name, if there is one: for the platform first, then for all.
    pub(crate) fn context(
        &self,
        name: &str,
        platform: &Platform,
    ) -> Option<(&'a str, &'a NamedContext)> {
        context_of(self.inputs, name, platform)
    }

    /// The names of the stages.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.name.as_deref())
    }

    fn find_target(&mut self, errors: &mut Vec<Diagnostic>) {
        let Some(name) = self
            .inputs
            .target
            .as_deref()
            .filter(|name| !name.is_empty())
        else {
            return;
        };
        if let Some(id) = self.find(name) {
            self.target = id;
            return;
        }
        let message = format!("target stage {name:?} could not be found");
        let mut error = Diagnostic::error(Code::Target, Span::default(), message);
        error.hint =
            suggest::nearest(name, self.names()).map(|name| format!("did you mean {name}?"));
        errors.push(error);
    }

    /// The name of a stage, or `stage-N` where it has none.
    pub(crate) fn label(&self, id: StageId) -> String {
        self.get(id)
            .name
            .clone()
            .unwrap_or_else(|| format!("stage-{}", id.0))
    }
}

/// What stands before the first `FROM`, and the stages, each from its `FROM` on.
fn sections(dockerfile: &Dockerfile) -> (&[Instruction], Vec<&[Instruction]>) {
    let is_from = |instruction: &Instruction| matches!(instruction.kind, Kind::From(_));
    let instructions = &dockerfile.instructions;
    let first = instructions.iter().position(is_from).unwrap_or_default();
    let (head, rest) = instructions.split_at(first);
    let stages = rest.chunk_by(|_, next| !is_from(next));
    (head, stages.collect())
}

fn context_of<'a>(
    inputs: &'a Inputs,
    name: &str,
    platform: &Platform,
) -> Option<(&'a str, &'a NamedContext)> {
    let contexts = &inputs.contexts;
    if contexts.is_empty() {
        return None;
    }
    let name = normalize_context_name(name).ok()?;
    let exact = contexts.get_key_value(&format!("{name}::{}", platform.normalized()));
    exact
        .or_else(|| contexts.get_key_value(&name))
        .map(|(name, context)| (name.as_str(), context))
}
