//! ADD and contexts from git: the host's `git`, held to a few protocols and to nobody's configuration.
//!
//! It sees no password in its arguments, which everyone on the machine could read, and which it would write into
//! configurations and logs: credentials reach it through its environment.

mod credentials;
mod program;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::{Layer, Scratch};
use lapstrake_frontend::plan::Git;

use super::{Job, Ops, describe, key};
use crate::engine::{Prepared, Task};
use crate::fs::Chain;
use crate::time;
use crate::web::redacted;
use credentials::address;
use program::git;

pub(crate) use program::Access;

/// The commit that a reference names now.
pub(crate) struct Checkout {
    commit: String,
    /// What is fetched: the reference as the remote calls it, or the commit.
    reference: String,
}

/// Finds the commit that `op` names: that, not the name, is the key.
pub(super) fn prepare(ops: &Ops, task: &Task, op: &Git) -> Result<Prepared<Job>> {
    let checkout = resolve(&Access::of(ops), op)?;
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
    let job = resolve(access, op)?;
    fetch(access, op, &job, scratch)
        .and_then(|repository| commit_time(access, op, &job, &repository))
        .with_context(|| format!("fetch git repository {}", redacted(&op.remote)))
}

/// A main context that is a git repository, checked out into `scratch`; gives back the directory that is the context, and
/// the time of the commit.
pub(crate) fn context(access: &Access<'_>, op: &Git, scratch: &Scratch) -> Result<(PathBuf, i64)> {
    let job = resolve(access, op)?;
    check_out(access, op, &job, scratch)
        .with_context(|| format!("fetch git repository {}", redacted(&op.remote)))
}

/// Finds the commit, which must be the one that a checksum tells.
fn resolve(access: &Access<'_>, op: &Git) -> Result<Checkout> {
    let checked = find(access, op).and_then(|checkout| {
        let commit = &checkout.commit;
        let wanted = op.checksum.as_deref().unwrap_or_default();
        ensure!(
            commit.starts_with(wanted),
            "the commit is {commit}, not {wanted} as --checksum says"
        );
        Ok(checkout)
    });
    checked.with_context(|| format!("read git repository {}", redacted(&op.remote)))
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
