//! Control groups of a build and of its steps. Used by the keeper, which outlives every step.
//!
//! ```text
//! <parent>/lapstrake-<builder>/confined/<n>   a step; confined has a device policy
//!                              open/<n>       a step that may do everything
//! ```
//!
//! The parent is the builder's own group, so that bounds on the builder hold for its steps. In version 2 a group with
//! processes cannot hand controllers to its children; then, and only if nothing bounds the builder, the parent is the root
//! of the hierarchy, as with Docker. Groups are used through a mount of their own: neither the host's mount points nor
//! whether they are read-only matter. Controllers that are bound to version 1 (a hybrid host) are used there.
//!
//! What a user asked for and cannot be had is an error; what is only a default is left out. Empty groups of builders that
//! are gone are removed by the next one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, fstatfs};
use serde::{Deserialize, Serialize};

use crate::devices::{self, Rule};
use crate::hierarchy::{
    CONTROLLERS, PREFIX, choose_parent, delegate, enable_along, has_controller, inherit_cpuset,
    make, open, own_controllers, own_group, parent_path, read, remove, remove_build, sweep, write,
};
use crate::limits::{Version, set, settings};
use crate::mount;
use crate::spec::Limits;

/// What `fstatfs` says of a version 2 hierarchy.
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// What the keeper is asked for on behalf of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// With the device policy.
    pub(crate) confined: bool,
    /// What that policy lets it use beside the harmless ones.
    pub(crate) devices: Vec<Rule>,
    /// Bounds.
    pub(crate) limits: Limits,
}

/// The groups of one build.
pub(crate) struct Groups {
    name: String,
    unified: Option<Unified>,
    /// Directories of version 1, by controller, opened when first needed.
    legacy: HashMap<&'static str, Legacy>,
    count: u64,
}

struct Unified {
    root: OwnedFd,
    /// Where the build's group lies if nothing else is asked for.
    parent: String,
    /// Where it lies, if not only there: with `cgroup_parent`.
    others: Vec<String>,
}

struct Legacy {
    above: OwnedFd,
    parent: OwnedFd,
}

/// The groups of one step; removed by [`Groups::finish`].
#[derive(Default)]
pub(crate) struct Leaf {
    name: String,
    unified: Option<(OwnedFd, OwnedFd)>,
    legacy: Vec<(&'static str, OwnedFd)>,
    /// Whether access to devices is bounded.
    pub(crate) devices: bool,
}

impl Leaf {
    /// The version 2 group into which to clone.
    pub(crate) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|(_, group)| group.as_fd())
    }

    /// Moves this process into the groups of version 1.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.legacy
            .iter()
            .try_for_each(|(_, group)| write(group.as_fd(), "cgroup.procs", "0"))
    }

    /// Whether the kernel killed a process of it for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let killed = |group: &OwnedFd, file: &str| {
            let text = read(group.as_fd(), file).unwrap_or_default();
            text.lines().any(|line| {
                line.strip_prefix("oom_kill ")
                    .is_some_and(|count| count.trim() != "0")
            })
        };
        self.unified
            .as_ref()
            .is_some_and(|(_, group)| killed(group, "memory.events"))
            || self
                .legacy
                .iter()
                .any(|(name, group)| *name == "memory" && killed(group, "memory.oom_control"))
    }
}

impl Unified {
    /// The group of a step with that above it, and whether access to devices is bounded.
    fn start(
        &mut self,
        wanted: &Wanted,
        build: &str,
        name: &str,
    ) -> io::Result<((OwnedFd, OwnedFd), bool)> {
        let parent = wanted
            .limits
            .cgroup_parent
            .as_deref()
            .map_or(self.parent.clone(), parent_path);
        if parent != self.parent && !self.others.contains(&parent) {
            self.others.push(parent.clone());
        }
        let common = wanted.confined && wanted.devices.is_empty();
        let (group, mut devices) = prepare(self.root.as_fd(), &parent, build, common)?;
        let leaf = make(group.as_fd(), name)?;
        if wanted.confined && !common {
            // All policies on the way to the root must agree, so this one stands alone.
            devices = devices::restrict(leaf.as_fd(), &wanted.devices).is_ok();
        }
        Ok(((group, leaf), devices))
    }

