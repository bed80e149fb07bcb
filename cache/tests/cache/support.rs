//! What several tests use.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use lapstrake_cache::{DiffId, Digest, Layer, Store};

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Makes a layer of what `write` puts into an upper folder.
pub(crate) fn layer(store: &Store, lowers: &[PathBuf], write: impl FnOnce(&Path)) -> Layer {
    let active = store.snapshot(lowers).unwrap();
    write(active.upper());
    store.commit(active).unwrap()
}

pub(crate) fn tar_of(store: &Store, layer: &Layer) -> Vec<u8> {
    let mut tar = Vec::new();
    store.write_layer_tar(&layer.diff_id, &mut tar).unwrap();
    assert_eq!(DiffId(Digest::of(&tar)), layer.diff_id);
    assert_eq!(tar.len() as u64, layer.size);
    tar
}

/// Everything in a tree, one line an entry, so that two trees can be compared at a glance.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut links = BTreeMap::new();
    list(root, root, &mut links, &mut lines);
    lines
}

fn list(root: &Path, dir: &Path, links: &mut BTreeMap<u64, String>, lines: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let shown = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            let first = links
                .entry(meta.ino())
                .or_insert_with(|| shown.clone())
                .clone();
            let digest = Digest::of(&fs::read(&path).unwrap()).hex();
            format!("file {} {} as {first}", meta.len(), &digest[..8])
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {:x}", meta.rdev())
        };
        let xattrs = xattrs(&path);
        lines.push(format!(
            "{shown} {what} {:o} {}:{} {} {xattrs:?}",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
        ));
        if kind.is_dir() {
            list(root, &path, links, lines);
        }
    }
}

/// The attributes of a file that are not overlayfs's own.
pub(crate) fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut buffer = vec![0u8; 4096];
    let Ok(len) = rustix::fs::llistxattr(path, &mut buffer[..]) else {
        return Vec::new();
    };
    let names = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let mut found = Vec::new();
    for name in names
        .split('\0')
        .filter(|name| !name.is_empty() && !name.contains(".overlay."))
    {
        let mut value = vec![0u8; 4096];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        found.push((name.to_owned(), value[..len].to_vec()));
    }
    found.sort();
    found
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub(crate) fn set_time(path: &Path, secs: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: secs,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

pub(crate) fn mknod(path: &Path, kind: rustix::fs::FileType, major: u32, minor: u32) {
    let dev = rustix::fs::makedev(major, minor);
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, dev).unwrap();
}

/// Runs a program and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {errors}\n{text}");
    text
}

pub(crate) fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// A tar that is written field by field, so that it can be wrong.
#[derive(Default)]
pub(crate) struct RawTar(pub(crate) Vec<u8>);

/// One header. Numbers are octal unless they do not fit.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u64,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: u64,
    pub(crate) dev: (u64, u64),
    pub(crate) magic: &'static [u8; 8],
}

impl Raw {
    pub(crate) fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_600_000_000,
            dev: (0, 0),
            magic: b"ustar\x0000",
        }
    }

    pub(crate) fn link(mut self, link: impl AsRef<[u8]>) -> Self {
        self.link = link.as_ref().to_vec();
        self
    }

    pub(crate) fn mode(mut self, mode: u64) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, &number(self.mode, 8));
        put(108, &number(self.uid, 8));
        put(116, &number(self.gid, 8));
        put(124, &number(self.size, 12));
        put(136, &number(self.mtime, 12));
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, self.magic);
        put(329, &number(self.dev.0, 8));
        put(337, &number(self.dev.1, 8));
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

fn number(value: u64, width: usize) -> Vec<u8> {
    let text = format!("{value:0width$o}", width = width - 1);
    if text.len() < width {
        return [text.as_bytes(), b"\0"].concat();
    }
    let mut bytes = vec![0u8; width];
    let value = value.to_be_bytes();
    if width >= 9 {
        bytes[width - 8..].copy_from_slice(&value);
    } else {
        bytes.copy_from_slice(&value[8 - width..]);
    }
    bytes[0] |= 0x80;
    bytes
}

impl RawTar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, raw: &Raw, content: &[u8]) -> Self {
        self.0.extend_from_slice(&raw.block());
        self.0.extend_from_slice(content);
        let pad = content.len().next_multiple_of(512) - content.len();
        self.0.extend(std::iter::repeat_n(0, pad));
        self
    }

    pub(crate) fn entry(self, raw: &Raw) -> Self {
        self.raw(raw, b"")
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        let mut raw = Raw::new(b'0', name);
        raw.size = content.len() as u64;
        self.raw(&raw, content)
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(&Raw::new(b'5', name))
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(&Raw::new(b'2', name).link(target))
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(&Raw::new(b'1', name).link(target))
    }

    /// PAX records for the entry that follows.
    pub(crate) fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        self.extended(b'x', records)
    }

    pub(crate) fn global(self, records: &[(&[u8], &[u8])]) -> Self {
        self.extended(b'g', records)
    }

    fn extended(self, kind: u8, records: &[(&[u8], &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + rest.to_string().len();
            if len.to_string().len() > rest.to_string().len() {
                len = rest + len.to_string().len();
            }
            body.extend_from_slice(format!("{len} ").as_bytes());
            body.extend_from_slice(key);
            body.push(b'=');
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let mut raw = Raw::new(kind, "PaxHeaders/x");
        raw.size = body.len() as u64;
        self.raw(&raw, &body)
    }

    /// A GNU header that holds a long name (`L`) or link target (`K`).
    pub(crate) fn gnu(self, kind: u8, text: &[u8]) -> Self {
        let mut raw = Raw::new(kind, "././@LongLink");
        raw.magic = b"ustar  \0";
        raw.size = text.len() as u64 + 1;
        self.raw(&raw, &[text, b"\0"].concat())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}
