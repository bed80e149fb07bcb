//! What is said of a Dockerfile, for people.

use std::fmt::Write as _;

use lapstrake_frontend::lint::Warning;
use lapstrake_frontend::{Outline, Target};

use super::{Found, METHOD_VERSION, METHODS};
use crate::commands::build::Source;
use crate::commands::table::Table;
use crate::progress::{Excerpt, text};

/// Text, where there is anything to say; `failed` is whether an error follows.
pub(super) fn as_text(source: &Source, found: &Found, failed: bool) -> Option<String> {
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
        let mut table = Table::new(&["TARGET:", name]).gap(1);
        if let Some(text) = &outline.description {
            table.row(["DESCRIPTION:", text]);
        }
        let _ = writeln!(out, "{table}");
    }
    if !outline.args.is_empty() {
        let mut table = Table::new(&["BUILD ARG", "VALUE", "DESCRIPTION"]);
        for arg in &outline.args {
            table.row([
                arg.name.as_str(),
                arg.value.as_deref().unwrap_or_default(),
                arg.description.as_deref().unwrap_or_default(),
            ]);
        }
        let _ = writeln!(out, "{table}");
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if mounts.is_empty() {
            continue;
        }
        let mut table = Table::new(&[title, "REQUIRED"]);
        for mount in mounts {
            let required = if mount.required { "true" } else { "" };
            table.row([mount.name.as_str(), required]);
        }
        let _ = writeln!(out, "{table}");
    }
    out
}

fn targets_text(targets: &[Target]) -> String {
    let mut table = Table::new(&["TARGET", "DESCRIPTION"]).gap(1);
    for target in targets {
        let name = match (target.name.as_deref(), target.default) {
            (None, true) => "(default)".to_owned(),
            (Some(name), true) => format!("{name} (default)"),
            (name, false) => name.unwrap_or_default().to_owned(),
        };
        table.row([&name, target.description.as_deref().unwrap_or_default()]);
    }
    table.to_string()
}

fn methods_text() -> String {
    let mut table = Table::new(&["NAME", "VERSION", "DESCRIPTION"]).gap(1);
    for (name, description, _) in METHODS {
        let name = name.trim_start_matches("frontend.");
        table.row([name, METHOD_VERSION, description]);
    }
    table.to_string()
}
