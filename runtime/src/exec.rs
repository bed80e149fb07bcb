//! The last step: from a set-up process to the command.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sys;

/// As many open files as Docker gives a command, if this process may have as many.
const OPEN_FILES: u64 = 1 << 20;

/// Sets resource limits: name, soft, hard; negative for none. Who may not raise a limit gets as much as there is: builds
/// must not fail for a limit that was written for another machine.
pub(crate) fn ulimits(limits: &[(String, i64, i64)]) -> io::Result<()> {
    if !limits.iter().any(|(name, ..)| name == "nofile") {
        let most = getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(OPEN_FILES)
            .min(OPEN_FILES);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(most),
                maximum: Some(most),
            },
        )?;
    }
    for (name, soft, hard) in limits {
        let unknown = || io::Error::other(format!("no limit is called {name:?}"));
        let bound = |value: i64| u64::try_from(value).ok();
        let limit = Rlimit {
            current: bound(*soft),
            maximum: bound(*hard),
        };
        let resource = resource(name).ok_or_else(unknown)?;
        match setrlimit(resource, limit) {
            Err(Errno::PERM) => setrlimit(resource, capped(limit, getrlimit(resource).maximum)),
            other => other,
        }
        .map_err(|error| {
            io::Error::new(io::Error::from(error).kind(), format!("{name}: {error}"))
        })?;
    }
    Ok(())
}

fn capped(limit: Rlimit, most: Option<u64>) -> Rlimit {
    let most = most.unwrap_or(u64::MAX);
    let cap = |value: Option<u64>| {
        Some(value.unwrap_or(u64::MAX).min(most)).filter(|value| *value < u64::MAX)
    };
    Rlimit {
        current: cap(limit.current),
        maximum: cap(limit.maximum),
    }
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// Executes the command; returns only if that is not possible: the shell's code for it, and why.
pub(crate) fn command(argv: &[String], env: Vec<(String, String)>, home: &str) -> (i32, String) {
    let error = become_command(argv, env, home);
    let program = argv.first().map_or("", String::as_str);
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) if !program.contains('/') => (
            127,
            format!("exec: {program:?}: executable file not found in $PATH"),
        ),
        Some(libc::ENOENT | libc::ENOTDIR) => {
            (127, format!("exec: {program:?}: no such file or directory"))
        }
        _ => (126, format!("exec: {program:?}: {}", plain(&error))),
    }
}

/// The system's words for an error, without the number that Rust adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

/// Input from nowhere, both outputs, and nothing else once the command is executed. `null` is the device of that name where
/// it was opened before the command's mounts could cover it.
pub(crate) fn standard_streams(
    null: Option<BorrowedFd<'_>>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> io::Result<()> {
    match null {
        Some(null) => sys::duplicate_to(null, 0)?,
        None => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = openat(CWD, "/dev/null", flags, Mode::empty())?;
            sys::duplicate_to(null.as_fd(), 0)?;
        }
    }
    sys::duplicate_to(stdout, 1)?;
    sys::duplicate_to(stderr, 2)?;
    sys::close_from_on_exec(3)
}

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn become_command(argv: &[String], mut env: Vec<(String, String)>, home: &str) -> io::Error {
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value)
        .to_owned();
    if !env
        .iter()
        .any(|(name, value)| name == "HOME" && !value.is_empty())
    {
        env.retain(|(name, _)| name != "HOME");
        env.push(("HOME".into(), home.into()));
    }
    let strings = |list: Vec<String>| {
        list.into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
    };
    let env = strings(
        env.into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
    );
    let (Ok(argv_c), Ok(env)) = (strings(argv.to_vec()), env) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
        return io::ErrorKind::NotFound.into();
    };
    if program.contains('/') {
        return sys::exec(&argv_c[0], &argv_c, &env);
    }
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let Ok(file) = CString::new(format!("{directory}/{program}")) else {
            continue;
        };
        let error = sys::exec(&file, &argv_c, &env);
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            last = error;
        }
    }
    last
}
