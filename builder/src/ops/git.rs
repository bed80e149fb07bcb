//! ADD and contexts from git: the host's `git`, held to a few protocols and to nobody's configuration.
//!
//! It sees no password in its arguments, which everyone on the machine could read, and which it would write into
//! configurations and logs: credentials reach it through its environment.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use lapstrake_cache::{Layer, Scratch};
use lapstrake_frontend::plan::Git;
use lapstrake_runtime::{Cancel, NOT_FOUND, guarded};
use reqwest::Url;

use super::{Job, Ops, describe, key};
use crate::engine::{Prepared, Task};
use crate::fs::Chain;
use crate::secrets::Secrets;
use crate::time;
use crate::web::redacted;

/// The most that is read of what git prints: a listing of a million references is smaller.
const LISTING: u64 = 128 << 20;

/// How often a running git is looked at.
const TICK: Duration = Duration::from_millis(5);

/// What git is run with.
pub(crate) struct Access<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) cancel: &'a Cancel,
    /// How long a server may be silent.
    pub(crate) patience: Duration,
}

impl<'a> Access<'a> {
    fn of(ops: &'a Ops) -> Self {
        Self {
            secrets: &ops.secrets,
            cancel: &ops.cancel,
            patience: ops.client.time_limits().stall,
        }
    }
}

/// The commit that a reference names now.
pub(crate) struct Checkout {
    commit: String,
    /// What is fetched: the reference as the remote calls it, or the commit.
    reference: String,
}

/// Finds the commit that `op` names: that, not the name, is the key.
pub(super) fn prepare(ops: &Ops, task: &Task, op: &Git) -> Result<Prepared<Job>> {
    let checkout = resolve(&Access::of(ops), op)
        .with_context(|| format!("read git repository {}", redacted(&op.remote)))?;
    let note = describe("git", &(), &(), |encoder, ()| {
        key::git(encoder, op, &checkout.commit, &checkout.reference);
    });
    let ready = ops.ready(task, note, Chain::default(), Job::Git(checkout));
    Ok(Prepared::proved(ready))
}

/// Checks the commit out and commits the tree as a layer.
pub(super) fn run(ops: &Ops, op: &Git, job: &Checkout) -> Result<Layer> {
    let scratch = ops.store.scratch()?;
    let (tree, time) = check_out(&Access::of(ops), op, job, &scratch)
        .with_context(|| format!("fetch git repository {}", redacted(&op.remote)))?;
    let active = ops.store.snapshot(&[])?;
    super::copy::copy_checkout(&tree, active.upper())?;
    if op.commit_time {
        // The root is the directory that ADD makes.
        time::set(active.upper(), time)?;
    }
    Ok(ops.store.commit(active)?)
}

/// The time of the commit that `op` names.
pub(crate) fn time(access: &Access<'_>, op: &Git, scratch: &Scratch) -> Result<i64> {
    let job = resolve(access, op)
        .with_context(|| format!("read git repository {}", redacted(&op.remote)))?;
    fetch(access, op, &job, scratch)
        .and_then(|repository| commit_time(access, op, &job, &repository))
        .with_context(|| format!("fetch git repository {}", redacted(&op.remote)))
}

/// A main context that is a git repository, checked out into `scratch`; gives back the directory that is the context, and
/// the time of the commit.
pub(crate) fn context(access: &Access<'_>, op: &Git, scratch: &Scratch) -> Result<(PathBuf, i64)> {
    let job = resolve(access, op)
        .with_context(|| format!("read git repository {}", redacted(&op.remote)))?;
    check_out(access, op, &job, scratch)
        .with_context(|| format!("fetch git repository {}", redacted(&op.remote)))
}

/// Finds the commit, which must be the one that a checksum tells.
fn resolve(access: &Access<'_>, op: &Git) -> Result<Checkout> {
    let checkout = find(access, op)?;
    if let Some(wanted) = &op.checksum {
        ensure!(
            checkout.commit.starts_with(wanted.as_str()),
            "the commit is {}, not {wanted} as --checksum says",
            checkout.commit
        );
    }
    Ok(checkout)
}

