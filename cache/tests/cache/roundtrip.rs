//! A tree becomes a layer, its tar is read by other programs, and becomes the same tree again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use lapstrake_cache::{DiffId, Digest, Error, Layer, Store, Time};
use proptest::prelude::*;
use rustix::fs::FileType;

use crate::support::{
    RawTar, have, layer, listing, mknod, run, set_time, set_xattr, store, tar_of, xattrs,
};

/// What may stand under a name.
#[derive(Clone, Debug)]
enum Node {
    File {
        content: Vec<u8>,
        xattr: Option<Vec<u8>>,
    },
    Dir,
    Link(String),
    Hard,
    Fifo,
    Device(u32, u32),
}

#[derive(Clone, Debug)]
struct Made {
    node: Node,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
}

/// A tree by path; the parents of all paths become directories.
type Tree = BTreeMap<Vec<Vec<u8>>, Made>;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => "[a-e]".prop_map(String::into_bytes),
        2 => "[a-c]\\.[a-c -]{0,3}".prop_map(String::into_bytes),
        1 => "[é✓ \\n]{1,3}x".prop_map(String::into_bytes),
        1 => Just(vec![b'n', 0xff, 0xfe]),
        1 => "[a-z]{90,120}".prop_map(String::into_bytes),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let content = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (0usize..2_000_000).prop_map(|len| vec![b'z'; len]),
    ];
    let xattr = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..20));
    prop_oneof![
        6 => (content, xattr).prop_map(|(content, xattr)| Node::File { content, xattr }),
        3 => Just(Node::Dir),
        2 => "[a-z./é]{1,130}".prop_map(Node::Link),
        2 => Just(Node::Hard),
        1 => Just(Node::Fifo),
        1 => (0u32..300, 1u32..70_000).prop_map(|(major, minor)| Node::Device(major, minor)),
    ]
}

fn made() -> impl Strategy<Value = Made> {
    let owner = prop_oneof![Just(0u32), 0u32..3_000_000, Just(u32::MAX - 1)];
    // As far as ext4 keeps times.
    let mtime = prop_oneof![0i64..4_000_000_000, -2_000_000_000i64..0];
    (node(), 0u32..0o10000, owner.clone(), owner, mtime).prop_map(
        |(node, mode, uid, gid, mtime)| Made {
            node,
            mode,
            owner: (uid, gid),
            mtime,
        },
    )
}

fn tree() -> impl Strategy<Value = Tree> {
    prop::collection::btree_map(prop::collection::vec(name(), 1..4), made(), 0..25)
}

fn path_of(root: &Path, names: &[Vec<u8>]) -> PathBuf {
    names.iter().fold(root.to_owned(), |path, name| {
        path.join(OsStr::from_bytes(name))
    })
}

/// Makes a tree, in the order given; what does not fit (a file where a directory must be) is left
/// out.
fn make(root: &Path, entries: &[(&Vec<Vec<u8>>, &Made)]) {
    let mut first_file: Option<PathBuf> = None;
    let mut done = Vec::new();
    // Which name is the first of a file must not depend on the order in which names are made.
    let target = entries
        .iter()
        .filter(|(_, made)| matches!(made.node, Node::File { .. }));
    let target = target.map(|(path, _)| (*path).clone()).min();
    for (names, made) in entries {
        let path = path_of(root, names);
        if fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        let ok = match &made.node {
            Node::File { content, .. } => !path.exists() && fs::write(&path, content).is_ok(),
            Node::Dir => fs::create_dir_all(&path).is_ok(),
            Node::Link(target) => symlink(target, &path).is_ok(),
            Node::Hard => continue,
            Node::Fifo if path.symlink_metadata().is_err() => {
                mknod(&path, FileType::Fifo, 0, 0);
                true
            }
            Node::Device(major, minor) if path.symlink_metadata().is_err() => {
                mknod(&path, FileType::CharacterDevice, *major, *minor);
                true
            }
            _ => false,
        };
        if ok {
            if target.as_ref() == Some(*names) && path.is_file() {
                first_file = Some(path.clone());
            }
            done.push((path, *made));
        }
    }
    for (names, made) in entries {
        if let (Node::Hard, Some(first)) = (&made.node, &first_file) {
            let path = path_of(root, names);
            if path.parent().is_some_and(Path::is_dir) {
                let _ = fs::hard_link(first, path);
            }
        }
    }
    done.sort_by(|a, b| b.0.cmp(&a.0));
    for (path, made) in done {
        describe(&path, made);
    }
    settle(root);
}

