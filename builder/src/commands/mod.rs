//! The commands, carried out.

mod build;
mod caches;
mod call;
mod collect;
mod explain;
mod fsck;
mod images;
mod info;
mod input;
mod output;
mod prune;
mod secrets;
mod settings;
mod stop;
mod table;
mod transfer;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lapstrake_cache::Store;
use lapstrake_runtime::Identity;

use crate::cli::{Call, Command, Environment, Format, Invocation};
use crate::config::Config;
use crate::ids::Owners;
use crate::progress::text;
use crate::registry::{self, Client, Mirror, Patience};

/// Carries out one invocation.
pub fn run(invocation: Invocation, env: &Environment) -> ExitCode {
    let start = Instant::now();
    let Invocation {
        root,
        config,
        debug,
        command,
    } = invocation;
    let config = match Config::load(config.as_deref(), env) {
        Ok(config) => config,
        Err(error) => return end(&error.context("read the config file")),
    };
    let surroundings = Surroundings {
        root,
        // Before namespaces are entered, in which every user is root.
        is_root: rustix::process::geteuid().is_root(),
        config,
        debug,
        env,
        start,
    };
    // Everything else ends by such a signal: at most a line on standard output is missing then.
    if matches!(
        command,
        Command::Build(_) | Command::Push(_) | Command::Pull(_)
    ) && let Err(error) = lapstrake_runtime::note_signals(stop::STOPPED)
    {
        return end(&anyhow::Error::new(error).context("prepare for signals"));
    }
    if let Command::Build(options) = command {
        return match options.call {
            Call::Build => build::run(&surroundings, &options),
            Call::Describe { method, json } => call::run(&surroundings, &options, method, json),
        };
    }
    match other(&surroundings, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => end(&error),
    }
}

/// What every command works with.
struct Surroundings<'a> {
    root: Option<PathBuf>,
    /// Whether it was root who started this process.
    is_root: bool,
    config: Config,
    debug: bool,
    env: &'a Environment,
    start: Instant,
}

impl Surroundings<'_> {
    /// The folder of the store: `--root`, or where root and others keep such things.
    fn root(&self) -> Result<PathBuf> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        if self.is_root {
            return Ok(PathBuf::from("/var/lib/lapstrake"));
        }
        let home = || {
            self.env
                .nonempty("HOME")
                .map(|home| Path::new(home).join(".local/share"))
        };
        let data = self
            .env
            .nonempty("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(home);
        data.map(|data| data.join("lapstrake"))
            .context("find a place for the store: set HOME or give --root")
    }

    /// The store. Only root of the build's namespaces sees the files of ordinary users' stores as they are.
    fn store(&self) -> Result<Store> {
        // In a container without namespaces, what `--isolation=none` has built is there as it is.
        let entered = lapstrake_runtime::enter()
            .or_else(|why| lapstrake_runtime::enter_bare().map_err(|_| why));
        self.open(entered.context("enter namespaces")?)
    }

    /// The folder of the store of who this process is. Layers whose files lost their owners must not be mixed with those
    /// that keep them, which come when the account gets more ids.
    fn place(&self, identity: Identity) -> Result<PathBuf> {
        Ok(match Owners::of(identity) {
            Owners::Kept => self.root()?,
            Owners::Lost => self.root()?.join("one-id"),
        })
    }

    fn open(&self, identity: Identity) -> Result<Store> {
        let root = self.place(identity)?;
        Store::open(&root).with_context(|| format!("open the store {}", root.display()))
    }

    /// A registry client with the user's credentials and mirrors, and these registries trusted without TLS.
    fn client(&self, insecure: Vec<String>) -> Result<Client> {
        let mirrors = match self.env.nonempty("LAPSTRAKE_MIRRORS") {
            Some(text) => mirrors(text)?,
            None => Vec::new(),
        };
        Ok(Client::new(registry::Config {
            mirrors,
            insecure,
            patience: patience(self.env)?,
            ..registry::Config::from_env()
        }))
    }
}

