//! One `FROM`, and the rules about it.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::globals::globals;
use super::{Base, SCRATCH, Stage, Stages};
use crate::ast::{From, Instruction, Kind, Word};
use crate::diag::{Code, Diagnostic};
use crate::env::Env;
use crate::expand::{self, Expansion};
use crate::image::{ImageRef, Platform};
use crate::lint::{Rule, Warning};
use crate::span::Span;
use crate::suggest;

/// After so many warnings no more names are compared.
const MAX_SUGGESTIONS: usize = 100;

impl<'a> Stages<'a> {
    /// Reads one `FROM`. After an error the stage is still there, so that what follows from its absence is not reported.
    pub(super) fn stage<'f>(
        &mut self,
        from: &'f From,
        span: Span,
        instructions: &'a [Instruction],
        errors: &mut Vec<Diagnostic>,
    ) -> Stage<'a> {
        let (mut uses, mut in_platform) = (BTreeSet::new(), BTreeSet::new());
        let mut warnings = Vec::new();
        let mut expand = |raw: &'f Word, used: &mut BTreeSet<SmolStr>| {
            let expanded = self.globals.expand(&raw.value, self.escape, used);
            let expanded = expanded.map_err(|error| error.diagnostic(raw))?;
            self.warn_of_undeclared(&expanded, span, &mut warnings);
            Ok::<_, Diagnostic>(expanded)
        };
        let image = expand(&from.image, &mut uses);
        let platform = from.platform.as_ref();
        let platform = platform.map(|raw| (raw, expand(raw, &mut in_platform)));
        let name = from.name.as_ref().map(|name| name.value.to_lowercase());
        if let Some((raw, Ok(platform))) = &platform {
            let name = name.as_deref().unwrap_or_default();
            self.warn_of_platform(raw, platform, &in_platform, (name, span), &mut warnings);
        }
        uses.append(&mut in_platform);
        self.warnings.append(&mut warnings);

        let mut keep = |error| errors.push(error);
        let text = image
            .as_ref()
            .map(|image| image.text.clone().into_owned())
            .unwrap_or_default();
        let base = image
            .and_then(|text| self.base(&from.image, &text))
            .unwrap_or_else(|error| {
                keep(error);
                Base::Scratch
            });
        let platform = platform.and_then(|(raw, text)| {
            text.and_then(|text| self.platform(raw, &text))
                .map_err(&mut keep)
                .ok()
        });
        let context = from
            .name
            .as_ref()
            .zip(name.as_ref())
            .and_then(|(typed, name)| {
                if let Err(reason) = ImageRef::check(name) {
                    let message = format!("invalid context name {name}: {reason}");
                    keep(Diagnostic::error(Code::StageName, typed.span, message));
                }
                let reserved = [SCRATCH, "context"].contains(&name.as_str());
                let platform = platform.as_ref().unwrap_or(&self.inputs.target_platform);
                self.context(name, platform).filter(|_| !reserved)
            });
        Stage {
            name,
            span,
            image: text,
            base,
            platform,
            instructions,
            context,
            sources: Vec::new(),
            images: Vec::new(),
            uses,
        }
    }

    fn base(&self, image: &Word, expanded: &Expansion<'_>) -> Result<Base, Diagnostic> {
        let text = &*expanded.text;
        if text.is_empty() {
            let message = format!("base name ({}) should not be blank", image.value);
            let error = Diagnostic::error(Code::ImageReference, image.span, message);
            return Err(match expanded.unset.first() {
                Some(name) => error.hint(format!(
                    "declare ARG {name} before the first FROM and give it a value"
                )),
                None => error.hint("give the ARG a value"),
            });
        }
        // Unlike `--from`, names are compared as they are written.
        match (self.names.get(text), text) {
            (Some(id), _) => Ok(Base::Stage(*id)),
            (None, SCRATCH) => Ok(Base::Scratch),
            (None, _) => {
                let unset = expanded.unset.first();
                let hint = unset.map(|name| {
                    format!("{name} has no value: give --build-arg {name}=… or write ARG {name}=… before the first FROM")
                });
                let found = self.reference(text, image.span).map_err(|mut error| {
                    error.hint = hint.or(error.hint);
                    error
                });
                found.map(Base::Image)
            }
        }
    }

    fn platform(&self, raw: &Word, expanded: &Expansion<'_>) -> Result<Platform, Diagnostic> {
        let message = if expanded.text.is_empty() {
            format!("empty platform value from expression {}", raw.value)
        } else {
            match Platform::parse(&expanded.text, &self.inputs.build_platform) {
                Ok(platform) => return Ok(platform),
                Err(reason) => format!("failed to parse platform {}: {reason}", raw.value),
            }
        };
        let mut error = Diagnostic::error(Code::Platform, raw.span, message);
        let near = expanded
            .unset
            .iter()
            .find_map(|name| suggest::nearest(name, self.globals.names()));
        error.hint = near.map(|name| format!("did you mean {name}?"));
        Err(error)
    }

    fn warn_of_undeclared(
        &self,
        expanded: &Expansion<'_>,
        span: Span,
        warnings: &mut Vec<Warning>,
    ) {
        for name in &expanded.unset {
            if self.globals.get(name).is_some() || self.global_args.contains_key(*name) {
                continue;
            }
            let near = match self.warnings.len() + warnings.len() {
                ..MAX_SUGGESTIONS => {
                    let args = self.global_args.keys().map(SmolStr::as_str);
                    suggest::nearest(name, self.globals.names().chain(args))
                }
                _ => None,
            };
            let near = near
                .map(|near| format!(" (did you mean {near}?)"))
                .unwrap_or_default();
            let message = format!("FROM argument '{name}' is not declared{near}");
            warnings.push(Warning::new(Rule::UndefinedArgInFrom, span, message));
        }
    }

    /// A constant platform makes a Dockerfile for one platform only, unless the stage's name says that it is meant so.
    fn warn_of_platform(
        &self,
        raw: &Word,
        expanded: &Expansion<'_>,
        used: &BTreeSet<SmolStr>,
        (name, span): (&str, Span),
        warnings: &mut Vec<Warning>,
    ) {
        const TARGET: &str = "TARGETPLATFORM";
        let text = &*expanded.text;
        let only_target = expanded.unset.is_empty() && used.iter().eq([TARGET]);
        if only_target && self.globals.get(TARGET) == Some(text) {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                raw.value
            );
            warnings.push(Warning::new(Rule::RedundantTargetPlatform, span, message));
        }
        let constant = expanded.unset.is_empty() && used.is_empty();
        let Ok(platform) = Platform::parse(text, &self.inputs.build_platform) else {
            return;
        };
        if constant && !name.contains(&*platform.os) && !name.contains(&*platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value {text:?}");
            warnings.push(Warning::new(
                Rule::FromPlatformFlagConstDisallowed,
                span,
                message,
            ));
        }
    }
}

/// Every base should be an image also where no `--build-arg` is given.
pub(super) fn warn_of_defaults(
    chunks: &[&[Instruction]],
    head: &[Instruction],
    escape: char,
    platforms: &Env,
    warnings: &mut Vec<Warning>,
) {
    let Ok((defaults, _)) = globals(head, escape, &Default::default(), platforms.clone()) else {
        return;
    };
    for instruction in chunks.iter().filter_map(|chunk| chunk.first()) {
        let Kind::From(from) = &instruction.kind else {
            continue;
        };
        let Ok(image) = expand::word(&from.image.value, escape, &|name| defaults.lookup(name))
        else {
            return;
        };
        if ImageRef::check(&image.text).is_err() {
            let name = &from.image.value;
            let message =
                format!("Default value for ARG {name} results in empty or invalid base image name");
            warnings.push(Warning::new(
                Rule::InvalidDefaultArgInFrom,
                instruction.span,
                message,
            ));
        }
    }
}
