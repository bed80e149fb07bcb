//! The keeper: a small single-threaded process that starts the steps of a build and outlives none of them.
//!
//! It is process 1 of a pid namespace in which all steps live, so its end, for whatever reason, is theirs. It holds
//! one socket to the builder and one for each step; when the other side of either closes, be it on purpose or because
//! the builder was killed, what hangs on it is killed.
//!
//! For the first step it is executed from a read-only mount of this very program: its memory is small and cheap to
//! fork, it has no threads and none of the builder's descriptors, and a step that executes `/proc/self/exe` finds a file
//! that it cannot write (CVE-2019-5736).

mod start;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::FdFlags;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, pidfd_send_signal,
    setrlimit, waitpid,
};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Groups, Leaf, Wanted};
use crate::init;
use crate::report::Report;
use crate::sys::{self, Cloned};
use crate::{seccomp, wire};

pub(crate) use start::start;

/// The name by which a process knows that it is the keeper.
pub(crate) const NAME: &str = "lapstrake-keeper";
/// The keeper's socket to the builder.
pub(crate) const SOCKET: i32 = 3;

/// Asks for a new process. One descriptor: the socket from which it takes its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u64,
    /// Control groups of its own.
    pub(crate) group: Option<Wanted>,
}

struct Child {
    pid: i32,
    pidfd: OwnedFd,
    socket: OwnedFd,
    group: Leaf,
    killed: bool,
}

/// Serves until the builder is gone.
pub(crate) fn main() -> ! {
    let builder = std::env::args().nth(1).unwrap_or_default();
    let served = sys::inherited(SOCKET).and_then(|socket| serve(&socket, &builder));
    sys::exit(if served.is_ok() { 0 } else { 1 })
}

