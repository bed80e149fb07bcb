//! The report of a build that failed: the step's last output, the lines of the Dockerfile, the error.

use std::fmt::Write as _;

use lapstrake_frontend::redact;
use lapstrake_frontend::span::Span;

use super::text::{self, Colour};
use super::{StepId, Warning};

/// More lines of one instruction than this are not repeated.
const LONGEST_EXCERPT: usize = 20;

/// A wider line is cut.
const WIDEST_LINE: usize = 240;

/// A step that failed, as [`super::Display`] saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// Which.
    pub id: StepId,
    /// `[build 2/4] RUN make`.
    pub name: String,
    /// What [`super::Event::Failed`] said.
    pub error: String,
    /// Its last lines of output with their times, safe to print.
    pub tail: Vec<String>,
}

/// The lines of a source file that a failure comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt<'a> {
    /// How the file is called: `Dockerfile`.
    pub file: &'a str,
    /// All of its text.
    pub text: &'a str,
    /// The bytes to mark.
    pub span: Span,
}

/// Everything that is known about why a build failed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failure<'a> {
    /// The step, where one was running.
    pub step: Option<&'a FailedStep>,
    /// Where it comes from.
    pub source: Option<Excerpt<'a>>,
    /// The error, on one line or several.
    pub error: &'a str,
}

/// The report as text that ends in a line end, in BuildKit's form.
///
/// ```text
/// ------
///  > [2/2] RUN make:
/// 0.123 make: *** No targets specified and no makefile found.  Stop.
/// ------
/// Dockerfile:2
/// --------------------
///    1 |     FROM alpine
///    2 | >>> RUN make
/// --------------------
/// error: run "/bin/sh -c make": exit code 2
/// ```
pub fn render_failure(failure: &Failure<'_>) -> String {
    let mut out = String::new();
    if let Some(step) = failure.step {
        let _ = writeln!(out, "------\n > {}:", text::name(&step.name));
        for line in &step.tail {
            let _ = writeln!(out, "{line}");
        }
        out.push_str("------\n");
    }
    if let Some(excerpt) = &failure.source {
        excerpt.render(&mut out);
    }
    let mut paragraphs = text::paragraphs(failure.error);
    let _ = writeln!(out, "error: {}", paragraphs.next().unwrap_or_default());
    for line in paragraphs {
        let _ = writeln!(out, "{line}");
    }
    out
}

impl Excerpt<'_> {
    /// The first and the last line to mark, counted from 1.
    fn marked(&self) -> (usize, usize) {
        let line_of = |offset: u32| {
            let bytes = self.text.as_bytes();
            let end = (offset as usize).min(bytes.len());
            1 + bytes[..end].iter().filter(|&&b| b == b'\n').count()
        };
        let first = line_of(self.span.start);
        // A span that ends with its line end does not reach into the next line.
        let last = line_of(self.span.end.saturating_sub(1).max(self.span.start));
        (first, last)
    }

    /// Writes the lines with those around them, below the place of the first.
    pub fn render(&self, out: &mut String) {
        let (first, last) = self.marked();
        let around = if first == last { 2 } else { 1 };
        let _ = writeln!(
            out,
            "{}:{first}\n--------------------",
            text::name(self.file)
        );
        let shown = self
            .text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line));
        for (number, line) in shown
            .skip(first.saturating_sub(around + 1))
            .take_while(|(n, _)| *n <= last + around)
        {
            let skipped = last - first > LONGEST_EXCERPT
                && number > first + LONGEST_EXCERPT / 2
                && number < last;
            if skipped {
                if number == last - 1 {
                    let _ = writeln!(out, "     | >>> …");
                }
                continue;
            }
            let mark = if (first..=last).contains(&number) {
                ">>>"
            } else {
                "   "
            };
            let line = text::line(redact(line).as_bytes(), Colour::Drop);
            let _ = writeln!(
                out,
                " {number:3} | {mark} {}",
                text::fit(&line, WIDEST_LINE)
            );
        }
        out.push_str("--------------------\n");
    }
}

