//! Build checks: style rules that warn, known to users by the names that other builders gave them.
//!
//! [`lint`] applies the rules that the text alone decides. The others are found while lowering, which makes each
//! [`Warning`] with its constructor; [`lint`] takes them in, and drops what `# check=` switches off.

mod checks;
pub(crate) mod rules;

use std::collections::BTreeSet;

use crate::ast::Dockerfile;
use crate::diag::{Code, Diagnostic, Severity};
use crate::span::{LineIndex, Span};
use crate::text::quote;

use checks::Checks;

macro_rules! rule_table {
    ($($variant:ident $slug:literal $description:literal,)*) => {
        /// A style rule. Its name is the variant's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $description] $variant,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As written after `# check=skip=`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }

            /// What it asks for.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $description,)*
                }
            }

            fn slug(self) -> &'static str {
                match self {
                    $(Self::$variant => $slug,)*
                }
            }
        }
    };
}

rule_table! {
    StageNameCasing "stage-name-casing" "Stage names should be lowercase",
    FromAsCasing "from-as-casing" "The 'as' keyword should match the case of the 'from' keyword",
    NoEmptyContinuation "no-empty-continuation" "Empty continuation lines will become errors in a future release",
    ConsistentInstructionCasing "consistent-instruction-casing"
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    DuplicateStageName "duplicate-stage-name" "Stage names should be unique",
    ReservedStageName "reserved-stage-name" "Reserved words should not be used as stage names",
    JSONArgsRecommended "json-args-recommended"
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    MaintainerDeprecated "maintainer-deprecated"
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    UndefinedArgInFrom "undefined-arg-in-from" "FROM command must use declared ARGs",
    WorkdirRelativePath "workdir-relative-path"
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    UndefinedVar "undefined-var" "Variables should be defined before their use",
    MultipleInstructionsDisallowed "multiple-instructions-disallowed"
        "Multiple instructions of the same type should not be used in the same stage",
    LegacyKeyValueFormat "legacy-key-value-format"
        "Legacy key/value format with whitespace separator should not be used",
    InvalidBaseImagePlatform "" "Base image platform does not match expected target platform",
    RedundantTargetPlatform "redundant-target-platform"
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    SecretsUsedInArgOrEnv "secrets-used-in-arg-or-env" "Sensitive data should not be used in the ARG or ENV commands",
    InvalidDefaultArgInFrom "invalid-default-arg-in-from"
        "Default value for global ARG results in an empty or invalid base image name",
    FromPlatformFlagConstDisallowed "from-platform-flag-const-disallowed"
        "FROM --platform flag should not use a constant value",
    CopyIgnoredFile "copy-ignored-file" "Attempting to Copy file that is excluded by .dockerignore",
    InvalidDefinitionDescription "invalid-definition-description"
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ExposeProtoCasing "expose-proto-casing" "Protocol in EXPOSE instruction should be lowercase",
    ExposeInvalidFormat "expose-invalid-format"
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
}

impl Rule {
    /// A page that explains it.
    pub fn url(self) -> Option<String> {
        let slug = Some(self.slug()).filter(|slug| !slug.is_empty())?;
        Some(format!(
            "https://docs.docker.com/go/dockerfile/rule/{slug}/"
        ))
    }

    /// Rules that warn only where `# check=experimental=` names them.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

/// As its name.
#[cfg(feature = "serde")]
impl serde::Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A rule that a Dockerfile does not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Warning {
    /// Which.
    pub rule: Rule,
    /// The instruction, or a part of it.
    pub span: Span,
    /// What is wrong there.
    pub message: String,
}

impl Warning {
    /// Any rule; see the other constructors for those with a message of their own.
    pub fn new(rule: Rule, span: Span, message: impl Into<String>) -> Self {
        Self {
            rule,
            span,
            message: message.into(),
        }
    }

    /// A variable that is not set where it is used. `near` is the nearest name that is.
    pub fn undefined_var(span: Span, name: &str, near: Option<&str>) -> Self {
        let near = near
            .map(|near| format!(" (did you mean ${near}?)"))
            .unwrap_or_default();
        Self::new(
            Rule::UndefinedVar,
            span,
            format!("Usage of undefined variable '${name}'{near}"),
        )
    }

    /// `EXPOSE 80/TCP`; `port` as written, expanded.
    pub fn expose_proto_casing(span: Span, port: &str) -> Self {
        let message =
            format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        Self::new(Rule::ExposeProtoCasing, span, message)
    }

    /// `EXPOSE 127.0.0.1:80:80`; `port` as written, expanded.
    pub fn expose_invalid_format(span: Span, port: &str) -> Self {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        );
        Self::new(Rule::ExposeInvalidFormat, span, message)
    }

    /// The first `WORKDIR` of a stage and of those it stands on, when it is relative. `path` is expanded.
    pub fn workdir_relative_path(span: Span, path: &str) -> Self {
        let message = format!(
            "Relative workdir {} can have unexpected results if the base image changes",
            quote(path)
        );
        Self::new(Rule::WorkdirRelativePath, span, message)
    }