fn find(access: &Access<'_>, op: &Git) -> Result<Checkout> {
    ensure!(
        !op.remote.starts_with('-'),
        "the remote must not begin with a dash"
    );
    let name = op.reference.as_deref().unwrap_or("HEAD");
    ensure!(
        !name.starts_with('-'),
        "the reference must not begin with a dash"
    );
    if is_commit(name) {
        return Ok(Checkout {
            commit: name.to_owned(),
            reference: name.to_owned(),
        });
    }
    let listing = git(access, op, None, &["ls-remote", "--", &address(&op.remote)])?;
    let refs: Vec<(&str, &str)> = listing
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    // As for `git checkout`, a branch comes before a tag of the same name.
    let candidates = [
        format!("{name}^{{}}"),
        name.to_owned(),
        format!("refs/{name}^{{}}"),
        format!("refs/{name}"),
        format!("refs/heads/{name}"),
        format!("refs/tags/{name}^{{}}"),
        format!("refs/tags/{name}"),
    ];
    let found = candidates
        .iter()
        .find_map(|wanted| refs.iter().find(|(_, name)| name == wanted));
    let Some((commit, reference)) = found else {
        bail!("it has no branch, tag or commit {name:?}");
    };
    let reference = reference.trim_end_matches("^{}").to_owned();
    Ok(Checkout {
        commit: (*commit).to_owned(),
        reference,
    })
}

