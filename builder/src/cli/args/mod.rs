//! The command line as it was typed. What it means is worked out in [`super::options`] and [`super::commands`].

mod build;

use std::ffi::OsString;

use clap::{ArgAction, Args, Parser, Subcommand};

pub(super) use build::BuildArgs;

/// Builds container images from Dockerfiles, without a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "lapstrake",
    version,
    args_override_self = true,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_flag = true,
    disable_help_subcommand = true,
    after_help = "The flags of `lapstrake build` are those of `docker buildx build`."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Commands,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(super) struct GlobalArgs {
    /// Folder of the store [default: /var/lib/lapstrake as root, else $XDG_DATA_HOME/lapstrake]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global")]
    pub(super) root: Option<OsString>,
    /// Config file [default: /etc/lapstrake/config.toml, then $XDG_CONFIG_HOME/lapstrake/config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global")]
    pub(super) config: Option<OsString>,
    /// Say more about what is done and why
    #[arg(short = 'D', long, global = true, help_heading = "Global")]
    pub(super) debug: bool,
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::Help, help_heading = "Global")]
    pub(super) help: Option<bool>,
}

/// The commands, named as docker's.
#[derive(Debug, Subcommand)]
pub(super) enum Commands {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// List images
    #[command(visible_alias = "ls")]
    Images(ImagesArgs),
    /// Show all that is known of images, as JSON
    Inspect(InspectArgs),
    /// Show how an image was made
    History(HistoryArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    Rmi(RemoveArgs),
    /// Push an image to its registry
    Push(PushArgs),
    /// Fetch an image from its registry
    Pull(PullArgs),
    /// Show what the store takes on disk
    Du(UsageArgs),
    /// Remove cache that no image needs
    Prune(PruneArgs),
    /// Say of the last build's steps whether they were cached, and if not, what had changed
    Explain(ExplainArgs),
    /// Check that everything in the store is what its name says
    Fsck(FsckArgs),
    /// Show how this machine is set up for builds
    Info(FormatArgs),
    /// Show the version
    Version(FormatArgs),
}

/// `--format` alone.
#[derive(Debug, Args)]
pub(super) struct FormatArgs {
    /// How to print: table or json
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
}

/// `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Only this step, with all that its cache key is made of: its number (2/4, or build 2/4) or a part of its text
    #[arg(value_name = "STEP")]
    pub(super) step: Vec<String>,
    /// How to print: table or json
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
}

/// `fsck`.
#[derive(Debug, Args)]
pub(super) struct FsckArgs {
    /// Remove what is damaged; the next build makes it again
    #[arg(long)]
    pub(super) repair: bool,
}

/// `images`.
#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// Only images of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(super) repository: Option<String>,
    /// Show all images (there are no intermediate ones)
    #[arg(short, long, hide = true)]
    pub(super) all: bool,
    /// Show digests
    #[arg(long)]
    pub(super) digests: bool,
    /// How to print: table or json
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    /// Do not shorten ids
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// Only print ids
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// `inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    /// How to print: json
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
}

/// `history`.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Name or id of the image
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// How to print: table or json
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    /// Print sizes and times for people
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = super::values::boolean)]
    pub(super) human: Option<bool>,
    /// Do not shorten
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// Only print ids
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// `tag`.
#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// Name or id of the image
    #[arg(value_name = "SOURCE[:TAG]")]
    pub(super) source: String,
    /// The name to add
    #[arg(value_name = "TARGET[:TAG]")]
    pub(super) target: String,
}

/// `rmi`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Names or ids of images
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    /// Remove all names of an id, and pass over images that are not there
    #[arg(short, long)]
    pub(super) force: bool,
    /// Keep untagged parents (there are none)
    #[arg(long, hide = true)]
    pub(super) no_prune: bool,
}

/// `push`.
#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    pub(super) image: String,
    /// Only print the name that was pushed
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// How to show progress: auto, plain, tty, quiet, rawjson or none
    #[arg(long, value_name = "MODE")]
    pub(super) progress: Option<String>,
}

/// `pull`.
#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(super) image: String,
    /// The platform to fetch
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<String>,
    /// Only print the name that was pulled
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// How to show progress: auto, plain, tty, quiet, rawjson or none
    #[arg(long, value_name = "MODE")]
    pub(super) progress: Option<String>,
}

/// `du`.
#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// Show every record
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// How to print: table or json
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
}

/// `prune`.
#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Remove what recent builds used too, and cache mounts
    #[arg(short, long)]
    pub(super) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(super) force: bool,
    /// Only what was not used for so long (until=24h), of a type (layer, blob, record, context, cache-mount), or with an id
    #[arg(long, value_name = "until=AGE | type=TYPE | id=ID")]
    pub(super) filter: Vec<String>,
    /// Keep so much of what was used last, for example 10gb
    #[arg(long, visible_alias = "reserved-space", value_name = "BYTES")]
    pub(super) keep_storage: Option<String>,
    /// Remove what was used least recently until the store takes no more than this
    #[arg(long, visible_alias = "max-used-space", value_name = "BYTES")]
    pub(super) max_used: Option<String>,
    /// Remove what was used least recently until so much of the disk is free
    #[arg(long, visible_alias = "min-free-space", value_name = "BYTES")]
    pub(super) min_free: Option<String>,
    /// Show what would be removed
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Show every record
    #[arg(long)]
    pub(super) verbose: bool,
}
