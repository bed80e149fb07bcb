//! `build` as it was meant: every value read, checked and typed, against the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lapstrake_frontend::image::{ImageRef, Platform};
use lapstrake_frontend::plan::{Network, NoCache};

use super::allow::Allowed;
use super::annotation::{self, Annotation};
use super::args::BuildArgs;
use super::attest::Attestation;
use super::cache::CacheSpec;
use super::call::Call;
use super::context::{self, ContextArg, ContextSource, DockerfileArg};
use super::control::{self, ContextModes};
use super::dns::Dns;
use super::environment::Environment;
use super::hosts::HostEntry;
use super::limits::Limits;
use super::output::OutputSpec;
use super::secret::{SecretSpec, SshSpec};
use super::security::{Isolation, isolation, no_new_privileges};
use super::values::{Invalid, boolean, duration, each, key_value, last_of_each, of};
use super::{ProgressMode, unsupported};

/// Everything that `build` was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    /// The main context.
    pub context: ContextArg,
    /// `--file`.
    pub file: DockerfileArg,
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, filled from the environment; `SOURCE_DATE_EPOCH` of the environment is among them.
    pub build_args: BTreeMap<String, String>,
    /// `--build-context`, by normalised name.
    pub contexts: BTreeMap<String, ContextSource>,
    /// `--platform`, normalised, each once; empty means this machine's.
    pub platforms: Vec<Platform>,
    /// `--pull`.
    pub pull: bool,
    /// `--tag`.
    pub tags: Vec<ImageRef>,
    /// `--label`, in order; of equal keys the last one counts and is the only one here.
    pub labels: Vec<(String, String)>,
    /// `--attest` and its short forms, those that are switched on.
    pub attestations: Vec<Attestation>,
    /// `--output`, `--push` and `--load`; never empty. Names of `--tag` and annotations are in place.
    pub outputs: Vec<OutputSpec>,
    /// `--iidfile`.
    pub iid_file: Option<PathBuf>,
    /// `--metadata-file`.
    pub metadata_file: Option<PathBuf>,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// The steps of `--no-cache-filter`: stage and number, as progress shows them.
    pub no_cache_steps: Vec<(String, u32)>,
    /// `--rebuild-from`: a line, counted from 1.
    pub rebuild_from: Option<u32>,
    /// `--cache-ttl`.
    pub cache_ttl: Option<Duration>,
    /// `--context-modes`.
    pub context_modes: ContextModes,
    /// `--cache-from`.
    pub cache_from: Vec<CacheSpec>,
    /// `--cache-to`.
    pub cache_to: Vec<CacheSpec>,
    /// `--explain`.
    pub explain: bool,
    /// `--secret`.
    pub secrets: Vec<SecretSpec>,
    /// `--ssh`.
    pub ssh: Vec<SshSpec>,
    /// `--network`.
    pub network: Network,
    /// `--add-host`.
    pub add_hosts: Vec<HostEntry>,
    /// `--allow`; `--network=host` allows that network by itself.
    pub allow: Allowed,
    /// `--dns`, `--dns-search`, `--dns-option`.
    pub dns: Dns,
    /// `--isolation`.
    pub isolation: Isolation,
    /// `--security-opt no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--ulimit`, `--shm-size`, `--resource`, `--cgroup-parent`.
    pub limits: Limits,
    /// `--progress`; with `--quiet` it is [`ProgressMode::Quiet`].
    pub progress: ProgressMode,
    /// `--quiet`: the image's id is all that is printed.
    pub quiet: bool,
    /// `--call` and `--check`.
    pub call: Call,
}

impl BuildOptions {
    /// Whether a build argument switches something of the builder on.
    pub(crate) fn is_on(&self, build_arg: &str) -> bool {
        let value = self.build_args.get(build_arg);
        value.is_some_and(|value| boolean(value) == Ok(true))
    }

