//! What several builds do with one store: blobs, records, locks, names, cache mounts.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapstrake_cache::{Digest, Error, HashingReader, HashingWriter, Key, Sharing, Store};

use crate::support::{layer, set_time, store};

#[test]
fn a_folder_becomes_a_store_that_others_cannot_enter() {
    let (dir, store) = store();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(store.root()), 0o700);
    for entry in fs::read_dir(store.root()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    let scratch = store.scratch().unwrap();
    assert_eq!(mode(scratch.path()), 0o700);
    drop(scratch);
    drop(store);
    let root = dir.path().join("store");
    assert_eq!(
        fs::read_dir(root.join("tmp")).unwrap().count(),
        0,
        "nothing is left behind"
    );
    fs::write(root.join("version"), "lapstrake store 99 trusted\n").unwrap();
    let refused = Store::open(&root).map(|_| ());
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("lapstrake store 99") && text.contains("use another folder"),
        "{text}"
    );
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Store::open(&file), Err(Error::Io { .. })));
}

#[test]
fn many_open_a_new_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let root = dir.path().join(format!("a/b/{round}"));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| Store::open(&root).unwrap().put_blob(b"x").unwrap());
            }
        });
    }
}

#[test]
fn scratch_is_removed_whatever_is_in_it() {
    let (_dir, store) = store();
    let scratch = store.scratch().unwrap();
    let path = scratch.path().to_owned();
    let mut deep = path.clone();
    for _ in 0..120 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    fs::create_dir(path.join("closed")).unwrap();
    fs::write(path.join("closed/file"), "").unwrap();
    fs::set_permissions(path.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    std::os::unix::fs::symlink("/", path.join("link")).unwrap();
    drop(scratch);
    assert!(!path.exists());
}

#[test]
fn a_blob_is_what_its_name_says() {
    let (_dir, store) = store();
    let bytes = vec![7u8; 300_000];
    let digest = Digest::of(&bytes);
    assert_eq!(store.has_blob(&digest), None);
    assert!(store.open_blob(&digest).unwrap().is_none());

    let mut ingest = store.ingest().unwrap();
    ingest.write_all(&bytes).unwrap();
    let refused = ingest.commit_as(&Digest::of(b"other"), bytes.len() as u64);
    assert!(matches!(refused, Err(Error::Corrupt { .. })));
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(&bytes).unwrap();
    assert!(matches!(
        ingest.commit_as(&digest, 5),
        Err(Error::Corrupt { .. })
    ));
    assert_eq!(
        store.has_blob(&digest),
        None,
        "nothing of a refused blob is visible"
    );

    let mut ingest = store.ingest().unwrap().with_limit(10);
    ingest.write_all(b"0123456789").unwrap();
    let over = ingest.write_all(b"x").unwrap_err();
    assert!(over.to_string().contains("declared 10 bytes"), "{over}");

    let mut ingest = store.ingest().unwrap().with_limit(bytes.len() as u64);
    ingest.write_all(&bytes).unwrap();
    assert_eq!(ingest.commit().unwrap(), (digest, bytes.len() as u64));
    let mut blob = store.open_blob(&digest).unwrap().unwrap();
    assert_eq!(blob.size(), bytes.len() as u64);
    let mut read = Vec::new();
    blob.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert!(matches!(
        store.read_blob(&digest, 100),
        Err(Error::Corrupt { .. })
    ));
    store.remove_blob(&digest).unwrap();
    store.remove_blob(&digest).unwrap();
    assert_eq!(store.has_blob(&digest), None);
}

#[test]
fn bytes_are_hashed_on_their_way() {
    let mut writer = HashingWriter::new(Vec::new());
    writer.write_all(b"ab").unwrap();
    writer.write_all(b"c").unwrap();
    let (bytes, digest, count) = writer.finish();
    assert_eq!(
        (&bytes[..], digest, count),
        (&b"abc"[..], Digest::of(b"abc"), 3)
    );
    let mut reader = HashingReader::new(&b"abc"[..]);
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!((reader.digest(), reader.count()), (Digest::of(b"abc"), 3));
}

#[test]
fn a_record_is_whole_or_absent() {
    let (_dir, store) = store();
    let key = Key([9; 32]);
    assert_eq!(store.record::<Vec<u32>>(&key).unwrap(), None);
    store.put_record(&key, &vec![1, 2]).unwrap();
    store.put_record(&key, &vec![3]).unwrap();
    assert_eq!(store.record::<Vec<u32>>(&key).unwrap(), Some(vec![3]));
    assert_eq!(
        store.record::<String>(&key).unwrap(),
        None,
        "of another shape"
    );
    let path = store.root().join("keys-v1").join(key.to_string());
    for broken in ["", "[1", "[1]]", "\0\0\0"] {
        fs::write(&path, broken).unwrap();
        assert_eq!(store.record::<Vec<u32>>(&key).unwrap(), None, "{broken:?}");
    }
    assert!(store.remove_record(&key).unwrap());
    assert!(!store.remove_record(&key).unwrap());
}

#[test]
fn reading_a_record_marks_it_as_used() {
    let (_dir, store) = store();
    let key = Key([9; 32]);
    store.put_record(&key, &1).unwrap();
    let path = store.root().join("keys-v1").join(key.to_string());
    set_time(&path, 1_000_000_000);
    store.record::<u32>(&key).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.atime() > 1_600_000_000, "used now");
    assert_eq!(meta.mtime(), 1_000_000_000, "written then");
}

