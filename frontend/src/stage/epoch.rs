//! `SOURCE_DATE_EPOCH`: the moment that images of a build are to come from.
//!
//! It is a number of seconds, `context`, or the name of a `--build-context` or of a stage with nothing but one source from
//! elsewhere. Those stand for the time of that source, which only the builder can find out: it asks [`epoch`] first, and
//! gives [`Inputs`] the answer before anything is lowered.

use smol_str::format_smolstr;

use super::globals::{globals, platform_args, target_name};
use super::{SCRATCH, context_of, sections};
use crate::ast::{ArgDefault, Copy, Dockerfile, From, Instruction, Kind, Source, Word};
use crate::diag::{Code, Diagnostic};
use crate::env::Env;
use crate::expand;
use crate::git::GitUrl;
use crate::plan::{Git, Http, Inputs, NamedContext};
use crate::span::Span;

/// The build argument.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What `SOURCE_DATE_EPOCH` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Epoch {
    /// Seconds since 1970, or that there is none.
    At(Option<i64>),
    /// The time of a source.
    Of(EpochSource),
}

/// A source that has a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochSource {
    /// The main context.
    Context,
    /// The commit of a git tree.
    Git(Git),
    /// A file on an HTTP(S) server: when it was changed last, or the newest file in it.
    Http(Http),
}

impl Inputs {
    /// Takes in what `SOURCE_DATE_EPOCH` came to; it is no argument any more where that is nothing.
    pub fn set_epoch(&mut self, epoch: Option<i64>) {
        self.epoch = Some(epoch);
        if self.build_args.remove(SOURCE_DATE_EPOCH).is_some()
            && let Some(seconds) = epoch
        {
            self.build_args
                .insert(SOURCE_DATE_EPOCH.to_owned(), seconds.to_string());
        }
    }

    /// Puts it in the place of a default in the Dockerfile.
    pub(super) fn put_epoch(&self, globals: &mut Env) {
        let Some(epoch) = self.epoch else { return };
        match epoch {
            Some(seconds) if globals.get(SOURCE_DATE_EPOCH).is_some() => {
                globals.set(SOURCE_DATE_EPOCH.into(), format_smolstr!("{seconds}"));
            }
            None if globals.get(SOURCE_DATE_EPOCH) != Some("") => globals.unset(SOURCE_DATE_EPOCH),
            _ => {}
        }
    }
}

/// Reads `SOURCE_DATE_EPOCH`, as a build argument or as a default before the first `FROM`. What is wrong elsewhere in the
/// file is left for [`crate::lower()`] to report.
pub fn epoch(dockerfile: &Dockerfile, inputs: &Inputs) -> Result<Epoch, Vec<Diagnostic>> {
    let none = Ok(Epoch::At(None));
    let (head, chunks) = sections(dockerfile);
    let platforms = platform_args(inputs, target_name(&chunks, inputs));
    let escape = dockerfile.directives.escape;
    let Ok((mut globals, args)) = globals(head, escape, &inputs.build_args, platforms) else {
        return none;
    };
    let given = inputs.build_args.get(SOURCE_DATE_EPOCH);
    let Some(value) = given.map_or_else(|| globals.get(SOURCE_DATE_EPOCH), |given| Some(given))
    else {
        return none;
    };
    let value = value.to_owned();
    if value.is_empty() {
        return none;
    }
    if let Ok(seconds) = value.parse() {
        return Ok(Epoch::At(Some(seconds)));
    }
    if value == "context" {
        return Ok(Epoch::Of(EpochSource::Context));
    }
    if let Some((_, context)) = context_of(inputs, &value, &inputs.build_platform) {
        return Ok(of_context(context));
    }
    globals.unset(SOURCE_DATE_EPOCH);
    for chunk in chunks {
        let Some((
            Instruction {
                kind: Kind::From(from),
                span,
                ..
            },
            rest,
        )) = chunk.split_first()
        else {
            continue;
        };
        let name = from.name.as_ref().map(|name| name.value.as_str());
        if name.is_some_and(|name| name.eq_ignore_ascii_case(&value)) {
            let stage = SourceStage {
                span: *span,
                escape,
                inputs,
                env: globals,
            };
            return stage
                .source(from, rest)
                .map(Epoch::Of)
                .map_err(|error| vec![error]);
        }
    }
    let place = args.get(SOURCE_DATE_EPOCH).filter(|_| given.is_none());
    let span = place.map_or_else(Span::default, |arg| arg.instruction.span);
    let message = format!("invalid SOURCE_DATE_EPOCH: {value}");
    let error = Diagnostic::error(Code::Epoch, span, message);
    let hint = "give seconds since 1970, context, or the name of a --build-context or of a stage with one ADD from elsewhere";
    Err(vec![error.hint(hint)])
}