fn describe(path: &Path, made: &Made) {
    std::os::unix::fs::lchown(path, Some(made.owner.0), Some(made.owner.1)).unwrap();
    if !path.is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(made.mode)).unwrap();
    }
    if let Node::File {
        xattr: Some(value), ..
    } = &made.node
    {
        set_xattr(path, "user.test", value);
    }
    set_time(path, made.mtime);
}

/// Gives every directory a time that does not depend on when it was filled.
fn settle(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            settle(&path);
            set_time(&path, 1_000_000_000);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tree_to_tar_to_tree_is_identity(tree in tree()) {
        let (dir, store) = store();
        let entries: Vec<_> = tree.iter().collect();
        let mut before = Vec::new();
        let made = layer(&store, &[], |root| {
            make(root, &entries);
            before = listing(root);
        });
        let tar = tar_of(&store, &made);
        let other = Store::open(&dir.path().join("other")).unwrap();
        let pulled = other.extract(&tar[..], &made.diff_id).unwrap();
        prop_assert_eq!(pulled, made);
        prop_assert_eq!(listing(&other.layer_dir(&made.diff_id)), before);
        prop_assert_eq!(tar_of(&other, &pulled), tar);
    }

    #[test]
    fn tar_does_not_depend_on_the_order_of_making(tree in tree(), seed in any::<u64>()) {
        let (_dir, store) = store();
        // What is in the way of what depends on the order, so nothing may be.
        let entries: Vec<_> = tree
            .iter()
            .filter(|(path, _)| (1..path.len()).all(|len| {
                tree.get(&path[..len]).is_none_or(|made| matches!(made.node, Node::Dir))
            }))
            .collect();
        let mut state = seed | 1;
        let mut keyed: Vec<_> = entries
            .iter()
            .map(|entry| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33, *entry)
            })
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        let shuffled: Vec<_> = keyed.into_iter().map(|(_, entry)| entry).collect();
        let one = layer(&store, &[], |root| make(root, &entries));
        let two = layer(&store, &[], |root| make(root, &shuffled));
        prop_assert_eq!(one, two);
    }
}

/// A tree with one of everything.
fn fixture(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/file"), "hello").unwrap();
    fs::write(root.join("a/big"), vec![7u8; 3 << 20]).unwrap();
    fs::hard_link(root.join("a/big"), root.join("a/zlink")).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    symlink("t".repeat(150), root.join("long-link")).unwrap();
    fs::set_permissions(root.join("a/b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    chown(root.join("a/b"), Some(3_000_000), Some(7)).unwrap();
    fs::write(root.join(format!("a/{}", "x".repeat(150))), "long").unwrap();
    fs::write(root.join("a/gr\u{fc}n \u{2713}"), "text").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"a/\xff\xfe")), "no text").unwrap();
    set_xattr(&root.join("a/b/file"), "user.one", b"a=b\nc\0\xff");
    mknod(&root.join("pipe"), FileType::Fifo, 0, 0);
    mknod(&root.join("null"), FileType::CharacterDevice, 1, 3);
    for i in 0..600 {
        fs::write(root.join(format!("a/f{i}")), format!("{i}")).unwrap();
    }
}

#[test]
fn gnu_tar_unpacks_the_same_tree() {
    let (dir, store) = store();
    let mut before = Vec::new();
    let made = layer(&store, &[], |root| {
        fixture(root);
        before = listing(root);
    });
    let tar = dir.path().join("layer.tar");
    fs::write(&tar, tar_of(&store, &made)).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let args = [
        "--xattrs",
        "--xattrs-include=*",
        "-xpf",
        tar.to_str().unwrap(),
        "-C",
    ];
    run("tar", &[&args[..], &[out.to_str().unwrap()]].concat());
    assert_eq!(listing(&out), before);
}