fn serve(builder: &OwnedFd, process: &str) -> io::Result<()> {
    sys::reset_signals();
    rustix::io::fcntl_setfd(builder, FdFlags::CLOEXEC)?;
    allow_many_files();
    // Where it is not process 1 of a namespace, orphans of steps come to it all the same.
    rustix::process::set_child_subreaper(Pid::from_raw(1))?;
    // Made when the first step needs them: a build whose steps are all cached shall not pay for control groups, whose
    // changes hold up every process of this machine that starts or ends.
    let mut groups: Option<Groups> = None;
    let mut children: Vec<Child> = Vec::new();
    loop {
        let ready = wait(builder, &children)?;
        for (child, abandoned) in children.iter_mut().zip(&ready.abandoned) {
            if *abandoned {
                child.kill();
            }
        }
        if let Some(groups) = &groups {
            reap(&mut children, groups);
        }
        if ready.builder {
            match wire::take::<Request>(builder) {
                Ok(Some((request, fds))) => {
                    let groups = groups.get_or_insert_with(|| prepare(process));
                    children.extend(start_step(&request, fds, groups));
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
    // Steps and helpers alike.
    kill_others();
    if let Some(groups) = groups {
        children
            .iter()
            .for_each(|child| groups.finish(&child.group));
        groups.remove();
    }
    Ok(())
}

/// What all steps have in common.
fn prepare(process: &str) -> Groups {
    seccomp::prepare();
    Groups::discover(process)
}

impl Child {
    fn kill(&mut self) {
        if !self.killed {
            self.killed = true;
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }
}

/// Away from everything of the builder but the socket: its terminal, where an interrupt is for the builder to handle;
/// its output, which a reader would wait for; its directory. System calls only.
fn detach() -> io::Result<()> {
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    let null = openat(
        CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    (0..=2).try_for_each(|number| sys::duplicate_to(null.as_fd(), number))
}

/// A root may have 500 layers, each of them open at once.
fn allow_many_files() {
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            ..files
        },
    );
}

struct Ready {
    builder: bool,
    /// For each child: the caller gave it up.
    abandoned: Vec<bool>,
}

fn wait(builder: &OwnedFd, children: &[Child]) -> io::Result<Ready> {
    let mut fds = vec![PollFd::new(builder, PollFlags::IN)];
    for child in children {
        fds.push(PollFd::new(&child.pidfd, PollFlags::IN));
        // Its other side being closed is reported without being asked for, and again and again.
        match child.killed {
            true => fds.push(PollFd::new(&child.pidfd, PollFlags::empty())),
            false => fds.push(PollFd::new(&child.socket, PollFlags::RDHUP)),
        }
    }
    rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let (first, rest) = fds.split_at(1);
    Ok(Ready {
        builder: first.iter().any(ready),
        abandoned: rest
            .chunks(2)
            .map(|pair| pair.iter().skip(1).any(ready))
            .collect(),
    })
}

fn start_step(request: &Request, fds: Vec<OwnedFd>, groups: &mut Groups) -> Option<Child> {
    let socket = fds.into_iter().next()?;
    match try_start_step(request, &socket, groups) {
        Ok((pid, pidfd, group)) => Some(Child {
            pid,
            pidfd,
            socket,
            group,
            killed: false,
        }),
        Err(message) => {
            Report::failed(message).send(&socket);
            None
        }
    }
}

fn try_start_step(
    request: &Request,
    socket: &OwnedFd,
    groups: &mut Groups,
) -> Result<(i32, OwnedFd, Leaf), String> {
    let group = match &request.group {
        Some(wanted) => groups
            .start(wanted)
            .map_err(|error| format!("make a control group: {error}"))?,
        None => Leaf::default(),
    };
    let devices_bounded =
        group.devices || request.group.as_ref().is_none_or(|wanted| !wanted.confined);
    // Not every kernel has them; nothing depends on them.
    let time = if request.namespaces != 0 && Path::new("/proc/self/ns/time").exists() {
        libc::CLONE_NEWTIME as u64
    } else {
        0
    };
    match sys::clone_process(request.namespaces | time, group.unified()) {
        Ok(Cloned::Child) => match group.join() {
            Ok(()) => init::main(socket, devices_bounded),
            Err(error) => {
                Report::failed(format!("join a control group: {error}")).send(socket);
                sys::exit(init::FAILED)
            }
        },
        Ok(Cloned::Parent(pidfd, pid)) => Ok((pid, pidfd, group)),
        Err(error) => {
            groups.finish(&group);
            Err(format!("start a process in new namespaces: {error}"))
        }
    }
}

/// Waits for whoever ended, and tells the callers of those that were steps. Others are orphans of helpers that went into
/// the background; they come to process 1.
fn reap(children: &mut Vec<Child>, groups: &Groups) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let Some(index) = children
            .iter()
            .position(|child| child.pid == pid.as_raw_nonzero().get())
        else {
            continue;
        };
        let child = children.swap_remove(index);
        let out_of_memory = child.group.out_of_memory();
        if std::process::id() != 1 {
            // Without a namespace of its own a step's other processes outlive its first. There is one step at a time.
            kill_others();
        }
        groups.finish(&child.group);
        let report = Report::Exited {
            code: status.exit_status(),
            signal: status.terminating_signal(),
            out_of_memory,
        };
        report.send(&child.socket);
    }
}

/// Kills every other process of this pid namespace, for process 1 of one; for others all their children, and what becomes
/// their child by that. Each is gone once it was waited for.
fn kill_others() {
    if std::process::id() == 1 {
        sys::kill_all();
    } else {
        while let found @ [_, ..] = &own_children()[..] {
            for child in found {
                // It was not waited for yet, so that the number is still its own.
                let _ = kill_process(*child, Signal::KILL);
                let _ = waitpid(Some(*child), WaitOptions::empty());
            }
        }
    }
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::empty()) {}
}

fn own_children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let parent = |stat: &str| {
        let fields = stat.rsplit_once(')')?.1;
        Some(fields.split_whitespace().nth(1)? == own)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| {
            std::fs::read_to_string(entry.path().join("stat"))
                .is_ok_and(|stat| parent(&stat) == Some(true))
        })
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}
