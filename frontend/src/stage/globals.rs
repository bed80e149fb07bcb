//! The variables that `FROM` lines see.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{Instruction, Kind};
use crate::diag::Diagnostic;
use crate::env::Env;
use crate::expand;
use crate::plan::Inputs;

pub(super) fn target_name(chunks: &[&[Instruction]], inputs: &Inputs) -> String {
    let given = inputs.target.clone().filter(|name| !name.is_empty());
    let last = chunks.last().and_then(|chunk| match &chunk.first()?.kind {
        Kind::From(from) => from.name.as_ref().map(|name| name.value.to_lowercase()),
        _ => None,
    });
    given.or(last).unwrap_or_else(|| "default".to_owned())
}

/// An `ARG` before the first `FROM`.
#[derive(Debug)]
pub(crate) struct GlobalArg<'a> {
    /// The `ARG` instruction.
    pub(crate) instruction: &'a Instruction,
    /// Where it has one.
    pub(crate) value: Option<String>,
    /// The variables that its default was made of.
    pub(crate) uses: BTreeSet<String>,
}

/// The variables of the `FROM` lines: to those that are there, the `ARG`s before the first `FROM` are added.
pub(super) fn globals<'a>(
    head: &'a [Instruction],
    escape: char,
    build_args: &BTreeMap<String, String>,
    mut env: Env,
) -> Result<(Env, BTreeMap<String, GlobalArg<'a>>), Vec<Diagnostic>> {
    let mut args: BTreeMap<String, GlobalArg<'a>> = BTreeMap::new();
    let mut errors = Vec::new();
    for instruction in head {
        let Kind::Arg(list) = &instruction.kind else {
            continue;
        };
        for arg in list {
            let name = arg.name.value.as_str();
            let mut uses = BTreeSet::new();
            let value = match (build_args.get(name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    match expand::word(&default.value, escape, &|name| env.lookup(name)) {
                        Ok(expanded) => {
                            uses.extend(expanded.used.into_iter().map(str::to_owned));
                            Some(expanded.text.into_owned())
                        }
                        Err(error) => {
                            errors.push(error.diagnostic(default));
                            None
                        }
                    }
                }
                (None, None) => None,
            };
            if let Some(value) = &value {
                env.set(name, value);
            }
            // `ARG A=$A` builds on what the former `A` was made of.
            if uses.remove(name) {
                uses.extend(
                    args.get(name)
                        .into_iter()
                        .flat_map(|old| old.uses.iter().cloned()),
                );
            }
            args.insert(
                name.to_owned(),
                GlobalArg {
                    instruction,
                    value,
                    uses,
                },
            );
        }
    }
    if errors.is_empty() {
        Ok((env, args))
    } else {
        Err(errors)
    }
}

/// What every Dockerfile knows of its platforms.
pub(super) fn platform_args(inputs: &Inputs, target: String) -> Env {
    let (build, wanted) = (&inputs.build_platform, &inputs.target_platform);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut env = Env::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.short()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", text(&build.os_version)),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", text(&build.variant)),
        ("TARGETPLATFORM", wanted.to_string()),
        ("TARGETOS", wanted.os.clone()),
        ("TARGETOSVERSION", text(&wanted.os_version)),
        ("TARGETARCH", wanted.architecture.clone()),
        ("TARGETVARIANT", text(&wanted.variant)),
        ("TARGETSTAGE", target),
    ] {
        env.set(name, inputs.build_args.get(name).unwrap_or(&value));
    }
    env
}
