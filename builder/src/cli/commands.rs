//! All commands but `build` as they were meant.

use std::time::Duration;

use lapstrake_cache::Repair;
use lapstrake_frontend::image::{ImageRef, Platform};

use super::args::{
    ExplainArgs, FormatArgs, FsckArgs, HistoryArgs, ImagesArgs, InspectArgs, PruneArgs, PullArgs,
    PushArgs, RemoveArgs, TagArgs, UsageArgs,
};
use super::environment::Environment;
use super::options::platform;
use super::values::{Invalid, duration, size};
use super::{ProgressMode, values};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns with a heading.
    Table,
    /// One JSON object a line.
    Json,
}

/// `images`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ImagesOptions {
    /// A repository, with or without a tag.
    pub repository: Option<String>,
    pub format: Format,
    pub digests: bool,
    pub no_trunc: bool,
    pub quiet: bool,
}

/// `inspect`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InspectOptions {
    /// Names or ids.
    pub images: Vec<String>,
}

/// `history`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HistoryOptions {
    /// A name or an id.
    pub image: String,
    pub format: Format,
    pub human: bool,
    pub no_trunc: bool,
    pub quiet: bool,
}

/// `tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TagOptions {
    /// A name or an id.
    pub source: String,
    pub target: ImageRef,
}

/// `rmi`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RemoveOptions {
    /// Names or ids.
    pub images: Vec<String>,
    pub force: bool,
}

/// `push`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PushOptions {
    pub image: ImageRef,
    pub quiet: bool,
    pub progress: ProgressMode,
}

/// `pull`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PullOptions {
    pub image: ImageRef,
    /// `None` is this machine's.
    pub platform: Option<Platform>,
    pub quiet: bool,
    pub progress: ProgressMode,
}

/// `du`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct UsageOptions {
    pub verbose: bool,
    pub format: Format,
}

/// `prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PruneOptions {
    pub all: bool,
    /// Do not ask.
    pub force: bool,
    /// Only what was not used for so long.
    pub until: Option<Duration>,
    /// Only these kinds; all if there are none.
    pub kinds: Vec<&'static str>,
    /// Only what has an id that begins so; all if there are none.
    pub ids: Vec<String>,
    /// Bytes that may stay.
    pub keep: Option<u64>,
    /// Bytes that the store may take.
    pub max_used: Option<u64>,
    /// Bytes of the disk that shall be free.
    pub min_free: Option<u64>,
    pub dry_run: bool,
    pub verbose: bool,
}

/// `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ExplainOptions {
    /// A step's number or a part of its text.
    pub step: Option<String>,
    pub format: Format,
}

/// `fsck`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FsckOptions {
    pub repair: Repair,
}

impl FsckOptions {
    pub(super) fn resolve(args: &FsckArgs) -> Self {
        let repair = if args.repair { Repair::Yes } else { Repair::No };
        Self { repair }
    }
}

fn format(text: Option<&str>) -> Result<Format, Invalid> {
    match text {
        None | Some("" | "table") => Ok(Format::Table),
        Some("json" | "{{json .}}" | "{{ json . }}") => Ok(Format::Json),
        Some(_) => Err("--format: Go templates are not supported; use table or json".to_owned()),
    }
}

