//! What `COPY --from` and `RUN --mount=from=` take from.

use std::collections::BTreeSet;

use super::{SCRATCH, StageId, Stages};
use crate::ast::{Instruction, Kind, Word};
use crate::diag::{Code, Diagnostic, MAX_ERRORS};
use crate::expand;
use crate::image::ImageRef;
use crate::mount_from;
use crate::span::{Span, Spanned};
use crate::suggest;

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

impl Stages<'_> {
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

    pub(super) fn reference(&self, text: &str, span: Span) -> Result<ImageRef, Diagnostic> {
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

    /// Notes in each stage what its instructions take from.
    pub(super) fn find_sources(&mut self, errors: &mut Vec<Diagnostic>) {
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
    pub(super) fn refuse_cycles(&self, errors: &mut Vec<Diagnostic>) {
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
