//! The rules that the text alone decides.

use std::collections::BTreeSet;

use crate::ast::{ArgDefault, Dockerfile, From, Instruction, Kind, Pairs};
use crate::lint::{Rule, Scope, Warning};
use crate::span::Span;
use crate::text::quote;

/// The words that make a variable's name look like a secret's.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// The words that take that back.
const PUBLIC_WORDS: [&str; 3] = ["public", "file", "version"];

/// Adds the warnings of all rules of this module.
pub(super) fn apply(dockerfile: &Dockerfile, scope: Scope<'_>, warnings: &mut Vec<Warning>) {
    casing(dockerfile, warnings);
    stage_names(dockerfile, warnings);
    let mut stage = None;
    for instruction in &dockerfile.instructions {
        if matches!(instruction.kind, Kind::From(_)) {
            stage = Some(stage.map_or(0, |stage: usize| stage + 1));
        }
        everywhere(instruction, warnings);
        if stage.is_some_and(|stage| scope.contains(stage)) {
            in_stage(instruction, warnings);
        }
    }
    once(dockerfile, scope, warnings);
}

/// Rules about how something is written, whether it is built or not.
fn everywhere(instruction: &Instruction, warnings: &mut Vec<Warning>) {
    if let Some(line) = instruction.blank_line {
        warnings.push(Warning::new(
            Rule::NoEmptyContinuation,
            line,
            "Empty continuation line",
        ));
    }
    match &instruction.kind {
        Kind::Maintainer(_) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            warnings.push(Warning::new(
                Rule::MaintainerDeprecated,
                instruction.span,
                message,
            ));
        }
        Kind::From(from) => {
            as_casing(instruction, from, warnings);
            if let Some(name) = &from.name {
                description(instruction, "FROM", &[&name.value.to_lowercase()], warnings);
            }
        }
        Kind::Arg(args) => {
            let names: Vec<&str> = args.iter().map(|arg| arg.name.value.as_str()).collect();
            description(instruction, "ARG", &names, warnings);
        }
        _ => {}
    }
}

fn as_casing(instruction: &Instruction, from: &From, warnings: &mut Vec<Warning>) {
    let (Some(name), Some(word)) = (&from.name, &from.as_keyword) else {
        return;
    };
    if name.value != name.value.to_lowercase() {
        let message = format!("Stage name '{}' should be lowercase", name.value);
        warnings.push(Warning::new(Rule::StageNameCasing, name.span, message));
    }
    let keyword = instruction.keyword.value.as_str();
    let fits = match Casing::of(keyword) {
        Casing::Lower => Casing::of(&word.value) == Casing::Lower,
        Casing::Upper => Casing::of(&word.value) == Casing::Upper,
        // That the keyword is not consistent in itself is another rule's.
        Casing::Mixed => true,
    };
    if !fits {
        let message = format!(
            "'{}' and '{keyword}' keywords' casing do not match",
            word.value
        );
        warnings.push(Warning::new(Rule::FromAsCasing, word.span, message));
    }
}

/// The last comment line above a stage or an argument begins with its name.
fn description(
    instruction: &Instruction,
    keyword: &str,
    names: &[&str],
    warnings: &mut Vec<Warning>,
) {
    let (Some(comment), Some(first)) = (instruction.comments.last(), names.first()) else {
        return;
    };
    let word = comment.value.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    let message =
        format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    warnings.push(Warning::new(
        Rule::InvalidDefinitionDescription,
        instruction.span,
        message,
    ));
}

/// Rules about what is built.
fn in_stage(instruction: &Instruction, warnings: &mut Vec<Warning>) {
    match &instruction.kind {
        Kind::Env(pairs) => {
            legacy(instruction, pairs, warnings);
            for (key, _) in pairs.pairs.iter().filter(|(key, _)| is_plain(&key.value)) {
                warnings.extend(secret("ENV", &key.value, key.span));
            }
        }
        Kind::Label(pairs) => legacy(instruction, pairs, warnings),
        Kind::Arg(args) => {
            for ArgDefault { name, .. } in args {
                warnings.extend(secret("ARG", &name.value, name.span));
            }
        }
        _ => {}
    }
}

