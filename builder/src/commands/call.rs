//! `build --check` and `--call`: what can be said of a Dockerfile without building it, as text or as JSON, both in
//! buildx's form.

mod json;
mod text;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use lapstrake_frontend::ast::Dockerfile;
use lapstrake_frontend::lint::{Scope, Warning, lint, lint_before};
use lapstrake_frontend::plan::Inputs;
use lapstrake_frontend::stage::{StageId, Stages};
use lapstrake_frontend::{Outline, Target, outline, targets};

use super::Surroundings;
use super::build::{self, Prepared, Source, report_failure};
use crate::build::{BuildError, check_override};
use crate::cli::{BuildOptions, Method};
use crate::events::Events;
use crate::resolve::Resolver;

/// What was found out, with the error that kept more from being found out.
struct Answered {
    source: Option<Source>,
    found: Found,
    error: Option<BuildError>,
}

enum Found {
    Nothing,
    Warnings(Vec<Warning>),
    Outline(Outline),
    Targets(Vec<Target>),
    Methods,
}

/// Name, description, and the options with a description of each, where they are given at all.
type MethodRow = (
    &'static str,
    &'static str,
    Option<&'static [(&'static str, &'static str)]>,
);

/// What `subrequests.describe` lists, as BuildKit does.
const METHODS: [MethodRow; 3] = [
    (
        "frontend.outline",
        "List all parameters current build target supports",
        Some(&[("target", "Target build stage")]),
    ),
    (
        "frontend.targets",
        "List all targets current build supports",
        Some(&[]),
    ),
    (
        "frontend.subrequests.describe",
        "List available subrequest types",
        None,
    ),
];

/// The version of all of them.
const METHOD_VERSION: &str = "1.0.0";

/// Answers, and reports. Findings of `--check` make the exit status 1.
pub(super) fn run(
    surroundings: &Surroundings,
    options: &BuildOptions,
    method: Method,
    json: bool,
) -> ExitCode {
    let work = |prepared, events| answer(prepared, options, events, method);
    let (answered, summary) = match build::carry_out(surroundings, options, work) {
        Ok(both) => both,
        Err(error) => return super::end(&error),
    };
    let Answered {
        source,
        found,
        error,
    } = &answered;
    let shown = source.as_ref().and_then(|source| {
        if json {
            let value = json::as_json(source, found, error.as_ref())?;
            Some(format!("{value:#}\n"))
        } else {
            text::as_text(source, found, error.is_some())
        }
    });
    // A reader that went away has seen what it wanted.
    let _ = std::io::stdout().write_all(shown.unwrap_or_default().as_bytes());
    match (error, found) {
        (Some(error), _) => report_failure(source.as_ref(), &summary, error),
        (None, Found::Warnings(warnings)) if !warnings.is_empty() => ExitCode::FAILURE,
        (None, _) => ExitCode::SUCCESS,
    }
}

async fn answer(
    prepared: Prepared,
    options: &BuildOptions,
    events: Events,
    method: Method,
) -> Answered {
    let input = match prepared.read(options, &events).await {
        Ok(input) => input,
        Err(error) => {
            return Answered {
                source: None,
                found: Found::Nothing,
                error: Some(error.into()),
            };
        }
    };
    let (text, parsed) = lapstrake_frontend::parse_bytes(&input.dockerfile);
    let name = input.name.clone();
    if method == Method::Methods {
        return Answered {
            source: Some(Source { name, text }),
            found: Found::Methods,
            error: None,
        };
    }
    let inputs = build::inputs(options, &input).into_iter().next();
    let (found, error) = match (parsed, inputs) {
        (Ok(dockerfile), Some(inputs)) => {
            let Prepared { store, client, .. } = prepared;
            let resolver = Resolver::new(store, client, events, options.pull, input.layouts);
            find(&Arc::new(resolver), &dockerfile, inputs, method).await
        }
        (Err(errors), inputs) => (
            if method == Method::Check {
                let check = inputs.as_ref().and_then(check_override);
                Found::Warnings(lint_before(&text, &errors, check))
            } else {
                Found::Nothing
            },
            Some(BuildError::Dockerfile(errors)),
        ),
        (Ok(_), None) => (Found::Nothing, None),
    };
    Answered {
        source: Some(Source { name, text }),
        found,
        error,
    }
}

async fn find(
    resolver: &Arc<Resolver>,
    dockerfile: &Dockerfile,
    mut inputs: Inputs,
    method: Method,
) -> (Found, Option<BuildError>) {
    match method {
        Method::Methods => (Found::Methods, None),
        Method::Targets => (Found::Targets(targets(dockerfile)), None),
        Method::Outline => {
            let ask = |inputs: &Inputs| outline(dockerfile, inputs);
            match resolver.answer(&mut inputs, ask).await {
                Ok(outline) => (Found::Outline(outline), None),
                Err(error) => (Found::Nothing, Some(error.into())),
            }
        }
        Method::Check => check(resolver, dockerfile, inputs).await,
    }
}

async fn check(
    resolver: &Arc<Resolver>,
    dockerfile: &Dockerfile,
    mut inputs: Inputs,
) -> (Found, Option<BuildError>) {
    let ask = |inputs: &Inputs| Ok(lapstrake_frontend::check(dockerfile, inputs));
    let (warnings, error) = match resolver.answer(&mut inputs, ask).await {
        Ok(checked) => {
            let errors = Some(checked.errors).filter(|errors| !errors.is_empty());
            (checked.warnings, errors.map(BuildError::Dockerfile))
        }
        Err(error) => (Vec::new(), Some(error.into())),
    };
    let needed = needed(dockerfile, &inputs);
    let scope = needed.as_ref().map_or(Scope::All, Scope::Stages);
    match lint(dockerfile, scope, warnings, check_override(&inputs)) {
        Ok(report) => {
            let violation = report
                .error
                .map(|error| BuildError::Dockerfile(vec![error]));
            (Found::Warnings(report.warnings), error.or(violation))
        }
        Err(error) => (
            Found::Warnings(Vec::new()),
            Some(BuildError::Dockerfile(vec![error])),
        ),
    }
}

/// The stages that a target needs; without a target all are looked at.
fn needed(dockerfile: &Dockerfile, inputs: &Inputs) -> Option<BTreeSet<usize>> {
    inputs.target.as_ref()?;
    let stages = Stages::new(dockerfile, inputs).ok()?;
    let needed = stages.reachable(|_| Vec::new());
    Some(needed.into_iter().map(|StageId(index)| index).collect())
}
