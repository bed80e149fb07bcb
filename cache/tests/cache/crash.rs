//! Processes that are killed, machines that lose power, devices that are full.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lapstrake_cache::{DiffId, Digest, Error, Key, Layer, Options, Policy, Sharing, Store, Time};

use crate::support::{RawTar, layer, run, set_time, store};

const WHAT: &str = "LAPSTRAKE_TEST_VICTIM";
const WHERE: &str = "LAPSTRAKE_TEST_STORE";

/// Not a test of its own: what the processes do that others kill.
#[test]
fn victim() {
    let (Ok(what), Ok(root)) = (std::env::var(WHAT), std::env::var(WHERE)) else {
        return;
    };
    let store = Store::open(Path::new(&root)).unwrap();
    let archive = archive();
    let id = DiffId(Digest::of(&archive));
    for round in 0u64.. {
        match what.as_str() {
            "ingest" => {
                let mut ingest = store.ingest().unwrap();
                for piece in 0..20u64 {
                    ingest
                        .write_all(&[round, piece].map(u64::to_le_bytes).concat())
                        .unwrap();
                    ingest.write_all(&[7; 50_000]).unwrap();
                }
                let (digest, _) = ingest.commit().unwrap();
                store.put_record(&Key([round as u8; 32]), &digest).unwrap();
            }
            "commit" => {
                let made = layer(&store, &[], |root| {
                    for i in 0..300 {
                        fs::write(root.join(format!("{round}-{i}")), [8; 3000]).unwrap();
                    }
                });
                store
                    .put_record(&Key([round as u8; 32]), &made.diff_id)
                    .unwrap();
            }
            "extract" => {
                store.extract(&archive[..], &id).unwrap();
                store.remove_layer(&id).unwrap();
            }
            "prune" => {
                store.put_blob(&round.to_le_bytes()).unwrap();
                let policy = Policy {
                    all: true,
                    ..Policy::default()
                };
                let own = Store::open(Path::new(&root)).unwrap();
                own.collect(&policy, Time::from_secs(0), &mut |_, _| Ok(Vec::new()))
                    .unwrap();
            }
            other => panic!("unknown victim {other}"),
        }
    }
}

fn archive() -> Vec<u8> {
    (0..2000)
        .fold(RawTar::new(), |tar, i| {
            tar.file(format!("d/{i}"), &[9; 2000])
        })
        .end()
}

fn start(what: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::victim", "--test-threads=1"])
        .env(WHAT, what)
        .env(WHERE, root)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Everything that is visible is whole, and nothing else is left.
fn check(root: &Path, what: &str) {
    let store = Store::open(root).unwrap();
    store.sweep().unwrap();
    let left: Vec<_> = fs::read_dir(root.join("tmp")).unwrap().collect();
    assert_eq!(left.len(), 1, "{what}: {left:?}");
    let (mut blobs, mut layers) = (0, 0);
    for item in store.usage().unwrap().items {
        match item.kept {
            lapstrake_cache::Kept::Blob(digest) => {
                let mut blob = store.open_blob(&digest).unwrap().unwrap();
                std::io::copy(&mut blob, &mut std::io::sink()).unwrap();
                blobs += 1;
            }
            lapstrake_cache::Kept::Layer(id) => {
                let layer = store.layer(&id).unwrap().unwrap();
                match store.write_layer_tar(&id, &mut std::io::sink()) {
                    Ok(size) => assert_eq!(size, layer.size),
                    Err(Error::Foreign(_)) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
                layers += 1;
            }
            lapstrake_cache::Kept::Record(key) => {
                assert!(
                    store.record::<String>(&key).unwrap().is_some(),
                    "{what}: broken record"
                );
            }
            _ => {}
        }
    }
    eprintln!("{what}: {blobs} blobs, {layers} layers");
    let made = layer(&store, &[], |root| {
        fs::write(root.join("next build"), "works").unwrap();
    });
    assert!(store.layer(&made.diff_id).unwrap().is_some());
}

#[test]
fn a_kill_leaves_a_store_that_works() {
    let dir = tempfile::tempdir().unwrap();
    for what in ["ingest", "commit", "extract", "prune"] {
        let root = dir.path().join(what);
        for round in 1..=6 {
            let mut child = start(what, &root);
            std::thread::sleep(Duration::from_millis(60 * round + 37));
            child.kill().unwrap();
            child.wait().unwrap();
            check(&root, what);
        }
    }
}

#[test]
fn several_processes_share_a_store_and_one_dies() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut children: Vec<Child> = ["ingest", "commit", "extract", "commit"]
        .iter()
        .map(|what| start(what, &root))
        .collect();
    std::thread::sleep(Duration::from_millis(400));
    let mut first = children.remove(0);
    first.kill().unwrap();
    first.wait().unwrap();
    let own = Store::open(&root).unwrap();
    own.put_blob(b"in between").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for mut child in children {
        assert!(
            child.try_wait().unwrap().is_none(),
            "a process failed beside others"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(own);
    check(&root, "shared");
}

fn open_in_boot(root: &Path, boot: &str) -> Store {
    Store::open_with(
        root,
        &Options {
            boot_id: Some(boot.to_owned()),
        },
    )
    .unwrap()
}

#[test]
fn what_a_power_cut_broke_is_dropped_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let blob = |digest: &Digest| {
        let hex = digest.hex();
        root.join("blobs/sha256").join(&hex[..2]).join(&hex)
    };
    let record = |key: &Key| root.join("keys-v1").join(key.to_string());
    let keys = [Key([1; 32]), Key([2; 32])];

    let store = open_in_boot(&root, "first");
    let blobs = [b"whole", b"a cut"].map(|bytes| store.put_blob(bytes).unwrap());
    let layers = ["whole", "a cut"].map(|text| {
        layer(&store, &[], |root| {
            fs::write(root.join(text), text).unwrap();
        })
    });
    let archive = RawTar::new().file("foreign", b"x").end();
    let foreign = store
        .extract(&archive[..], &DiffId(Digest::of(&archive)))
        .unwrap();
    for (number, key) in keys.iter().enumerate() {
        store.put_record(key, &number).unwrap();
        store
            .set_ref(&format!("name {number}"), &blobs[number])
            .unwrap();
    }
    let mount = store.cache_mount("id", Sharing::Shared).unwrap();
    fs::write(mount.path().join("file"), "x").unwrap();
    drop((mount, store));
    // The same boot trusts everything, also by another process.
    fs::write(blob(&blobs[1]), "").unwrap();
    let store = open_in_boot(&root, "first");
    assert!(store.has_blob(&blobs[1]).is_some());
    fs::write(store.layer_dir(&layers[1].diff_id).join("a cut"), "").unwrap();
    fs::write(record(&keys[1]), "").unwrap();
    fs::write(root.join("refs-v1/name%201"), "").unwrap();
    drop(store);

    let store = open_in_boot(&root, "second");
    let there = |digest| store.has_blob(digest).is_some();
    assert_eq!(blobs.each_ref().map(there), [true, false]);
    let there = |made: &Layer| store.layer(&made.diff_id).unwrap().is_some();
    assert_eq!(layers.each_ref().map(there), [true, false]);
    assert!(!there(&foreign));
    let read = |key| store.record::<u32>(key).unwrap();
    assert_eq!(keys.each_ref().map(read), [Some(0), None]);
    assert_eq!(store.refs().unwrap(), [("name 0".to_owned(), blobs[0])]);
    assert!(!store.cache_mount("id", Sharing::Shared).unwrap().fresh());

    // What was synced is not looked at again.
    let synced = store.put_blob(b"synced").unwrap();
    std::thread::sleep(Duration::from_millis(3500));
    store.sync().unwrap();
    drop(store);
    fs::write(blob(&synced), "broken").unwrap();
    set_time(&blob(&synced), 1_000_000_000);
    let store = open_in_boot(&root, "third");
    assert!(store.has_blob(&synced).is_some());
    let markers = fs::read_dir(&root).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("dirty-")
    });
    assert_eq!(markers.count(), 1);
}

