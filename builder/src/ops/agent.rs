//! SSH agents for steps: a socket of the step's own, with the mode and owner that it asked for. Of the agent behind it a
//! step may ask for the list of keys and for signatures; that it adds, removes or locks keys is refused, as with BuildKit.
//! The agent's own socket stays out of the step's sight and keeps its permissions.

use std::fs::Permissions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use lapstrake_cache::Scratch;

/// What a client may ask for (draft-ietf-sshm-ssh-agent, section 6.1): the keys, and a signature by one of them.
const REQUESTS: [u8; 2] = [11, 13];
/// The answer to anything else: `SSH_AGENT_FAILURE`.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// OpenSSH takes no longer message.
const LONGEST: usize = 256 << 10;

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
                    thread::spawn(move || serve(inside, outside));
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

/// Answers requests until one side is done.
fn serve(mut inside: UnixStream, mut outside: UnixStream) -> io::Result<()> {
    while let Some(request) = message(&mut inside)? {
        let allowed = request.get(4).is_some_and(|kind| REQUESTS.contains(kind));
        let answer = if allowed {
            outside.write_all(&request)?;
            message(&mut outside)?
        } else {
            Some(FAILURE.to_vec())
        };
        let Some(answer) = answer else { break };
        inside.write_all(&answer)?;
    }
    Ok(())
}

/// One message with its length before it; `None` when the other side is done.
fn message(from: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let size = u32::from_be_bytes(length) as usize;
    if size == 0 || size > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = length.to_vec();
    message.resize(4 + size, 0);
    from.read_exact(&mut message[4..])?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lapstrake_cache::Store;

    use super::*;

    #[test]
    fn keys_and_signatures_are_passed_on_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        let listener = UnixListener::bind(&real).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut kinds = Vec::new();
            while let Some(asked) = message(&mut stream).unwrap() {
                kinds.push(asked[4]);
                stream.write_all(&[0, 0, 0, 2, 12, asked[4]]).unwrap();
            }
            kinds
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
        // Keys, signature; add, remove, remove all, lock, extension.
        for kind in [11, 13, 17, 18, 19, 22, 27, 11] {
            client.write_all(&[0, 0, 0, 1, kind]).unwrap();
            let answer = message(&mut client).unwrap().unwrap();
            let expected: &[u8] = if REQUESTS.contains(&kind) {
                &[0, 0, 0, 2, 12, kind]
            } else {
                &FAILURE
            };
            assert_eq!(answer, expected, "{kind}");
        }
        // Something that is no message ends the connection.
        client.write_all(&[255; 8]).unwrap();
        assert!(!matches!(message(&mut client), Ok(Some(_))));
        assert_eq!(server.join().unwrap(), [11, 13, 11]);
        drop(agent);
        assert!(!socket.exists());
    }
}