fn of_context(context: &NamedContext) -> Epoch {
    match context {
        // Files of this machine and images have no such time.
        NamedContext::Local | NamedContext::Image(_) => Epoch::At(None),
        NamedContext::Git(git) => Epoch::Of(EpochSource::Git(git.clone())),
        NamedContext::Http(url) => Epoch::Of(EpochSource::Http(Http::named_context(url))),
    }
}

/// A stage that stands for a source, walked.
struct SourceStage<'a> {
    /// Of its `FROM`.
    span: Span,
    escape: char,
    inputs: &'a Inputs,
    env: Env,
}

impl SourceStage<'_> {
    fn source(
        mut self,
        from: &From,
        instructions: &[Instruction],
    ) -> Result<EpochSource, Diagnostic> {
        if self.expand(&from.image)? != SCRATCH {
            return Err(self.error("must use FROM scratch"));
        }
        let mut found = None;
        for instruction in instructions {
            match &instruction.kind {
                Kind::Arg(args) => args.iter().try_for_each(|arg| self.declare(arg))?,
                Kind::Add(add) => {
                    let source = self.add(add)?;
                    if found.replace(source).is_some() {
                        return Err(self.error("must contain exactly one remote ADD"));
                    }
                }
                _ => {
                    let keyword = &instruction.keyword.value;
                    let message = format!(
                        "does not meet source-only requirements: unsupported {keyword} instruction"
                    );
                    return Err(self.error(&message));
                }
            }
        }
        found.ok_or_else(|| self.error("must contain exactly one remote ADD"))
    }

    fn declare(&mut self, arg: &ArgDefault) -> Result<(), Diagnostic> {
        let name = &arg.name.value;
        let value = match (self.inputs.build_args.get(name.as_str()), &arg.default) {
            (Some(given), _) => given.clone(),
            (None, Some(default)) => self.expand(default)?,
            (None, None) => return Ok(()),
        };
        self.env.set(name.clone(), value.into());
        Ok(())
    }

    fn add(&self, add: &Copy) -> Result<EpochSource, Diagnostic> {
        let [Source::Path(source)] = add.sources.as_slice() else {
            return Err(self.error("must contain exactly one remote ADD source"));
        };
        let url = self.expand(source)?;
        let checksum = add.checksum.as_ref();
        let checksum = checksum.map(|raw| self.expand(raw)).transpose()?;
        let git = GitUrl::parse(&url)
            .map_err(|error| Diagnostic::error(Code::CopySource, source.span, error.to_string()))?;
        if let Some(git) = git.filter(|git| !git.bare) {
            return Ok(EpochSource::Git(Git {
                remote: git.remote,
                reference: git.reference,
                subdir: None,
                checksum: checksum.or(git.checksum),
                keep_git_dir: false,
                submodules: false,
                commit_time: false,
            }));
        }
        if Http::is_url(&url) {
            return Ok(EpochSource::Http(Http {
                url,
                checksum,
                filename: String::new(),
            }));
        }
        Err(self.error("source must be a single HTTP(S) or Git ADD"))
    }

    fn expand(&self, raw: &Word) -> Result<String, Diagnostic> {
        let expanded = expand::word(&raw.value, self.escape, &|name| self.env.lookup(name));
        let expanded = expanded.map_err(|error| error.diagnostic(raw))?;
        Ok(expanded.text.into_owned())
    }

    fn error(&self, what: &str) -> Diagnostic {
        Diagnostic::error(
            Code::Epoch,
            self.span,
            format!("SOURCE_DATE_EPOCH stage {what}"),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a Dockerfile that begins so says of its epoch, with these build arguments.
    fn shown(head: &str, args: &[(&str, &str)]) -> String {
        let mut inputs = Inputs::default();
        let args = args
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        inputs.build_args.extend(args);
        let git = GitUrl::parse("https://h/named.git").unwrap().unwrap();
        let git = Git {
            remote: git.remote,
            reference: None,
            subdir: None,
            checksum: None,
            keep_git_dir: false,
            submodules: true,
            commit_time: false,
        };
        let contexts = [
            ("local", NamedContext::Local),
            ("tree", NamedContext::Git(git)),
            ("file", NamedContext::Http("http://h/named".to_owned())),
        ];
        for (name, context) in contexts {
            inputs.contexts.insert(name.to_owned(), context);
        }
        let dockerfile = crate::parse(&format!("{head}\nFROM scratch\n")).unwrap();
        match epoch(&dockerfile, &inputs) {
            Ok(Epoch::At(None)) => "none".to_owned(),
            Ok(Epoch::At(Some(seconds))) => seconds.to_string(),
            Ok(Epoch::Of(EpochSource::Context)) => "context".to_owned(),
            Ok(Epoch::Of(EpochSource::Git(git))) => {
                format!("git {} {:?} {:?}", git.remote, git.reference, git.checksum)
            }
            Ok(Epoch::Of(EpochSource::Http(http))) => {
                format!("http {} {:?}", http.url, http.checksum)
            }
            Err(errors) => errors[0].message.clone(),
        }
    }

    #[test]
    fn what_it_stands_for() {
        let of = |value: &str| shown("", &[("SOURCE_DATE_EPOCH", value)]);
        assert_eq!(shown("", &[]), "none");
        for (value, want) in [
            ("", "none"),
            ("17", "17"),
            ("-1", "-1"),
            ("context", "context"),
            ("local", "none"),
            ("tree", "git https://h/named.git None None"),
            ("file", "http http://h/named None"),
            ("tomorrow", "invalid SOURCE_DATE_EPOCH: tomorrow"),
        ] {
            assert_eq!(of(value), want, "{value}");
        }
        let by_default = |head: &str| shown(head, &[]);
        assert_eq!(by_default("ARG SOURCE_DATE_EPOCH=17"), "17");
        assert_eq!(
            by_default("ARG A=con\nARG SOURCE_DATE_EPOCH=${A}text"),
            "context"
        );
        let given = [("SOURCE_DATE_EPOCH", "")];
        assert_eq!(shown("ARG SOURCE_DATE_EPOCH=17", &given), "none");
    }

    #[test]
    fn stages_that_stand_for_a_source() {
        let of = |stage: &str| {
            let args = [("SOURCE_DATE_EPOCH", "src"), ("V", "given")];
            shown(&format!("ARG H=h\n{stage}"), &args)
        };
        for (stage, want) in [
            (
                "FROM scratch AS Src\nARG H\nARG V=1\nADD --checksum=sha256:$V http://$H/$V /",
                "http http://h/given Some(\"sha256:given\")",
            ),
            (
                "FROM scratch AS src\nADD https://h/x.git?checksum=a#b:c /",
                "git https://h/x.git Some(\"b\") Some(\"a\")",
            ),
            (
                "FROM scratch AS src\nCOPY a b",
                "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction",
            ),
            (
                "FROM busybox AS src",
                "SOURCE_DATE_EPOCH stage must use FROM scratch",
            ),
            (
                "FROM scratch AS src\nARG A",
                "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD",
            ),
            (
                "FROM scratch AS src\nADD http://h/a /\nADD http://h/b /",
                "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD",
            ),
            (
                "FROM scratch AS src\nADD http://h/a http://h/b /",
                "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source",
            ),
            (
                "FROM scratch AS src\nADD a /",
                "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD",
            ),
        ] {
            assert_eq!(of(stage), want, "{stage}");
        }
    }
}
