//! The caller's side of a step: opens what the plan refers to, has the process started, passes its output on, learns
//! how it ended, and removes what it must not leave.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, MemfdFlags, SeekFrom, memfd_create};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cancel::Cancel;
use crate::cgroup::Wanted;
use crate::enter::{Entered, Identity, entered};
use crate::keeper::Request;
use crate::layers::{self, Copied, Layers};
use crate::network::{self, Lease};
use crate::plan::{Host, Plan, Resource, Stack, Step, bare_plan, plan};
use crate::report::Report;
use crate::spec::{Exit, RunSpec, Security, Stream};
use crate::target::{self, Stub};
use crate::{Error, bare, mount, wire};

/// Runs one command to its end.
///
/// Output goes to `output` as it comes. A failing command is a value; an error means that there was no command, or that
/// it was cancelled. Either way no process, mount or control group of it is left, and `root.upper` holds its changes
/// and nothing that was only there for its mounts. May be called from several threads at once.
pub fn run(
    spec: &RunSpec,
    output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Exit, Error> {
    let entered = entered()?;
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    if entered.identity == Identity::Bare {
        return bare::in_place(spec, |root| {
            let plan = bare_plan(spec, root)?;
            Running::start(entered, spec, plan)?.watch(output, cancel)
        });
    }
    let stack = match layers::shown()? {
        Layers::Overlays { user_xattrs } => Stack::Overlay { user_xattrs },
        Layers::Copies { .. } => Stack::Copy,
    };
    let host = Host {
        stack,
        ..entered.host
    };
    let plan = plan(spec, host)?;
    let copied = Copied::make(&spec.root)?;
    let mut running = Running::start(entered, spec, plan)?;
    let ended = running.watch(output, cancel);
    let cleaned = target::remove_stubs(&spec.root.upper, &running.stubs)
        .map_err(|error| Error::Setup(format!("remove mount stubs: {error}")));
    let settled = copied.map_or(Ok(()), Copied::settle);
    let exit = ended?;
    cleaned?;
    settled?;
    Ok(exit)
}

/// How a shell says that a command of it was killed.
const KILLED: i32 = 128 + libc::SIGKILL;

/// A step that was started.
struct Running {
    socket: OwnedFd,
    outputs: [Option<OwnedFd>; 2],
    stubs: Vec<Stub>,
    outcome: Option<Result<Exit, Error>>,
    exited: bool,
    /// Held until the end, so that no other step takes the network.
    _resources: Vec<Opened>,
}

fn setup(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Setup(format!("{action}: {error}"))
}

impl Running {
    fn start(entered: &Entered, spec: &RunSpec, plan: Plan) -> Result<Running, Error> {
        let resources = plan
            .resources
            .into_iter()
            .map(|resource| open(resource, spec.security == Security::Sandbox))
            .collect::<Result<Vec<_>, _>>()?;
        let (socket, theirs) = wire::pair().map_err(setup("make a socket"))?;
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|error| setup("make a pipe")(error.into()));
        let ((stdout, their_stdout), (stderr, their_stderr)) = (pipe()?, pipe()?);
        let request = Request {
            namespaces: match entered.identity {
                Identity::Bare => 0,
                _ => NAMESPACES,
            },
            group: Some(Wanted {
                confined: spec.security == Security::Sandbox && entered.identity != Identity::Bare,
                devices: spec.devices.iter().map(Into::into).collect(),
                limits: spec.limits.clone(),
            }),
        };
        entered
            .start(&request, &theirs)
            .map_err(setup("reach the keeper of steps"))?;
        drop(theirs);
        let fds: Vec<BorrowedFd<'_>> = [their_stdout.as_fd(), their_stderr.as_fd()]
            .into_iter()
            .chain(resources.iter().filter_map(Opened::as_fd))
            .collect();
        send_plan(&socket, &plan.steps, &fds)?;
        let outputs = [Some(stdout), Some(stderr)];
        Ok(Running {
            socket,
            outputs,
            stubs: Vec::new(),
            outcome: None,
            exited: false,
            _resources: resources,
        })
    }

    /// Until the process has ended and both outputs are closed.
    fn watch(
        &mut self,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
    ) -> Result<Exit, Error> {
        let mut buffer = vec![0; 64 << 10];
        let mut cancelled = false;
        while !self.exited || self.outputs.iter().any(Option::is_some) {
            let ready = self.wait((!cancelled).then_some(cancel))?;
            for index in [0, 1] {
                if ready.outputs[index] {
                    self.pump(index, &mut buffer, output);
                }
            }
            if ready.socket {
                self.receive(output);
            }
            if ready.cancelled {
                cancelled = true;
                // The keeper takes this as an order to kill.
                let _ = shutdown(&self.socket, Shutdown::Write);
            }
        }
        match self.outcome.take() {
            _ if cancelled => Err(Error::Cancelled),
            Some(outcome) => outcome,
            None => Err(Error::Setup("run the command: its keeper ended".into())),
        }
    }

    fn wait(&self, cancel: Option<&Cancel>) -> Result<Ready, Error> {
        let mut fds = Vec::with_capacity(4);
        fn add<'a>(fds: &mut Vec<PollFd<'a>>, fd: Option<&'a OwnedFd>) -> Option<usize> {
            fds.push(PollFd::new(fd?, PollFlags::IN));
            Some(fds.len() - 1)
        }
        let outputs = [
            add(&mut fds, self.outputs[0].as_ref()),
            add(&mut fds, self.outputs[1].as_ref()),
        ];
        let socket = add(&mut fds, (!self.exited).then_some(&self.socket));
        let cancelled = add(&mut fds, cancel.map(Cancel::event));
        rustix::io::retry_on_intr(|| poll(&mut fds, None))
            .map_err(|error| setup("wait for the command")(error.into()))?;
        let ready =
            |index: Option<usize>| index.is_some_and(|index| !fds[index].revents().is_empty());
        Ok(Ready {
            outputs: outputs.map(ready),
            socket: ready(socket),
            cancelled: ready(cancelled),
        })
    }

    fn pump(&mut self, index: usize, buffer: &mut [u8], output: &mut dyn FnMut(Stream, &[u8])) {
        let Some(pipe) = &self.outputs[index] else {
            return;
        };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) | Err(_) => self.outputs[index] = None,
            Ok(got) => output([Stream::Stdout, Stream::Stderr][index], &buffer[..got]),
        }
    }

    fn receive(&mut self, output: &mut dyn FnMut(Stream, &[u8])) {
        match wire::take::<Report>(&self.socket) {
            Ok(Some((Report::Ready { stubs }, _))) => self.stubs = stubs,
            Ok(Some((Report::Failed { message, stubs }, _))) => {
                self.stubs = stubs;
                self.outcome = Some(Err(Error::Setup(message)));
            }
            Ok(Some((Report::NotExecuted { code, message }, _))) => {
                output(Stream::Stderr, format!("{message}\n").as_bytes());
                self.outcome = Some(Ok(Exit::Code(code)));
            }
            Ok(Some((
                Report::Exited {
                    code,
                    signal,
                    out_of_memory,
                },
                _,
            ))) => {
                self.exited = true;
                let exit = match (code, signal) {
                    (Some(KILLED), _) | (None, Some(libc::SIGKILL)) if out_of_memory => {
                        Exit::OutOfMemory
                    }
                    (Some(code), _) => Exit::Code(code),
                    (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
                };
                self.outcome.get_or_insert(Ok(exit));
            }
            Ok(None) | Err(_) => self.exited = true,
        }
    }
}

