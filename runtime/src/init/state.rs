//! What a process has made of itself so far, and what each step adds to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fchown, openat};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{Gid, Uid, fchdir, pivot_root, umask};

use crate::mount::{self, NODEV, NOEXEC, NOSUID, PLAIN, RDONLY};
use crate::overlay::{self, Overlay};
use crate::plan::{Slot, Step};
use crate::spec::Device;
use crate::target::{self, Shape, Stub, Targets};
use crate::user::{self, User};
use crate::{caps, dev, exec, network, protect, seccomp, sys, sysfs};

pub(super) struct State {
    /// By slot.
    fds: Vec<OwnedFd>,
    /// The new root, once it is mounted.
    root: Option<OwnedFd>,
    /// A file system in memory, for files and for empty directories that cover others.
    memory: Option<OwnedFd>,
    /// The device null of our `/dev`, open: the caller may cover that.
    pub(super) null: Option<OwnedFd>,
    /// Who runs the command, once it is known.
    pub(super) user: Option<User>,
    /// What was created in the root to be mounted upon.
    pub(super) stubs: Vec<Stub>,
    /// Which devices can be opened is bounded by a control group.
    devices_bounded: bool,
    /// Device nodes cannot be made.
    user_namespace: bool,
}

fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn missing(what: &str) -> io::Error {
    io::Error::other(format!("no {what} at this point"))
}

impl State {
    pub(super) fn new(fds: Vec<OwnedFd>, devices_bounded: bool) -> State {
        State {
            fds,
            root: None,
            memory: None,
            null: None,
            user: None,
            stubs: Vec::new(),
            devices_bounded,
            user_namespace: false,
        }
    }