#[test]
fn python_lists_the_same_entries() {
    if !have("python3") {
        return;
    }
    let (dir, store) = store();
    let made = layer(&store, &[], fixture);
    let tar = dir.path().join("layer.tar");
    fs::write(&tar, tar_of(&store, &made)).unwrap();
    let script = "
import sys, tarfile
t = tarfile.open(sys.argv[1])
for m in t:
    print(ascii(m.name), m.type.decode(), oct(m.mode), m.uid, m.gid, m.size, ascii(m.linkname))
";
    let text = run("python3", &["-c", script, tar.to_str().unwrap()]);
    assert_eq!(text.lines().count(), 612, "{text}");
    for line in [
        "'a/b' 5 0o755 3000000 7 0 ''",
        "'a/b/file' 0 0o4755 0 0 5 ''",
        "'a/zlink' 1 0o644 0 0 0 'a/big'",
        "'a/gr\\xfcn \\u2713' 0 0o644 0 0 4 ''",
        "'a/\\udcff\\udcfe' 0 0o644 0 0 7 ''",
        "'null' 3 0o644 0 0 0 ''",
        "'pipe' 6 0o644 0 0 0 ''",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in:\n{text}"
        );
    }
}

#[test]
fn umoci_unpacks_an_image_of_our_layers() {
    if !have("umoci") {
        return;
    }
    let (dir, store) = store();
    let base = layer(&store, &[], fixture);
    let lowers = [store.layer_dir(&base.diff_id)];
    let top = layer(&store, &lowers, |root| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        mknod(&root.join("a/big"), FileType::CharacterDevice, 0, 0);
        set_xattr(&root.join("a/b"), "trusted.overlay.opaque", b"y");
        fs::write(root.join("a/b/new"), "new").unwrap();
    });
    let layout = dir.path().join("layout");
    write_layout(&layout, &[tar_of(&store, &base), tar_of(&store, &top)]);
    let image = format!("{}:test", layout.display());
    let bundle = dir.path().join("bundle");
    run(
        "umoci",
        &["unpack", "--image", &image, bundle.to_str().unwrap()],
    );
    let root = bundle.join("rootfs");
    assert!(!root.join("a/big").exists() && root.join("a/zlink").exists());
    let names: Vec<_> = fs::read_dir(root.join("a/b"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["new"]);
    assert_eq!(fs::read_to_string(root.join("a/f599")).unwrap(), "599");
    if have("skopeo") {
        let target = format!("dir:{}", dir.path().join("copied").display());
        run(
            "skopeo",
            &[
                "copy",
                "--insecure-policy",
                &format!("oci:{image}"),
                &target,
            ],
        );
    }
}

/// An OCI layout with one image of uncompressed layers.
fn write_layout(at: &Path, layers: &[Vec<u8>]) {
    fs::create_dir_all(at.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(at.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, bytes.len())
    };
    let ids: Vec<_> = layers
        .iter()
        .map(|tar| format!("\"{}\"", Digest::of(tar)))
        .collect();
    let config = put(
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        )
        .as_bytes(),
    );
    let described: Vec<_> = layers
        .iter()
        .map(|tar| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar",{}}}"#,
                put(tar)
            )
        })
        .collect();
    let manifest = put(
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{config}}},"layers":[{}]}}"#,
            described.join(",")
        )
        .as_bytes(),
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{manifest},"annotations":{{"org.opencontainers.image.ref.name":"test"}}}}]}}"#
    );
    fs::write(at.join("index.json"), index).unwrap();
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn archives_of_other_programs_unpack_as_gnu_tar_unpacks_them() {
    let (dir, store) = store();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fixture(&tree);
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", (10 << 20) - 3).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"middle", 5 << 20).unwrap();
    set_time(&tree.join("a/f1"), -5);
    settle(&tree);
    let expected = listing(&tree);
    for format in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--xattrs"],
        &[
            "--format=posix",
            "--sparse",
            "--sparse-version=0.0",
            "--xattrs",
        ],
        &[
            "--format=posix",
            "--sparse",
            "--sparse-version=0.1",
            "--xattrs",
        ],
        &[
            "--format=posix",
            "--sparse",
            "--sparse-version=1.0",
            "--xattrs",
        ],
    ] {
        let path = dir.path().join("foreign.tar");
        let args = [
            "-cf",
            path.to_str().unwrap(),
            "-C",
            tree.to_str().unwrap(),
            ".",
        ];
        run("tar", &[format, &args].concat());
        let bytes = fs::read(&path).unwrap();
        let id = DiffId(Digest::of(&bytes));
        store.extract(&bytes[..], &id).unwrap();
        let plain = |lines: Vec<String>| -> Vec<String> {
            let keep_xattrs = format.contains(&"--xattrs");
            let cut = |line: &String| line.split(" [").next().unwrap().to_owned();
            if keep_xattrs {
                lines
            } else {
                lines.iter().map(cut).collect()
            }
        };
        let found = plain(listing(&store.layer_dir(&id)));
        assert_eq!(found, plain(expected.clone()), "{format:?}");
        let again = store.write_layer_tar(&id, &mut std::io::sink());
        assert!(
            matches!(again, Err(Error::Foreign(_))),
            "{format:?}: {again:?}"
        );
        store.remove_layer(&id).unwrap();
    }
}

