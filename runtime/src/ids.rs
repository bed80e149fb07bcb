//! Which ids a user namespace has, and giving it those of `/etc/subuid` and `/etc/subgid`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::sys::{self, Cloned};
use crate::wire;

/// How many ids this process's user namespace has.
pub(crate) fn count() -> io::Result<u32> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(mapped(&map).fold(0, |all, (_, count)| all.saturating_add(count)))
}

/// Whether this user and this group exist in the user namespace of this process.
pub fn has_ids(uid: u32, gid: u32) -> io::Result<bool> {
    let has = |file, id: u32| -> io::Result<bool> {
        let map = fs::read_to_string(file)?;
        Ok(mapped(&map).any(|(first, count)| id.checked_sub(first).is_some_and(|at| at < count)))
    };
    Ok(has("/proc/self/uid_map", uid)? && has("/proc/self/gid_map", gid)?)
}

/// The first id of each range of a map, as this namespace has it, and how many there are.
fn mapped(map: &str) -> impl Iterator<Item = (u32, u32)> + '_ {
    map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let first = fields.next()?.parse().ok()?;
        Some((first, fields.nth(1)?.parse().ok()?))
    })
}

/// Maps root of the new user namespace that this process is in to this user and group, and nothing else.
pub(crate) fn map_one(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// A process that stays outside of the new user namespace, where the mapping programs have their rights.
pub(crate) struct Mapper {
    socket: OwnedFd,
    process: OwnedFd,
}

impl Mapper {
    /// For this user and group; none where they have no subordinate ids.
    pub(crate) fn fork(uid: u32, gid: u32) -> io::Result<Option<Mapper>> {
        let uids = subordinate("/etc/subuid", uid);
        let gids = subordinate("/etc/subgid", uid);
        if uids.is_empty() || gids.is_empty() {
            return Ok(None);
        }
        let (here, there) = wire::pair()?;
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        match sys::clone_process(0, None)? {
            Cloned::Parent(process, _) => Ok(Some(Mapper {
                socket: here,
                process,
            })),
            Cloned::Child => {
                drop(here);
                let mapped = matches!(wire::take::<()>(&there), Ok(Some(_)))
                    && run_mapper("newuidmap", parent, uid, &uids)
                    && run_mapper("newgidmap", parent, gid, &gids);
                let _ = wire::put(&there, &mapped, &[]);
                sys::exit(0)
            }
        }
    }

    /// Maps the ids of this process, which is in the new namespace by now.
    pub(crate) fn map(self) -> bool {
        let mapped = wire::put(&self.socket, &(), &[]).is_ok()
            && matches!(wire::take::<bool>(&self.socket), Ok(Some((true, _))));
        let _ = waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED);
        mapped
    }
}

fn run_mapper(program: &str, process: i32, own: u32, ranges: &[(u32, u32)]) -> bool {
    let mut command = Command::new(program);
    command.args([process.to_string(), "0".into(), own.to_string(), "1".into()]);
    let mut next: u32 = 1;
    for (start, count) in ranges {
        command.args([next.to_string(), start.to_string(), count.to_string()]);
        next = next.saturating_add(*count);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The ranges that `file` gives to the user: start, count.
fn subordinate(file: &str, uid: u32) -> Vec<(u32, u32)> {
    let name = fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|text| user_name(&text, uid))
        .unwrap_or_default();
    let text = fs::read_to_string(file).unwrap_or_default();
    ranges_of(&text, &name, uid)
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let line = passwd.lines().find(|line| {
        line.split(':')
            .nth(2)
            .is_some_and(|field| field.parse() == Ok(uid))
    })?;
    line.split(':').next().map(str::to_owned)
}

fn ranges_of(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (!owner.is_empty() && (owner == name || owner == uid) && count > 0)
            .then_some((start, count))
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let text = "alice:100000:65536\n1000:300000:10\nbob:1:2\nalice:x:1\n:5:6\nalice:7:0\n";
        assert_eq!(
            ranges_of(text, "alice", 1000),
            [(100_000, 65536), (300_000, 10)]
        );
        assert_eq!(ranges_of(text, "", 7), []);
    }

    #[test]
    fn a_map_has_ranges() {
        let map = "         0       1000          1\n         1     100000      65536\nx\n";
        assert_eq!(mapped(map).collect::<Vec<_>>(), [(0, 1), (1, 65536)]);
    }

    #[test]
    fn a_user_is_found_by_number() {
        assert_eq!(
            user_name("root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:", 1000).as_deref(),
            Some("alice")
        );
    }
}
