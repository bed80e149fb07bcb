//! `# check=`: which rules are looked at, and whether they fail the build.

use std::collections::BTreeSet;

use crate::ast::{Dockerfile, Instruction};
use crate::diag::{Code, Diagnostic};
use crate::lint::Rule;
use crate::span::Span;
use crate::values;

/// A set of rule names, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn read(list: &str) -> Self {
        match list.trim() {
            "all" => Self {
                all: true,
                names: BTreeSet::new(),
            },
            list => Self {
                all: false,
                names: list.split(',').map(|name| name.trim().to_owned()).collect(),
            },
        }
    }

    fn contains(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }

    fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.names.extend(other.names);
    }
}

/// What a `# check=` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checks {
    skip: Names,
    experimental: Names,
    /// `error=true`.
    pub(super) fail: bool,
}

impl Checks {
    /// Of the whole file. `check` wins over the directive.
    pub(super) fn of(dockerfile: &Dockerfile, check: Option<&str>) -> Result<Self, Diagnostic> {
        let directive = dockerfile.directives.check.as_ref();
        let (text, span) = match (check, directive) {
            (Some(text), _) => (text, Span::default()),
            (None, Some(directive)) => (first_word(&directive.value), directive.span),
            (None, None) => return Ok(Self::default()),
        };
        Self::read(text).map_err(|message| {
            let error = Diagnostic::error(Code::Check, span, message);
            error.hint(
                "write skip=Rule,..., skip=all, error=true or experimental=Rule,..., joined by ;",
            )
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        let mut checks = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(checks);
        }
        for option in text.splitn(3, ';') {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| format!("invalid check option {option:?}"))?;
            match key.trim() {
                "skip" => checks.skip = Names::read(value),
                "experimental" => checks.experimental = Names::read(value),
                "error" => {
                    let value = values::boolean(value.trim());
                    checks.fail =
                        value.ok_or_else(|| format!("invalid check option {option:?}"))?;
                }
                other => return Err(format!("invalid check option {other:?}")),
            }
        }
        Ok(checks)
    }

    /// Of the instruction that holds `span`: the file's, and those of a `# check=` comment right above it.
    pub(super) fn at(&self, dockerfile: &Dockerfile, span: Span) -> Self {
        let next = dockerfile
            .instructions
            .partition_point(|found| found.span.start <= span.start);
        let own = next
            .checked_sub(1)
            .and_then(|index| dockerfile.instructions.get(index))
            .and_then(comment);
        let mut checks = self.clone();
        if let Some(own) = own {
            checks.skip.add(own.skip);
            checks.experimental.add(own.experimental);
        }
        checks
    }

    pub(super) fn allows(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.experimental.contains(rule)
        } else {
            !self.skip.contains(rule)
        }
    }
}

/// The first `check=` among an instruction's comments; a malformed one counts for nothing.
fn comment(instruction: &Instruction) -> Option<Checks> {
    let values = instruction
        .comments
        .iter()
        .filter_map(|comment| comment.value.split_once('='));
    let (_, value) = values
        .into_iter()
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("check"))?;
    Checks::read(first_word(value.trim_start())).ok()
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options() {
        let checks = Checks::read("skip=StageNameCasing, UndefinedVar;error=true").unwrap();
        assert!(checks.fail);
        assert!(!checks.allows(Rule::UndefinedVar) && checks.allows(Rule::FromAsCasing));
        assert!(!checks.allows(Rule::InvalidDefinitionDescription));
        assert!(!Checks::read("skip=all").unwrap().allows(Rule::FromAsCasing));
        assert!(
            Checks::read("experimental=all;skip=all")
                .unwrap()
                .allows(Rule::InvalidDefinitionDescription)
        );
        assert_eq!(
            Checks::read("error=yes").unwrap_err(),
            "invalid check option \"error=yes\""
        );
        assert_eq!(
            Checks::read("x=y").unwrap_err(),
            "invalid check option \"x\""
        );
        assert_eq!(
            Checks::read("skip").unwrap_err(),
            "invalid check option \"skip\""
        );
    }
}
