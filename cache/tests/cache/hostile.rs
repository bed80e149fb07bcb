//! Archives that try to leave the folder they are unpacked into, to pass for something else, or to
//! exhaust us.
//!
//! Each attack runs twice, as a layer and as an archive of files, beside a canary tree that must
//! stay as it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapstrake_cache::{DiffId, Digest, Error, Store, Unpack, unpack_archive};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::support::{Raw, RawTar, listing, store};

const SECRET: &str = "canary-secret";

/// What nobody may touch.
struct Canary {
    dir: PathBuf,
    before: Vec<String>,
}

impl Canary {
    fn new(at: &Path) -> Self {
        let dir = at.join("canary");
        fs::create_dir_all(dir.join("vdir/inner")).unwrap();
        fs::write(dir.join("secret"), SECRET).unwrap();
        fs::write(dir.join("passwd"), "root:x:0:0").unwrap();
        fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.join("vdir"), fs::Permissions::from_mode(0o700)).unwrap();
        let before = Self::state(&dir);
        Self { dir, before }
    }

    fn state(dir: &Path) -> Vec<String> {
        let mut state = listing(dir);
        for name in ["", "secret", "passwd", "vdir", "vdir/inner"] {
            let meta = fs::symlink_metadata(dir.join(name)).unwrap();
            state.push(format!(
                "{name} {} {} {}",
                meta.nlink(),
                meta.ctime(),
                meta.ctime_nsec()
            ));
        }
        state
    }

    fn check(&self, attack: &str) {
        assert_eq!(
            Self::state(&self.dir),
            self.before,
            "{attack}: THE CANARY WAS TOUCHED"
        );
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// What must happen.
enum Outcome {
    /// Refused, for a reason that contains this.
    Refused(&'static str),
    /// Unpacked; these are all the names.
    Names(&'static [&'static str]),
}
use Outcome::{Names, Refused};

struct Attack {
    name: &'static str,
    tar: Vec<u8>,
    layer: Outcome,
    files: Outcome,
}

fn same(name: &'static str, tar: RawTar, outcome: fn() -> Outcome) -> Attack {
    Attack {
        name,
        tar: tar.end(),
        layer: outcome(),
        files: outcome(),
    }
}

fn differ(name: &'static str, tar: RawTar, layer: Outcome, files: Outcome) -> Attack {
    Attack {
        name,
        tar: tar.end(),
        layer,
        files,
    }
}

/// Names and links that lead out.
fn escapes(canary: &Canary) -> Vec<Attack> {
    let tar = RawTar::new;
    let up = "../".repeat(24);
    let out = canary.path("vdir");
    let secret = canary.path("secret");
    let beyond = format!("{up}{out}");
    vec![
        same("dotdot", tar().file(format!("{up}escaped"), b"x"), || {
            Refused("leads out")
        }),
        same("dotdot inside", tar().file("a/../b", b"x"), || {
            Names(&["b"])
        }),
        same("absolute", tar().file("/absolute", b"x"), || {
            Names(&["absolute"])
        }),
        same(
            "through an absolute link",
            tar().symlink("l", &out).file("l/escaped", b"x"),
            // Inside of the root, the link leads to a directory of the same path.
            || Refused("x-checked-below"),
        ),
        same(
            "through a relative link",
            tar().symlink("l", &beyond).file("l/escaped", b"x"),
            || Refused("x-checked-below"),
        ),
        same(
            "through two links",
            tar()
                .symlink("a", &up)
                .symlink("b", format!("a{out}"))
                .file("b/escaped", b"x"),
            || Refused("x-checked-below"),
        ),
        same(
            "root is a link",
            tar().symlink(".", &out).file("escaped", b"x"),
            || Refused("root"),
        ),
        same(
            "slash is a link",
            tar().symlink("/", &out).file("escaped", b"x"),
            || Refused("root"),
        ),
        same(
            "file over a link",
            tar().symlink("f", &secret).file("f", b"x"),
            || Names(&["f"]),
        ),
        same(
            "directory over a link",
            tar().symlink("d", &out).dir("d"),
            || Names(&["d"]),
        ),
        same(
            "directory with a dot over a link",
            tar().symlink("d", &out).dir("d/.").dir("d/"),
            || Names(&["d"]),
        ),
        same(
            "fifo over a link",
            tar().symlink("p", &secret).entry(&Raw::new(b'6', "p")),
            || Names(&["p"]),
        ),
        same(
            "hard link to outside",
            tar().hard_link("h", &secret),
            || Refused(""),
        ),
        same(
            "hard link up",
            tar().hard_link("h", format!("{up}{secret}")),
            || Refused("leads out"),
        ),
        same(
            "hard link through a link",
            tar()
                .symlink("l", canary.path(""))
                .hard_link("h", "l/secret"),
            || Refused(""),
        ),
        same(
            "hard link to a link, then written to",
            tar()
                .symlink("l", &secret)
                .hard_link("h", "l")
                .file("h", b"x"),
            || Names(&["h", "l"]),
        ),
        same(
            "hard link to a link, with a mode",
            tar()
                .symlink("l", &secret)
                .entry(&Raw::new(b'1', "h").link("l").mode(0o777)),
            || Names(&["h", "l"]),
        ),
        same(
            "hard link to a directory",
            tar().dir("d").hard_link("h", "d"),
            || Refused("is a directory"),
        ),
        same(
            "hard link to itself",
            tar().file("f", b"x").hard_link("f", "f"),
            || Refused("to itself"),
        ),
        same(
            "link loop",
            tar().symlink("a", "b").symlink("b", "a").file("a/x", b"x"),
            || Refused(""),
        ),
        same(
            "link attributes",
            tar()
                .pax(&[(b"SCHILY.xattr.user.evil", b"1"), (b"mtime", b"1.5")])
                .symlink("l", &secret),
            || Names(&["l"]),
        ),
    ]
}

/// Deletions, devices, attributes: what a layer may say and what it may not.
fn marks(canary: &Canary) -> Vec<Attack> {
    let tar = RawTar::new;
    let out = canary.path("vdir");
    let node = |kind, major, minor| {
        let mut raw = Raw::new(kind, "dev").mode(0o666);
        raw.dev = (major, minor);
        raw
    };
    let as_names = |names: &'static [&'static str]| Names(names);
    vec![
        differ(
            "delete parent",
            tar().file(".wh...", b""),
            Refused("deletes"),
            as_names(&[".wh..."]),
        ),
        differ(
            "delete self",
            tar().file("d/.wh..", b""),
            Refused("deletes"),
            as_names(&["d", "d/.wh.."]),
        ),
        differ(
            "delete nothing",
            tar().file(".wh.", b""),
            Refused("deletes"),
            as_names(&[".wh."]),
        ),
        differ(
            "delete with a slash",
            tar().file(".wh./", b""),
            Refused("deletes"),
            as_names(&[".wh."]),
        ),
        differ(
            "inside of a deletion",
            tar().file(".wh.a/b", b""),
            Refused("inside of something"),
            as_names(&[".wh.a", ".wh.a/b"]),
        ),
        differ(
            "old notes",
            tar().file(".wh..wh.plnk/1", b"").file(".wh..wh.aufs", b""),
            as_names(&[]),
            as_names(&[".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.plnk/1"]),
        ),
        same(
            "delete through a link",
            tar().symlink("l", &out).file("l/.wh.inner", b""),
            || Refused("x-checked-below"),
        ),
        same(
            "opaque through a link",
            tar().symlink("l", &out).file("l/.wh..wh..opq", b""),
            || Refused("x-checked-below"),
        ),
        same("device 0:0", tar().entry(&node(b'3', 0, 0)), || {
            Refused("0:0")
        }),
        same("block device", tar().entry(&node(b'4', 254, 0)), || {
            Names(&["dev"])
        }),
        same(
            "device out of range",
            tar().entry(&node(b'3', 1 << 20, 1)),
            || Refused("out of range"),
        ),
        differ(
            "bad capability",
            tar()
                .pax(&[(b"SCHILY.xattr.security.capability", b"\x01")])
                .file("f", b""),
            Refused(""),
            as_names(&["f"]),
        ),
        same(
            "overlay attributes",
            {
                let names = [
                    "opaque", "redirect", "metacopy", "whiteout", "origin", "upper", "protattr",
                    "impure",
                ];
                let keys: Vec<String> = ["trusted", "user"]
                    .iter()
                    .flat_map(|space| {
                        names
                            .iter()
                            .map(move |name| format!("SCHILY.xattr.{space}.overlay.{name}"))
                    })
                    .collect();
                let records: Vec<(&[u8], &[u8])> =
                    keys.iter().map(|key| (key.as_bytes(), &b"y"[..])).collect();
                tar().pax(&records).dir("d").pax(&records).file("d/f", b"x")
            },
            || Names(&["d", "d/f"]),
        ),
        same(
            "owner out of range",
            tar().pax(&[(b"uid", b"4294967296")]).file("f", b""),
            || Refused("owner"),
        ),
        same(
            "owner that means none",
            tar().pax(&[(b"gid", b"4294967295")]).file("f", b""),
            || Refused("owner"),
        ),
        same(
            "owner below zero",
            tar().pax(&[(b"uid", b"-1")]).file("f", b""),
            || Refused("owner"),
        ),
        same(
            "huge owner",
            {
                let mut raw = Raw::new(b'0', "f");
                raw.uid = 1 << 40;
                tar().entry(&raw)
            },
            || Refused("owner"),
        ),
    ]
}

