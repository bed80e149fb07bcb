//! What a build reads: the Dockerfile, the main context and the named ones.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::Store;
use lapstrake_frontend::git::GitUrl;
use lapstrake_frontend::ignore::Ignore;
use lapstrake_frontend::image::ImageRef;
use lapstrake_frontend::plan::{Git, Http, NamedContext};
use rustix::fs::{self, Mode, OFlags};

use crate::cli::{BuildOptions, ContextArg, ContextModes, ContextSource, DockerfileArg};
use crate::context::{Age, LocalContext, open_named, read_ignore};
use crate::ops::{GitAccess, git_context};
use crate::registry::Client;
use crate::web::Body;

/// A Dockerfile larger than this is refused.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// What was read.
pub(super) struct Input {
    /// The Dockerfile's bytes.
    pub(super) dockerfile: Vec<u8>,
    /// What errors call it.
    pub(super) name: String,
    /// The main context's ignore list.
    pub(super) ignore: Ignore,
    /// The main context under `None`.
    pub(super) contexts: HashMap<Option<String>, Arc<LocalContext>>,
    /// What the names of `--build-context` stand for.
    pub(super) named: BTreeMap<String, NamedContext>,
    /// OCI layouts by the registry name that stands for them.
    pub(super) layouts: BTreeMap<String, PathBuf>,
}

/// Whether all of it lies in directories of this machine, so that nothing waits for a server or a pipe.
pub(super) fn is_near(options: &BuildOptions) -> bool {
    matches!(options.context, ContextArg::Dir(_))
        && matches!(
            options.file,
            DockerfileArg::Default | DockerfileArg::Path(_)
        )
        && options.contexts.is_empty()
}

/// Reads all of it. Runs on a thread that may block, unless [`is_near`].
pub(super) fn read(
    store: &Store,
    client: &Client,
    git: &GitAccess<'_>,
    options: &BuildOptions,
) -> Result<Input> {
    let main = main(store, client, git, options)?;
    let mut input = Input {
        dockerfile: main.dockerfile,
        name: main.name,
        ignore: main.context.ignore().clone(),
        contexts: HashMap::from([(None, Arc::new(main.context))]),
        named: BTreeMap::new(),
        layouts: BTreeMap::new(),
    };
    for (name, source) in &options.contexts {
        let named = named(store, &mut input, name, source, options.context_modes)?;
        input.named.insert(name.clone(), named);
    }
    Ok(input)
}

struct Main {
    dockerfile: Vec<u8>,
    name: String,
    context: LocalContext,
}

fn main(
    store: &Store,
    client: &Client,
    git: &GitAccess<'_>,
    options: &BuildOptions,
) -> Result<Main> {
    match &options.context {
        ContextArg::Dir(path) => directory(store, client, options, path),
        ContextArg::Stdin => {
            let mut stdin = std::io::stdin();
            archive_or_dockerfile(store, client, options, &mut stdin, None)
                .context("read standard input")
        }
        ContextArg::Url(url) => remote(store, client, git, options, url),
    }
}

/// A directory on this machine.
fn directory(store: &Store, client: &Client, options: &BuildOptions, path: &Path) -> Result<Main> {
    ensure!(
        path.is_dir(),
        "the build context {} is not a directory",
        path.display()
    );
    let (dockerfile, name, at) = match &options.file {
        DockerfileArg::Default => {
            let name = default_name(path).with_context(|| {
                format!(
                    "there is no Dockerfile in {}: create one, or name another file with --file",
                    path.display()
                )
            })?;
            let at = path.join(name);
            (read_file(path, &at)?, "Dockerfile".to_owned(), Some(at))
        }
        DockerfileArg::Path(file) => (
            read_file(path, file)?,
            file.display().to_string(),
            Some(file.clone()),
        ),
        DockerfileArg::Stdin => (
            read_limited(&mut std::io::stdin().lock())?,
            "Dockerfile".to_owned(),
            None,
        ),
        DockerfileArg::Url(url) => (download(client, url)?, "Dockerfile".to_owned(), None),
    };
    let ignore = read_ignore(path, at.as_deref())?;
    Ok(Main {
        dockerfile,
        name,
        context: LocalContext::open(store, path, ignore, options.context_modes)?,
    })
}

/// The name of the Dockerfile where no flag says it.
fn default_name(context: &Path) -> Option<&'static str> {
    ["Dockerfile", "dockerfile"]
        .into_iter()
        .find(|name| context.join(name).symlink_metadata().is_ok())
}

/// Reads a Dockerfile that lies in the context, or anywhere else where the user says so.
fn read_file(context: &Path, path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let file = open_named(context, path).with_context(|| format!("read {shown}"))?;
    read_regular(file).with_context(|| format!("read {shown}"))
}

fn read_regular(mut file: std::fs::File) -> Result<Vec<u8>> {
    ensure!(file.metadata()?.is_file(), "it is not a regular file");
    read_limited(&mut file)
}

fn read_limited(from: &mut dyn Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(DOCKERFILE_LIMIT + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= DOCKERFILE_LIMIT,
        "a Dockerfile of more than {DOCKERFILE_LIMIT} bytes is refused"
    );
    Ok(bytes)
}