/// How long to wait for servers: `LAPSTRAKE_TIMEOUT` says after how many seconds of silence they are given up,
/// `LAPSTRAKE_RETRIES` how often a request is sent again.
fn patience(env: &Environment) -> Result<Patience> {
    let mut patience = Patience::default();
    if let Some(text) = env.nonempty("LAPSTRAKE_TIMEOUT") {
        let seconds = text.parse().ok().map(Duration::try_from_secs_f64);
        let Some(Ok(limit)) = seconds.filter(|limit| *limit != Ok(Duration::ZERO)) else {
            bail!("LAPSTRAKE_TIMEOUT: {text:?} is not a number of seconds");
        };
        (patience.connect, patience.headers, patience.stall) =
            (patience.connect.min(limit), limit, limit);
    }
    if let Some(text) = env.nonempty("LAPSTRAKE_RETRIES") {
        let retries: u8 = text
            .parse()
            .with_context(|| format!("LAPSTRAKE_RETRIES: {text:?} is not a number up to 255"))?;
        patience.tries = 1 + u32::from(retries);
    }
    Ok(patience)
}

/// Reads `docker.io=host:5000,host2;ghcr.io=…`: for each registry the places to ask first.
fn mirrors(text: &str) -> Result<Vec<Mirror>> {
    let entries = text.split(';').filter(|entry| !entry.trim().is_empty());
    entries
        .map(|entry| {
            let Some((registry, endpoints)) = entry.split_once('=') else {
                bail!("LAPSTRAKE_MIRRORS: {entry:?} is not REGISTRY=ENDPOINT[,ENDPOINT…]");
            };
            let endpoints = endpoints
                .split(',')
                .map(|endpoint| endpoint.trim().to_owned())
                .collect();
            Ok(Mirror {
                registry: registry.trim().to_owned(),
                endpoints,
                insecure: false,
            })
        })
        .collect()
}

fn other(surroundings: &Surroundings, command: Command) -> Result<()> {
    let out = &mut std::io::stdout().lock();
    match command {
        Command::Build(_) => Ok(()),
        Command::Images(options) => images::images(&surroundings.store()?, &options, out),
        Command::Inspect(options) => images::inspect(&surroundings.store()?, &options.images, out),
        Command::History(options) => images::history(&surroundings.store()?, &options, out),
        Command::Tag(options) => {
            images::tag(&surroundings.store()?, &options.source, &options.target)
        }
        Command::Remove(options) => {
            images::rmi(&surroundings.store()?, &options.images, options.force, out)
        }
        Command::Push(options) => transfer::push(surroundings, &options),
        Command::Pull(options) => transfer::pull(surroundings, &options),
        Command::DiskUsage(options) => usage::usage(&surroundings.store()?, &options, out),
        Command::Prune(options) => prune::prune(&surroundings.store()?, &options, out),
        Command::Explain(options) => explain::explain(&surroundings.store()?, &options, out),
        Command::Fsck(options) => fsck::fsck(&surroundings.store()?, &options, out),
        Command::Info(format) => info::info(surroundings, format, out),
        Command::Version(format) => version(format, out),
    }
}

fn version(format: Format, out: &mut dyn std::io::Write) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Table => writeln!(out, "lapstrake {version}")?,
        Format::Json => writeln!(out, "{}", serde_json::json!({ "version": version }))?,
    }
    Ok(())
}

/// Prints an error, once, with its causes on the same line.
fn report(error: &anyhow::Error) {
    use std::io::Write as _;
    let _ = writeln!(
        std::io::stderr(),
        "error: {}",
        text::name(&text::causes(error))
    );
}

/// Reports the error that a command ends with; its exit status.
fn end(error: &anyhow::Error) -> ExitCode {
    report(error);
    if error.is::<stop::Stopped>() {
        ExitCode::from(stop::STOPPED)
    } else {
        ExitCode::FAILURE
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