/// What different programs read differently, or not at all.
fn malformed() -> Vec<Attack> {
    let tar = RawTar::new;
    let sized = |name: &str, size: u64| {
        let mut raw = Raw::new(b'0', name);
        raw.size = size;
        raw
    };
    let hidden = RawTar::new().file("hidden", b"evil").0;
    vec![
        same(
            "pax size hides a header",
            tar()
                .pax(&[(b"size", hidden.len().to_string().as_bytes())])
                .raw(&sized("visible", 0), &hidden),
            || Names(&["visible"]),
        ),
        same(
            "pax size negative",
            tar().pax(&[(b"size", b"-1")]).file("f", b""),
            || Refused(""),
        ),
        same(
            "pax size as large as can be",
            tar()
                .pax(&[(b"size", b"18446744073709551615")])
                .file("f", b""),
            || Refused("middle of a file"),
        ),
        same(
            "pax path with NUL",
            tar().pax(&[(b"path", b"a\0b")]).file("f", b""),
            || Refused("NUL"),
        ),
        same(
            "pax link with NUL",
            tar().pax(&[(b"linkpath", b"a\0b")]).symlink("l", "x"),
            || Refused("NUL"),
        ),
        same(
            "pax path twice",
            tar()
                .pax(&[(b"path", b"one"), (b"path", b"two")])
                .file("f", b""),
            || Names(&["two"]),
        ),
        same(
            "gnu and pax names",
            tar()
                .gnu(b'L', b"gnu")
                .pax(&[(b"path", b"pax")])
                .file("f", b""),
            || Refused("PAX record and by a GNU"),
        ),
        same(
            "pax and gnu names",
            tar()
                .pax(&[(b"path", b"pax")])
                .gnu(b'L', b"gnu")
                .file("f", b""),
            || Refused("PAX record and by a GNU"),
        ),
        same(
            "global path",
            tar().global(&[(b"path", b"global")]).file("f", b""),
            || Refused("global"),
        ),
        same(
            "global size",
            tar().global(&[(b"size", b"512")]).file("f", b""),
            || Refused("global"),
        ),
        same(
            "global comment",
            tar().global(&[(b"comment", b"0123")]).file("f", b""),
            || Names(&["f"]),
        ),
        same(
            "bad pax record",
            {
                let mut raw = Raw::new(b'x', "x");
                raw.size = 9;
                tar().raw(&raw, b"99 path=x").file("f", b"")
            },
            || Refused(""),
        ),
        same(
            "size of a directory",
            {
                let mut raw = Raw::new(b'5', "d");
                raw.size = 512;
                tar().raw(&raw, &[0; 512])
            },
            || Refused("has content"),
        ),
        same(
            "size of a link",
            {
                let mut raw = Raw::new(b'2', "l").link("x");
                raw.size = 512;
                tar().raw(&raw, &[0; 512])
            },
            || Refused("has content"),
        ),
        same(
            "size that overflows",
            {
                let mut block = Raw::new(b'0', "f").block();
                block[124..136].copy_from_slice(b"\x80\0\0\x01\0\0\0\0\0\0\0\0");
                checksummed(tar(), block)
            },
            || Refused("out of range"),
        ),
        same(
            "size below zero",
            {
                let mut block = Raw::new(b'0', "f").block();
                block[124..136].fill(0xff);
                checksummed(tar(), block)
            },
            || Refused(""),
        ),
        same("huge size", tar().entry(&sized("f", 1 << 62)), || {
            Refused("middle of a file")
        }),
        same("unknown type", tar().entry(&Raw::new(b'Z', "z")), || {
            Refused("unknown type")
        }),
        same(
            "bad checksum",
            {
                let mut block = Raw::new(b'0', "f").block();
                block[0] = b'g';
                tar().bytes(&block)
            },
            || Refused(""),
        ),
        same("not a tar", tar().bytes(&[b'n'; 2048]), || Refused("")),
        same("link without a target", tar().symlink("l", ""), || {
            Refused("without a target")
        }),
        same("file that is a directory", tar().file("d/", b""), || {
            Names(&["d"])
        }),
        same(
            "last one counts",
            tar()
                .file("a/x", b"1")
                .symlink("a", "b")
                .dir("a")
                .file("a/y", b"2")
                .file("b", b"")
                .dir("b"),
            || Names(&["a", "a/y", "b"]),
        ),
        same(
            "control characters",
            tar().file("a\nb\x1b[31mc", b""),
            || Names(&["a\nb\x1b[31mc"]),
        ),
        same("case", tar().file("A", b"").file("a", b""), || {
            Names(&["A", "a"])
        }),
        same(
            "name of a component too long",
            tar().pax(&[(b"path", &[b'n'; 300])]).file("f", b""),
            || Refused(""),
        ),
        same(
            "gnu sparse, huge",
            {
                let mut block = Raw::new(b'S', "s").block();
                block[257..265].copy_from_slice(b"ustar  \0");
                block[483..495].copy_from_slice(b"\x80\0\0\0\x40\0\0\0\0\0\0\0");
                checksummed(tar(), block)
            },
            || Refused("64 GiB"),
        ),
        same(
            "pax sparse, huge",
            tar()
                .pax(&[
                    (b"GNU.sparse.major", b"1"),
                    (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.realsize", b"4611686018427387904"),
                    (b"GNU.sparse.name", b"s"),
                ])
                .file("f", &padded(b"0\n")),
            || Refused("64 GiB"),
        ),
        same(
            "pax sparse, outside",
            tar()
                .pax(&[(b"GNU.sparse.map", b"100,5"), (b"GNU.sparse.size", b"10")])
                .file("f", b"12345"),
            || Refused("sparse map"),
        ),
        same(
            "pax sparse, backwards",
            tar()
                .pax(&[(b"GNU.sparse.map", b"5,2,0,3"), (b"GNU.sparse.size", b"10")])
                .file("f", b"12345"),
            || Refused("sparse map"),
        ),
        same(
            "pax sparse, overflow",
            tar()
                .pax(&[
                    (b"GNU.sparse.map", b"18446744073709551615,2"),
                    (b"GNU.sparse.size", b"10"),
                ])
                .file("f", b"12"),
            || Refused("sparse map"),
        ),
        same(
            "pax sparse, more than there is",
            tar()
                .pax(&[(b"GNU.sparse.map", b"0,9"), (b"GNU.sparse.size", b"10")])
                .file("f", b"12"),
            || Refused("sparse map"),
        ),
        same(
            "sparse directory",
            tar()
                .pax(&[(b"GNU.sparse.map", b"0,0"), (b"GNU.sparse.size", b"10")])
                .dir("d"),
            || Refused("sparse"),
        ),
    ]
}

fn padded(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    bytes.resize(512, 0);
    bytes
}

fn checksummed(tar: RawTar, mut block: [u8; 512]) -> RawTar {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.bytes(&block)
}

fn names_in(root: &Path) -> BTreeSet<String> {
    fn walk(root: &Path, dir: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            names.insert(
                path.strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
            if path.is_dir() && !path.is_symlink() {
                walk(root, &path, names);
            }
        }
    }
    let mut names = BTreeSet::new();
    walk(root, root, &mut names);
    names
}

fn judge(attack: &str, outcome: &Outcome, result: Result<PathBuf, Error>) {
    match (outcome, result) {
        // Whether such an attack is refused or led inside does not matter; the canary does.
        (Refused("x-checked-below"), _) => {}
        (Refused(reason), Err(error)) => {
            let text = error.to_string();
            assert!(text.contains(reason), "{attack}: {text}");
            assert!(!text.contains(SECRET), "{attack}: {text}");
            assert!(!text.chars().any(char::is_control), "{attack}: {text:?}");
        }
        (Names(expected), Ok(root)) => {
            let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(names_in(&root), expected, "{attack}");
        }
        (Refused(_), Ok(root)) => panic!("{attack}: NOT REFUSED: {:?}", names_in(&root)),
        (Names(_), Err(error)) => panic!("{attack}: refused: {error}"),
    }
}

#[test]
fn nothing_outside_is_touched() {
    let (dir, store) = store();
    let canary = Canary::new(dir.path());
    let attacks = [escapes(&canary), marks(&canary), malformed()].concat_all();
    for attack in attacks {
        let begun = Instant::now();
        let id = DiffId(Digest::of(&attack.tar));
        let layer = store
            .extract(&attack.tar[..], &id)
            .map(|_| store.layer_dir(&id));
        canary.check(attack.name);
        judge(attack.name, &attack.layer, layer);

        let dest = dir.path().join("dest");
        fs::create_dir(&dest).unwrap();
        let fd = fs::File::open(&dest).unwrap();
        let options = Unpack {
            chown: Some((0, 0)),
            most: None,
        };
        let files = unpack_archive(&attack.tar[..], fd.as_fd(), &options).map(|_| dest.clone());
        canary.check(attack.name);
        judge(attack.name, &attack.files, files);
        fs::remove_dir_all(&dest).unwrap();

        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{}: {:?}",
            attack.name,
            begun.elapsed()
        );
        assert_eq!(
            scratch_left(&store),
            0,
            "{}: scratch folders left",
            attack.name
        );
    }
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Attack>;
}