    /// Works out what was meant. The error is one line that names the flag.
    pub(super) fn resolve(
        args: &BuildArgs,
        debug: bool,
        env: &Environment,
    ) -> Result<Self, Invalid> {
        unsupported::refuse(args)?;
        let local = &env.platform;
        let is_dir = |path: &std::path::Path| env.is_dir(path);
        let tags = each("tag", &args.image.tag, tag)?;
        let network = of("network", network(args.steps.network.as_deref()))?;
        let quiet = args.report.quiet.unwrap_or(false);
        let options = Self {
            context: context::main_context(&args.context, &is_dir)?,
            file: context::dockerfile(args.input.file.as_deref()),
            target: args
                .input
                .target
                .clone()
                .filter(|target| !target.is_empty()),
            build_args: build_args(&args.input.build_arg, env)?,
            contexts: each("build-context", &args.input.build_context, |text| {
                context::named(text, &is_dir)
            })?
            .into_iter()
            .collect(),
            platforms: platforms(&args.input.platform, env)?,
            pull: args.input.pull.unwrap_or(false),
            labels: labels(&args.image.label)?,
            attestations: attestations(args)?,
            outputs: outputs(args, &tags, local, env)?,
            tags,
            iid_file: args.output.iidfile.as_ref().map(PathBuf::from),
            metadata_file: args.output.metadata_file.as_ref().map(PathBuf::from),
            no_cache: control::no_cache(args)?,
            no_cache_steps: control::no_cache_steps(args)?,
            rebuild_from: control::rebuild_from(args)?,
            cache_ttl: args
                .cache
                .cache_ttl
                .as_deref()
                .map(|text| of("cache-ttl", duration(text)))
                .transpose()?,
            context_modes: control::context_modes(args)?,
            cache_from: caches("cache-from", &args.cache.cache_from)?,
            cache_to: caches("cache-to", &args.cache.cache_to)?,
            explain: args.cache.explain,
            secrets: secrets(&args.steps.secret, env)?,
            ssh: last_of_each(each("ssh", &args.steps.ssh, SshSpec::parse)?, |ssh| &ssh.id),
            add_hosts: each("add-host", &args.steps.add_host, HostEntry::parse)?.concat(),
            allow: allowed(&args.steps.allow, network)?,
            network,
            dns: Dns::parse(
                &args.steps.dns,
                &args.steps.dns_search,
                &args.steps.dns_option,
            )?,
            isolation: of("isolation", isolation(args.steps.isolation.as_deref()))?,
            no_new_privileges: of("security-opt", no_new_privileges(&args.steps.security_opt))?,
            limits: Limits::resolve(args)?,
            progress: ProgressMode::resolve(args.report.progress.as_deref(), quiet, debug, env)?,
            quiet,
            call: call(args)?,
        };
        options.check_stdin_and_stdout(env)?;
        Ok(options)
    }

    fn check_stdin_and_stdout(&self, env: &Environment) -> Result<(), Invalid> {
        if self.context == ContextArg::Stdin && self.file == DockerfileArg::Stdin {
            return Err(
                "both the context and --file are -: standard input can be only one of them"
                    .to_owned(),
            );
        }
        let outputs = self
            .outputs
            .iter()
            .filter(|output| output.uses_stdout())
            .count();
        match outputs {
            0 => Ok(()),
            1 if env.stdout_is_terminal => {
                Err("refusing to write an archive to the terminal: give dest=FILE, or redirect standard output"
                    .to_owned())
            }
            1 if self.quiet => Err("--quiet prints the image's id on standard output, where an output goes too: \
                                    use --iidfile"
                .to_owned()),
            1 => Ok(()),
            _ => Err("several outputs go to standard output: give dest=FILE".to_owned()),
        }
    }
}

fn tag(text: &str) -> Result<ImageRef, Invalid> {
    let reference: ImageRef = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    if reference.digest.is_some() {
        return Err(format!("{text:?}: a name to give cannot have a digest"));
    }
    Ok(reference)
}

fn allowed(texts: &[String], network: Network) -> Result<Allowed, Invalid> {
    let mut allow = Allowed {
        network_host: network == Network::Host,
        ..Allowed::default()
    };
    for text in texts.iter().filter(|text| !text.is_empty()) {
        of("allow", allow.add(text))?;
    }
    Ok(allow)
}

