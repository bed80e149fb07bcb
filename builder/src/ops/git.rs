//! ADD and contexts from git: the host's `git`, held to a few protocols and to nobody's configuration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use lapstrake_cache::{Layer, Scratch};
use lapstrake_frontend::plan::Git;

use super::{Job, Ops, describe, key};
use crate::engine::{Prepared, Task};
use crate::fs::Chain;
use crate::secrets::Secrets;
use crate::web::redacted;

/// The commit that a reference names now.
pub(crate) struct Checkout {
    commit: String,
    /// What is fetched: the reference as the remote calls it, or the commit.
    reference: String,
}

/// Finds the commit that `op` names: that, not the name, is the key.
pub(super) fn prepare(ops: &Ops, task: &Task, op: &Git) -> Result<Prepared<Job>> {
    let checkout = resolve(&ops.secrets, op)
        .with_context(|| format!("read git repository {}", redacted(&op.remote)))?;
    let Git {
        remote, checksum, ..
    } = op;
    if let Some(wanted) = checksum {
        ensure!(
            checkout.commit.starts_with(wanted.as_str()),
            "the commit of {} is {}, not {wanted} as --checksum says",
            redacted(remote),
            checkout.commit
        );
    }
    let note = describe("git", &(), &(), |encoder, ()| {
        key::git(encoder, op, &checkout.commit);
    });
    let ready = ops.ready(task, note, Chain::default(), Job::Git(checkout));
    Ok(Prepared::proved(ready))
}

/// Checks the commit out and commits the tree as a layer.
pub(super) fn run(ops: &Ops, op: &Git, job: &Checkout) -> Result<Layer> {
    let scratch = ops.store.scratch()?;
    let tree = check_out(&ops.secrets, op, job, &scratch)
        .with_context(|| format!("fetch git repository {}", redacted(&op.remote)))?;
    let active = ops.store.snapshot(&[])?;
    super::copy::copy_checkout(&tree, active.upper())?;
    Ok(ops.store.commit(active)?)
}

/// A main context that is a git repository, checked out into `scratch`; gives back the directory that is the context.
pub(crate) fn context(secrets: &Secrets, op: &Git, scratch: &Scratch) -> Result<PathBuf> {
    let job = resolve(secrets, op)
        .with_context(|| format!("read git repository {}", redacted(&op.remote)))?;
    check_out(secrets, op, &job, scratch)
        .with_context(|| format!("fetch git repository {}", redacted(&op.remote)))
}

fn resolve(secrets: &Secrets, op: &Git) -> Result<Checkout> {
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
    let listing = git(secrets, op, None, &["ls-remote", "--", &op.remote])?;
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

fn check_out(secrets: &Secrets, op: &Git, job: &Checkout, scratch: &Scratch) -> Result<PathBuf> {
    let repository = scratch.path().join("tree");
    std::fs::create_dir_all(&repository)?;
    let here = Some(repository.as_path());
    git(
        secrets,
        op,
        here,
        &["init", "--quiet", "--initial-branch=master", "."],
    )?;
    git(secrets, op, here, &["remote", "add", "origin", &op.remote])?;
    let depth: &[&str] = if op.keep_git_dir { &[] } else { &["--depth=1"] };
    let fetch = [
        &["fetch", "--quiet", "--no-tags"],
        depth,
        &["origin", &job.reference],
    ]
    .concat();
    if git(secrets, op, here, &fetch).is_err() {
        // Servers may refuse single commits: then all branches are fetched and the commit looked for.
        git(
            secrets,
            op,
            here,
            &[
                "fetch",
                "--quiet",
                "--tags",
                "origin",
                "+refs/heads/*:refs/remotes/origin/*",
            ],
        )?;
    }
    git(
        secrets,
        op,
        here,
        &["checkout", "--quiet", "--force", "--detach", &job.commit],
    )?;
    if op.submodules && repository.join(".gitmodules").exists() {
        git(
            secrets,
            op,
            here,
            &[
                "submodule",
                "update",
                "--quiet",
                "--init",
                "--recursive",
                "--depth=1",
            ],
        )?;
    }
    if op.keep_git_dir {
        // The layer must not tell with which credentials it was fetched.
        git(
            secrets,
            op,
            here,
            &["remote", "set-url", "origin", &redacted(&op.remote)],
        )?;
    } else {
        std::fs::remove_dir_all(repository.join(".git"))?;
    }
    match &op.subdir {
        None => Ok(repository),
        Some(subdir) => subdirectory(&repository, subdir),
    }
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
fn git(secrets: &Secrets, op: &Git, folder: Option<&Path>, args: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
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
        "submodule.fetchJobs=1",
    ];
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    command.args(args).stdin(Stdio::null()).env_clear();
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
        ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
    ]);
    if let Some(header) = authorization(secrets, &op.remote)? {
        // Through the environment: arguments of a process can be read by everyone on the machine.
        command.envs([
            ("GIT_CONFIG_COUNT", OsString::from("1")),
            (
                "GIT_CONFIG_KEY_0",
                OsString::from(format!("http.{}.extraheader", origin(&op.remote))),
            ),
            (
                "GIT_CONFIG_VALUE_0",
                OsString::from(format!("Authorization: {header}")),
            ),
        ]);
    }
    if let Some(socket) = secrets.ssh_socket("default", false)? {
        command.env("SSH_AUTH_SOCK", socket);
    }
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("git is not installed: install it to build from repositories")
        }
        other => other.context("run git")?,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no message");
        bail!(
            "git {}: {}",
            args.first().unwrap_or(&""),
            last.replace(&op.remote, &redacted(&op.remote))
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
    use super::*;

    #[test]
    fn credentials_are_for_one_origin() {
        assert_eq!(origin("https://token@host/a.git"), "https://host/");
    }
}