impl<const N: usize> ConcatAll for [Vec<Attack>; N] {
    fn concat_all(self) -> Vec<Attack> {
        self.into_iter().flatten().collect()
    }
}

/// The scratch folders in the folder of this process.
fn scratch_left(store: &Store) -> usize {
    let tmp = fs::read_dir(store.root().join("tmp"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::read_dir(tmp)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .count()
}

#[test]
fn set_id_bits_and_devices_stay_in_the_layer() {
    let (_dir, store) = store();
    let mut device = Raw::new(b'3', "null").mode(0o666);
    device.dev = (1, 3);
    let tar = RawTar::new()
        .entry(&Raw::new(b'0', "su").mode(0o6755))
        .entry(&device)
        .end();
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    let mode = |name| {
        fs::metadata(store.layer_dir(&id).join(name))
            .unwrap()
            .mode()
    };
    assert_eq!(mode("su") & 0o7777, 0o6755);
    assert_eq!(mode("null") & 0o7777, 0o666);
    let root = fs::metadata(store.root()).unwrap().mode();
    assert_eq!(
        root & 0o777,
        0o700,
        "others could reach set-id files in the store"
    );
}

#[test]
fn no_overlay_attribute_arrives() {
    let (_dir, store) = store();
    let records: [(&[u8], &[u8]); 3] = [
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.kept", b"k"),
    ];
    let tar = RawTar::new().pax(&records).dir("d").end();
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    let mut names = vec![0u8; 1024];
    let len = rustix::fs::listxattr(store.layer_dir(&id).join("d"), &mut names[..]).unwrap();
    assert_eq!(&names[..len], b"user.kept\0");
}

#[test]
fn deletions_take_effect_in_any_order() {
    let (_dir, store) = store();
    let opaque = |id: &DiffId| {
        let mut value = [0u8; 8];
        let path = store.layer_dir(id).join("d");
        rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value[..]).is_ok()
    };
    let before = RawTar::new()
        .file(".wh.d", b"")
        .dir("d")
        .file("d/x", b"")
        .end();
    let after = RawTar::new()
        .dir("d")
        .file("d/x", b"")
        .file(".wh.d", b"")
        .end();
    let instead = RawTar::new().file("d", b"").dir("d").file("d/x", b"").end();
    let marked = RawTar::new()
        .file("d/.wh..wh..opq", b"")
        .dir("d")
        .file("d/x", b"")
        .end();
    let plain = RawTar::new().dir("d").file("d/x", b"").end();
    for (tar, expected) in [
        (before, true),
        (after, true),
        (instead, true),
        (marked, true),
        (plain, false),
    ] {
        let id = DiffId(Digest::of(&tar));
        store.extract(&tar[..], &id).unwrap();
        assert_eq!(
            names_in(&store.layer_dir(&id))
                .into_iter()
                .collect::<Vec<_>>(),
            ["d", "d/x"]
        );
        assert_eq!(opaque(&id), expected);
    }
    let gone = RawTar::new()
        .file("a/.wh.b", b"")
        .file("a/b", b"x")
        .file(".wh.c", b"")
        .end();
    let id = DiffId(Digest::of(&gone));
    store.extract(&gone[..], &id).unwrap();
    assert_eq!(fs::read(store.layer_dir(&id).join("a/b")).unwrap(), b"x");
    assert_eq!(
        fs::symlink_metadata(store.layer_dir(&id).join("c"))
            .unwrap()
            .rdev(),
        0
    );
}

/// Gives bytes without end, and counts them.
struct Endless {
    head: io::Cursor<Vec<u8>>,
    given: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.head.read(buffer)?;
        let read = if read == 0 {
            io::repeat(b'x').read(buffer)?
        } else {
            read
        };
        self.given += read as u64;
        assert!(self.given < 64 << 20, "read without bounds");
        Ok(read)
    }
}