#[test]
fn file_capabilities_survive() {
    let (dir, store) = store();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let made = layer(&store, &[], |root| {
        fs::write(root.join("ping"), "x").unwrap();
        chown(root.join("ping"), Some(5), Some(5)).unwrap();
        set_xattr(&root.join("ping"), "security.capability", capability);
    });
    let other = Store::open(&dir.path().join("other")).unwrap();
    other
        .extract(&tar_of(&store, &made)[..], &made.diff_id)
        .unwrap();
    let found = xattrs(&other.layer_dir(&made.diff_id).join("ping"));
    assert_eq!(
        found,
        [("security.capability".to_owned(), capability.to_vec())]
    );
}

#[test]
fn bytes_after_the_end_count_for_the_digest() {
    let (_dir, store) = store();
    let tar = RawTar::new().file("a", b"x").end();
    for garbage in [vec![0u8; 9000], vec![b'g'; 3 << 20]] {
        let bytes = [tar.clone(), garbage].concat();
        let id = DiffId(Digest::of(&bytes));
        let layer = store.extract(&bytes[..], &id).unwrap();
        assert_eq!(layer.size, bytes.len() as u64);
        let wrong = DiffId(Digest::of(&tar));
        let refused = store.extract(&bytes[..], &wrong);
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        assert!(store.layer(&wrong).unwrap().is_none());
    }
}

#[test]
fn a_layer_that_is_there_is_taken() {
    let (_dir, store) = store();
    let write = |root: &Path| {
        fs::write(root.join("a"), "x").unwrap();
        set_time(&root.join("a"), 7);
    };
    let one = layer(&store, &[], write);
    let tar = tar_of(&store, &one);
    assert_eq!(layer(&store, &[], write), one);
    assert_eq!(store.extract(&tar[..], &one.diff_id).unwrap(), one);
    // It is still one that was made here.
    assert_eq!(tar_of(&store, &one), tar);
    fs::write(store.layer_dir(&one.diff_id).join("a"), "y").unwrap();
    let changed = store.write_layer_tar(&one.diff_id, &mut Vec::new());
    assert!(matches!(changed, Err(Error::Corrupt { .. })), "{changed:?}");
}