/// A name or an id that stands on the command line, so that an empty one is found early.
fn named(text: &str) -> Result<String, Invalid> {
    if text.is_empty() {
        Err("the name of the image is empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn reference(text: &str) -> Result<ImageRef, Invalid> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

pub(super) fn format_alone(args: &FormatArgs) -> Result<Format, Invalid> {
    format(args.format.as_deref())
}

impl ImagesOptions {
    pub(super) fn resolve(args: &ImagesArgs) -> Result<Self, Invalid> {
        Ok(Self {
            repository: args.repository.as_deref().map(named).transpose()?,
            format: format(args.format.as_deref())?,
            digests: args.digests,
            no_trunc: args.no_trunc,
            quiet: args.quiet,
        })
    }
}

impl InspectOptions {
    pub(super) fn resolve(args: &InspectArgs) -> Result<Self, Invalid> {
        // It prints JSON in any case.
        let text = args.format.as_deref().filter(|text| !text.is_empty());
        if text.is_some() && format(text)? == Format::Table {
            return Err("--format: inspect prints json only".to_owned());
        }
        let images: Result<_, Invalid> = args.images.iter().map(|image| named(image)).collect();
        Ok(Self { images: images? })
    }
}

impl HistoryOptions {
    pub(super) fn resolve(args: &HistoryArgs) -> Result<Self, Invalid> {
        Ok(Self {
            image: named(&args.image)?,
            format: format(args.format.as_deref())?,
            human: args.human.unwrap_or(true),
            no_trunc: args.no_trunc,
            quiet: args.quiet,
        })
    }
}

impl TagOptions {
    pub(super) fn resolve(args: &TagArgs) -> Result<Self, Invalid> {
        let target = reference(&args.target)?;
        if target.digest.is_some() {
            return Err(format!(
                "{:?}: a name to give cannot have a digest",
                args.target
            ));
        }
        Ok(Self {
            source: named(&args.source)?,
            target,
        })
    }
}

impl RemoveOptions {
    pub(super) fn resolve(args: &RemoveArgs) -> Result<Self, Invalid> {
        let images: Result<_, Invalid> = args.images.iter().map(|image| named(image)).collect();
        Ok(Self {
            images: images?,
            force: args.force,
        })
    }
}

impl PushOptions {
    pub(super) fn resolve(
        args: &PushArgs,
        debug: bool,
        env: &Environment,
    ) -> Result<Self, Invalid> {
        let image = reference(&args.image)?;
        if image.digest.is_some() {
            return Err(format!(
                "{:?}: push a name with a tag, not a digest",
                args.image
            ));
        }
        let progress = ProgressMode::resolve(args.progress.as_deref(), args.quiet, debug, env)?;
        Ok(Self {
            image,
            quiet: args.quiet,
            progress,
        })
    }
}

impl PullOptions {
    pub(super) fn resolve(
        args: &PullArgs,
        debug: bool,
        env: &Environment,
    ) -> Result<Self, Invalid> {
        let wanted = args
            .platform
            .as_deref()
            .or_else(|| env.nonempty("DOCKER_DEFAULT_PLATFORM"));
        let read = |text| platform(text, &env.platform).map_err(|why| format!("--platform: {why}"));
        Ok(Self {
            image: reference(&args.image)?,
            platform: wanted.map(read).transpose()?,
            quiet: args.quiet,
            progress: ProgressMode::resolve(args.progress.as_deref(), args.quiet, debug, env)?,
        })
    }
}

impl ExplainOptions {
    pub(super) fn resolve(args: &ExplainArgs) -> Result<Self, Invalid> {
        Ok(Self {
            step: Some(args.step.join(" ")).filter(|step| !step.is_empty()),
            format: format(args.format.as_deref())?,
        })
    }
}

impl UsageOptions {
    pub(super) fn resolve(args: &UsageArgs) -> Result<Self, Invalid> {
        Ok(Self {
            verbose: args.verbose,
            format: format(args.format.as_deref())?,
        })
    }
}

impl PruneOptions {
    pub(super) fn resolve(args: &PruneArgs) -> Result<Self, Invalid> {
        let bytes = |flag: &str, text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            let size = text.map(size).transpose();
            size.map_err(|why| format!("--{flag}: {why}"))
        };
        let mut options = Self {
            all: args.all,
            force: args.force,
            until: None,
            kinds: Vec::new(),
            ids: Vec::new(),
            keep: bytes("keep-storage", &args.keep_storage)?,
            max_used: bytes("max-used", &args.max_used)?,
            min_free: bytes("min-free", &args.min_free)?,
            dry_run: args.dry_run,
            verbose: args.verbose,
        };
        for text in args.filter.iter().filter(|text| !text.is_empty()) {
            options
                .filter(text)
                .map_err(|why| format!("--filter: {why}"))?;
        }
        Ok(options)
    }

    fn filter(&mut self, text: &str) -> Result<(), Invalid> {
        match values::key_value(text)? {
            ("until" | "unused-for", Some(age)) => self.until = Some(duration(age)?),
            ("type", Some(kind)) => self.kinds.extend(kinds(kind)?),
            ("id", Some(id)) if !id.is_empty() => self.ids.push(id.to_ascii_lowercase()),
            _ => {
                return Err(format!(
                    "unknown filter {text:?}: use until=AGE, type=TYPE or id=ID, for example until=24h"
                ));
            }
        }
        Ok(())
    }
}

/// The kinds of what the store keeps that a name stands for: our names, and those of buildx.
fn kinds(name: &str) -> Result<&'static [&'static str], Invalid> {
    Ok(match name {
        "layer" => &["layer"],
        "blob" => &["blob"],
        "record" => &["record"],
        "context" | "source.local" => &["context"],
        "cache-mount" | "exec.cachemount" => &["cache-mount"],
        "regular" => &["layer", "blob", "record"],
        _ => {
            return Err(format!(
                "unknown type {name:?}: use layer, blob, record, context or cache-mount"
            ));
        }
    })
}