/// A stream that is either an archive with the whole context, or a Dockerfile without one; `modified` is when it was
/// changed last, in seconds since 1970, if its server says so.
fn archive_or_dockerfile(
    store: &Store,
    client: &Client,
    options: &BuildOptions,
    stream: &mut (dyn Read + Send),
    modified: Option<i64>,
) -> Result<Main> {
    let age = modified.map_or(Age::NewestFile, Age::At);
    let scratch = store.scratch()?;
    let root = scratch.path().join("context");
    std::fs::create_dir(&root)?;
    let (dockerfile, name) = match crate::ops::unpack_if_archive(stream, &root)? {
        Some(dockerfile) => {
            ensure!(
                dockerfile.len() as u64 <= DOCKERFILE_LIMIT,
                "it is neither an archive nor a Dockerfile"
            );
            (dockerfile, "Dockerfile".to_owned())
        }
        None => inner_dockerfile(client, &options.file, &root)?,
    };
    Ok(Main {
        dockerfile,
        name,
        context: LocalContext::unpacked(scratch, Path::new("context"), age)?,
    })
}

/// The Dockerfile of a context that was unpacked or checked out: its path is inside that context, links and all.
fn inner_dockerfile(
    client: &Client,
    file: &DockerfileArg,
    root: &Path,
) -> Result<(Vec<u8>, String)> {
    match file {
        DockerfileArg::Default => {
            let name = default_name(root)
                .context("there is no Dockerfile in the context: name another file with --file")?;
            Ok((read_inside(root, Path::new(name))?, "Dockerfile".to_owned()))
        }
        DockerfileArg::Path(path) => Ok((read_inside(root, path)?, path.display().to_string())),
        DockerfileArg::Stdin => Ok((
            read_limited(&mut std::io::stdin().lock())?,
            "Dockerfile".to_owned(),
        )),
        DockerfileArg::Url(url) => Ok((download(client, url)?, "Dockerfile".to_owned())),
    }
}

/// Reads a file of somebody else's tree; no link leads out of it.
fn read_inside(root: &Path, path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let root = fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = lapstrake_cache::open_in_root(root.as_fd(), path, flags);
    let file = file.with_context(|| format!("read {shown}"))?;
    read_regular(file.into()).with_context(|| format!("read {shown}"))
}

/// A git repository, an archive or a single Dockerfile somewhere else.
fn remote(
    store: &Store,
    client: &Client,
    git: &GitAccess<'_>,
    options: &BuildOptions,
    url: &str,
) -> Result<Main> {
    // As with BuildKit, files of the context have the time of the commit where the build has an epoch.
    let epoch = options.build_args.get("SOURCE_DATE_EPOCH");
    let commit_time = epoch.is_some_and(|epoch| !epoch.is_empty());
    if let Some(mut source) = git_source(url, commit_time)? {
        source.keep_git_dir |= options.is_on("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let scratch = store.scratch()?;
        let (tree, committed) = git_context(git, &source, &scratch)?;
        let (dockerfile, name) = inner_dockerfile(client, &options.file, &tree)?;
        let inside = tree
            .strip_prefix(scratch.path())
            .context("find the checkout")?
            .to_path_buf();
        return Ok(Main {
            dockerfile,
            name,
            context: LocalContext::checkout(scratch, &inside, committed)?,
        });
    }
    let mut stream = open_url(client, url)?;
    let modified = stream.modified();
    archive_or_dockerfile(store, client, options, &mut stream, modified)
        .with_context(|| format!("read {}", shown(url)))
}

/// The repository that a context's URL names, if it is one. Its files have the time of the commit if the URL says so, or
/// `by_commit` where it does not say.
fn git_source(url: &str, by_commit: bool) -> Result<Option<Git>> {
    let Some(mut url) = GitUrl::parse(url)? else {
        return Ok(None);
    };
    url.commit_time.get_or_insert(by_commit);
    Ok(Some(url.into()))
}

fn shown(url: &str) -> String {
    crate::web::redacted(url)
}

fn download(client: &Client, url: &str) -> Result<Vec<u8>> {
    read_limited(&mut open_url(client, url)?).with_context(|| format!("fetch {}", shown(url)))
}

fn open_url(client: &Client, url: &str) -> Result<Body> {
    crate::web::open(client, url).with_context(|| format!("fetch {}", shown(url)))
}

fn named(
    store: &Store,
    input: &mut Input,
    name: &str,
    source: &ContextSource,
    modes: ContextModes,
) -> Result<NamedContext> {
    Ok(match source {
        ContextSource::Dir(path) => {
            ensure!(
                path.is_dir(),
                "--build-context {name}: {} is not a directory",
                path.display()
            );
            let ignore = read_ignore(path, None)?;
            let context = LocalContext::open(store, path, ignore, modes)?;
            input
                .contexts
                .insert(Some(name.to_owned()), Arc::new(context));
            NamedContext::Local
        }
        ContextSource::Image(image) => NamedContext::Image(image.clone()),
        ContextSource::OciLayout { path, tag, digest } => {
            // No registry has such a name, so that it cannot be taken for one.
            let registry = format!("oci-layout:{name}");
            input.layouts.insert(registry.clone(), path.clone());
            let (tag, digest) = (tag.clone(), digest.clone());
            NamedContext::Image(ImageRef {
                registry,
                repository: name.to_owned(),
                tag,
                digest,
            })
        }
        ContextSource::Url(url) => match git_source(url, false)? {
            Some(git) => NamedContext::Git(git),
            None if Http::is_url(url) => NamedContext::Http(url.clone()),
            None => bail!("--build-context {name}: {url:?} is neither a directory nor a URL"),
        },
    })
}