#[test]
fn a_layer_without_late_times() {
    let (_dir, store) = store();
    let base = layer(&store, &[], fixture);
    let old = layer(&store, &[store.layer_dir(&base.diff_id)], |root| {
        fs::create_dir(root.join("a")).unwrap();
        fs::create_dir(root.join("late")).unwrap();
        fs::write(root.join("a/early"), "early").unwrap();
        fs::write(root.join("late/file"), "late").unwrap();
        fs::hard_link(root.join("late/file"), root.join("late/other")).unwrap();
        symlink("file", root.join("late/link")).unwrap();
        set_xattr(&root.join("late/file"), "user.one", b"1");
        mknod(&root.join("a/big"), FileType::CharacterDevice, 0, 0);
        for (path, secs) in [
            ("a/early", 1_000_000_000),
            ("a", 1_000_000_001),
            ("late/file", 2_000_000_000),
            ("late/link", 2_000_000_001),
            ("late", 2_000_000_002),
        ] {
            set_time(&root.join(path), secs);
        }
    });
    let latest = Time {
        secs: 1_500_000_000,
        nanos: 0,
    };
    let new = store.clamp_layer(&old.diff_id, latest).unwrap();
    assert_eq!(new.content, old.content);
    assert_ne!(new.diff_id, old.diff_id);
    let times = |line: String| {
        let words = line.split(' ').map(|word| match word.parse() {
            Ok(2_000_000_000..=2_000_000_002) => "1500000000",
            _ => word,
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let shown = |layer: &Layer| listing(&store.layer_dir(&layer.diff_id));
    let expected: Vec<String> = shown(&old).into_iter().map(times).collect();
    let without_mark = |lines: Vec<String>| {
        let lines = lines.into_iter().filter(|line| !line.starts_with("a/big"));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(without_mark(shown(&new)), without_mark(expected));
    // It can be written again as any layer that was made here, deletions too.
    let tar = String::from_utf8_lossy(&tar_of(&store, &new)).into_owned();
    assert!(tar.contains("a/.wh.big"));
    // And nothing is left to change.
    assert_eq!(store.clamp_layer(&new.diff_id, latest).unwrap(), new);
}

#[test]
fn directories_that_an_archive_does_not_list_look_as_below() {
    let (_dir, store) = store();
    let base = layer(&store, &[], |root| {
        for (name, mode) in [("tmp", 0o1777), ("srv", 0o755), ("root", 0o700)] {
            fs::create_dir(root.join(name)).unwrap();
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(root.join("root/deep")).unwrap();
        chown(root.join("root/deep"), Some(5), Some(6)).unwrap();
    });
    let tar = RawTar::new()
        .file("tmp/x", b"x")
        .file("root/deep/y", b"y")
        .file("srv/z", b"z")
        .end();
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    let lowers = store.lowers(&[base.diff_id, id]).unwrap();
    assert_eq!(lowers.len(), 3, "{lowers:?}");
    let patch = listing(&lowers[2]);
    let short: Vec<_> = patch
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    let without_time: Vec<_> = short
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(
        without_time,
        [
            "root dir 700 0:0",
            "root/deep dir 755 5:6",
            "tmp dir 1777 0:0"
        ]
    );
    assert_eq!(store.lowers(&[base.diff_id, id]).unwrap(), lowers);
    assert_eq!(store.lowers(&[id]).unwrap().len(), 1);
    // Where nothing needs to be said, nothing is.
    let plain = RawTar::new().file("srv/z", b"z").end();
    let plain_id = DiffId(Digest::of(&plain));
    store.extract(&plain[..], &plain_id).unwrap();
    assert_eq!(store.lowers(&[base.diff_id, plain_id]).unwrap().len(), 2);
}

#[test]
fn paths_longer_than_the_kernel_takes_are_committed() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let (_dir, store) = store();
    let deep = |root: &Path| {
        let mut here = fs::File::open(root).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for level in 0..210 {
            let name = if level < 120 {
                "a".to_owned()
            } else {
                "d".repeat(60)
            };
            mkdirat(&here, &name, Mode::from_raw_mode(0o755)).unwrap();
            here = openat(&here, &name, flags, Mode::empty()).unwrap().into();
        }
        let file = openat(
            &here,
            "file",
            OFlags::CREATE | OFlags::WRONLY,
            Mode::from_raw_mode(0o644),
        );
        rustix::io::write(file.as_ref().unwrap(), b"deep").unwrap();
        let time = rustix::fs::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(file.unwrap(), &times).unwrap();
    };
    let base = layer(&store, &[], deep);
    let tar = tar_of(&store, &base);
    let mut archive = tar::Archive::new(&tar[..]);
    let lengths: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path_bytes().len())
        .collect();
    assert_eq!(lengths.len(), 211);
    assert!(lengths[210] > 5000);
    // The same again is no change, also this deep.
    let again = layer(&store, &[store.layer_dir(&base.diff_id)], deep);
    assert_eq!(again.size, 1024);
}

/// Takes so many bytes, and fails then.
struct Small(usize);

impl std::io::Write for Small {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Those who read files at the same time must not wait for room that nobody makes any more.
#[test]
fn a_full_disk_ends_the_reading_of_a_layer() {
    let (_dir, store) = store();
    let made = layer(&store, &[], |upper| {
        for number in 0..16 {
            fs::write(upper.join(number.to_string()), vec![number; 3 << 20]).unwrap();
        }
    });
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for room in [0, 1 << 20, 5 << 20, 47 << 20] {
            let written = store.write_layer_tar(&made.diff_id, &mut Small(room));
            done.send(written.map_err(|error| error.to_string()))
                .unwrap();
        }
    });
    for _ in 0..4 {
        let ended = ended.recv_timeout(std::time::Duration::from_secs(60));
        let error = ended.expect("it hangs").unwrap_err();
        assert!(
            error.starts_with("write the archive of a layer: "),
            "{error}"
        );
    }
}