fn legacy(instruction: &Instruction, pairs: &Pairs, warnings: &mut Vec<Warning>) {
    if pairs.legacy {
        let keyword = &instruction.keyword.value;
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        warnings.push(Warning::new(
            Rule::LegacyKeyValueFormat,
            instruction.span,
            message,
        ));
    }
}

/// False for names that are known only when they are expanded, which lowering does.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.contains(['$', '\\', '`', '"', '\''])
}

/// A warning where the name of a variable looks like a secret's.
pub(crate) fn secret(instruction: &str, name: &str, span: Span) -> Option<Warning> {
    let lower = name.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
    if !has(&SECRET_WORDS) || has(&PUBLIC_WORDS) {
        return None;
    }
    let message = format!(
        "Do not use ARG or ENV instructions for sensitive data ({instruction} {})",
        quote(name)
    );
    Some(Warning::new(Rule::SecretsUsedInArgOrEnv, span, message))
}

/// Of several `CMD`, `ENTRYPOINT` or `HEALTHCHECK` of a stage all but the last are in vain.
fn once(dockerfile: &Dockerfile, scope: Scope<'_>, warnings: &mut Vec<Warning>) {
    let mut last: [Option<&Instruction>; 3] = [None; 3];
    let mut stage = None;
    for instruction in &dockerfile.instructions {
        let slot = match instruction.kind {
            Kind::From(_) => {
                stage = Some(stage.map_or(0, |stage: usize| stage + 1));
                last = [None; 3];
                continue;
            }
            Kind::Cmd(_) => 0,
            Kind::Entrypoint(_) => 1,
            Kind::Healthcheck(_) => 2,
            _ => continue,
        };
        let before = last[slot]
            .replace(instruction)
            .filter(|_| stage.is_some_and(|stage| scope.contains(stage)));
        if let Some(before) = before {
            let keyword = &instruction.keyword.value;
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            );
            warnings.push(Warning::new(
                Rule::MultipleInstructionsDisallowed,
                before.span,
                message,
            ));
        }
    }
}

fn stage_names(dockerfile: &Dockerfile, warnings: &mut Vec<Warning>) {
    let mut seen = BTreeSet::new();
    for instruction in &dockerfile.instructions {
        let Kind::From(From {
            name: Some(name), ..
        }) = &instruction.kind
        else {
            continue;
        };
        let lower = name.value.to_lowercase();
        if matches!(lower.as_str(), "context" | "scratch") {
            let message =
                format!("Stage name should not use the same name as reserved stage {lower:?}");
            warnings.push(Warning::new(Rule::ReservedStageName, name.span, message));
        }
        if !seen.insert(lower.clone()) {
            let message = format!("Duplicate stage name {lower:?}, stage names should be unique");
            warnings.push(Warning::new(Rule::DuplicateStageName, name.span, message));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
    Mixed,
}

impl Casing {
    fn of(word: &str) -> Self {
        if !word.contains(char::is_uppercase) {
            Self::Lower
        } else if !word.contains(char::is_lowercase) {
            Self::Upper
        } else {
            Self::Mixed
        }
    }
}

/// Keywords are written as most of them are, in upper case where there is no majority. Global arguments do not count.
fn casing(dockerfile: &Dockerfile, warnings: &mut Vec<Warning>) {
    let first = dockerfile
        .instructions
        .iter()
        .position(|found| matches!(found.kind, Kind::From(_)));
    let keywords = || {
        dockerfile
            .instructions
            .iter()
            .skip(first.unwrap_or(0))
            .map(|found| &found.keyword)
    };
    let count = |casing| {
        keywords()
            .filter(|keyword| Casing::of(&keyword.value) == casing)
            .count()
    };
    let (wanted, name) = match count(Casing::Lower) > count(Casing::Upper) {
        true => (Casing::Lower, "lowercase"),
        false => (Casing::Upper, "uppercase"),
    };
    for keyword in keywords().filter(|keyword| Casing::of(&keyword.value) != wanted) {
        let typed = &keyword.value;
        let message =
            format!("Command '{typed}' should match the case of the command majority ({name})");
        warnings.push(Warning::new(
            Rule::ConsistentInstructionCasing,
            keyword.span,
            message,
        ));
    }
}