#[test]
fn headers_without_end_are_refused_early() {
    let (_dir, store) = store();
    let sized = |kind, size| {
        let mut raw = Raw::new(kind, "x");
        raw.size = size;
        if kind != b'x' {
            raw.magic = b"ustar  \0";
        }
        raw.block().to_vec()
    };
    // A sparse header whose continuation never ends.
    let mut extended = Raw::new(b'S', "s").block();
    extended[257..265].copy_from_slice(b"ustar  \0");
    extended[482] = 1;
    let extended = checksummed(RawTar::new(), extended).0;
    let sparse_map = RawTar::new()
        .pax(&[
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"9"),
        ])
        .bytes(&sized(b'0', 1 << 40))
        .0;
    for head in [
        sized(b'x', 256 << 20),
        sized(b'L', 128 << 20),
        sized(b'K', 128 << 20),
        sized(b'g', 256 << 20),
        extended,
        sparse_map,
    ] {
        let begun = Instant::now();
        let mut reader = Endless {
            head: io::Cursor::new(head),
            given: 0,
        };
        let refused = store.extract(&mut reader, &DiffId(Digest::of(b"")));
        assert!(matches!(refused, Err(Error::Archive { .. })), "{refused:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn truncated_archives_are_refused() {
    let (_dir, store) = store();
    let tar = RawTar::new()
        .file("a", &[1; 3000])
        .pax(&[(b"path", b"b")])
        .file("b", b"x")
        .0;
    for len in [100, 512, 700, 3500, 3600, 4100, 4200, 4700, 5200] {
        let cut = &tar[..len];
        let id = DiffId(Digest::of(cut));
        let refused = store.extract(cut, &id);
        assert!(
            matches!(refused, Err(Error::Archive { .. })),
            "{len}: {refused:?}"
        );
    }
    // Some programs leave out the end; the digest says that nothing is missing.
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    let empty = DiffId(Digest::of(b""));
    assert_eq!(store.extract(&b""[..], &empty).unwrap().size, 0);
}

#[test]
fn a_reader_that_fails_is_said_to() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("connection lost"));
            }
            let len = buffer.len().min(self.0);
            self.0 -= len;
            buffer[..len].fill(0);
            Ok(len)
        }
    }
    let (dir, store) = store();
    for len in [0, 100, 1024, 300 << 10, 3 << 20] {
        let failed = store.extract(Failing(len), &DiffId(Digest::of(b"")));
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("connection lost"), "{len}: {text}");
        let fd = fs::File::open(dir.path()).unwrap();
        if len < 512 {
            let failed = unpack_archive(Failing(len), fd.as_fd(), &Unpack::default());
            assert!(failed.unwrap_err().to_string().contains("connection lost"));
        }
    }
}

