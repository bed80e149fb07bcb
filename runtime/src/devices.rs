//! Which devices the processes of a control group may open: a BPF program, or a list where only version 1 of control
//! groups has that controller.
//!
//! A command may make any node (`CAP_MKNOD`), as package managers and bootstrapping tools do, but open only the harmless
//! ones and those that it was given.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use crate::hierarchy::write;
use crate::spec::{Device, DeviceKind};
use crate::sys::{self, DeviceInstruction};

/// Character devices, with their minor numbers; none means any.
const ALLOWED: [(u32, Option<u32>); 8] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

const MAKE_NODE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// One more device that may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    kind: DeviceKind,
    major: u32,
    minor: u32,
    access: String,
}

impl From<&Device> for Rule {
    fn from(device: &Device) -> Rule {
        Rule {
            kind: device.kind,
            major: device.major,
            minor: device.minor,
            access: device.access.clone(),
        }
    }
}

impl Rule {
    /// The bits by which the kernel names the access that is not given.
    fn refused(&self) -> i32 {
        let bit = |letter, bit| if self.access.contains(letter) { 0 } else { bit };
        bit('m', MAKE_NODE) | bit('r', READ) | bit('w', WRITE)
    }
}

/// Puts the policy, with `more` that may be used, on `group` and all below.
pub(crate) fn restrict(group: BorrowedFd<'_>, more: &[Rule]) -> io::Result<()> {
    let program = sys::load_device_program(&program(more))?;
    sys::attach_device_program(group, program.as_fd())
}

/// The same for a group of version 1.
pub(crate) fn restrict_legacy(group: BorrowedFd<'_>, more: &[Rule]) -> io::Result<()> {
    write(group, "devices.deny", "a")?;
    for any in ["c *:* m", "b *:* m"] {
        write(group, "devices.allow", any)?;
    }
    for (major, minor) in ALLOWED {
        let minor = minor.map_or("*".into(), |minor| minor.to_string());
        write(group, "devices.allow", &format!("c {major}:{minor} rwm"))?;
    }
    for rule in more {
        let kind = match rule.kind {
            DeviceKind::Character => 'c',
            DeviceKind::Block => 'b',
        };
        let line = format!("{kind} {}:{} {}", rule.major, rule.minor, rule.access);
        write(group, "devices.allow", &line)?;
    }
    Ok(())
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> DeviceInstruction {
    DeviceInstruction {
        code,
        registers,
        offset,
        immediate,
    }
}

/// Loads a 32-bit field of the context (register 1) into `register`.
const fn field(register: u8, offset: i16) -> DeviceInstruction {
    instruction(0x61, register | 1 << 4, offset, 0)
}

/// Skips `count` instructions unless `register` equals `value`.
const fn unless_equal(register: u8, value: i32, count: i16) -> DeviceInstruction {
    instruction(0x55, register, count, value)
}

/// Register 0 becomes `value`, and the program ends.
const fn answer(value: i32) -> [DeviceInstruction; 2] {
    [instruction(0xb7, 0, 0, value), instruction(0x95, 0, 0, 0)]
}

fn program(more: &[Rule]) -> Vec<DeviceInstruction> {
    // The context: access in the upper and kind in the lower half of its first field, then major, then minor.
    let mut code = vec![field(2, 0), field(3, 0), field(4, 4), field(5, 8)];
    // Register 2: kind, register 3: access.
    code.push(instruction(0x54, 2, 0, 0xffff));
    code.push(instruction(0x74, 3, 0, 16));
    code.push(unless_equal(3, MAKE_NODE, 2));
    code.extend(answer(1));
    for rule in more {
        let kind = match rule.kind {
            DeviceKind::Character => CHARACTER,
            DeviceKind::Block => BLOCK,
        };
        code.push(unless_equal(2, kind, 7));
        code.push(unless_equal(4, rule.major as i32, 6));
        code.push(unless_equal(5, rule.minor as i32, 5));
        // Register 1, of no use any more: what of the access is not given.
        code.push(instruction(0xbf, 1 | 3 << 4, 0, 0));
        code.push(instruction(0x57, 1, 0, rule.refused()));
        code.push(unless_equal(1, 0, 2));
        code.extend(answer(1));
    }
    code.push(instruction(0x15, 2, 2, CHARACTER));
    code.extend(answer(0));
    for (major, minor) in ALLOWED {
        code.push(unless_equal(
            4,
            major as i32,
            if minor.is_some() { 3 } else { 2 },
        ));
        code.extend(minor.map(|minor| unless_equal(5, minor as i32, 2)));
        code.extend(answer(1));
    }
    code.extend(answer(0));
    code
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;
    use crate::hierarchy::{make, open, own_controllers, own_group, remove};
    use crate::mount;

    /// Hosts with version 2 alone have no such controller, and nothing to test.
    #[test]
    fn a_list_of_version_1() {
        let (Some(own), true) = (own_group("devices"), rustix::process::geteuid().is_root()) else {
            println!(
                "n/a: a_list_of_version_1: this machine has no device controller of version 1, or this is not root"
            );
            return;
        };
        let together = own_controllers("devices");
        let options: Vec<(&str, &str)> = together.iter().map(|name| (name.as_str(), "")).collect();
        let root = mount::create("cgroup", &options, mount::NOSUID).unwrap();
        let parent = open(root.as_fd(), &own).unwrap();
        let name = format!("lapstrake-test-{}", std::process::id());
        let group = make(parent.as_fd(), &name).unwrap();
        // Of a driver that is always there, and not among those that every command may use.
        let fuse = Rule {
            kind: DeviceKind::Character,
            major: 10,
            minor: 229,
            access: "rw".into(),
        };
        let mut opened = Vec::new();
        for more in [&[][..], &[fuse]] {
            restrict_legacy(group.as_fd(), more).unwrap();
            let group = format!(
                "/proc/{}/fd/{}",
                std::process::id(),
                std::os::fd::AsRawFd::as_raw_fd(&group)
            );
            let script = format!(
                "echo 0 > {group}/cgroup.procs && dir=$(mktemp -d) && cd $dir && mknod f c 10 229 && mknod n c 1 3 &&
                 echo > n && {{ (exec 9<>f) 2>&1 | grep -c 'not permitted'; }}; rm -r $dir"
            );
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            opened.push(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        while remove(parent.as_fd(), &name).is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
        {
        }
        assert_eq!(opened, ["1", "0"]);
    }
}
