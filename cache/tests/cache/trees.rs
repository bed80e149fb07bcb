//! Walking trees, digests of selections, the stat index, and putting files in place.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapstrake_cache::{
    Attributes, Content, Entry, Kind, Owners, StatIndex, Store, Time, Visit, Xattrs, copy_file,
    file_digest, kept_xattrs, make_dirs_in_root, open_in_root, place_dir, place_node,
    place_symlink, stat_beneath, tree_digest, walk,
};
use rustix::fs::{FileType, OFlags};

use crate::support::{mknod, set_time, set_xattr, store, xattrs};

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("src/deep/er")).unwrap();
    fs::create_dir_all(root.join("src.d")).unwrap();
    fs::create_dir_all(root.join("node_modules/x")).unwrap();
    for name in [
        "src/a.rs",
        "src/b.rs",
        "src/deep/c.rs",
        "src.d/x",
        "top",
        "node_modules/x/y",
    ] {
        fs::write(root.join(name), name).unwrap();
    }
    symlink("/etc/passwd", root.join("src/link")).unwrap();
    symlink("src/deep", root.join("shortcut")).unwrap();
    dir
}

fn paths(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry.path.to_str().unwrap())
        .collect()
}

fn all(_: &Path, _: bool) -> Visit {
    Visit::Take
}