#[test]
fn large_archives_take_linear_time() {
    let (_dir, store) = store();
    let extract = |tar: Vec<u8>| {
        let begun = Instant::now();
        let id = DiffId(Digest::of(&tar));
        store.extract(&tar[..], &id).unwrap();
        let took = begun.elapsed();
        store.remove_layer(&id).unwrap();
        took
    };
    let many = |files: usize| {
        let tar = (0..files).fold(RawTar::new(), |tar, i| {
            tar.file(format!("d{}/{i}", i % 7), b"")
        });
        tar.end()
    };
    let opaque = |files: usize| {
        let tar = (0..files).fold(RawTar::new(), |tar, i| tar.file(format!("d{i}/f"), b""));
        let tar = (0..files).fold(tar, |tar, i| tar.file(format!("d{i}/.wh..wh..opq"), b""));
        tar.end()
    };
    let limit = Duration::from_secs(30);
    assert!(extract(many(20_000)) < limit);
    assert!(extract(opaque(3_000)) < limit);
}

#[test]
fn deep_trees_are_unpacked_and_removed() {
    let (dir, store) = store();
    let path = vec!["d"; 1900].join("/");
    let tar = (1..=1900).fold(RawTar::new(), |tar, depth| {
        let name = vec!["d"; depth].join("/");
        tar.pax(&[(b"path", format!("{name}/").as_bytes())])
            .dir("x")
    });
    let tar = tar
        .pax(&[(b"path", format!("{path}/file").as_bytes())])
        .file("x", b"deep")
        .end();
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    let mut again = Vec::new();
    let replayed = store.write_layer_tar(&id, &mut again);
    assert!(
        replayed.is_ok() || matches!(replayed, Err(Error::Foreign(_))),
        "{replayed:?}"
    );
    store.remove_layer(&id).unwrap();

    // Implicit parents are made one by one; so many are refused, not followed by a crash.
    let tar = RawTar::new()
        .pax(&[(b"path", format!("{path}/file").as_bytes())])
        .file("x", b"")
        .end();
    let refused = store.extract(&tar[..], &DiffId(Digest::of(&tar)));
    assert!(refused.is_err());
    let fd = fs::File::open(dir.path()).unwrap();
    assert!(unpack_archive(&tar[..], fd.as_fd(), &Unpack::default()).is_err());
}