/// The warnings of a build as text, nothing where there are none. `detail` adds what each one explains.
///
/// ```text
///  1 warning found (use --debug to expand):
///  - StageNameCasing: stage name 'Build' should be lowercase (Dockerfile:1)
/// ```
pub fn render_warnings(warnings: &[Warning], detail: bool) -> String {
    let mut out = String::new();
    if warnings.is_empty() {
        return out;
    }
    let plural = if warnings.len() == 1 { "" } else { "s" };
    let hint = if detail {
        ""
    } else {
        " (use --debug to expand)"
    };
    let _ = writeln!(out, "\n {} warning{plural} found{hint}:", warnings.len());
    for warning in warnings {
        let _ = write!(out, " - {}", text::name(&redact(&warning.text)));
        if let Some((file, line)) = &warning.place {
            let _ = write!(out, " ({}:{line})", text::name(file));
        }
        out.push('\n');
        if detail {
            for line in warning.detail.iter().chain(&warning.url) {
                let _ = writeln!(out, "   {}", text::name(line));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn span_of(text: &str, part: &str) -> Span {
        let start = text.find(part).unwrap();
        Span {
            start: start as u32,
            end: (start + part.len()) as u32,
        }
    }

    fn report(text: &str, part: &str) -> String {
        let source = Some(Excerpt {
            file: "Dockerfile",
            text,
            span: span_of(text, part),
        });
        render_failure(&Failure {
            step: None,
            source,
            error: "no",
        })
    }

    #[test]
    fn a_failed_step() {
        let text = "FROM alpine\n\nRUN make\nCMD sh\n";
        let step = FailedStep {
            id: StepId(3),
            name: "[2/2] RUN make".into(),
            error: "exit code 2".into(),
            tail: vec!["0.100 compiling".into(), "0.200 no makefile".into()],
        };
        let source = Some(Excerpt {
            file: "Dockerfile",
            text,
            span: span_of(text, "RUN make"),
        });
        let failure = Failure {
            step: Some(&step),
            source,
            error: "run \"/bin/sh -c make\": exit code 2\n",
        };
        let expected = "\
------
 > [2/2] RUN make:
0.100 compiling
0.200 no makefile
------
Dockerfile:3
--------------------
   1 |     FROM alpine
   2 |     
   3 | >>> RUN make
   4 |     CMD sh
--------------------
error: run \"/bin/sh -c make\": exit code 2
";
        assert_eq!(render_failure(&failure), expected);
    }

    #[test]
    fn several_lines_are_all_marked() {
        let expected = "\
Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN x \\
   3 | >>>   y
   4 |     CMD z
--------------------
error: no
";
        assert_eq!(
            report("FROM a\nRUN x \\\n  y\nCMD z\nUSER u\n", "RUN x \\\n  y\n"),
            expected
        );
    }

    #[test]
    fn a_long_heredoc_is_shortened() {
        let body: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let text = format!("FROM a\nRUN <<EOF\n{body}EOF\nCMD z\n");
        let shown = report(
            &text,
            text.strip_prefix("FROM a\n")
                .unwrap()
                .strip_suffix("\nCMD z\n")
                .unwrap(),
        );
        assert!(shown.lines().count() < 25, "{shown}");
        assert!(shown.contains("     | >>> …\n 103 | >>> EOF\n"), "{shown}");
    }

    #[test]
    fn spans_outside_the_text_and_hostile_names_do_no_harm() {
        let source = Some(Excerpt {
            file: "Docker\x1b[2Jfile",
            text: "FROM a",
            span: Span { start: 90, end: 7 },
        });
        let shown = render_failure(&Failure {
            step: None,
            source,
            error: "a\x1b]0;t\x07b\nc",
        });
        assert_eq!(
            shown,
            "Docker\\u{1b}[2Jfile:1\n--------------------\n   1 | >>> FROM a\n--------------------\nerror: ab\nc\n"
        );
        let empty = render_failure(&Failure::default());
        assert_eq!(empty, "error: \n");
    }

    #[test]
    fn warnings() {
        let warning = Warning {
            text: "StageNameCasing: stage name 'B' should be lowercase".into(),
            detail: vec!["why".into()],
            url: Some("https://docs".into()),
            place: Some(("Dockerfile".into(), 1)),
            step: None,
        };
        assert_eq!(render_warnings(&[], false), "");
        let line = " - StageNameCasing: stage name 'B' should be lowercase (Dockerfile:1)\n";
        assert_eq!(
            render_warnings(std::slice::from_ref(&warning), false),
            format!("\n 1 warning found (use --debug to expand):\n{line}")
        );
        assert_eq!(
            render_warnings(&[warning.clone(), warning], true),
            format!(
                "\n 2 warnings found:\n{line}   why\n   https://docs\n{line}   why\n   https://docs\n"
            )
        );
    }
}