    pub(super) fn slot(&self, slot: Slot) -> io::Result<BorrowedFd<'_>> {
        self.fds
            .get(slot)
            .map(AsFd::as_fd)
            .ok_or_else(|| missing("such descriptor"))
    }

    fn root(&self) -> io::Result<BorrowedFd<'_>> {
        self.root
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| missing("root"))
    }

    fn memory(&self) -> io::Result<BorrowedFd<'_>> {
        self.memory
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| missing("memory file system"))
    }

    fn target(&mut self, path: &str, shape: Shape) -> io::Result<OwnedFd> {
        let root = self.root.as_ref().ok_or_else(|| missing("root"))?;
        let target = Targets::new(root.as_fd(), &mut self.stubs).open(path, shape)?;
        if rustix::fs::fstatfs(&target)?.f_type == protect::PROC_SUPER_MAGIC {
            return Err(io::Error::other("nothing can be mounted in /proc"));
        }
        Ok(target)
    }

    fn attach(&mut self, tree: BorrowedFd<'_>, target: &str) -> io::Result<()> {
        let target = self.target(target, Shape::of(tree)?)?;
        mount::attach(tree, target.as_fd())
    }

    pub(super) fn take(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Keyring => keyring(),
            Step::CgroupNamespace => optional(sys::unshare(libc::CLONE_NEWCGROUP)),
            Step::JoinNetwork(slot) => Ok(rustix::thread::move_into_link_name_space(
                self.slot(slot)?,
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?),
            Step::NetworkFile {
                directory,
                file,
                namespace,
            } => network::show(&directory, &file, self.slot(namespace)?),
            Step::Hostname(name) => sys::set_hostname(&name),
            Step::Root {
                lowers,
                upper,
                work,
                user_xattrs,
            } => self.mount_overlay(&lowers, &upper, &work, user_xattrs),
            Step::CopiedRoot { tree, upper, work } => self.mount_copy(tree, &upper, &work),
            Step::Proc => {
                let target = target::lasting_directory(self.root()?, "proc")?;
                mount::fresh("proc", target.as_fd(), NOSUID | NODEV | NOEXEC)
            }
            Step::Dev {
                bind_nodes,
                tty_group,
                size,
                shm,
            } => {
                let target = target::lasting_directory(self.root()?, "dev")?;
                self.user_namespace = bind_nodes;
                let null = dev::mount(
                    target.as_fd(),
                    bind_nodes || !self.devices_bounded,
                    tty_group,
                    (size, shm),
                )?;
                self.null = Some(null);
                Ok(())
            }
            Step::DevAgain { tty_group, shm } => {
                let dev = mount::open_plain(self.root()?, "dev")?;
                dev::mount_below(dev.as_fd(), tty_group, shm)
            }
            Step::Sys { writable } => self.mount_sys(writable),
            Step::CgroupAgain { writable } => sysfs::mount_cgroup(self.root()?, writable),
            Step::HostDevices => dev::add_host_devices(self.root()?),
            Step::Device(device) => self.add_device(&device),
            Step::File {
                target,
                content,
                mode,
                uid,
                gid,
                exec,
            } => self.mount_file(&target, content, (mode, uid, gid), exec),
            Step::Bind {
                target,
                source,
                readonly,
            } => self.bind(&target, source, readonly),
            Step::View {
                target,
                lowers,
                source,
                readonly,
                scratch,
                user_xattrs,
            } => {
                let tree = overlay::view_of(&lowers, &source, &scratch, user_xattrs)?;
                mount::restrict(tree.as_fd(), if readonly { RDONLY | NODEV } else { NODEV })?;
                self.attach(tree.as_fd(), &target)
            }
            Step::Tmpfs { target, size, mode } => self.mount_tmpfs(&target, size, mode),
            Step::Protect { masked, readonly } => {
                let empty = mount::open_plain(self.memory()?, "empty")?;
                let null = self.null.as_ref().ok_or_else(|| missing("device null"))?;
                let covers = (empty.as_fd(), null.as_fd());
                protect::protect(self.root()?, covers, &masked, &readonly)
            }
            Step::Pivot => self.pivot(),
            Step::Chroot(slot) => self.change_root(slot),
            Step::Ulimits(limits) => exec::ulimits(&limits),
            Step::User { user, groups, more } => self.find_user(&user, groups, more),
            Step::Cwd(path) => self.change_directory(&path),
            Step::Seccomp => seccomp::install(),
            Step::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
            Step::Privileges { capabilities } => {
                let user = self.user.as_ref().ok_or_else(|| missing("user"))?;
                caps::drop_to(user, capabilities)
            }
            Step::Exec { .. } => Err(missing("command")),
        }
    }

    fn mount_overlay(
        &mut self,
        lowers: &[PathBuf],
        upper: &Path,
        work: &Path,
        user_xattrs: bool,
    ) -> io::Result<()> {
        let over_upper = open_path(upper)?;
        let mut overlay = Overlay::open(lowers, Some((upper, work)), user_xattrs)?;
        self.mount_memory(work)?;
        if overlay.is_empty() {
            overlay.add_lowest(mount::open_plain(self.memory()?, "empty")?);
        }
        let root = overlay.mount(self.root_attributes())?;
        mount::attach(root.as_fd(), over_upper.as_fd())?;
        self.root = Some(root);
        Ok(())
    }

    fn mount_copy(&mut self, tree: Slot, upper: &Path, work: &Path) -> io::Result<()> {
        let over_upper = open_path(upper)?;
        self.mount_memory(work)?;
        let root = self.slot(tree)?.try_clone_to_owned()?;
        mount::restrict(root.as_fd(), self.root_attributes())?;
        mount::attach(root.as_fd(), over_upper.as_fd())?;
        self.root = Some(root);
        Ok(())
    }

    fn root_attributes(&self) -> MountAttrFlags {
        if self.devices_bounded { PLAIN } else { NODEV }
    }

    /// Needs a place before the root exists; the work directory serves, which an overlay holds open already.
    fn mount_memory(&mut self, work: &Path) -> io::Result<()> {
        umask(Mode::empty());
        let over_work = open_path(work)?;
        let memory = mount::create("tmpfs", &[("mode", "0755")], NODEV | NOSUID)?;
        mount::attach(memory.as_fd(), over_work.as_fd())?;
        rustix::fs::mkdirat(&memory, "empty", Mode::from_raw_mode(0o555))?;
        self.memory = Some(memory);
        Ok(())
    }

    fn mount_sys(&mut self, writable: bool) -> io::Result<()> {
        let empty = mount::open_plain(self.memory()?, "empty")?;
        sysfs::mount(self.root()?, empty.as_fd(), writable)
    }

    fn mount_file(
        &mut self,
        target: &str,
        content: Slot,
        (mode, uid, gid): (u32, u32, u32),
        exec: bool,
    ) -> io::Result<()> {
        let name = format!("file-{content}");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(
            self.memory()?,
            name.as_str(),
            flags,
            Mode::from_raw_mode(mode),
        )?;
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        let mut source = File::from(self.slot(content)?.try_clone_to_owned()?);
        let mut file = File::from(file);
        copy(&mut source, &mut file)?;
        let tree = mount::clone_fd(mount::open_plain(self.memory()?, &name)?.as_fd())?;
        let attributes = RDONLY | NOSUID | NODEV;
        mount::restrict(
            tree.as_fd(),
            if exec {
                attributes
            } else {
                attributes | NOEXEC
            },
        )?;
        self.attach(tree.as_fd(), target)
    }

    fn bind(&mut self, target: &str, source: Slot, readonly: bool) -> io::Result<()> {
        let tree = self.slot(source)?.try_clone_to_owned()?;
        mount::restrict(tree.as_fd(), if readonly { RDONLY | NODEV } else { NODEV })?;
        self.attach(tree.as_fd(), target)
    }

    fn mount_tmpfs(&mut self, target: &str, size: Option<u64>, mode: u32) -> io::Result<()> {
        let (size, mode) = (size.map(|bytes| bytes.to_string()), format!("{mode:o}"));
        let mut options = vec![("mode", mode.as_str())];
        options.extend(size.as_deref().map(|bytes| ("size", bytes)));
        let tree = mount::create("tmpfs", &options, NOSUID | NODEV)?;
        self.attach(tree.as_fd(), target)
    }

    fn pivot(&mut self) -> io::Result<()> {
        let old = openat(
            CWD,
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        fchdir(self.root()?)?;
        // The old root ends up on top of the new one, from where it is taken off.
        pivot_root(".", ".")?;
        fchdir(old)?;
        unmount(".", UnmountFlags::DETACH)?;
        Ok(rustix::process::chdir("/")?)
    }

    fn change_root(&mut self, slot: Slot) -> io::Result<()> {
        let root = self.slot(slot)?.try_clone_to_owned()?;
        fchdir(&root)?;
        rustix::process::chroot(".").map_err(|error| {
            io::Error::other(format!(
                "{error}: without namespaces a step needs root with CAP_SYS_CHROOT"
            ))
        })?;
        self.root = Some(root);
        Ok(())
    }

    /// As a node in our own `/dev` where nodes can be made and opened; otherwise the host's is mounted.
    fn add_device(&mut self, device: &Device) -> io::Result<()> {
        if self.devices_bounded && !self.user_namespace && device.target.starts_with("/dev/") {
            let (parent, name) = target::split(&device.target);
            let root = self.root.as_ref().ok_or_else(|| missing("root"))?;
            Targets::new(root.as_fd(), &mut self.stubs).open(parent, Shape::Directory)?;
            let parent = mount::open_dir_below(root.as_fd(), parent)?;
            return dev::add_device(parent.as_fd(), name, device);
        }
        let tree = dev::host_device(device)?;
        self.attach(tree.as_fd(), &device.target)
    }

    fn find_user(&mut self, name: &str, groups: bool, more: Vec<u32>) -> io::Result<()> {
        let mut user = user::lookup(self.root()?, name)?;
        user.groups.extend(more);
        if !groups {
            user.groups.clear();
        }
        self.user = Some(user);
        Ok(())
    }

    fn change_directory(&mut self, path: &str) -> io::Result<()> {
        let (uid, gid) = self
            .user
            .as_ref()
            .map_or((0, 0), |user| (user.uid, user.gid));
        let directory = target::working_directory(self.root()?, path, uid, gid)?;
        Ok(fchdir(directory)?)
    }
}

fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    to.write_all(&bytes)
}

/// For what some kernels do not have and nothing depends on.
fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn keyring() -> io::Result<()> {
    match sys::new_session_keyring() {
        // No keys can be reached at all where an outer sandbox refuses the call.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => optional(other),
    }
}
