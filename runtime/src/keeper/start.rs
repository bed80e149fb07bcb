//! The builder's side of the keeper: starting it, as this program once more.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create, stat};

use super::{NAME, SOCKET, detach};
use crate::enter::Identity;
use crate::mount::{self, RDONLY};
use crate::sys::{self, Cloned, Pointers};
use crate::wire;

/// Starts the keeper of this process; gives back the socket to it.
pub(crate) fn start(identity: Identity) -> io::Result<OwnedFd> {
    let (here, there) = wire::pair()?;
    let namespace = stat("/proc/self/ns/pid")?.st_ino;
    let process = format!("{namespace}-{}", std::process::id());
    let namespaces = match identity {
        Identity::Bare => 0,
        _ => libc::CLONE_NEWPID as u64,
    };
    let (argv, env) = ([CString::new(NAME)?, CString::new(process)?], []);
    let (argv, env) = (Pointers::new(&argv), Pointers::new(&env));
    // Out of the way of the socket.
    let program = rustix::io::fcntl_dupfd_cloexec(unwritable_program()?, SOCKET + 1)?;
    if let Cloned::Child = sys::clone_process(namespaces, None)? {
        // Other threads may exist, and their locks here for ever: system calls only.
        if prepare_keeper(&there).is_ok() {
            sys::exec_file(program.as_fd(), &argv, &env);
        }
        sys::exit(127);
    }
    Ok(here)
}

fn prepare_keeper(socket: &OwnedFd) -> io::Result<()> {
    detach()?;
    // The socket's number is what the keeper knows it by.
    match socket.as_raw_fd() {
        SOCKET => rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())?,
        _ => sys::duplicate_to(socket.as_fd(), SOCKET)?,
    }
    sys::close_from_on_exec(SOCKET + 1)
}

/// This program, as a file that nobody can write, whatever its permissions.
fn unwritable_program() -> io::Result<OwnedFd> {
    let running = stat("/proc/self/exe")?;
    let path = fs::read_link("/proc/self/exe")?;
    // By its path: what /proc/self/exe leads to is a mount of the namespace that was left.
    if let Ok(program) = mount::clone_tree(CWD, &path) {
        let found = fstat(&program)?;
        if (found.st_dev, found.st_ino) == (running.st_dev, running.st_ino) {
            mount::restrict(program.as_fd(), RDONLY)?;
            return Ok(program);
        }
    }
    // Its file was replaced meanwhile, or cannot be reached: a sealed copy.
    let copy = memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(copy.into())
}
