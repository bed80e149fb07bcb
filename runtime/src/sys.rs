//! System calls that have no safe wrapper: the only file of the project with `unsafe` code.
//!
//! Each function is one call, takes owned or borrowed descriptors and C strings, and turns a failure into
//! [`std::io::Error`]. Nothing here decides anything.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use libc::{c_int, c_long};

/// What [`clone_process`] came back as.
pub(crate) enum Cloned {
    /// This is the new process.
    Child,
    /// This is the caller; the descriptor stands for the new process, the number is its id as the caller sees it.
    Parent(OwnedFd, i32),
}

/// The constant of `libc` has a type too narrow for its value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn check(value: c_long) -> io::Result<c_long> {
    if value < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

const MOST: &str = "there can be no more of them: raise the limit on processes (ulimit -u)";

/// Forks with `flags` (`CLONE_NEW*`), into the v2 control group `cgroup` if one is given.
///
/// A lock that another thread held at that moment, such as the allocator's, stays locked in the child for ever: where
/// there may be other threads it may make system calls and execute a program, nothing else.
pub(crate) fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: c_int = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of this stack; args and pidfd outlive the call.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) });
    let pid = pid.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(error.kind(), MOST),
        _ => error,
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel stored a new descriptor that nothing else owns.
    Ok(Cloned::Parent(
        unsafe { OwnedFd::from_raw_fd(pidfd) },
        pid as i32,
    ))
}

/// Ends the process at once: no destructors, no exit handlers.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Strings in the form that a program is started with. Made before a fork, as it allocates.
pub(crate) struct Pointers<'a> {
    pointers: Vec<*const libc::c_char>,
    strings: PhantomData<&'a [CString]>,
}

impl<'a> Pointers<'a> {
    /// Of all `strings`.
    pub(crate) fn new(strings: &'a [CString]) -> Self {
        let pointers = strings.iter().map(|text| text.as_ptr());
        Self {
            pointers: pointers.chain([std::ptr::null()]).collect(),
            strings: PhantomData,
        }
    }

    fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

/// Replaces the process by the program at `path`; returns only on failure.
pub(crate) fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (Pointers::new(argv), Pointers::new(env));
    // SAFETY: both arrays end in null and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces the process by the program open as `file`; returns only on failure.
pub(crate) fn exec_file(
    file: BorrowedFd<'_>,
    argv: &Pointers<'_>,
    env: &Pointers<'_>,
) -> io::Error {
    // SAFETY: both arrays end in null and their strings outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_from_on_exec(first: RawFd) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC as c_int;
    // SAFETY: changes descriptor flags only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Takes ownership of a descriptor number that was handed to this process by its creator.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number is open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into())?;
    // SAFETY: open, and by the contract between the two processes nothing else in this one owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Leaves the namespaces in `flags` for new ones.
pub(crate) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: no memory is shared or unshared by the CLONE_NEW* flags.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Adds attributes to the mount open as `tree` and to all below it.
pub(crate) fn mount_setattr(tree: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: attr outlives the call and its size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    })
    .map(drop)
}

/// Gives every signal its default action and unblocks all, those that the C library keeps for itself included.
pub(crate) fn reset_signals() {
    const SET_SIZE: usize = 8;
    // The kernel's own structure: handler, flags, restorer, mask. All zero: the default action.
    let action = [0u64; 4];
    let none = 0u64;
    for signal in 1..=64 {
        // SAFETY: no handler is installed; SIGKILL and SIGSTOP fail, as they should.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                std::ptr::null::<u64>(),
                SET_SIZE,
            );
        }
    }
    // SAFETY: an empty set of the size that is given.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null::<u64>(),
            SET_SIZE,
        );
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static INTERRUPTED_STATUS: AtomicI32 = AtomicI32::new(1);

/// Does only what a handler may do (signal-safety(7)).
extern "C" fn note_interrupt(_: c_int) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        exit(INTERRUPTED_STATUS.load(Ordering::Relaxed));
    }
}

