//! The archives of attackers.

use super::Outcome::{Names, Refused};
use super::{Canary, Outcome};
use crate::support::{Raw, RawTar};

pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) tar: Vec<u8>,
    pub(super) layer: Outcome,
    pub(super) files: Outcome,
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
pub(super) fn escapes(canary: &Canary) -> Vec<Attack> {
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
pub(super) fn marks(canary: &Canary) -> Vec<Attack> {
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
pub(super) fn malformed() -> Vec<Attack> {
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

pub(super) fn checksummed(tar: RawTar, mut block: [u8; 512]) -> RawTar {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.bytes(&block)
}
