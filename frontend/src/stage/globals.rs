//! The variables that `FROM` lines see.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::{SmolStr, StrExt as _, format_smolstr};

use crate::ast::{Instruction, Kind};
use crate::diag::Diagnostic;
use crate::env::Env;
use crate::plan::Inputs;

pub(super) fn target_name(chunks: &[&[Instruction]], inputs: &Inputs) -> SmolStr {
    let given = inputs.target.as_ref().filter(|name| !name.is_empty());
    let last = || match &chunks.last()?.first()?.kind {
        Kind::From(from) => Some(from.name.as_ref()?.value.to_lowercase_smolstr()),
        _ => None,
    };
    let name = given.map(SmolStr::new).or_else(last);
    name.unwrap_or(SmolStr::new_static("default"))
}

/// An `ARG` before the first `FROM`.
#[derive(Debug)]
pub(crate) struct GlobalArg<'a> {
    /// The `ARG` instruction.
    pub(crate) instruction: &'a Instruction,
    /// Where it has one.
    pub(crate) value: Option<SmolStr>,
    /// The variables that its default was made of.
    pub(crate) uses: BTreeSet<SmolStr>,
}

/// The variables of the `FROM` lines: to those that are there, the `ARG`s before the first `FROM` are added.
pub(super) fn globals<'a>(
    head: &'a [Instruction],
    escape: char,
    build_args: &BTreeMap<String, String>,
    mut env: Env,
) -> Result<(Env, BTreeMap<SmolStr, GlobalArg<'a>>), Vec<Diagnostic>> {
    let mut args: BTreeMap<SmolStr, GlobalArg<'a>> = BTreeMap::new();
    let mut errors = Vec::new();
    for instruction in head {
        let Kind::Arg(list) = &instruction.kind else {
            continue;
        };
        for arg in list {
            let name = &arg.name.value;
            let mut uses = BTreeSet::new();
            let value = match (build_args.get(name.as_str()), &arg.default) {
                (Some(given), _) => Some(SmolStr::new(given)),
                (None, Some(default)) => match env.expand(&default.value, escape, &mut uses) {
                    Ok(expanded) => Some(expanded.text.into()),
                    Err(error) => {
                        errors.push(error.diagnostic(default));
                        None
                    }
                },
                (None, None) => None,
            };
            if let Some(value) = &value {
                env.set(name.clone(), value.clone());
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
                name.clone(),
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
pub(super) fn platform_args(inputs: &Inputs, target: SmolStr) -> Env {
    let (build, wanted) = (&inputs.build_platform, &inputs.target_platform);
    let text = |value: &Option<SmolStr>| value.clone().unwrap_or_default();
    let mut env = Env::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.short().into()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", text(&build.os_version)),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", text(&build.variant)),
        ("TARGETPLATFORM", format_smolstr!("{wanted}")),
        ("TARGETOS", wanted.os.clone()),
        ("TARGETOSVERSION", text(&wanted.os_version)),
        ("TARGETARCH", wanted.architecture.clone()),
        ("TARGETVARIANT", text(&wanted.variant)),
        ("TARGETSTAGE", target),
    ] {
        let given = inputs.build_args.get(name).map(SmolStr::new);
        env.set(SmolStr::new_static(name), given.unwrap_or(value));
    }
    env
}