/// Notes SIGINT and SIGTERM; the second one ends the process with `status`.
pub(crate) fn note_interrupts(status: u8) -> io::Result<()> {
    INTERRUPTED_STATUS.store(status.into(), Ordering::Relaxed);
    let handler = note_interrupt as extern "C" fn(c_int);
    set_handler(libc::SIGINT, handler as libc::sighandler_t)?;
    set_handler(libc::SIGTERM, handler as libc::sighandler_t)
}

/// Whether one of the signals of [`note_interrupts`] came.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A write beyond RLIMIT_FSIZE fails instead of ending the process.
pub(crate) fn ignore_file_size_limit() -> io::Result<()> {
    set_handler(libc::SIGXFSZ, libc::SIG_IGN)
}

fn set_handler(signal: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: action outlives the call; its handler is SIG_IGN or a function that is safe in one.
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }.into())
        .map(drop)
}

static HAD_STDOUT: AtomicBool = AtomicBool::new(true);

/// Runs before `main`, and before the standard library opens `/dev/null` in the place of a stream that is missing.
extern "C" fn note_streams() {
    // SAFETY: F_GETFD only asks whether the number is open.
    let open = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } >= 0;
    HAD_STDOUT.store(open, Ordering::Relaxed);
}

#[used]
// SAFETY: the section holds pointers to functions that are called at the start, which this is.
#[unsafe(link_section = ".init_array")]
static NOTE_STREAMS: extern "C" fn() = note_streams;

/// Whether standard output was open when the process was started.
pub(crate) fn started_with_stdout() -> bool {
    HAD_STDOUT.load(Ordering::Relaxed)
}

/// Names the host of this UTS namespace.
pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe one borrowed string.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Gives this process a new, empty session keyring.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) })
        .map(drop)
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq; the name fits with its terminating zero.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into())
            .map(drop)
    }
}

/// Duplicates `fd` to the number `to`, open across exec.
pub(crate) fn duplicate_to(fd: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: whatever `to` stood for is given up; callers are about to execute another program.
    check(unsafe { libc::dup2(fd.as_raw_fd(), to) }.into()).map(drop)
}

/// One instruction of a filter program.
pub(crate) use libc::sock_filter as Instruction;

/// Loads a filter of system calls into this process, for good.
pub(crate) fn load_filter(program: &[Instruction]) -> io::Result<()> {
    let length = program
        .len()
        .try_into()
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the instructions and does not write to them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
    .map(drop)
}

/// Makes one IPv4 address unreachable in this network namespace.
pub(crate) fn reject_route(socket: BorrowedFd<'_>, address: [u8; 4]) -> io::Result<()> {
    let internet = |address: [u8; 4]| {
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(address),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: both are plain data of the same size.
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
    };
    // SAFETY: all-zero is a valid rtentry.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = internet(address);
    route.rt_genmask = internet([255; 4]);
    route.rt_flags = libc::RTF_UP | libc::RTF_HOST | libc::RTF_REJECT;
    // SAFETY: the kernel only reads the structure.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) }.into())
        .map(drop)
}

/// One instruction of a BPF program, as the kernel lays it out.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct DeviceInstruction {
    pub(crate) code: u8,
    /// Destination in the lower, source in the upper half.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_ATTACH: c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Loads a program that decides on access to devices.
pub(crate) fn load_device_program(program: &[DeviceInstruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        expected_attach_type: u32,
    }
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    // SAFETY: what load points to outlives the call.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of_val(&load),
        )
    })?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Puts a program on a control group, beside those of groups above.
pub(crate) fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let attach: [u32; 4] = [
        group.as_raw_fd() as u32,
        program.as_raw_fd() as u32,
        BPF_CGROUP_DEVICE,
        BPF_F_ALLOW_MULTI,
    ];
    // SAFETY: attach outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            size_of_val(&attach),
        )
    })
    .map(drop)
}

/// Kills every process that this one may send signals to, but itself and process 1 of the namespace.
pub(crate) fn kill_all() {
    // SAFETY: sends signals only.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}
