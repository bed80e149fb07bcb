//! The build graph that lowering makes: file system operations, and the image's config and history.

mod dump;
mod edges;

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use crate::git::GitUrl;
use crate::ignore::Ignore;
use crate::image::{ImageConfig, ImageRef, Platform};
use crate::lint::Warning;
use crate::span::Span;

/// The index of an op in [`Plan::nodes`]. Inputs of an op always have smaller ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u32);

/// What to build for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every op that the target needs, inputs before users.
    pub nodes: Vec<Node>,
    /// The file system of the target stage.
    pub result: OpId,
    /// The platform the image is for.
    pub platform: Platform,
    /// The image's config. `rootfs`, `history` and `created` of base images are kept; the builder appends.
    pub config: ImageConfig,
    /// The history entries after the base image's, in order.
    pub history: Vec<History>,
    /// [`Inputs::epoch`].
    pub source_date_epoch: Option<i64>,
    /// The stages that were needed, counted by their `FROM`: the scope of [`crate::lint::lint`].
    pub stages: BTreeSet<usize>,
    /// Of the rules that depend on lowering; [`crate::lint::lint`] takes them in.
    pub warnings: Vec<Warning>,
}

impl Plan {
    /// What the steps ask for beyond the ordinary, each with the line that asks, in the order of the steps.
    pub fn entitlements(&self) -> Vec<(Entitlement, Option<Span>)> {
        let mut all = Vec::new();
        for node in &self.nodes {
            let Op::Run(run) = &node.op else { continue };
            if run.network == Network::Host {
                all.push((Entitlement::NetworkHost, node.span));
            }
            if run.security == Security::Insecure {
                all.push((Entitlement::SecurityInsecure, node.span));
            }
            let devices = run.devices.iter();
            all.extend(devices.map(|(name, _)| (Entitlement::Device(name.clone()), node.span)));
        }
        all
    }
}

/// A permission that a step asks for and that only the user can give (`--allow`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `network.host`.
    NetworkHost,
    /// `security.insecure`.
    SecurityInsecure,
    /// `device=NAME`; `device` allows them all.
    Device(String),
}

impl std::fmt::Display for Entitlement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NetworkHost => f.write_str("network.host"),
            Self::SecurityInsecure => f.write_str("security.insecure"),
            Self::Device(name) => write!(f, "device={name}"),
        }
    }
}

/// An op with what people see of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// `[stage 2/4] RUN make`, as progress shows it.
    pub name: String,
    /// The instruction it comes from; `None` for a context or a source that only a flag names.
    pub span: Option<Span>,
    /// The stage's name, or its index where it has none. Empty outside stages.
    pub stage: SmolStr,
    /// True where `--no-cache` or `--no-cache-filter` applies.
    pub ignore_cache: bool,
}

/// One history entry that the image gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// `RUN /bin/sh -c make # buildkit`, `ENV A=1`, …
    pub created_by: String,
    /// The op whose layer this entry stands for; `None` for an empty layer.
    pub layer: Option<OpId>,
}

/// A file system operation. Each yields one file system. A closed set: match exhaustively.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// The empty file system.
    Scratch,
    /// The layers of an image.
    Image(Image),
    /// A local directory or tar given by the user.
    Context(Context),
    /// One file from an HTTP(S) server, as the only entry of a file system.
    Http(Http),
    /// A git tree.
    Git(Git),
    /// A command run on `base`.
    Run(Box<Run>),
    /// Files copied onto `base`.
    Copy(Box<Copy>),
    /// `WORKDIR`: a directory made on `base`.
    MakeDir(MakeDir),
}

/// See [`Op::Image`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Image {
    /// Which.
    pub reference: ImageRef,
    /// For which platform.
    pub platform: Platform,
}

/// See [`Op::Context`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Context {
    /// `None` for the main context, otherwise the name given with `--build-context`.
    pub name: Option<String>,
}

/// See [`Op::Http`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Http {
    /// The URL, credentials included.
    pub url: String,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// The name of the one file in the resulting file system (0600 root, mtime of Last-Modified).
    pub filename: String,
}

impl Http {
    /// Whether a source of a copy or a context is the URL of such a file.
    pub fn is_url(text: &str) -> bool {
        text.starts_with("http://") || text.starts_with("https://")
    }

    /// What a `--build-context` is that names a URL.
    pub(crate) fn named_context(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            checksum: None,
            filename: "context".to_owned(),
        }
    }
}

/// See [`Op::Git`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Git {
    /// The remote, without fragment or query.
    pub remote: String,
    /// Branch, tag or commit; `None` for the remote's HEAD.
    pub reference: Option<String>,
    /// The directory inside the tree that becomes the root.
    pub subdir: Option<String>,
    /// The commit (or its prefix) that must be found.
    pub checksum: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Fetch submodules.
    pub submodules: bool,
    /// Files have the time of the commit, not of the checkout.
    pub commit_time: bool,
}

impl From<GitUrl> for Git {
    /// Where the URL leaves it open: with submodules, without `.git`, and with the time of the checkout.
    fn from(url: GitUrl) -> Self {
        Self {
            remote: url.remote,
            reference: url.reference,
            subdir: url.subdir,
            checksum: url.checksum,
            keep_git_dir: url.keep_git_dir.unwrap_or(false),
            submodules: url.submodules.unwrap_or(true),
            commit_time: url.commit_time.unwrap_or(false),
        }
    }
}

