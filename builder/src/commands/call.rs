//! `build --check` and `--call`: what can be said of a Dockerfile without building it, as text or as JSON, both in
//! buildx's form.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lapstrake_frontend::ast::Dockerfile;
use lapstrake_frontend::lint::{Scope, Warning, lint, lint_before};
use lapstrake_frontend::plan::Inputs;
use lapstrake_frontend::span::{LineIndex, Span};
use lapstrake_frontend::stage::{StageId, Stages};
use lapstrake_frontend::{Outline, OutlineMount, Target, outline, targets};
use serde_json::{Value, json};

use super::Surroundings;
use super::build::{self, Prepared, Source, report_failure};
use crate::build::{BuildError, check_override};
use crate::cli::{BuildOptions, Method};
use crate::events::Events;
use crate::progress::{Excerpt, text};
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
            let value = as_json(source, found, error.as_ref())?;
            Some(format!("{value:#}\n"))
        } else {
            as_text(source, found, error.is_some())
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

fn as_text(source: &Source, found: &Found, failed: bool) -> Option<String> {
    match found {
        Found::Nothing => None,
        Found::Warnings(warnings) => Some(warnings_text(source, warnings, failed)),
        Found::Outline(outline) => Some(outline_text(outline)),
        Found::Targets(targets) => Some(targets_text(targets)),
        Found::Methods => Some(methods_text()),
    }
}

fn warnings_text(source: &Source, warnings: &[Warning], failed: bool) -> String {
    let mut out = match warnings.len() {
        0 if failed => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in warnings {
        let url = warning.rule.url().map(|url| format!(" - {url}"));
        let _ = write!(
            out,
            "\nWARNING: {}{}\n{}\n",
            warning.rule.name(),
            url.unwrap_or_default(),
            text::name(&warning.message)
        );
        let excerpt = Excerpt {
            file: &source.name,
            text: &source.text,
            span: warning.span,
        };
        excerpt.render(&mut out);
    }
    out
}

fn outline_text(outline: &Outline) -> String {
    let mut out = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut rows = vec![vec!["TARGET:", name]];
        rows.extend(
            outline
                .description
                .as_deref()
                .map(|text| vec!["DESCRIPTION:", text]),
        );
        columns(&mut out, 1, &rows);
        out.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(outline.args.iter().map(|arg| {
            vec![
                arg.name.as_str(),
                arg.value.as_deref().unwrap_or_default(),
                arg.description.as_deref().unwrap_or_default(),
            ]
        }));
        columns(&mut out, 3, &rows);
        out.push('\n');
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if mounts.is_empty() {
            continue;
        }
        let mut rows = vec![vec![title, "REQUIRED"]];
        rows.extend(mounts.iter().map(|mount| {
            let required = if mount.required { "true" } else { "" };
            vec![mount.name.as_str(), required]
        }));
        columns(&mut out, 3, &rows);
        out.push('\n');
    }
    out
}

fn targets_text(targets: &[Target]) -> String {
    let names: Vec<String> = targets
        .iter()
        .map(|target| match (&target.name, target.default) {
            (None, true) => "(default)".to_owned(),
            (name, default) => {
                let name = name.as_deref().unwrap_or_default();
                format!("{name}{}", if default { " (default)" } else { "" })
            }
        })
        .collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(
        names
            .iter()
            .zip(targets)
            .map(|(name, target)| vec![name, target.description.as_deref().unwrap_or_default()]),
    );
    let mut out = String::new();
    columns(&mut out, 1, &rows);
    out
}

fn methods_text() -> String {
    let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
    rows.extend(METHODS.map(|(name, description, _)| {
        let name = name.trim_start_matches("frontend.");
        vec![name, METHOD_VERSION, description]
    }));
    let mut out = String::new();
    columns(&mut out, 1, &rows);
    out
}

/// Writes rows of equally many cells, the columns `gap` blanks apart.
fn columns(out: &mut String, gap: usize, rows: &[Vec<&str>]) {
    let cell = |cell: &str| text::name(cell).to_string();
    let count = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let widths = rows.iter().map(|row| cell(row[column]).chars().count());
            widths.max().unwrap_or(0) + gap
        })
        .collect();
    for row in rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            let text = cell(text);
            let _ = write!(line, "{text:width$}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// An object without the members that are null.
fn object(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

fn as_json(source: &Source, found: &Found, error: Option<&BuildError>) -> Option<Value> {
    let index = LineIndex::new(&source.text);
    let data = STANDARD.encode(&source.text);
    match found {
        Found::Nothing => None,
        Found::Warnings(warnings) => {
            let warnings: Vec<Value> = warnings
                .iter()
                .map(|warning| {
                    object(json!({
                        "ruleName": warning.rule.name(),
                        "description": warning.rule.description(),
                        "url": warning.rule.url(),
                        "detail": warning.message,
                        "location": location(&index, &[warning.span]),
                    }))
                })
                .collect();
            let source = json!({ "filename": source.name, "data": data, "language": "Dockerfile" });
            Some(object(json!({
                "warnings": warnings,
                "sources": [source],
                "buildError": error.and_then(|error| error_json(&index, error)),
            })))
        }
        Found::Outline(outline) => Some(outline_json(&index, outline, &data)),
        Found::Targets(targets) => {
            let targets: Vec<Value> = targets
                .iter()
                .map(|target| {
                    object(json!({
                        "name": target.name,
                        "default": target.default.then_some(true),
                        "description": target.description,
                        "base": target.base,
                        "platform": target.platform,
                        "location": location(&index, &[target.span]),
                    }))
                })
                .collect();
            Some(json!({ "targets": targets, "sources": [data] }))
        }
        Found::Methods => Some(METHODS.map(method_json).into_iter().collect()),
    }
}

fn method_json((name, description, options): MethodRow) -> Value {
    let named =
        |(name, description): &(&str, &str)| json!({ "name": name, "description": description });
    let options: Option<Value> = options.map(|options| options.iter().map(named).collect());
    json!({
        "name": name,
        "version": METHOD_VERSION,
        "type": "rpc",
        "description": description,
        "opts": options,
        "inputs": null,
        "metadata": [named(&("result.json", "")), named(&("result.txt", ""))],
        "refs": null,
    })
}

fn outline_json(index: &LineIndex, outline: &Outline, data: &str) -> Value {
    let args = outline.args.iter().map(|arg| {
        object(json!({
            "name": arg.name,
            "description": arg.description,
            "value": arg.value.as_ref().filter(|value| !value.is_empty()),
            "location": location(index, &[arg.span]),
        }))
    });
    let args: Vec<Value> = args.collect();
    let mounts = |mounts: &[OutlineMount]| -> Option<Vec<Value>> {
        let shown = mounts.iter().map(|mount| {
            object(json!({
                "name": mount.name,
                "required": mount.required.then_some(true),
                "location": location(index, &[mount.span]),
            }))
        });
        Some(shown.collect()).filter(|shown: &Vec<_>| !shown.is_empty())
    };
    object(json!({
        "name": outline.name,
        "description": outline.description,
        "args": Some(args).filter(|args| !args.is_empty()),
        "secrets": mounts(&outline.secrets),
        "ssh": mounts(&outline.ssh),
        "sources": [data],
    }))
}

/// Lines only, as buildx gives them.
fn location(index: &LineIndex, spans: &[Span]) -> Value {
    let range = |span: &Span| {
        let (first, last) = index.lines(*span);
        json!({ "start": { "line": first }, "end": { "line": last } })
    };
    json!({ "ranges": spans.iter().map(range).collect::<Vec<_>>() })
}

fn error_json(index: &LineIndex, error: &BuildError) -> Option<Value> {
    let (message, spans) = match error {
        BuildError::Cancelled => return None,
        BuildError::Dockerfile(diagnostics) => {
            let messages: Vec<&str> = diagnostics.iter().map(|d| d.message.as_str()).collect();
            let spans = diagnostics.iter().map(|d| d.span).collect();
            (messages.join("\n"), spans)
        }
        BuildError::Step { span, error } => (text::causes(error), Vec::from_iter(*span)),
        BuildError::Other(error) => (text::causes(error), Vec::new()),
    };
    Some(json!({ "message": message, "location": location(index, &spans) }))
}