    /// A shell-form `CMD` or `ENTRYPOINT` (`keyword` as typed) where no `SHELL` is set.
    pub fn json_args_recommended(span: Span, keyword: &str) -> Self {
        let message = format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        );
        Self::new(Rule::JSONArgsRecommended, span, message)
    }

    /// A base image for another platform than wanted. Platforms as `os/arch[/variant]`.
    pub fn invalid_base_image_platform(
        span: Span,
        image: &str,
        expected: &str,
        actual: &str,
    ) -> Self {
        let message = format!(
            "Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"
        );
        Self::new(Rule::InvalidBaseImagePlatform, span, message)
    }

    /// A source that `.dockerignore` leaves out. `command`: `Copy` or `Add`.
    pub fn copy_ignored_file(span: Span, command: &str, path: &str) -> Self {
        let message = format!(
            "Attempting to {command} file {} that is excluded by .dockerignore",
            quote(path)
        );
        Self::new(Rule::CopyIgnoredFile, span, message)
    }

    /// `Name: message (line N)`, one line.
    pub fn summary(&self, index: &LineIndex) -> String {
        format!(
            "{}: {} (line {})",
            self.rule.name(),
            self.message,
            index.line(self.span.start)
        )
    }

    /// The warning as a finding, which can be rendered.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            code: Code::Rule(self.rule),
            span: self.span,
            message: self.message.clone(),
            hint: self.rule.url().map(|url| format!("see {url}")),
        }
    }
}

/// The outcome of [`lint`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// In source order.
    pub warnings: Vec<Warning>,
    /// With `# check=error=true` and any warning: why the build fails.
    pub error: Option<Diagnostic>,
}

/// Which stages are looked at by the rules that only concern what is built.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All of them, as `--check` does.
    All,
    /// Those that are built; see [`Plan::stages`](crate::plan::Plan::stages).
    Stages(&'a BTreeSet<usize>),
}

impl Scope<'_> {
    fn contains(self, stage: usize) -> bool {
        match self {
            Self::All => true,
            Self::Stages(stages) => stages.contains(&stage),
        }
    }
}

/// Applies the rules. `lowering` holds the warnings of the rules that depend on lowering. `check` replaces the
/// file's `# check=` directive, as the build argument `BUILDKIT_DOCKERFILE_CHECK` does. Fails on a bad directive.
pub fn lint(
    dockerfile: &Dockerfile,
    scope: Scope<'_>,
    lowering: Vec<Warning>,
    check: Option<&str>,
) -> Result<Report, Diagnostic> {
    let checks = Checks::of(dockerfile, check)?;
    let mut warnings = lowering;
    rules::apply(dockerfile, scope, &mut warnings);
    warnings.retain(|warning| checks.at(dockerfile, warning.span).allows(warning.rule));
    warnings.sort_by_key(|warning| (warning.span, warning.rule));
    warnings.dedup();
    let error = checks.fail.then(|| violation(&warnings)).flatten();
    Ok(Report { warnings, error })
}

/// What is found in a text that `errors` keep from being read, before the first of them: by the rules that look at one
/// instruction and nothing else.
pub fn lint_before(text: &str, errors: &[Diagnostic], check: Option<&str>) -> Vec<Warning> {
    const EARLY: [Rule; 5] = [
        Rule::StageNameCasing,
        Rule::FromAsCasing,
        Rule::NoEmptyContinuation,
        Rule::MaintainerDeprecated,
        Rule::InvalidDefinitionDescription,
    ];
    let first = errors.iter().map(|error| error.span.start as usize).min();
    let before = first.and_then(|first| text.get(..first));
    let whole_lines = before.and_then(|before| before.rfind('\n').map(|end| &before[..=end]));
    let Some(Ok(dockerfile)) = whole_lines.map(crate::parse) else {
        return Vec::new();
    };
    let report = lint(&dockerfile, Scope::All, Vec::new(), check);
    let warnings = report.map(|report| report.warnings).unwrap_or_default();
    let early = |warning: &Warning| EARLY.contains(&warning.rule);
    warnings.into_iter().filter(early).collect()
}

/// Refuses a `# check=`, or what is given in its place, that cannot be read.
pub(crate) fn validate(dockerfile: &Dockerfile, check: Option<&str>) -> Result<(), Diagnostic> {
    Checks::of(dockerfile, check).map(drop)
}

fn violation(warnings: &[Warning]) -> Option<Diagnostic> {
    let span = warnings.first()?.span;
    let names: BTreeSet<&str> = warnings.iter().map(|warning| warning.rule.name()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let message = format!("lint violation found for rules: {}", names.join(", "));
    Some(
        Diagnostic::error(Code::Check, span, message)
            .hint("the Dockerfile says `# check=error=true`"),
    )
}

#[cfg(test)]
mod tests;