fn is_commit(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Makes a repository with the commit in it.
fn fetch(access: &Access<'_>, op: &Git, job: &Checkout, scratch: &Scratch) -> Result<PathBuf> {
    let repository = scratch.path().join("tree");
    std::fs::create_dir_all(&repository)?;
    let git = |args: &[&str]| git(access, op, Some(&repository), args);
    // A repository has one kind of names, which that of the commit tells.
    let names: &[&str] = match job.commit.len() {
        64 => &["--object-format=sha256"],
        _ => &[],
    };
    git(&[
        &["init", "--quiet", "--initial-branch=master"],
        names,
        &["."],
    ]
    .concat())?;
    git(&["remote", "add", "origin", &address(&op.remote)])?;
    // A repository that is kept knows what was asked for by its name.
    let named = (op.keep_git_dir && job.reference.starts_with("refs/"))
        .then(|| format!("{0}:{0}", job.reference));
    let fetch = |what: &[&str]| {
        let fetch = [
            "fetch",
            "--quiet",
            "--no-write-fetch-head",
            "--update-head-ok",
        ];
        git(&[&fetch, what, named.as_deref().as_slice()].concat())
    };
    let shallow: &[&str] = match &named {
        Some(_) => &["--no-tags", "--depth=1", "origin"],
        None => &["--no-tags", "--depth=1", "origin", &job.reference],
    };
    if fetch(shallow).is_err() {
        // Servers may refuse single commits: then all branches are fetched and the commit looked for.
        fetch(&["--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"])?;
    }
    Ok(repository)
}

/// The seconds since 1970 at which the commit was made.
fn commit_time(access: &Access<'_>, op: &Git, job: &Checkout, repository: &Path) -> Result<i64> {
    let commit = format!("{}^{{commit}}", job.commit);
    let args = ["log", "-1", "--format=%ct", &commit];
    let printed = git(access, op, Some(repository), &args)?;
    printed.trim().parse().context("read the commit's time")
}

/// Checks the commit out; gives back the directory that is wanted of it, and the commit's time.
fn check_out(
    access: &Access<'_>,
    op: &Git,
    job: &Checkout,
    scratch: &Scratch,
) -> Result<(PathBuf, i64)> {
    let repository = fetch(access, op, job, scratch)?;
    let git = |args: &[&str]| git(access, op, Some(&repository), args);
    git(&["checkout", "--quiet", "--force", "--detach", &job.commit])?;
    if op.submodules && repository.join(".gitmodules").exists() {
        let update = ["submodule", "update", "--quiet", "--init", "--recursive"];
        // Not every server knows shallow copies.
        if git(&[&update[..], &["--depth=1"]].concat()).is_err() {
            git(&update)?;
        }
    }
    let time = commit_time(access, op, job, &repository)?;
    if !op.keep_git_dir {
        std::fs::remove_dir_all(repository.join(".git"))?;
    }
    let tree = match &op.subdir {
        None => repository,
        Some(subdir) => subdirectory(&repository, subdir)?,
    };
    if op.commit_time {
        time::set_all(&tree, time)?;
    }
    Ok((tree, time))
}

/// The directory `subdir` of the checkout; it must be a real directory inside it.
fn subdirectory(repository: &Path, subdir: &str) -> Result<PathBuf> {
    let clean = crate::paths::clean(Path::new(subdir));
    ensure!(
        !subdir.split('/').any(|part| part == ".."),
        "the directory {subdir:?} leaves the repository"
    );
    let path = repository.join(&clean);
    let real =
        std::fs::canonicalize(&path).with_context(|| format!("it has no directory {subdir:?}"))?;
    ensure!(
        real == path && real.is_dir(),
        "{subdir:?} is not a directory of the repository"
    );
    Ok(path)
}

/// Runs git without the user's configuration, hooks, prompts or unusual protocols.
fn git(access: &Access<'_>, op: &Git, folder: Option<&Path>, args: &[&str]) -> Result<String> {
    let mut command = guarded("git");
    let seconds = access.patience.as_secs().max(1);
    let slowest = format!("http.lowSpeedTime={seconds}");
    let settings = [
        "protocol.allow=never",
        "protocol.https.allow=always",
        "protocol.http.allow=always",
        "protocol.ssh.allow=always",
        "protocol.git.allow=always",
        "core.hooksPath=/dev/null",
        "core.symlinks=true",
        "advice.detachedHead=false",
        "core.fsmonitor=false",
        // It would hold the time, and the names of the user and of this machine.
        "core.logAllRefUpdates=false",
        "submodule.fetchJobs=1",
        // Nothing stays at work in the background.
        "gc.auto=0",
        "maintenance.auto=false",
        "http.lowSpeedLimit=1",
        &slowest,
    ];
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    command.args(args).env_clear();
    for name in [
        "PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
    ] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs([
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("HOME", "/nonexistent"),
        ("LC_ALL", "C"),
        // Asked for a password that was not given, it gives none.
        ("GIT_ASKPASS", "true"),
    ]);
    command.env(
        "GIT_SSH_COMMAND",
        format!(
            "ssh -o BatchMode=yes -o ConnectTimeout={seconds} -o ServerAliveInterval={seconds}"
        ),
    );
    if let Some((name, value)) = credentials(access.secrets, &op.remote)? {
        command.envs([
            ("GIT_CONFIG_COUNT", OsString::from("1")),
            ("GIT_CONFIG_KEY_0", OsString::from(name)),
            ("GIT_CONFIG_VALUE_0", OsString::from(value)),
        ]);
    }
    if let Some(socket) = access.secrets.ssh_socket("default", false)? {
        command.env("SSH_AUTH_SOCK", socket);
    }
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = output(command, access.cancel)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no message");
        bail!("git {}: {}", args.first().unwrap_or(&""), last);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command and its helpers to their end, or until the build is stopped.
fn output(mut command: Command, cancel: &Cancel) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run git")?;
    // Git ends when this is dropped.
    let _alive = child.stdin.take();
    let group = rustix::process::Pid::from_child(&child);
    let kill = || rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| limited(stdout));
        let stderr = scope.spawn(|| limited(stderr));
        let status = loop {
            if let Some(status) = child.try_wait().context("wait for git")? {
                break status;
            }
            if cancel.is_cancelled() {
                let _ = kill();
            }
            std::thread::sleep(TICK);
        };
        ensure!(!cancel.is_cancelled(), "git was stopped");
        let read = |thread: std::thread::ScopedJoinHandle<'_, std::io::Result<Vec<u8>>>| {
            let read = thread
                .join()
                .map_err(|_| anyhow::anyhow!("read from git"))?;
            read.context("read from git")
        };
        let (stdout, stderr) = (read(stdout)?, read(stderr)?);
        ensure!(
            stderr != NOT_FOUND.as_bytes(),
            "git is not installed: install it to build from repositories"
        );
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    })
}

