//! An SSH agent of the build's own, for keys that are given as files.
//!
//! It is OpenSSH's `ssh-agent`, as a child of this process, with a socket in a folder of the store that only its owner can
//! enter. Signing is left to it, rather than to code of ours, because it is the code that is trusted with keys already, knows
//! every kind and format of them, and is there wherever `git` fetches by ssh. It lives as long as the command that it was
//! started with, which is `cat` on a pipe: when this process ends, for whatever reason, the pipe closes and both end.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use lapstrake_cache::Scratch;

/// The socket's name in the folder.
const SOCKET: &str = "agent";

/// A running agent with keys; it ends when this is dropped.
pub(crate) struct KeyAgent {
    child: Child,
    /// A way to the socket that is short enough: its path may be 107 bytes long at most (unix(7)).
    folder: File,
    _scratch: Scratch,
}

impl KeyAgent {
    /// Starts an agent in `scratch` that knows the keys in these files.
    pub(crate) fn start(scratch: Scratch, keys: &[PathBuf]) -> Result<KeyAgent> {
        let folder = File::open(scratch.path())?;
        let mut child = Command::new("ssh-agent")
            .args(["-a", SOCKET, "sh", "-c", "echo; exec cat"])
            .current_dir(scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => anyhow::anyhow!(
                    "key files need ssh-agent and ssh-add: install openssh-client, or give the socket of an agent"
                ),
                _ => error.into(),
            })?;
        // The first line comes when the socket is there.
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let agent = KeyAgent {
            child,
            folder,
            _scratch: scratch,
        };
        if line.is_empty() {
            bail!("ssh-agent did not start");
        }
        keys.iter().try_for_each(|key| {
            agent
                .add(key)
                .with_context(|| format!("add the key {}", key.display()))
        })?;
        Ok(agent)
    }

    /// Passphrases are not asked for: a build has nobody to ask.
    fn add(&self, key: &Path) -> Result<()> {
        let output = Command::new("ssh-add")
            .arg("-q")
            .arg(key.canonicalize()?)
            .env("SSH_AUTH_SOCK", self.socket())
            .env("SSH_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS_REQUIRE", "force")
            .stdin(Stdio::null())
            .output()
            .context("run ssh-add")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("passphrase") || said.trim().is_empty() {
            bail!("it has a passphrase: add it to an agent, and give that");
        }
        let lines: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('@'))
            .collect();
        bail!("{}", lines.join(" "))
    }

    /// The agent's socket, for this process and its children.
    pub(crate) fn socket(&self) -> PathBuf {
        format!(
            "/proc/{}/fd/{}/{SOCKET}",
            std::process::id(),
            self.folder.as_raw_fd()
        )
        .into()
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_of_every_kind() {
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<PathBuf> = ["ed25519", "rsa", "ecdsa"]
            .map(|kind| folder.path().join(kind))
            .into();
        for key in &keys {
            let kind = key.file_name().unwrap();
            let made = Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-t"])
                .arg(kind)
                .arg("-f")
                .arg(key)
                .status();
            assert!(made.expect("install openssh-client").success());
        }
        let store = lapstrake_cache::Store::open(&folder.path().join("store ".repeat(20))).unwrap();
        let agent = KeyAgent::start(store.scratch().unwrap(), &keys).unwrap();
        let list = Command::new("ssh-add")
            .arg("-l")
            .env("SSH_AUTH_SOCK", agent.socket())
            .output()
            .unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        for kind in ["(ED25519)", "(RSA)", "(ECDSA)"] {
            assert!(list.contains(kind), "{list}");
        }
        let socket = agent.socket();
        drop(agent);
        assert!(std::os::unix::net::UnixStream::connect(socket).is_err());
    }
}
