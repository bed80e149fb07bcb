//! SSH agents for steps: a socket of the step's own, with the mode and owner that it asked for, whose connections are
//! passed on to the agent. The agent's own socket stays out of the step's sight and keeps its permissions.

use std::fs::Permissions;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use lapstrake_cache::Scratch;

/// A socket that leads to an agent, as long as this lives.
pub(super) struct Agent {
    scratch: Scratch,
    stopped: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Agent {
    /// Listens in `scratch`, and passes connections on to the socket `agent`.
    pub(super) fn start(
        scratch: Scratch,
        agent: &Path,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<Self> {
        let listener = through_folder(scratch.path(), |path| UnixListener::bind(path))
            .context("make a socket for the ssh agent")?;
        let socket = scratch.path().join(NAME);
        chown(&socket, Some(uid), Some(gid)).context("give the ssh socket its owner")?;
        std::fs::set_permissions(&socket, Permissions::from_mode(mode))
            .context("give the ssh socket its mode")?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, agent) = (Arc::clone(&stopped), agent.to_owned());
        let listening = thread::spawn(move || {
            for inside in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                // Whoever connects sees a closed connection when there is no agent any more.
                if let (Ok(inside), Ok(outside)) = (inside, UnixStream::connect(&agent)) {
                    let _ = join(inside, outside);
                }
            }
        });
        Ok(Self {
            scratch,
            stopped,
            listening: Some(listening),
        })
    }

    /// The socket to mount.
    pub(super) fn socket(&self) -> PathBuf {
        self.scratch.path().join(NAME)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the thread from its wait for a connection. Where that fails it stays until the process ends.
        if through_folder(self.scratch.path(), |path| UnixStream::connect(path)).is_ok()
            && let Some(listening) = self.listening.take()
        {
            let _ = listening.join();
        }
    }
}

/// The socket's name in its scratch folder.
const NAME: &str = "agent";

/// Names the socket through a descriptor of its folder: a socket's path may be 107 bytes long at most (unix(7)).
fn through_folder<T>(folder: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = std::fs::File::open(folder)?;
    work(Path::new(&format!(
        "/proc/self/fd/{}/{NAME}",
        folder.as_raw_fd()
    )))
}

/// Copies both ways until both ends are done.
fn join(inside: UnixStream, outside: UnixStream) -> io::Result<()> {
    for (from, to) in [
        (inside.try_clone()?, outside.try_clone()?),
        (outside, inside),
    ] {
        thread::spawn(move || {
            let _ = io::copy(&mut &from, &mut &to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};

    use lapstrake_cache::Store;

    use super::*;

    #[test]
    fn connections_are_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        let listener = UnixListener::bind(&real).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            stream.read_to_string(&mut asked).unwrap();
            stream
                .write_all(format!("heard {asked}").as_bytes())
                .unwrap();
        });
        let store = Store::open(
            &folder
                .path()
                .join("a store with a rather long name ".repeat(4)),
        );
        let scratch = store.unwrap().scratch().unwrap();
        let agent = Agent::start(scratch, &real, 0o640, (0, 0)).unwrap();
        let socket = agent.socket();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        let folder = socket.parent().unwrap();
        let mut client = through_folder(folder, |path| UnixStream::connect(path)).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "heard question");
        server.join().unwrap();
        drop(agent);
        assert!(!socket.exists());
    }
}