#[test]
fn a_walk_is_in_order_and_goes_where_the_filter_says() {
    let dir = tree();
    let root = fs::File::open(dir.path()).unwrap();
    let entries = walk(root.as_fd(), Path::new("."), &all).unwrap();
    assert_eq!(
        paths(&entries),
        [
            "",
            "node_modules",
            "node_modules/x",
            "node_modules/x/y",
            "shortcut",
            "src",
            "src/a.rs",
            "src/b.rs",
            "src/deep",
            "src/deep/c.rs",
            "src/deep/er",
            "src/link",
            "src.d",
            "src.d/x",
            "top",
        ]
    );
    let link = entries
        .iter()
        .find(|entry| entry.path == Path::new("src/link"))
        .unwrap();
    assert_eq!(link.link.as_deref(), Some(Path::new("/etc/passwd")));
    assert_eq!(link.meta.kind, Kind::Symlink);

    let filter = |path: &Path, is_dir: bool| {
        if path == Path::new("node_modules") {
            Visit::Skip
        } else if is_dir {
            Visit::SkipButDescend
        } else {
            Visit::Take
        }
    };
    let entries = walk(root.as_fd(), Path::new(""), &filter).unwrap();
    assert_eq!(
        paths(&entries),
        [
            "",
            "shortcut",
            "src/a.rs",
            "src/b.rs",
            "src/deep/c.rs",
            "src/link",
            "src.d/x",
            "top"
        ]
    );

    // Links on the way to the start are followed, inside of the root; the start may be a file.
    let entries = walk(root.as_fd(), Path::new("/shortcut/../a.rs"), &all).unwrap();
    assert_eq!(paths(&entries), [""]);
    assert_eq!(entries[0].meta.size, 8);
    let entries = walk(root.as_fd(), Path::new("shortcut"), &all).unwrap();
    assert_eq!(paths(&entries), ["", "c.rs", "er"]);
    let outside = walk(root.as_fd(), Path::new("src/link"), &all);
    assert_eq!(outside.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn deep_and_wide_trees_are_walked() {
    let dir = tempfile::tempdir().unwrap();
    let mut deep = dir.path().to_owned();
    for _ in 0..900 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir(dir.path().join("wide")).unwrap();
    for i in 0..3000 {
        fs::write(dir.path().join(format!("wide/{i}")), "").unwrap();
    }
    let root = fs::File::open(dir.path()).unwrap();
    assert_eq!(
        walk(root.as_fd(), Path::new("."), &all).unwrap().len(),
        1 + 900 + 1 + 3000
    );
}

fn digest_of(dir: &Path, owners: Owners) -> Content {
    let root = fs::File::open(dir).unwrap();
    let entries = walk(root.as_fd(), Path::new("."), &all).unwrap();
    tree_digest(&entries, owners, &|entry| {
        file_digest(root.as_fd(), &entry.path, &entry.meta)
    })
    .unwrap()
}

#[test]
fn a_digest_sees_everything_but_times() {
    let dir = tree();
    let root = dir.path();
    let same = || digest_of(root, Owners::Ignored);
    let before = same();
    set_time(&root.join("src/a.rs"), 5);
    set_time(&root.join("src"), 5);
    assert_eq!(same(), before, "times");
    std::os::unix::fs::chown(root.join("top"), Some(5), Some(5)).unwrap();
    assert_eq!(same(), before, "owners, where they are ignored");
    assert_ne!(digest_of(root, Owners::Count), before);

    let mut seen = vec![before];
    let mut changed = |what: &str, change: &dyn Fn()| {
        change();
        let now = same();
        assert!(!seen.contains(&now), "{what} is not seen");
        seen.push(now);
    };
    changed("content", &|| {
        fs::write(root.join("src/a.rs"), "src/A.rs").unwrap();
    });
    changed("mode", &|| {
        fs::set_permissions(root.join("top"), fs::Permissions::from_mode(0o755)).unwrap();
    });
    changed("mode of a directory", &|| {
        fs::set_permissions(root.join("src"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    changed("name", &|| {
        fs::rename(root.join("top"), root.join("top2")).unwrap();
    });
    changed("link", &|| {
        fs::remove_file(root.join("src/link")).unwrap();
        symlink("/etc/group", root.join("src/link")).unwrap();
    });
    changed("kind", &|| {
        fs::remove_file(root.join("src/link")).unwrap();
        mknod(&root.join("src/link"), FileType::Fifo, 0, 0);
    });
    changed("empty directory", &|| {
        fs::create_dir(root.join("empty")).unwrap();
    });
    changed("attribute", &|| {
        set_xattr(&root.join("src/b.rs"), "user.a", b"1");
    });
    changed("value of an attribute", &|| {
        set_xattr(&root.join("src/b.rs"), "user.a", b"2");
    });
    changed("attribute of a directory", &|| {
        set_xattr(&root.join("src.d"), "user.a", b"1");
    });
}

/// Digests a tree through the index, and says how many of its files the index did not know.
fn indexed(store: &Store, dir: &Path) -> (Content, usize) {
    let root = fs::File::open(dir).unwrap();
    let entries = walk(root.as_fd(), Path::new("."), &all).unwrap();
    let index = StatIndex::load(store, &[1; 32]);
    // What is known needs no file.
    let nothing = tempfile::tempdir().unwrap();
    let nothing = fs::File::open(nothing.path()).unwrap();
    let files = entries.iter().filter(|entry| entry.meta.kind == Kind::File);
    let unknown = files
        .filter(|entry| {
            index
                .digest(nothing.as_fd(), &entry.path, &entry.meta)
                .is_err()
        })
        .count();
    let content = tree_digest(&entries, Owners::Count, &|entry| {
        index.digest(root.as_fd(), &entry.path, &entry.meta)
    });
    index.save(store).unwrap();
    (content.unwrap(), unknown)
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let (_dir, store) = store();
    let dir = tree();
    let settle = || std::thread::sleep(std::time::Duration::from_millis(3200));
    // What changed within the last ticks of the clock is not remembered.
    let (content, unknown) = indexed(&store, dir.path());
    assert_eq!(unknown, 6);
    assert!(
        fs::read_dir(store.root().join("stat-v1"))
            .unwrap()
            .next()
            .is_none()
    );
    settle();
    assert_eq!(indexed(&store, dir.path()), (content, 6));
    assert_eq!(indexed(&store, dir.path()), (content, 0));

    // Same size, same time: but the kernel's own time tells.
    let path = dir.path().join("src/a.rs");
    set_time(&path, 1_500_000_000);
    settle();
    assert_eq!(indexed(&store, dir.path()), (content, 1));
    fs::write(&path, "SRC/A.RS").unwrap();
    set_time(&path, 1_500_000_000);
    let (changed, unknown) = indexed(&store, dir.path());
    assert_eq!(unknown, 1);
    assert_ne!(changed, content);
    assert_eq!(changed, digest_of(dir.path(), Owners::Count));

    // Another file of the same size and time under the name.
    fs::write(dir.path().join("other"), "sRC/A.RS").unwrap();
    set_time(&dir.path().join("other"), 1_500_000_000);
    fs::rename(dir.path().join("other"), &path).unwrap();
    let (renamed, _) = indexed(&store, dir.path());
    assert_ne!(renamed, changed);
    assert_eq!(renamed, digest_of(dir.path(), Owners::Count));

    // An attribute counts too.
    set_xattr(&path, "user.a", b"1");
    assert_ne!(indexed(&store, dir.path()).0, renamed);

    let index = store.root().join("stat-v1").join("01".repeat(32));
    let whole = fs::read(&index).unwrap();
    let expected = digest_of(dir.path(), Owners::Count);
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let longer = [&whole[..], b"x"].concat();
    for broken in [
        b"",
        &b"lapstat1"[..],
        &whole[..whole.len() - 1],
        &longer,
        &flipped,
    ] {
        fs::write(&index, broken).unwrap();
        assert_eq!(indexed(&store, dir.path()), (expected, 6));
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_mistaken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, vec![1; 1 << 20]).unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let meta = stat_beneath(root.as_fd(), Path::new("file")).unwrap();
    fs::write(&path, vec![2; 1 << 20]).unwrap();
    let stale = file_digest(root.as_fd(), Path::new("file"), &meta);
    assert!(
        stale
            .unwrap_err()
            .to_string()
            .contains("file changed while it was read")
    );
    // The index looks again.
    let (_store_dir, store) = store();
    let index = StatIndex::load(&store, &[1; 32]);
    let digest = index
        .digest(root.as_fd(), Path::new("file"), &meta)
        .unwrap();
    assert_eq!(digest, *blake3::hash(&vec![2; 1 << 20]).as_bytes());
    fs::remove_file(&path).unwrap();
    let gone = index.digest(root.as_fd(), Path::new("gone"), &meta);
    assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn files_that_come_and_go_do_not_stop_a_walk() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let stop = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while stop.load(Ordering::Relaxed) == 0 {
                let path = dir.path().join(format!("d{}", round % 5));
                let _ = fs::create_dir_all(path.join("inner"));
                let _ = fs::write(path.join("inner/file"), "x");
                let _ = fs::remove_dir_all(&path);
                round += 1;
            }
        });
        let walked: Vec<_> = (0..300)
            .map(|_| walk(root.as_fd(), Path::new("."), &all))
            .collect();
        stop.store(1, Ordering::Relaxed);
        walked.into_iter().for_each(|walked| drop(walked.unwrap()));
    });
}

fn attributes(xattrs: &Xattrs) -> Attributes<'_> {
    Attributes {
        mode: 0o6751,
        uid: 7,
        gid: 8,
        mtime: Some(Time { secs: 9, nanos: 10 }),
        xattrs,
    }
}

#[test]
fn a_copy_has_the_content_and_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let name = |name: &str| CString::new(name).unwrap();
    for size in [0, 10, 65_536, 65_537, 3_000_000] {
        let path = dir.path().join("source");
        let bytes: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        fs::write(&path, &bytes).unwrap();
        set_xattr(&path, "user.a", b"1");
        let source = fs::File::open(&path).unwrap();
        let meta = stat_beneath(root.as_fd(), Path::new("source")).unwrap();
        let xattrs_kept = kept_xattrs(source.as_fd()).unwrap();
        symlink("/etc/passwd", dir.path().join(format!("copy{size}"))).unwrap();
        let copied = copy_file(
            source.as_fd(),
            &meta,
            root.as_fd(),
            &name(&format!("copy{size}")),
            &attributes(&xattrs_kept),
        );
        assert_eq!(copied.unwrap(), u64::from(size));
        let copy = dir.path().join(format!("copy{size}"));
        assert!(fs::read(&copy).unwrap() == bytes);
        let found = fs::symlink_metadata(&copy).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid()),
            (0o6751, 7, 8)
        );
        assert_eq!((found.mtime(), found.mtime_nsec()), (9, 10));
        assert_eq!(xattrs(&copy), [("user.a".to_owned(), b"1".to_vec())]);
    }
    let none = Xattrs::new();
    let source = fs::File::open(dir.path().join("source")).unwrap();
    let stale = stat_beneath(root.as_fd(), Path::new("copy10")).unwrap();
    let refused = copy_file(
        source.as_fd(),
        &stale,
        root.as_fd(),
        &name("x"),
        &attributes(&none),
    );
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("changed while it was copied")
    );
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let source = fs::File::create_new(dir.path().join("source")).unwrap();
    source.set_len(64 << 20).unwrap();
    source.write_at(b"middle", 32 << 20).unwrap();
    let source = fs::File::open(dir.path().join("source")).unwrap();
    let meta = stat_beneath(root.as_fd(), Path::new("source")).unwrap();
    let none = Xattrs::new();
    copy_file(
        source.as_fd(),
        &meta,
        root.as_fd(),
        c"copy",
        &attributes(&none),
    )
    .unwrap();
    let copy = fs::metadata(dir.path().join("copy")).unwrap();
    assert_eq!(copy.len(), 64 << 20);
    assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
    assert_eq!(
        &fs::read(dir.path().join("copy")).unwrap()[32 << 20..(32 << 20) + 6],
        b"middle"
    );
}

