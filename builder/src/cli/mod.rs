//! The command line: arguments as typed (`args`), then as meant ([`Command`] and what it holds).
//!
//! [`parse`] reads arguments and environment and touches nothing else; it is a function from texts to values, and
//! tested as such. Standard output is for results, standard error for progress and errors.

mod allow;
mod annotation;
mod args;
mod attest;
mod cache;
mod call;
mod commands;
mod context;
mod control;
mod dns;
mod environment;
mod hosts;
mod limits;
mod options;
mod output;
mod progress;
mod report;
mod secret;
mod security;
mod unsupported;
mod values;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

pub use allow::Allowed;
pub use annotation::{Annotated, Annotation};
pub use attest::Attestation;
pub use cache::CacheSpec;
pub use call::{Call, Method};
pub use commands::{
    ExplainOptions, Format, FsckOptions, HistoryOptions, ImagesOptions, InspectOptions,
    PruneOptions, PullOptions, PushOptions, RemoveOptions, TagOptions, UsageOptions,
};
pub use context::{ContextArg, ContextSource, DockerfileArg};
pub use control::ContextModes;
pub use dns::Dns;
pub use environment::Environment;
pub use hosts::{HostAddress, HostEntry};
pub use limits::{Limits, Resources, Ulimit};
pub use options::BuildOptions;
pub use output::{
    ArchiveFormat, ArchiveOutput, Compression, Destination, Encoding, FilesOutput, ImageOutput,
    OutputSpec,
};
pub use progress::ProgressMode;
pub use secret::{SecretSource, SecretSpec, SshSpec};
pub use security::Isolation;
pub(crate) use values::{boolean, duration, size};

/// One run of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// `--root`, `LAPSTRAKE_ROOT`; otherwise the store is where it is by default.
    pub root: Option<PathBuf>,
    /// `--config`, `LAPSTRAKE_CONFIG`; otherwise the machine's and the user's files are read.
    pub config: Option<PathBuf>,
    /// `--debug`.
    pub debug: bool,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    Build(Box<BuildOptions>),
    Images(ImagesOptions),
    Inspect(InspectOptions),
    History(HistoryOptions),
    Tag(TagOptions),
    Remove(RemoveOptions),
    Push(PushOptions),
    Pull(PullOptions),
    DiskUsage(UsageOptions),
    Prune(PruneOptions),
    Explain(ExplainOptions),
    Fsck(FsckOptions),
    Info(Format),
    Version(Format),
}

/// The end of the program before a command began: help, a version, or a mistake in the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0 for what was asked for, 1 for a mistake.
    pub code: u8,
    /// What to print: on standard output for code 0, on standard error otherwise.
    pub text: String,
}

impl Exit {
    /// Prints the text. A closed pipe is no error.
    pub fn print(self) -> ExitCode {
        let _ = match self.code {
            0 => std::io::stdout().write_all(self.text.as_bytes()),
            _ => std::io::stderr().write_all(self.text.as_bytes()),
        };
        ExitCode::from(self.code)
    }
}

/// Reads the arguments, of which the first is the program's name.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    env: &Environment,
) -> Result<Invocation, Exit> {
    let arguments = as_ours(arguments.into_iter().collect());
    let named = arguments
        .iter()
        .skip(1)
        .filter_map(|argument| argument.to_str());
    let command = named.clone().find_map(command_name);
    let colour = env.stdout_is_terminal && env.nonempty("NO_COLOR").is_none();
    let cli = read(&arguments).map_err(|error| report::exit(&error, command, colour))?;
    let debug = cli.global.debug;
    let path = |given: Option<OsString>, variable| {
        let path = given.or_else(|| env.os_variable(variable).cloned());
        path.filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    let root = path(cli.global.root, "LAPSTRAKE_ROOT");
    let config = path(cli.global.config, "LAPSTRAKE_CONFIG");
    let command = resolve(&cli.command, debug, env).map_err(|why| report::usage(&why, command))?;
    Ok(Invocation {
        root,
        config,
        debug,
        command,
    })
}

fn read(arguments: &[OsString]) -> Result<args::Cli, clap::Error> {
    let definition = args::Cli::command().mut_subcommand("build", unsupported::hide);
    args::Cli::from_arg_matches(&definition.try_get_matches_from(arguments)?)
}

fn resolve(
    command: &args::Commands,
    debug: bool,
    env: &Environment,
) -> Result<Command, values::Invalid> {
    use args::Commands;
    Ok(match command {
        Commands::Build(args) => Command::Build(Box::new(BuildOptions::resolve(args, debug, env)?)),
        Commands::Images(args) => Command::Images(ImagesOptions::resolve(args)?),
        Commands::Inspect(args) => Command::Inspect(InspectOptions::resolve(args)?),
        Commands::History(args) => Command::History(HistoryOptions::resolve(args)?),
        Commands::Tag(args) => Command::Tag(TagOptions::resolve(args)?),
        Commands::Rmi(args) => Command::Remove(RemoveOptions::resolve(args)?),
        Commands::Push(args) => Command::Push(PushOptions::resolve(args, debug, env)?),
        Commands::Pull(args) => Command::Pull(PullOptions::resolve(args, debug, env)?),
        Commands::Du(args) => Command::DiskUsage(UsageOptions::resolve(args)?),
        Commands::Prune(args) => Command::Prune(PruneOptions::resolve(args)?),
        Commands::Explain(args) => Command::Explain(ExplainOptions::resolve(args)?),
        Commands::Fsck(args) => Command::Fsck(FsckOptions::resolve(args)),
        Commands::Info(args) => Command::Info(commands::format_alone(args)?),
        Commands::Version(args) => Command::Version(commands::format_alone(args)?),
    })
}

/// The names that commands go by, and the one to show.
const COMMANDS: [(&str, &str); 16] = [
    ("build", "build"),
    ("b", "build"),
    ("images", "images"),
    ("ls", "images"),
    ("inspect", "inspect"),
    ("history", "history"),
    ("tag", "tag"),
    ("rmi", "rmi"),
    ("push", "push"),
    ("pull", "pull"),
    ("du", "du"),
    ("prune", "prune"),
    ("explain", "explain"),
    ("fsck", "fsck"),
    ("info", "info"),
    ("version", "version"),
];

fn command_name(argument: &str) -> Option<&'static str> {
    COMMANDS
        .iter()
        .find(|(name, _)| *name == argument)
        .map(|(_, shown)| *shown)
}

/// The command lines of docker that mean one of ours: `buildx build`, `builder build` and `image build` are `build`,
/// `help build` is `build --help`.
fn as_ours(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let word = |at: usize| arguments.get(at).and_then(|argument| argument.to_str());
    let shared: &[&str] = match word(1) {
        Some("help") => {
            arguments.remove(1);
            arguments.push("--help".into());
            return arguments;
        }
        Some("buildx") => &["build", "b", "du", "prune", "version"],
        Some("builder") => &["build", "prune"],
        Some("image") => &["build", "ls", "inspect", "history", "tag", "push", "pull"],
        _ => &[],
    };
    if word(2).is_some_and(|command| shared.contains(&command)) {
        arguments.remove(1);
    }
    arguments
}

/// Runs the program: what `run` does with a command that the arguments give is up to the caller.
pub fn main(run: impl FnOnce(Invocation, &Environment) -> ExitCode) -> ExitCode {
    let env = Environment::of_process();
    match parse(std::env::args_os(), &env) {
        Ok(invocation) => run(invocation, &env),
        Err(exit) => exit.print(),
    }
}

#[cfg(test)]
mod tests;
