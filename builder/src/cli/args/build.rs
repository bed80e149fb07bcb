//! The flags of `build`, spelled as `docker buildx build` spells them.

use std::ffi::OsString;

use clap::Args;

use crate::cli::values::boolean;

/// `build`, in the groups that its help shows.
#[derive(Debug, Args)]
#[command(
    override_usage = "lapstrake build [OPTIONS] PATH | URL | -",
    after_help = "\
Examples:
  lapstrake build -t app .                          build ./Dockerfile, keep the image as app:latest
  lapstrake build -t ghcr.io/me/app:1 --push .      build and push
  lapstrake build --target test -o out .            write the files of stage test to ./out
  lapstrake build -o type=oci,dest=app.tar .        write an OCI archive
  lapstrake build --secret id=npm,src=.npmrc .      for RUN --mount=type=secret,id=npm
  lapstrake build https://github.com/me/app.git     build a repository
  lapstrake build - < Dockerfile                    build without a context"
)]
pub(crate) struct BuildArgs {
    /// The build context: a directory, a git or http(s) URL, or - for a Dockerfile or tar on standard input
    #[arg(value_name = "PATH | URL | -")]
    pub(crate) context: OsString,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) steps: StepArgs,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    #[command(flatten)]
    pub(crate) legacy: LegacyArgs,
}

/// What is read.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to build")]
pub(crate) struct InputArgs {
    /// The Dockerfile: a path, a URL or - for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<OsString>,
    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// Add a context, or replace an image or stage: NAME=PATH, =docker-image://…, =oci-layout://…, =URL
    #[arg(long, value_name = "NAME=SOURCE")]
    pub(crate) build_context: Vec<String>,
    /// Build for these platforms, such as linux/amd64,linux/arm64
    #[arg(long, value_name = "PLATFORM,…")]
    pub(crate) platform: Vec<String>,
    /// Ask the registries for newer base images
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = boolean)]
    pub(crate) pull: Option<bool>,
}

/// What the image says of itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct ImageArgs {
    /// Name the image; may be given several times
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// Set a label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    #[arg(
        long,
        value_name = "KEY=VALUE",
        help = "Set an annotation: [manifest|index|…[PLATFORM]:]KEY=VALUE"
    )]
    pub(crate) annotation: Vec<String>,
    /// Add an attestation: type=sbom or type=provenance
    #[arg(long, value_name = "type=TYPE,…")]
    pub(crate) attest: Vec<String>,
    /// Short for --attest=type=provenance
    #[arg(long, value_name = "BOOL|OPTIONS")]
    pub(crate) provenance: Option<String>,
    /// Short for --attest=type=sbom
    #[arg(long, value_name = "BOOL|OPTIONS")]
    pub(crate) sbom: Option<String>,
}

/// Where results go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
pub(crate) struct OutputArgs {
    /// Where the result goes: a directory, - for a tar on standard output, or a type (image, registry, docker,
    /// oci, local, tar, cacheonly) with options such as dest=PATH, name=NAME, compression=gzip|zstd
    #[arg(short, long, value_name = "DEST | type=TYPE,…")]
    pub(crate) output: Vec<String>,
    /// Push the image to its registry: short for -o type=registry
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = boolean)]
    pub(crate) push: Option<bool>,
    /// Load the image where docker finds it: short for -o type=docker
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = boolean)]
    pub(crate) load: Option<bool>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<OsString>,
    /// Write facts about the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<OsString>,
}