    fn remove(&self, build: &str) {
        for path in self.others.iter().chain([&self.parent]) {
            if let Ok(parent) = open(self.root.as_fd(), path) {
                remove_build(parent.as_fd(), build);
            }
        }
    }
}

/// Opens the group above steps of one kind, making it if it does not exist; tells whether access to devices is bounded.
fn prepare(
    root: BorrowedFd<'_>,
    parent: &str,
    build: &str,
    confined: bool,
) -> io::Result<(OwnedFd, bool)> {
    let kind = if confined { "confined" } else { "open" };
    // Bounded by the name, so that a group whose policy could not be set is never taken for one that has it.
    let free = format!("{parent}/{build}/unbounded");
    if let Ok(group) = open(root, &format!("{parent}/{build}/{kind}")) {
        return Ok((group, confined));
    }
    if let (true, Ok(group)) = (confined, open(root, &free)) {
        return Ok((group, false));
    }
    enable_along(root, parent);
    delegate(make(root, &format!("{parent}/{build}"))?.as_fd());
    let path = format!("{parent}/{build}/{kind}");
    let group = make(root, &path)?;
    if confined && devices::restrict(group.as_fd(), &[]).is_err() {
        remove(root, mount::relative(&path))?;
        let group = make(root, &free)?;
        delegate(group.as_fd());
        return Ok((group, false));
    }
    delegate(group.as_fd());
    Ok((group, confined))
}

impl Groups {
    /// Finds the hierarchies; `builder` names the process that the build runs for: its pid namespace and its id.
    pub(crate) fn discover(builder: &str) -> Groups {
        let name = format!("{PREFIX}{builder}");
        let mut groups = Groups {
            name,
            unified: None,
            legacy: HashMap::new(),
            count: 0,
        };
        groups.unified = groups.open_unified().ok().flatten();
        let _ = groups.bound_all();
        groups
    }

    /// Where only version 1 can bound the number of tasks, one bound holds for all steps of the build together: they
    /// inherit it from the keeper, while moving each of them would cost more than all the rest of its start.
    fn bound_all(&mut self) -> io::Result<()> {
        let unified = self
            .unified
            .as_ref()
            .and_then(|unified| open(unified.root.as_fd(), &unified.parent).ok());
        if unified.is_some_and(|group| has_controller(group.as_fd(), "pids")) {
            return Ok(());
        }
        let group = self.legacy("pids", "all")?;
        set(
            group.as_fd(),
            &settings("pids", &Limits::default(), Version::One),
        )?;
        write(group.as_fd(), "cgroup.procs", "0")
    }

    fn open_unified(&self) -> io::Result<Option<Unified>> {
        let Some(own) = own_group("") else {
            return Ok(None);
        };
        let root = match mount::create("cgroup2", &[], mount::NOSUID | mount::NODEV | mount::NOEXEC)
        {
            Ok(root) => root,
            // Without the right to mount it, what is mounted.
            Err(_) => open(CWD, "/sys/fs/cgroup")?,
        };
        if fstatfs(&root)?.f_type != CGROUP2_SUPER_MAGIC {
            return Ok(None);
        }
        let parent = choose_parent(root.as_fd(), &own);
        sweep(open(root.as_fd(), &parent)?.as_fd(), &self.name);
        Ok(Some(Unified {
            root,
            parent,
            others: Vec::new(),
        }))
    }

