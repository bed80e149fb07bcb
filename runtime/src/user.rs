//! `USER` against the passwd and group files of a root file system.
//!
//! The files are the image's, hence hostile: they are opened inside the root, never followed out of it, only read if
//! they are regular files, and only up to a bound.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

/// Files larger than this are refused rather than read.
const MAX_BYTES: u64 = 10 << 20;
/// The largest id that may be written as a number, as in Docker.
const MAX_ID: u32 = i32::MAX as u32;

/// An account, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; the first is `gid`.
    pub groups: Vec<u32>,
    /// Home directory; `/` if the passwd file has none.
    pub home: String,
}

/// Resolves `name|uid[:group|gid]` inside `root`; an empty string means root.
///
/// Numbers need no entry in any file. A name that has none is an error.
pub fn lookup(root: BorrowedFd<'_>, user: &str) -> io::Result<User> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let passwd = read(root, "etc/passwd");
    // Numbers on both sides need no files; the home directory is a courtesy then.
    if let (Some(uid), Some(gid)) = (plain_id(name), plain_id(group)) {
        let home = passwd.ok().and_then(|text| home_of(&text, uid));
        return Ok(User {
            uid,
            gid,
            groups: vec![gid],
            home: home.unwrap_or_else(|| "/".into()),
        });
    }
    if user.is_empty() {
        let passwd = passwd.unwrap_or_default();
        return resolve(
            "0",
            "",
            &passwd,
            &read(root, "etc/group").unwrap_or_default(),
        );
    }
    resolve(name, group, &passwd?, &read(root, "etc/group")?)
}

fn plain_id(text: &str) -> Option<u32> {
    if text == "root" {
        Some(0)
    } else {
        number(text, "id").ok().flatten()
    }
}

/// The content of a file, lossily as text; empty if there is no such file.
fn read(root: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // O_PATH first: opening a device or a fifo for reading may already have an effect.
    let found = match openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    ) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    let before = fstat(&found)?;
    let refused = |why| io::Error::other(format!("read /{path}: {why}"));
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        return Err(refused("not a regular file"));
    }
    let file = openat2(root, path, flags, Mode::empty(), resolve)?;
    let after = fstat(&file)?;
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino) {
        return Err(refused("changed while it was opened"));
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refused("larger than 10 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Entries of a passwd file; malformed lines are passed over, missing fields are zero or empty, as in Docker.
fn accounts(text: &str) -> impl Iterator<Item = Account<'_>> {
    entries(text).map(|line| {
        let mut fields = line.split(':');
        let mut next = || fields.next().unwrap_or("");
        let (name, _, uid, gid, _, home) = (next(), next(), next(), next(), next(), next());
        Account {
            name,
            uid: uid.parse().unwrap_or(0),
            gid: gid.parse().unwrap_or(0),
            home,
        }
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    entries(text).map(|line| {
        let mut fields = line.split(':');
        let mut next = || fields.next().unwrap_or("");
        let (name, _, gid, members) = (next(), next(), next(), next());
        Group {
            name,
            gid: gid.parse().unwrap_or(0),
            members,
        }
    })
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && line.contains(':'))
}

fn home_of(passwd: &str, uid: u32) -> Option<String> {
    accounts(passwd)
        .find(|account| account.uid == uid)
        .map(|account| account.home.to_owned())
}

fn number(text: &str, what: &str) -> io::Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(io::Error::other(format!(
            "use {what} {text}: ids go up to {MAX_ID}"
        ))),
    }
}

fn resolve(name: &str, group: &str, passwd: &str, group_file: &str) -> io::Result<User> {
    let uid = number(name, "user")?;
    let account = accounts(passwd).find(|account| match uid {
        Some(uid) => account.uid == uid,
        None if name.is_empty() => account.uid == 0,
        None => account.name == name,
    });
    let (uid, gid, home) = match (&account, uid) {
        (Some(found), _) => (found.uid, found.gid, found.home),
        (None, Some(uid)) => (uid, 0, ""),
        (None, None) if name.is_empty() => (0, 0, ""),
        (None, None) => {
            return Err(io::Error::other(format!(
                "find user {name:?}: no entry in /etc/passwd of the image"
            )));
        }
    };
    let (gid, more) = if group.is_empty() {
        let member = account.map(|account| account.name).unwrap_or_default();
        (gid, groups_of(member, group_file))
    } else {
        (resolve_group(group, group_file)?, Vec::new())
    };
    let more = more.into_iter().filter(|other| *other != gid);
    Ok(User {
        uid,
        gid,
        groups: std::iter::once(gid).chain(more).collect(),
        home: if home.is_empty() { "/" } else { home }.to_owned(),
    })
}

fn groups_of(member: &str, group_file: &str) -> Vec<u32> {
    let has = |entry: &Group<'_>| entry.members.split(',').any(|name| name == member);
    let found = groups(group_file).filter(|entry| !member.is_empty() && has(entry));
    found.map(|entry| entry.gid).collect()
}

fn resolve_group(group: &str, group_file: &str) -> io::Result<u32> {
    let gid = number(group, "group")?;
    let found =
        groups(group_file).find(|entry| gid.map_or(entry.name == group, |gid| entry.gid == gid));
    match (found, gid) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(gid)) => Ok(gid),
        (None, None) => Err(io::Error::other(format!(
            "find group {group:?}: no entry in /etc/group of the image"
        ))),
    }
}

/// Resolves the group alone, for owners written as `user:group`.
pub fn lookup_group(root: BorrowedFd<'_>, group: &str) -> io::Result<u32> {
    match plain_id(group) {
        Some(gid) => Ok(gid),
        None => resolve_group(group, &read(root.as_fd(), "etc/group")?),
    }
}