struct Ready {
    outputs: [bool; 2],
    socket: bool,
    cancelled: bool,
}

/// A process that failed before it took its plan has said why, and that is the better message.
fn send_plan(socket: &OwnedFd, steps: &[Step], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    match wire::put(socket, &steps, fds) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            match wire::take::<Report>(socket) {
                Ok(Some((Report::Failed { message, .. }, _))) => Err(Error::Setup(message)),
                _ => Err(setup("send the plan")(error)),
            }
        }
        other => other.map_err(setup("send the plan")),
    }
}

/// What every step has new; its network it joins, if it has one of its own.
const NAMESPACES: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;

/// A resource, held for as long as the step runs.
enum Opened {
    File(OwnedFd),
    Network(Lease),
}

impl Opened {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Opened::File(fd) => Some(fd.as_fd()),
            Opened::Network(lease) => lease.namespace(),
        }
    }
}

fn open(resource: Resource, reusable: bool) -> Result<Opened, Error> {
    match resource {
        Resource::Tree(path) => mount::clone_tree(CWD, &path)
            .map(Opened::File)
            .map_err(|error| {
                Error::Setup(format!("open {} for mounting: {error}", path.display()))
            }),
        Resource::Copy {
            target,
            lowers,
            source,
            scratch,
            take,
        } => layers::copied_part(&lowers, &source, &scratch, take)
            .and_then(|found| mount::clone_fd(found.part.as_fd()))
            .map(Opened::File)
            .map_err(|error| Error::Setup(format!("mount {target}: {error}"))),
        Resource::Directory(directory) => Ok(Opened::File(directory)),
        Resource::Bytes(bytes) => in_memory(&bytes)
            .map(Opened::File)
            .map_err(setup("keep a file in memory")),
        Resource::Network(pasta) => {
            let lease = network::lease(pasta.as_deref(), reusable)?;
            Ok(Opened::Network(lease))
        }
    }
}

fn in_memory(mut bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("file", MemfdFlags::CLOEXEC)?;
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}
