//! Runs the host's `git`, without anybody's configuration and until it ends or the build does.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_frontend::plan::Git;
use lapstrake_runtime::{Cancel, NOT_FOUND, guarded};

use super::credentials::credentials;
use crate::ops::Ops;
use crate::secrets::Secrets;

/// The most that is read of what git prints: a listing of a million references is smaller.
const LISTING: u64 = 128 << 20;

/// How often a running git is looked at.
const TICK: Duration = Duration::from_millis(5);

/// The configuration: nothing that runs programs of a repository, and only protocols that need none.
const SETTINGS: [&str; 14] = [
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
];

/// The variables of ours that git sees.
const PASSED_ON: [&str; 9] = [
    "PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// The variables that it is given besides.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("HOME", "/nonexistent"),
    ("LC_ALL", "C"),
    // Asked for a password that was not given, it gives none.
    ("GIT_ASKPASS", "true"),
];

/// What git is run with.
pub(crate) struct Access<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) cancel: &'a Cancel,
    /// How long a server may be silent.
    pub(crate) patience: Duration,
}

impl<'a> Access<'a> {
    pub(super) fn of(ops: &'a Ops) -> Self {
        Self {
            secrets: &ops.secrets,
            cancel: &ops.cancel,
            patience: ops.client.time_limits().stall,
        }
    }
}

/// Runs git without the user's configuration, hooks, prompts or unusual protocols.
pub(super) fn git(
    access: &Access<'_>,
    op: &Git,
    folder: Option<&Path>,
    args: &[&str],
) -> Result<String> {
    let mut command = guarded("git");
    let seconds = access.patience.as_secs().max(1);
    let slowest = format!("http.lowSpeedTime={seconds}");
    let settings = SETTINGS.into_iter().chain([slowest.as_str()]);
    command.args(settings.flat_map(|setting| ["-c", setting]));
    command.args(args).env_clear();
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(ENVIRONMENT);
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
