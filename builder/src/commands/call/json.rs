//! What is said of a Dockerfile, for programs: the documents of buildx.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lapstrake_frontend::span::{LineIndex, Span};
use lapstrake_frontend::{Outline, OutlineMount};
use serde_json::{Value, json};

use super::{Found, METHOD_VERSION, METHODS, MethodRow};
use crate::build::BuildError;
use crate::commands::build::Source;
use crate::progress::text;

/// JSON, where there is anything to say.
pub(super) fn as_json(source: &Source, found: &Found, error: Option<&BuildError>) -> Option<Value> {
    let index = LineIndex::new(&source.text);
    let data = BASE64_STANDARD.encode(&source.text);
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

/// An object without the members that are null.
fn object(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}