/// See [`Op::Run`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    /// What it runs on.
    pub base: OpId,
    /// The whole argument vector, SHELL included.
    pub argv: Vec<SmolStr>,
    /// A `#!` heredoc: name and text, mounted read-only and executable at `/dev/pipes/<name>`.
    pub script: Vec<(String, String)>,
    /// The environment in order: image ENV, then ARGs in scope.
    pub env: Vec<Variable>,
    /// Proxy variables: given to the process, but neither in the key nor in the history.
    pub proxy: Vec<(String, String)>,
    /// Absolute.
    pub cwd: SmolStr,
    /// `USER`, expanded, as written; empty for root.
    pub user: SmolStr,
    /// `--network` of the instruction or of the build.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device` names with their `required` flag.
    pub devices: Vec<(String, bool)>,
    /// Mounts in order; of equal targets only the last is here.
    pub mounts: Vec<Mount>,
    /// The host name inside the step.
    pub hostname: SmolStr,
    /// The platform of the stage: foreign binaries need binfmt_misc.
    pub platform: Platform,
}

/// Name and value; long ones are shared by all the steps that see them.
pub type Variable = (SmolStr, SmolStr);

/// Network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

/// Security mode of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub enum Security {
    #[default]
    Sandbox,
    Insecure,
}

/// A `RUN --mount`, expanded and validated. `target` is absolute and clean.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Mount {
    /// `source` is a clean absolute path inside the file system of `from`. Writes are discarded.
    Bind {
        target: String,
        from: OpId,
        source: String,
        writable: bool,
    },
    /// `id` has the cache namespace in front. `from` seeds a new cache with `source` of that file system.
    Cache {
        target: String,
        id: String,
        sharing: Sharing,
        readonly: bool,
        from: Option<OpId>,
        source: String,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Tmpfs {
        target: String,
        size: Option<u64>,
    },
    /// `target` is `None` for a secret that is only a variable.
    Secret {
        target: Option<String>,
        id: String,
        env: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Ssh {
        target: String,
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// See [`Op::Copy`]. Serves COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Copy {
    /// What it copies onto. With `link` the copy does not look at it.
    pub base: OpId,
    /// In order.
    pub sources: Vec<CopySource>,
    /// Absolute; a trailing `/` (also from `.` or `/.`) means a directory.
    pub destination: String,
    /// `--chown`, expanded; names are looked up in the base's /etc/passwd and /etc/group.
    pub chown: Option<SmolStr>,
    /// `--chmod`, expanded and validated.
    pub chmod: Option<Chmod>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` patterns.
    pub excludes: Vec<String>,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CopySource {
    /// Paths of another file system; `pattern` may hold wildcards; relative to its root, no leading `/`.
    /// With `parents` one `/./` in the pattern marks the pivot: only what follows it is kept below the destination.
    /// `unpack`: an archive is extracted (ADD). Of a directory the contents are copied.
    Path {
        from: OpId,
        pattern: String,
        unpack: bool,
    },
    /// A heredoc: text already expanded; mode 0644.
    Inline { name: String, text: String },
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Chmod {
    Octal(u32),
    /// BSD-style list, validated by [`crate::chmod`], for example `u=rwX,go=rX`.
    Symbolic(String),
}

/// See [`Op::MakeDir`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MakeDir {
    /// What it is made on.
    pub base: OpId,
    /// Absolute and clean.
    pub path: String,
    /// Owner of directories that are made: `USER`, as written.
    pub user: SmolStr,
}

/// What lowering needs to know besides the Dockerfile. Built by the command line; holds no I/O.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, resolved against the client's environment.
    pub build_args: BTreeMap<String, String>,
    /// What `SOURCE_DATE_EPOCH` came to, see [`crate::epoch`]; `None` until it was asked for.
    pub epoch: Option<Option<i64>>,
    /// `--label`, in the order given.
    pub labels: Vec<(String, String)>,
    /// The platform to build for.
    pub target_platform: Platform,
    /// The platform of this machine.
    pub build_platform: Platform,
    /// `--network`.
    pub network: Network,
    /// `--build-context`; names normalised by [`crate::image::normalize_context_name`].
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--no-cache` / `--no-cache-filter`.
    pub no_cache: NoCache,
    /// Raw image configs fetched so far, as JSON, by the reference and platform that lowering asked for.
    pub images: BTreeMap<(ImageRef, Platform), Vec<u8>>,
    /// Several platforms are built: step names carry theirs.
    pub multi_platform: bool,
    /// The main context's `.dockerignore`, to warn of sources that it leaves out.
    pub ignore: Ignore,
    /// `target_platform` is only the default: a base image for another one keeps its own in the result.
    pub implicit_platform: bool,
}

/// Which stages ignore the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NoCache {
    #[default]
    Use,
    All,
    Stages(Vec<String>),
}

/// What a `--build-context` name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NamedContext {
    /// A local directory (the builder knows its path): becomes `Op::Context` with that name.
    Local,
    /// `docker-image://` or `oci-layout://`: `ImageRef` names it; the builder knows how to resolve it.
    Image(ImageRef),
    /// A git or http(s) URL.
    Git(Git),
    /// A URL of a tar or file.
    Http(String),
}

/// An answer that the configs of some images may be needed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// Those of these are needed first: fetch them (in parallel), add them to [`Inputs::images`], ask again.
    Need(Vec<Wanted>),
    /// Done.
    Ready(T),
}

/// The outcome of one lowering pass.
pub type Lowered = Answer<Box<Plan>>;

/// An image whose config lowering needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which; the key of `Inputs::images` together with the platform.
    pub reference: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// The instruction that names it: the place to show when it cannot be had.
    pub span: Span,
    /// What was probably meant, if it is not there: a stage of nearly that name, or a well-known image.
    pub near: Option<String>,
}