#[test]
fn links_nodes_and_directories_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let none = Xattrs::new();
    let wanted = attributes(&none);
    place_symlink(root.as_fd(), c"link", b"/nowhere", &wanted).unwrap();
    let link = fs::symlink_metadata(dir.path().join("link")).unwrap();
    assert_eq!((link.uid(), link.mtime()), (7, 9));
    mknod(&dir.path().join("null"), FileType::CharacterDevice, 1, 3);
    let null = stat_beneath(root.as_fd(), Path::new("null")).unwrap();
    place_node(root.as_fd(), c"link", &null, &wanted).unwrap();
    let node = fs::symlink_metadata(dir.path().join("link")).unwrap();
    assert_eq!(
        (node.rdev(), node.mode() & 0o7777, node.uid()),
        (0x103, 0o6751, 7)
    );
    mknod(
        &dir.path().join("whiteout"),
        FileType::CharacterDevice,
        0,
        0,
    );
    let whiteout = stat_beneath(root.as_fd(), Path::new("whiteout")).unwrap();
    assert!(place_node(root.as_fd(), c"x", &whiteout, &wanted).is_err());
    let (made, new) = place_dir(root.as_fd(), c"link", &wanted).unwrap();
    assert!(new);
    fs::write(dir.path().join("link/file"), "").unwrap();
    let (_, new) = place_dir(root.as_fd(), c"link", &wanted).unwrap();
    assert!(!new);
    drop(made);
    assert!(
        place_symlink(root.as_fd(), c"link", b"x", &wanted).is_err(),
        "not over a directory"
    );
    lapstrake_cache::remove_tree(root.as_fd(), c"link").unwrap();
    assert!(!dir.path().join("link").exists());
}

#[test]
fn missing_directories_are_made_inside_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    symlink("/real/inner", dir.path().join("link")).unwrap();
    symlink("../../../../../..", dir.path().join("up")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let mut made = Vec::new();
    let mut make = |path: &str| {
        make_dirs_in_root(root.as_fd(), Path::new(path), &mut |path, _| {
            made.push(path.display().to_string());
            Ok(())
        })
        .map(|_| ())
    };
    make("/a/b").unwrap();
    make("link/deep/x").unwrap();
    make("up/a/b/../c").unwrap();
    make("a/b").unwrap();
    assert!(make("file/x").is_err());
    assert_eq!(
        made,
        [
            "a",
            "a/b",
            "real",
            "real/inner",
            "real/inner/deep",
            "real/inner/deep/x",
            "a/c"
        ]
    );
    let opened = open_in_root(root.as_fd(), Path::new("up/link"), OFlags::PATH).unwrap();
    assert!(rustix::fs::fstat(opened).is_ok());
}