/// All that comes, but not more than [`LISTING`]; closing the pipe then ends who writes.
fn limited(from: Option<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(LISTING).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The configuration that holds the credentials for `remote`: from secrets, or from the URL itself.
fn credentials(secrets: &Secrets, remote: &str) -> Result<Option<(String, String)>> {
    let header = |value: String| {
        let name = format!("http.{}.extraheader", origin(remote));
        (name, format!("Authorization: {value}"))
    };
    if let Some(value) = authorization(secrets, remote)? {
        return Ok(Some(header(value)));
    }
    let Some(url) = http_url(remote).filter(|url| !url.username().is_empty()) else {
        return Ok(None);
    };
    Ok(Some(match url.password() {
        Some(password) => {
            let (user, password) = (decoded(url.username()), decoded(password));
            let pair = [&user[..], b":", &password].concat();
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            header(format!("basic {pair}"))
        }
        // Only shown to a server that asks for it: public repositories are named like this too.
        None => (
            format!(
                "credential.{}.username",
                origin(remote).trim_end_matches('/')
            ),
            String::from_utf8_lossy(&decoded(url.username())).into_owned(),
        ),
    }))
}

fn http_url(remote: &str) -> Option<Url> {
    let url = Url::parse(remote).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// What is given to git: an HTTP address without user and password.
fn address(remote: &str) -> String {
    match http_url(remote) {
        Some(_) => redacted(remote),
        None => remote.to_owned(),
    }
}

/// The bytes that a part of a URL stands for.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, after) = match byte.filter(|_| *first == b'%') {
            Some(byte) => (byte, &after[2..]),
            None => (*first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}

/// The Authorization header from the secrets GIT_AUTH_HEADER and GIT_AUTH_TOKEN, with or without the host's name.
fn authorization(secrets: &Secrets, remote: &str) -> Result<Option<String>> {
    let Some(host) = host(remote) else {
        return Ok(None);
    };
    for name in [
        format!("GIT_AUTH_HEADER.{host}"),
        "GIT_AUTH_HEADER".to_owned(),
    ] {
        if let Some(value) = secrets.get(&name, false)? {
            return Ok(Some(String::from_utf8_lossy(&value).trim().to_owned()));
        }
    }
    for name in [
        format!("GIT_AUTH_TOKEN.{host}"),
        "GIT_AUTH_TOKEN".to_owned(),
    ] {
        if let Some(value) = secrets.get(&name, false)? {
            let user = format!("x-access-token:{}", String::from_utf8_lossy(&value).trim());
            return Ok(Some(format!(
                "basic {}",
                base64::engine::general_purpose::STANDARD.encode(user)
            )));
        }
    }
    Ok(None)
}

/// `https://host/` of an HTTP remote: credentials are for that origin only.
fn origin(remote: &str) -> String {
    let scheme = if remote.starts_with("http://") {
        "http"
    } else {
        "https"
    };
    format!("{scheme}://{}/", host(remote).unwrap_or_default())
}

fn host(remote: &str) -> Option<String> {
    let rest = remote
        .strip_prefix("https://")
        .or_else(|| remote.strip_prefix("http://"))?;
    let authority = rest.split('/').next()?;
    Some(authority.rsplit('@').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_are_for_one_origin() {
        assert_eq!(origin("https://token@host/a.git"), "https://host/");
        let found = |remote: &str| credentials(&Secrets::default(), remote).unwrap();
        let header = (
            "http.https://h:8443/.extraheader",
            "Authorization: basic dTpwQHc=",
        );
        let both = found("https://u:p%40w@h:8443/a.git").unwrap();
        assert_eq!((&*both.0, &*both.1), header);
        let named = found("https://token@h/a.git").unwrap();
        assert_eq!(
            (&*named.0, &*named.1),
            ("credential.https://h.username", "token")
        );
        for none in ["https://h/a.git", "git@h:a.git", "ssh://git@h/a.git"] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn arguments_hold_no_password() {
        assert_eq!(address("https://u:p@h/a.git"), "https://h/a.git");
        for kept in ["git@h:a.git", "ssh://git@h/a.git", "git://h/a"] {
            assert_eq!(address(kept), kept);
        }
    }
}