#[test]
fn readers_never_see_half_a_record() {
    let (_dir, store) = store();
    let key = Key([1; 32]);
    store.put_record(&key, &"a".repeat(5000)).unwrap();
    std::thread::scope(|scope| {
        for letter in ["b", "c"] {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..200 {
                    store.put_record(&key, &letter.repeat(5000)).unwrap();
                }
            });
        }
        for _ in 0..500 {
            let text = store.record::<String>(&key).unwrap().unwrap();
            assert_eq!(text.len(), 5000);
            assert_eq!(text.chars().collect::<BTreeSet<_>>().len(), 1);
        }
    });
}

#[test]
fn one_works_and_the_others_wait() {
    let (dir, store) = store();
    let key = Key([5; 32]);
    let (working, worked, waited) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let own = Store::open(&dir.path().join("store")).unwrap();
                for _ in 0..20 {
                    let lock = own.lock_key(&key, &mut || {
                        waited.fetch_add(1, Ordering::SeqCst);
                    });
                    let lock = lock.unwrap();
                    assert_eq!(
                        working.fetch_add(1, Ordering::SeqCst),
                        0,
                        "two hold the lock"
                    );
                    worked.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                    working.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
    assert_eq!(worked.into_inner(), 160);
    assert!(waited.into_inner() <= 160, "told more than once");
    let lock = store.try_lock_key(&key).unwrap().unwrap();
    assert!(store.try_lock_key(&key).unwrap().is_none());
    assert!(store.try_lock_key(&Key([6; 32])).unwrap().is_some());
    drop(lock);
    assert!(store.try_lock_key(&key).unwrap().is_some());
    assert_eq!(fs::read_dir(store.root().join("locks")).unwrap().count(), 0);
}

#[test]
fn the_same_layer_made_by_many_is_one() {
    let (dir, _store) = store();
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let own = Store::open(&dir.path().join("store")).unwrap();
                    layer(&own, &[], |root| {
                        fs::write(root.join("x"), "x").unwrap();
                        set_time(&root.join("x"), 1);
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn names_may_be_any_text() {
    let (_dir, store) = store();
    let digest = Digest::of(b"image");
    let mut names = vec![
        "docker.io/library/app:latest".to_owned(),
        "docker.io/library/app%3Alatest".to_owned(),
        "../../escape".to_owned(),
        "..".to_owned(),
        ".".to_owned(),
        String::new(),
        "\0\n\u{1f980}".to_owned(),
        "x".repeat(5000),
        format!("{}y", "x".repeat(5000)),
    ];
    for name in &names {
        assert_eq!(store.ref_(name).unwrap(), None);
        store.set_ref(name, &digest).unwrap();
        assert_eq!(store.ref_(name).unwrap(), Some(digest));
    }
    names.sort();
    let listed: Vec<String> = store
        .refs()
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(listed, names);
    let other = Digest::of(b"other");
    store.set_ref(&names[0], &other).unwrap();
    assert_eq!(store.ref_(&names[0]).unwrap(), Some(other));
    for name in &names {
        assert!(store.remove_ref(name).unwrap());
        assert!(!store.remove_ref(name).unwrap());
    }
    assert_eq!(store.refs().unwrap(), []);
}

#[test]
fn cache_mounts_are_shared_as_they_say() {
    let (_dir, store) = store();
    let id = "../../etc";
    let first = store.cache_mount(id, Sharing::Shared).unwrap();
    assert!(first.fresh() && first.path().starts_with(store.root().join("mounts-v1")));
    fs::write(first.path().join("kept"), "x").unwrap();
    let second = store.cache_mount(id, Sharing::Shared).unwrap();
    assert!(!second.fresh());
    assert_eq!(first.path(), second.path());

    let private = store.cache_mount(id, Sharing::Private).unwrap();
    let another = store.cache_mount(id, Sharing::Private).unwrap();
    assert_ne!(private.path(), first.path());
    assert_ne!(private.path(), another.path());
    drop((private, another));

    assert!(!store.reset_cache_mount(id).unwrap(), "it is in use");
    assert!(first.path().join("kept").exists());
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let store = &store;
        let locked = scope.spawn(move || {
            let locked = store.cache_mount(id, Sharing::Locked).unwrap();
            (begun.elapsed(), locked.path().to_owned())
        });
        std::thread::sleep(Duration::from_millis(100));
        let path = first.path().to_owned();
        drop((first, second));
        let (waited, locked_path) = locked.join().unwrap();
        assert!(waited >= Duration::from_millis(100), "{waited:?}");
        assert_eq!(locked_path, path);
    });
    assert!(store.reset_cache_mount(id).unwrap());
    assert!(store.cache_mount(id, Sharing::Shared).unwrap().fresh());
    assert!(store.reset_cache_mount("never used").unwrap());
}

#[test]
fn a_layer_in_use_is_not_removed_for_being_unused() {
    let (_dir, ours) = store();
    let made = layer(&ours, &[], |root| fs::write(root.join("a"), "").unwrap());
    assert!(!ours.remove_unused_layer(&made.diff_id).unwrap());
    let root = ours.root().to_owned();
    drop(ours);
    let other = Store::open(&root).unwrap();
    assert!(other.remove_unused_layer(&made.diff_id).unwrap());
    assert!(other.layer(&made.diff_id).unwrap().is_none());
}