/// What may be used again.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheArgs {
    /// Run every step again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = boolean)]
    pub(crate) no_cache: Option<bool>,
    /// Run the steps of these stages again, or single steps by their number: build:3 for [build 3/7]
    #[arg(long, value_name = "STAGE[:STEP],…")]
    pub(crate) no_cache_filter: Vec<String>,
    /// Run the step on this line of the Dockerfile again, and all that depends on it
    #[arg(long, value_name = "LINE")]
    pub(crate) rebuild_from: Option<String>,
    /// Run RUN steps again that were run longer ago than this, for example 24h
    #[arg(long, value_name = "AGE")]
    pub(crate) cache_ttl: Option<String>,
    /// Which mode bits of files of the context count: exact, or normalized (write bits of group and others do not)
    #[arg(long, value_name = "MODE")]
    pub(crate) context_modes: Option<String>,
    /// Take what other machines left: an image or a cache by its name, or
    /// type=registry (ref=NAME), local (src=DIR), s3 (bucket=NAME,region=REGION) or gha
    #[arg(long, value_name = "NAME | type=TYPE,…")]
    pub(crate) cache_from: Vec<String>,
    /// Leave keys and layers for other machines: type=registry (ref=NAME), local (dest=DIR),
    /// inline, s3 or gha, with mode=min|max, compression=gzip|zstd|uncompressed, mounts=ID,…|all, ignore-error=true
    #[arg(long, value_name = "NAME | type=TYPE,…")]
    pub(crate) cache_to: Vec<String>,
    /// Say of each step whether it was cached, and if not, what changed
    #[arg(long)]
    pub(crate) explain: bool,
}

/// How RUN runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Steps")]
pub(crate) struct StepArgs {
    /// Give a secret to steps that mount it: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long, value_name = "id=NAME,…")]
    pub(crate) secret: Vec<String>,
    /// Give an SSH agent or keys to steps that mount it: default, or default=SOCKET, or ID=KEYFILE
    #[arg(long, value_name = "ID[=PATH,…]")]
    pub(crate) ssh: Vec<String>,
    /// The network of steps: default, none or host
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// Add a host name: HOST:IP, HOST=IP or HOST:host-gateway
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// Allow what a Dockerfile asks for: network.host, security.insecure, device[=NAME]
    #[arg(long, value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,
    /// Limit a resource: memory=2g, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, cpuset-mems
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) resource: Vec<String>,
    /// Set a limit of processes, such as nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// The size of /dev/shm, such as 128m
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// Ask these name servers
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<String>,
    /// Look names up in these domains
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Set an option of the resolver
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    /// no-new-privileges: programs with set-user-ID bits, such as sudo, give no rights
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// How steps are confined: default, or none where no namespaces can be had, which confines nothing
    #[arg(long, value_name = "MODE")]
    pub(crate) isolation: Option<String>,
    /// The parent of the steps' cgroups
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
}

/// What is said meanwhile.
#[derive(Debug, Args)]
#[command(next_help_heading = "Progress and checks")]
pub(crate) struct ReportArgs {
    /// How to show progress: auto, plain, tty, quiet, rawjson or none
    #[arg(long, value_name = "MODE")]
    pub(crate) progress: Option<String>,
    /// Print nothing but the image's id
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = boolean)]
    pub(crate) quiet: Option<bool>,
    /// Instead of building: check, outline or targets
    #[arg(long, value_name = "METHOD")]
    pub(crate) call: Option<String>,
    /// Short for --call=check
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = boolean)]
    pub(crate) check: Option<bool>,
}

/// Flags that docker hides: old spellings, and what only other builders need.
#[derive(Debug, Args)]
pub(crate) struct LegacyArgs {
    #[arg(short, long, hide = true)]
    pub(crate) memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    #[arg(short, long, hide = true)]
    pub(crate) cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpu_period: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_mems: Option<String>,
    /// There are no intermediate containers to remove, and no context to compress: nothing is left to do.
    #[arg(long = "rm", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = boolean)]
    pub(crate) _rm: Option<bool>,
    #[arg(long = "force-rm", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = boolean)]
    pub(crate) _force_rm: Option<bool>,
    #[arg(long = "compress", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = boolean)]
    pub(crate) _compress: Option<bool>,
    #[arg(long, hide = true)]
    pub(crate) builder: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) policy: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = boolean)]
    pub(crate) squash: Option<bool>,
}
