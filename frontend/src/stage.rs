//! Stages: what each is built on, which names and numbers mean which, and which of them the target needs.

pub(crate) mod epoch;
mod from;
mod globals;

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use crate::ast::{Dockerfile, Instruction, Kind, Word};
use crate::diag::{Code, Diagnostic, MAX_ERRORS};
use crate::env::Env;
use crate::expand;
use crate::image::{ImageRef, Platform, normalize_context_name};
use crate::lint::{self, Warning};
use crate::mount_from;
use crate::plan::{Inputs, NamedContext};
use crate::span::{Span, Spanned};
use crate::suggest;
use from::warn_of_defaults;
use globals::{globals, platform_args, target_name};

pub(crate) use globals::GlobalArg;

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

/// What a `--from` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// `scratch`.
    Scratch,
    /// A stage, by name in any case or by number.
    Stage(StageId),
    /// Anything else is an image, or the `--build-context` that bears its name.
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
        let first = dockerfile
            .instructions
            .iter()
            .position(is_from)
            .unwrap_or_default();
        let (head, rest) = dockerfile.instructions.split_at(first);
        let chunks: Vec<&[Instruction]> = rest.chunk_by(|_, next| !is_from(next)).collect();

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

    /// What `RUN --mount=from=` means. Unlike `COPY`, it does not count stages: a number is an image's name. There is
    /// hardly such an image, so that where a stage has the number it was probably meant.
    pub fn resolve_mount(&self, from: &Word) -> Result<Named, Diagnostic> {
        let text = from.value.as_str();
        if let Some(named) = self.named(text) {
            return Ok(named);
        }
        let number = text.parse().is_ok_and(|at: usize| at < self.stages.len());
        if number && self.context(text, &self.inputs.target_platform).is_none() {
            let message = format!("a mount cannot take from stage {text} by its number");
            return Err(Diagnostic::error(Code::StageReference, from.span, message)
                .hint("name the stage with FROM … AS name, and write from=name"));
        }
        self.reference(text, from.span).map(Named::Image)
    }

    /// What `COPY --from` means.
    pub fn resolve(&self, from: &Word) -> Result<Named, Diagnostic> {
        let text = from.value.as_str();
        if let Some(named) = self.named(text) {
            return Ok(named);
        }
        let Ok(number) = text.parse::<i64>() else {
            return self.reference(text, from.span).map(Named::Image);
        };
        match usize::try_from(number) {
            Ok(index) if index < self.stages.len() => Ok(Named::Stage(StageId(index))),
            _ => {
                let message = format!("invalid stage index {number}");
                let last = self.stages.len() - 1;
                Err(Diagnostic::error(Code::StageReference, from.span, message)
                    .hint(format!("stages are counted from 0, the last is {last}")))
            }
        }
    }

    fn named(&self, text: &str) -> Option<Named> {
        match self.find(text) {
            Some(id) => Some(Named::Stage(id)),
            None => (text == SCRATCH).then_some(Named::Scratch),
        }
    }

    fn reference(&self, text: &str, span: Span) -> Result<ImageRef, Diagnostic> {
        text.parse().map_err(|reason| {
            let message = format!("failed to parse stage name {text:?}: {reason}");
            let mut error = Diagnostic::error(Code::ImageReference, span, message);
            error.hint = match self.find(text) {
                Some(id) => self
                    .get(id)
                    .name
                    .as_ref()
                    .map(|name| format!("did you mean {name}?")),
                None => {
                    suggest::nearest(text, self.names()).map(|name| format!("did you mean {name}?"))
                }
            };
            error
        })
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

    fn find_sources(&mut self, errors: &mut Vec<Diagnostic>) {
        for index in 0..self.stages.len() {
            if errors.len() >= MAX_ERRORS {
                return;
            }
            let (mut sources, mut images) = (Vec::new(), Vec::new());
            for instruction in self.stages[index].instructions {
                let span = instruction.span;
                match self.sources(instruction) {
                    Ok(found) => found.into_iter().for_each(|named| match named {
                        Named::Scratch => {}
                        Named::Stage(id) => sources.push((id, span)),
                        Named::Image(reference) => images.push((reference, span)),
                    }),
                    Err(error) if errors.len() < MAX_ERRORS => errors.push(error),
                    Err(_) => break,
                }
            }
            let stage = &mut self.stages[index];
            if stage.context.is_none() {
                (stage.sources, stage.images) = (sources, images);
            }
        }
    }

    /// What an instruction takes from.
    pub(crate) fn sources(&self, instruction: &Instruction) -> Result<Vec<Named>, Diagnostic> {
        let named = instruction_sources(instruction)?;
        let resolved = named.iter().map(|from| match instruction.kind {
            Kind::Run(_) => self.resolve_mount(from),
            _ => self.resolve(from),
        });
        resolved.collect()
    }

    /// Follows the sources from every stage; a path that comes back to itself is an error. No recursion: a file may
    /// hold any number of stages.
    fn refuse_cycles(&self, errors: &mut Vec<Diagnostic>) {
        let mut visited = BTreeSet::new();
        let mut on_path = vec![false; self.stages.len()];
        for start in 0..self.stages.len() {
            let mut path: Vec<(usize, usize)> = Vec::new();
            if visited.insert(start) {
                on_path[start] = true;
                path.push((start, 0));
            }
            while let Some((stage, next)) = path.last_mut() {
                let Some((StageId(source), span)) = self.stages[*stage].sources.get(*next).copied()
                else {
                    on_path[*stage] = false;
                    path.pop();
                    continue;
                };
                *next += 1;
                if on_path[source]
                    && let Some(begin) = path.iter().position(|(stage, _)| *stage == source)
                {
                    let round: Vec<_> = path[begin..]
                        .iter()
                        .map(|(stage, _)| self.label(StageId(*stage)))
                        .collect();
                    let message = format!("circular dependency detected on stage: {}", round[0]);
                    let hint = format!("{} -> {}", round.join(" -> "), round[0]);
                    errors.push(Diagnostic::error(Code::Cycle, span, message).hint(hint));
                    return;
                }
                if visited.insert(source) {
                    on_path[source] = true;
                    path.push((source, 0));
                }
            }
        }
    }

    /// The name of a stage, or `stage-N` where it has none.
    pub(crate) fn label(&self, id: StageId) -> String {
        self.get(id)
            .name
            .clone()
            .unwrap_or_else(|| format!("stage-{}", id.0))
    }
}

fn is_from(instruction: &Instruction) -> bool {
    matches!(instruction.kind, Kind::From(_))
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

/// What an instruction names with `--from`, as written.
fn instruction_sources(instruction: &Instruction) -> Result<Vec<Word>, Diagnostic> {
    match &instruction.kind {
        Kind::Copy(copy) => {
            let Some(from) = &copy.from else {
                return Ok(Vec::new());
            };
            let plain = expand::word(&from.value, '\\', &|_| None);
            if plain.is_ok_and(|plain| *plain.text == *from.value) {
                return Ok(vec![from.clone()]);
            }
            let message = "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                from global scope as a workaround";
            Err(Diagnostic::error(Code::StageReference, from.span, message))
        }
        Kind::Run(run) => Ok(run
            .mounts
            .iter()
            .filter_map(|raw| mount_from(&raw.value).map(|from| Spanned::new(from, raw.span)))
            .collect()),
        _ => Ok(Vec::new()),
    }
}
