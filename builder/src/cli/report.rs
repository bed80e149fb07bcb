//! Mistakes on the command line, each as one line that says what to do.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Exit;
use crate::progress::text;

/// What to print for what the argument parser found: help and version are no mistakes.
pub(super) fn exit(error: &clap::Error, command: Option<&str>, colour: bool) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let text = error.render();
            let text = if colour {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            Exit { code: 0, text }
        }
        _ => usage(&message(error, command), command),
    }
}

/// A mistake in the use of `command`. What was typed may hold line ends and escapes; the message stays one line.
pub(super) fn usage(message: &str, command: Option<&str>) -> Exit {
    let command = command.map(|name| format!(" {name}")).unwrap_or_default();
    let message = text::name(message);
    let text = format!("error: {message} (see lapstrake{command} --help)\n");
    Exit { code: 1, text }
}

fn message(error: &clap::Error, command: Option<&str>) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        // Of several suggestions the last is the nearest.
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg);
    let value = text(ContextKind::InvalidValue);
    match (error.kind(), argument, value) {
        (ErrorKind::UnknownArgument, Some(argument), _) if argument.starts_with('-') => {
            let hint =
                text(ContextKind::SuggestedArg).map(|hint| format!("; did you mean {hint}?"));
            format!("unknown flag {argument}{}", hint.unwrap_or_default())
        }
        (ErrorKind::UnknownArgument, Some(argument), _) if command == Some("build") => {
            format!(
                "unexpected argument {argument:?}: build takes one context; flags with blanks in their value need quotes"
            )
        }
        (ErrorKind::UnknownArgument, Some(argument), _) => {
            format!("unexpected argument {argument:?}")
        }
        (ErrorKind::MissingRequiredArgument, Some(_), _) if command == Some("build") => {
            "the build context is missing: give a directory, for example: lapstrake build ."
                .to_owned()
        }
        (ErrorKind::MissingRequiredArgument, Some(argument), _) => {
            format!("missing argument {argument}")
        }
        (ErrorKind::InvalidSubcommand, ..) => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let hint = text(ContextKind::SuggestedSubcommand)
                .map(|hint| format!("; did you mean {hint}?"));
            format!("unknown command {name:?}{}", hint.unwrap_or_default())
        }
        (ErrorKind::InvalidValue, Some(argument), Some(value)) if value.is_empty() => {
            format!("{} lacks its value", flag(&argument))
        }
        (ErrorKind::ValueValidation, Some(argument), _) => {
            let why = std::error::Error::source(error)
                .map(ToString::to_string)
                .unwrap_or_default();
            format!("{}: {why}", flag(&argument))
        }
        _ => first_line(&error.to_string()),
    }
}

/// `--pull[=<BOOL>]` as people write it: `--pull`.
fn flag(argument: &str) -> &str {
    argument.split(['[', ' ', '=']).next().unwrap_or(argument)
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