#[test]
fn swapping_directories_and_links_does_not_lead_out() {
    let (dir, _store) = store();
    let canary = Canary::new(dir.path());
    let dest = dir.path().join("dest");
    fs::create_dir_all(dest.join("d/e")).unwrap();
    std::os::unix::fs::symlink(canary.path("vdir"), dest.join("l")).unwrap();
    let tar = (0..50).fold(RawTar::new(), |tar, i| {
        tar.file(format!("d/file{i}"), b"x")
            .dir("d/e")
            .file(format!("d/e/inner{i}"), b"x")
            .dir("d/inner")
    });
    let tar = tar.end();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (d, l) = (dest.join("d"), dest.join("l"));
                let _ = renameat_with(CWD, &d, CWD, &l, RenameFlags::EXCHANGE);
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let fd = fs::File::open(&dest).unwrap();
            // It may fail; it may not leave.
            let _ = unpack_archive(&tar[..], fd.as_fd(), &Unpack::default());
            canary.check("swap");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn files_go_over_what_is_there() {
    let (dir, _store) = store();
    let dest = dir.path().join("dest");
    fs::create_dir_all(dest.join("keep/inner")).unwrap();
    fs::write(dest.join("keep/old"), "old").unwrap();
    fs::write(dest.join("file"), "old").unwrap();
    fs::create_dir(dest.join("real")).unwrap();
    std::os::unix::fs::symlink("/real", dest.join("link")).unwrap();
    let tar = RawTar::new()
        .entry(&Raw::new(b'5', "keep").mode(0o701))
        .file("keep/new", b"new")
        .file("file", b"new")
        .file("link/through", b"x")
        .file("made/by/need", b"x")
        .end();
    let fd = fs::File::open(&dest).unwrap();
    unpack_archive(
        &tar[..],
        fd.as_fd(),
        &Unpack {
            chown: Some((7, 8)),
            most: None,
        },
    )
    .unwrap();
    let names: Vec<_> = names_in(&dest).into_iter().collect();
    assert_eq!(
        names,
        [
            "file",
            "keep",
            "keep/inner",
            "keep/new",
            "keep/old",
            "link",
            "made",
            "made/by",
            "made/by/need",
            "real",
            "real/through",
        ]
    );
    assert_eq!(fs::read(dest.join("file")).unwrap(), b"new");
    let owner = |name: &str| {
        let meta = fs::metadata(dest.join(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner("keep/new"), (7, 8));
    assert_eq!(owner("made/by"), (7, 8));
    assert_eq!(owner("keep/old"), (0, 0));
    assert_eq!(
        fs::metadata(dest.join("keep")).unwrap().mode() & 0o777,
        0o701
    );
}

/// An archive with a little of everything, to be broken.
fn rich() -> Vec<u8> {
    let mut device = Raw::new(b'3', "dev");
    device.dev = (1, 3);
    let mut sparse = Raw::new(b'S', "sparse").block();
    sparse[257..265].copy_from_slice(b"ustar  \0");
    sparse[386..398].copy_from_slice(b"00000000000\0");
    sparse[398..410].copy_from_slice(b"00000000000\0");
    sparse[483..495].copy_from_slice(b"00000000777\0");
    let tar = RawTar::new()
        .dir("d/")
        .file("d/f", &[7; 700])
        .symlink("l", "d")
        .hard_link("h", "d/f")
        .entry(&device)
        .global(&[(b"comment", b"c")])
        .pax(&[
            (b"path", b"long/name"),
            (b"SCHILY.xattr.user.a", b"1"),
            (b"mtime", b"-1.5"),
        ])
        .file("x", b"content")
        .gnu(b'L', &[b'n'; 120])
        .file("x", b"")
        .pax(&[(b"GNU.sparse.map", b"0,3"), (b"GNU.sparse.size", b"9")])
        .file("p", b"abc")
        .file("d/.wh.gone", b"")
        .file("d/.wh..wh..opq", b"");
    checksummed(tar, sparse).end()
}

fn fix_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_broken_archive_is_refused_or_stays_inside(
        changes in proptest::collection::vec((0usize..12_000, proptest::num::u8::ANY), 1..6),
        cut in proptest::option::of(0usize..12_000),
    ) {
        let (dir, store) = store();
        let canary = Canary::new(dir.path());
        let mut tar = rich();
        for (at, byte) in changes {
            let at = at % tar.len();
            tar[at] = byte;
        }
        fix_checksums(&mut tar);
        tar.truncate(cut.unwrap_or(tar.len()));
        let id = DiffId(Digest::of(&tar));
        if store.extract(&tar[..], &id).is_ok() {
            let _ = store.write_layer_tar(&id, &mut io::sink());
        }
        let dest = dir.path().join("dest");
        fs::create_dir(&dest).unwrap();
        let fd = fs::File::open(&dest).unwrap();
        let _ = unpack_archive(&tar[..], fd.as_fd(), &Unpack::default());
        canary.check("broken archive");
    }
}

#[test]
fn the_archive_that_is_broken_above_is_whole() {
    let (_dir, store) = store();
    let tar = rich();
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    assert_eq!(
        fs::read(store.layer_dir(&id).join("p")).unwrap(),
        b"abc\0\0\0\0\0\0"
    );
    assert_eq!(
        fs::metadata(store.layer_dir(&id).join("sparse"))
            .unwrap()
            .len(),
        0o777
    );
    assert_eq!(
        fs::metadata(store.layer_dir(&id).join("long/name"))
            .unwrap()
            .mtime(),
        -2
    );
}
