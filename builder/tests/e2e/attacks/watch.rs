//! A program that is watched while it runs, and all that it started.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything may take on a machine with other work to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// The exit status; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// How long after the call it took.
    pub(crate) after: Duration,
    /// All that it reported.
    pub(crate) stderr: String,
}

impl Running {
    /// Starts `command`; what it reports is collected.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&log);
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut piece) {
                into.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self {
            child,
            log,
            reader: Some(reader),
        }
    }

    /// What it reported so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready`.
    pub(crate) fn wait_until(&mut self, what: &str, mut ready: impl FnMut(&str) -> bool) {
        let start = Instant::now();
        while !ready(&self.log()) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: it ended: {}", self.log());
            assert!(start.elapsed() < PATIENCE, "{what}: {}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The most memory that it had so far, in KiB; none once it has ended.
    pub(crate) fn memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// All processes that it started, and those that these started.
    pub(crate) fn family(&self) -> Family {
        let mut found = BTreeSet::new();
        let mut todo = vec![self.id()];
        while let Some(parent) = todo.pop() {
            for child in children_of(parent) {
                if let Some(start) = start_of(child)
                    && found.insert((child, start))
                {
                    todo.push(child);
                }
            }
        }
        Family {
            processes: found,
            builder: self.id(),
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Stopped {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it does not end: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        };
        let after = start.elapsed();
        self.reader.take().unwrap().join().unwrap();
        Stopped {
            code: status.code(),
            after,
            stderr: self.log(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program started.
#[derive(Debug)]
pub(crate) struct Family {
    /// Process ids with the times of their start, as ids are used again.
    processes: BTreeSet<(u32, u64)>,
    builder: u32,
}

impl Family {
    /// The process ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.iter().map(|(id, _)| *id)
    }

    /// Waits until no process and no control group of it is left.
    pub(crate) fn check_gone(&self, what: &str) {
        let start = Instant::now();
        loop {
            let alive: Vec<_> = self
                .processes
                .iter()
                .filter(|(id, start)| start_of(*id) == Some(*start))
                .map(|(id, _)| fs::read_to_string(format!("/proc/{id}/cmdline")))
                .collect();
            let groups = groups_of(self.builder);
            if alive.is_empty() && groups.is_empty() {
                return;
            }
            let late = start.elapsed() > Duration::from_secs(20);
            assert!(!late, "{what}: left: {alive:?} {groups:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The fields of `/proc/ID/stat` that follow the name, which may hold anything.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// When a process was started; none if it is gone, or dead and not waited for.
fn start_of(id: u32) -> Option<u64> {
    let fields = stat(id)?;
    (fields[0] != "Z").then(|| fields[19].parse().unwrap())
}

fn children_of(parent: u32) -> Vec<u32> {
    let ids = fs::read_dir("/proc").unwrap().flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| stat(*id).is_some_and(|fields| fields[1] == parent.to_string()))
        .collect()
}

/// The control groups that the build of this process made.
fn groups_of(builder: u32) -> Vec<String> {
    let end = format!("-{builder}");
    let mut found = Vec::new();
    let mut todo = vec![Path::new("/sys/fs/cgroup").to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("lapstrake-") && name.ends_with(&end) {
                    found.push(entry.path().display().to_string());
                }
                todo.push(entry.path());
            }
        }
    }
    found
}
