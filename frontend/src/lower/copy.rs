//! `COPY` and `ADD`.

mod source;

use smol_str::SmolStr;

use super::redact::redact;
use super::{Lowering, State, Taker};
use crate::ast::{self, Instruction, Source, Word};
use crate::chmod;
use crate::diag::{Code, Diagnostic};
use crate::ignore::Ignore;
use crate::paths;
use crate::plan::{Chmod, Copy, Op};
use crate::span::{Span, Spanned};
use crate::text;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Copy,
    Add,
}

/// An instruction with its flags expanded.
struct Request<'a> {
    verb: Verb,
    copy: &'a ast::Copy,
    checksum: Option<Word>,
    /// The name of the step, which downloads bear too.
    name: String,
    /// Of the instruction.
    span: Span,
}

impl Lowering<'_> {
    pub(super) fn copy(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
        copy: &ast::Copy,
        verb: Verb,
    ) -> Result<(), Diagnostic> {
        let from = match &copy.from {
            Some(from) => Some(self.source(state, from, Taker::Copy, instruction.span)?),
            None => None,
        };
        let chown = self
            .flag(state, copy.chown.as_ref())?
            .map(|chown| chown.value);
        let chmod = self.chmod(state, copy)?;
        // BuildKit has no way to change modes in a layer of its own.
        let link = copy.link && chmod.is_none();
        if let (Some(owner), Some(flag)) = (&chown, &copy.chown) {
            let blind = link.then_some("a layer made with --link does not see the image's users");
            self.check_owner(state, owner, blind, flag.span)?;
        }
        let checksum = self.flag(state, copy.checksum.as_ref())?;
        check_excludes(copy)?;
        let destination = self.expand(state, &copy.destination)?;

        let name = state.next_step(&redact(&self.shown(state, &instruction.text)));
        let request = Request {
            verb,
            copy,
            checksum,
            name,
            span: instruction.span,
        };
        let mut shown = request.shown_flags(
            chown.as_deref(),
            chmod.as_ref().map(|(_, text)| text.as_str()),
        );
        let mut sources = Vec::with_capacity(copy.sources.len());
        for raw in &copy.sources {
            if let Source::Path(raw) = raw {
                let path = self.expand(state, raw)?;
                shown.extend([" ", &redact(&path)]);
                sources.push(self.copy_source(
                    state,
                    &request,
                    from,
                    &Spanned::new(path, raw.span),
                )?);
            }
        }
        for heredoc in &copy.sources {
            if let Source::Heredoc(heredoc) = heredoc {
                shown.extend([" <<", &heredoc.name]);
                sources.push(source::inline(state, heredoc)?);
            }
        }
        shown.extend([" ", &destination, " # buildkit"]);

        let op = Copy {
            base: state.fs,
            sources,
            destination: paths::resolve(&state.cwd, &destination),
            chown,
            link,
            chmod: chmod.map(|(mode, _)| mode),
            parents: copy.parents,
            excludes: copy
                .excludes
                .iter()
                .map(|pattern| pattern.value.to_string())
                .collect(),
        };
        let mut node = state.node(Op::Copy(Box::new(op)), request.name, instruction.span);
        node.ignore_cache = state.ignore_cache;
        state.commit(&mut self.graph, node, shown);
        Ok(())
    }

    /// A flag's value; an empty one counts as not given.
    fn flag(&self, state: &mut State, raw: Option<&Word>) -> Result<Option<Word>, Diagnostic> {
        let Some(raw) = raw else { return Ok(None) };
        let value = self.expand(state, raw)?;
        Ok(Some(Spanned::new(value, raw.span)).filter(|flag| !flag.value.is_empty()))
    }

    /// Names of users and groups need an image that says which numbers they have. `blind` says why there is none.
    pub(super) fn check_owner(
        &self,
        state: &State,
        owner: &str,
        blind: Option<&str>,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let empty = self.graph.is_scratch(state.fs);
        let Some(why) = blind.or(empty.then_some("there is no image yet that has users")) else {
            return Ok(());
        };
        let number = |part: &str| matches!(part, "" | "root") || part.parse::<i32>().is_ok();
        match owner.splitn(2, ':').find(|part| !number(part)) {
            None => Ok(()),
            Some(name) => {
                let message = format!("the owner {} has no number: {why}", text::quote(name));
                Err(Diagnostic::error(Code::FlagValue, span, message)
                    .hint("give numbers, such as 1000:1000"))
            }
        }
    }

    fn chmod(
        &self,
        state: &mut State,
        copy: &ast::Copy,
    ) -> Result<Option<(Chmod, SmolStr)>, Diagnostic> {
        let Some(flag) = self.flag(state, copy.chmod.as_ref())? else {
            return Ok(None);
        };
        match chmod::parse(&flag.value) {
            Ok(mode) => Ok(Some((mode, flag.value))),
            Err(error) => Err(Diagnostic::error(
                Code::FlagValue,
                flag.span,
                error.to_string(),
            )),
        }
    }
}

impl Request<'_> {
    /// The beginning of the history entry.
    fn shown_flags(&self, chown: Option<&str>, chmod: Option<&str>) -> String {
        // Most of what follows stands in the name too.
        let mut shown = String::with_capacity(self.name.len() + " # buildkit".len());
        shown.push_str(match self.verb {
            Verb::Copy => "COPY",
            Verb::Add => "ADD",
        });
        if self.copy.parents {
            shown += " --parents";
        }
        for (flag, value) in [("chown", chown), ("chmod", chmod)] {
            if let Some(value) = value {
                shown.extend([" --", flag, "=", value]);
            }
        }
        shown
    }
}

fn check_excludes(copy: &ast::Copy) -> Result<(), Diagnostic> {
    for pattern in &copy.excludes {
        Ignore::from_patterns([&pattern.value])
            .map_err(|error| Diagnostic::error(Code::FlagValue, pattern.span, error.message))?;
    }
    Ok(())
}