fn network(text: Option<&str>) -> Result<Network, Invalid> {
    match text {
        None | Some("" | "default") => Ok(Network::Default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(format!(
            "unknown network {other:?}: use default, none or host"
        )),
    }
}

fn build_args(texts: &[String], env: &Environment) -> Result<BTreeMap<String, String>, Invalid> {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let mut all = BTreeMap::new();
    for text in texts {
        let (name, value) = of("build-arg", key_value(text))?;
        // Without a value, and without such a variable, the argument is not set at all.
        if let Some(value) = value.or_else(|| env.variable(name)) {
            all.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some(epoch) = env.nonempty(EPOCH) {
        all.entry(EPOCH.to_owned())
            .or_insert_with(|| epoch.to_owned());
    }
    Ok(all)
}

fn labels(texts: &[String]) -> Result<Vec<(String, String)>, Invalid> {
    let label = |text: &str| {
        let (key, value) = key_value(text)?;
        Ok((key.to_owned(), value.unwrap_or_default().to_owned()))
    };
    let all: Result<Vec<_>, Invalid> = texts.iter().map(|text| of("label", label(text))).collect();
    Ok(last_of_each(all?, |(key, _)| key))
}

fn platforms(texts: &[String], env: &Environment) -> Result<Vec<Platform>, Invalid> {
    let given: Vec<&str> = texts
        .iter()
        .flat_map(|text| text.split(','))
        .filter(|t| !t.is_empty())
        .collect();
    let (flag, texts) = match env.nonempty("DOCKER_DEFAULT_PLATFORM") {
        Some(text) if given.is_empty() => ("DOCKER_DEFAULT_PLATFORM", vec![text]),
        _ => ("--platform", given),
    };
    let mut platforms = Vec::new();
    for text in texts {
        let platform = platform(text, &env.platform).map_err(|why| format!("{flag}: {why}"))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// Reads one platform; `local` is this machine's.
pub(super) fn platform(text: &str, local: &Platform) -> Result<Platform, Invalid> {
    if text.eq_ignore_ascii_case("local") {
        return Ok(local.clone());
    }
    Ok(Platform::parse(text, local)
        .map_err(|error| error.to_string())?
        .normalized())
}

fn attestations(args: &BuildArgs) -> Result<Vec<Attestation>, Invalid> {
    let mut all = each("attest", &args.image.attest, Attestation::parse)?;
    for (flag, text) in [
        ("provenance", &args.image.provenance),
        ("sbom", &args.image.sbom),
    ] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            all.push(of(flag, Attestation::parse_short(flag, text))?);
        }
    }
    let last = last_of_each(all, |(attestation, _)| &attestation.kind);
    Ok(last
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(attestation, _)| attestation)
        .collect())
}

fn outputs(
    args: &BuildArgs,
    tags: &[ImageRef],
    local: &Platform,
    env: &Environment,
) -> Result<Vec<OutputSpec>, Invalid> {
    let mut outputs = each("output", &args.output.output, |text| {
        OutputSpec::parse(text, local)
    })?;
    let files = |output: &OutputSpec| matches!(output, OutputSpec::Files(_));
    if args.output.iidfile.is_some() && outputs.iter().any(files) {
        return Err(
            "--iidfile: outputs of type local and tar have no image id; add -o type=image"
                .to_owned(),
        );
    }
    if args.output.push == Some(true) {
        push(&mut outputs);
    }
    if args.output.load == Some(true) && !outputs.iter().any(|output| *output == OutputSpec::load())
    {
        outputs.push(OutputSpec::load());
    }
    if outputs.is_empty() {
        let discard = env.nonempty("BUILDX_NO_DEFAULT_LOAD").map(boolean) == Some(Ok(true));
        outputs.push(if discard {
            OutputSpec::CacheOnly
        } else {
            OutputSpec::image(false)
        });
    }
    let annotations: Vec<Annotation> = each("annotation", &args.image.annotation, |text| {
        annotation::parse(text, local)
    })?
    .concat();
    for output in &mut outputs {
        if let Some(names) = output.names_mut().filter(|_| !tags.is_empty()) {
            *names = tags.to_vec();
        }
        if let Some(encoding) = output.encoding_mut() {
            encoding.annotations.extend(annotations.iter().cloned());
        }
        if matches!(output, OutputSpec::Image(image) if image.push && image.names.is_empty()) {
            return Err("an image needs a name to be pushed: give --tag REGISTRY/NAME".to_owned());
        }
    }
    Ok(outputs)
}

/// `--push`: images are pushed; if there is none among the outputs, one is added.
fn push(outputs: &mut Vec<OutputSpec>) {
    let mut any = false;
    for output in outputs.iter_mut() {
        if let OutputSpec::Image(image) = output {
            image.push = true;
            any = true;
        }
    }
    if !any {
        outputs.push(OutputSpec::image(true));
    }
}

fn caches(flag: &str, texts: &[String]) -> Result<Vec<CacheSpec>, Invalid> {
    Ok(each(flag, texts, CacheSpec::parse)?.concat())
}

fn secrets(texts: &[String], env: &Environment) -> Result<Vec<SecretSpec>, Invalid> {
    let is_set = |name: &str| env.os_variable(name).is_some();
    let secrets = each("secret", texts, |text| SecretSpec::parse(text, &is_set))?;
    Ok(last_of_each(secrets, |secret| &secret.id))
}

/// `--check` is short for `--call=check`; beside a `--call` that says more it adds nothing.
fn call(args: &BuildArgs) -> Result<Call, Invalid> {
    let text = args.report.call.as_deref().unwrap_or("build");
    match of("call", Call::parse(text))? {
        Call::Build if args.report.check == Some(true) => of("check", Call::parse("check")),
        call => Ok(call),
    }
}

#[cfg(test)]
mod tests;