/// A small file system of its own, if this may mount.
struct Small(PathBuf);

impl Small {
    fn new(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,nr_inodes=600", "small"])
            .arg(&at)
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at));
        }
        eprintln!("SKIPPED: cannot mount");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_device_is_said_to_be_full_and_can_be_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::new(dir.path().join("small")) else {
        return;
    };
    let root = small.0.join("store");
    let store = Store::open(&root).unwrap();
    let kept = store.put_blob(&vec![1; 300 << 10]).unwrap();

    let mut ingest = store.ingest().unwrap();
    let error = std::io::copy(&mut std::io::repeat(7), &mut ingest).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("prune the store"), "{error}");
    drop(ingest);
    let archive = archive();
    let refused = store.extract(&archive[..], &DiffId(Digest::of(&archive)));
    assert!(
        matches!(&refused, Err(error) if error.is_full()),
        "{refused:?}"
    );
    // Nothing of what failed takes room.
    let other = store.put_blob(&vec![2; 900 << 10]).unwrap();

    // Not one byte is free, not one file can be made: a process can still come and prune.
    let rest = fs::File::create(small.0.join("rest")).unwrap();
    let _ = std::io::copy(&mut std::io::repeat(7), &mut &rest);
    drop(store);
    let store = Store::open(&root).unwrap();
    let policy = Policy {
        all: true,
        ..Policy::default()
    };
    let removed = store
        .collect(&policy, Time::from_secs(0), &mut |_, _| Ok(Vec::new()))
        .unwrap();
    assert_eq!(removed.len(), 2);
    assert!(store.has_blob(&kept).is_none() && store.has_blob(&other).is_none());
    store.put_blob(&vec![3; 900 << 10]).unwrap();
}

#[test]
fn a_broken_blob_is_found_and_dropped() {
    let (_dir, store) = store();
    let digest = store.put_blob(b"some bytes").unwrap();
    let hex = digest.hex();
    let path = store.root().join("blobs/sha256").join(&hex[..2]).join(&hex);
    for broken in [&b""[..], b"some bytez", b"some", b"some bytes and more"] {
        fs::write(&path, broken).unwrap();
        let mut text = Vec::new();
        let read = store
            .open_blob(&digest)
            .unwrap()
            .unwrap()
            .read_to_end(&mut text);
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        assert_eq!(store.has_blob(&digest), None, "it is fetched again");
        store.put_blob(b"some bytes").unwrap();
        fs::write(&path, broken).unwrap();
        let read = store.read_blob(&digest, 1000);
        assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
        store.put_blob(b"some bytes").unwrap();
        assert_eq!(
            store.read_blob(&digest, 1000).unwrap().unwrap(),
            b"some bytes"
        );
    }
}
