//! The variables that `FROM` lines see.

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

/// The platform variables and the `ARG`s before the first `FROM`.
pub(super) fn globals(
    head: &[Instruction],
    escape: char,
    inputs: &Inputs,
    target: String,
) -> Result<Env, Vec<Diagnostic>> {
    let mut env = platform_args(inputs, target);
    let mut errors = Vec::new();
    for instruction in head {
        let Kind::Arg(args) = &instruction.kind else {
            continue;
        };
        for arg in args {
            let name = arg.name.value.as_str();
            let value = match (inputs.build_args.get(name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    match expand::word(&default.value, escape, &|name| env.lookup(name)) {
                        Ok(expanded) => Some(expanded.text),
                        Err(error) => {
                            errors.push(error.diagnostic(default));
                            None
                        }
                    }
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                env.set(name, &value);
            }
        }
    }
    if errors.is_empty() {
        Ok(env)
    } else {
        Err(errors)
    }
}

fn platform_args(inputs: &Inputs, target: String) -> Env {
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