    /// Makes the groups of a step.
    pub(crate) fn start(&mut self, wanted: &Wanted) -> io::Result<Leaf> {
        self.count += 1;
        let mut leaf = Leaf {
            name: self.count.to_string(),
            ..Leaf::default()
        };
        if let Some(unified) = &mut self.unified {
            match unified.start(wanted, &self.name, &leaf.name) {
                Ok((group, devices)) => {
                    leaf.devices = devices;
                    leaf.unified = Some(group);
                }
                Err(error) if wanted.limits.cgroup_parent.is_some() => return Err(error),
                Err(_) => {}
            }
        }
        if wanted.confined && !leaf.devices {
            // Whatever the reason: devices are bounded by other means then, see [`crate::init`].
            let _ = self.bound_devices(&mut leaf, &wanted.devices);
        }
        match self.apply(&mut leaf, &wanted.limits) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                self.finish(&leaf);
                Err(error)
            }
        }
    }

    /// Where version 2 cannot: by a group of version 1.
    fn bound_devices(&mut self, leaf: &mut Leaf, more: &[Rule]) -> io::Result<()> {
        let group = self.legacy("devices", &leaf.name)?;
        match devices::restrict_legacy(group.as_fd(), more) {
            Ok(()) => leaf.legacy.push(("devices", group)),
            Err(error) => {
                let parent = self
                    .legacy
                    .get("devices")
                    .map(|legacy| legacy.parent.as_fd());
                parent.map_or(Ok(()), |parent| remove(parent, &leaf.name))?;
                return Err(error);
            }
        }
        leaf.devices = true;
        Ok(())
    }

    fn apply(&mut self, leaf: &mut Leaf, limits: &Limits) -> io::Result<()> {
        for controller in CONTROLLERS {
            let settings = |version| settings(controller, limits, version);
            if settings(Version::Two).is_empty() {
                continue;
            }
            if let Some((_, group)) = &leaf.unified
                && has_controller(group.as_fd(), controller)
            {
                set(group.as_fd(), &settings(Version::Two))?;
                continue;
            }
            if settings(Version::One).iter().all(|setting| !setting.asked) {
                continue;
            }
            match self.legacy(controller, &leaf.name) {
                Ok(group) => {
                    set(group.as_fd(), &settings(Version::One))?;
                    leaf.legacy.push((controller, group));
                }
                Err(error) => {
                    let text =
                        format!("limit {controller}: no control group can be had for it ({error})");
                    return Err(io::Error::other(text));
                }
            }
        }
        Ok(())
    }

    fn legacy(&mut self, controller: &'static str, name: &str) -> io::Result<OwnedFd> {
        if !self.legacy.contains_key(controller) {
            let opened = self.open_legacy(controller)?;
            self.legacy.insert(controller, opened);
        }
        let legacy = self.legacy.get(controller).ok_or(io::ErrorKind::NotFound)?;
        let group = make(legacy.parent.as_fd(), name)?;
        if controller == "cpuset" {
            inherit_cpuset(legacy.parent.as_fd(), group.as_fd())?;
        }
        Ok(group)
    }

    fn open_legacy(&self, controller: &str) -> io::Result<Legacy> {
        let own = own_group(controller)
            .ok_or_else(|| io::Error::other("this system has no such controller"))?;
        let together = own_controllers(controller);
        let options: Vec<(&str, &str)> = together.iter().map(|name| (name.as_str(), "")).collect();
        let root = mount::create(
            "cgroup",
            &options,
            mount::NOSUID | mount::NODEV | mount::NOEXEC,
        )?;
        let above = open(root.as_fd(), &own)?;
        sweep(above.as_fd(), &self.name);
        let parent = make(above.as_fd(), &self.name)?;
        if controller == "cpuset" {
            inherit_cpuset(above.as_fd(), parent.as_fd())?;
        }
        Ok(Legacy { above, parent })
    }

    /// Removes the groups of a step whose processes have ended.
    pub(crate) fn finish(&self, leaf: &Leaf) {
        if let Some((group, _)) = &leaf.unified {
            let _ = remove(group.as_fd(), &leaf.name);
        }
        for (controller, _) in &leaf.legacy {
            if let Some(legacy) = self.legacy.get(controller) {
                let _ = remove(legacy.parent.as_fd(), &leaf.name);
            }
        }
    }

    /// Removes the groups of the build.
    pub(crate) fn remove(&self) {
        if let Some(unified) = &self.unified {
            unified.remove(&self.name);
        }
        for legacy in self.legacy.values() {
            // Out of the group that is removed.
            let _ = write(legacy.above.as_fd(), "cgroup.procs", "0");
            remove_build(legacy.above.as_fd(), &self.name);
        }
    }
}
