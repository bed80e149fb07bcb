//! What a prune chooses, and that it takes nothing away from a build.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapstrake_cache::{
    DiffId, Digest, Item, Kept, Key, Policy, Sharing, Store, Time, Usage, choose,
};

use crate::support::{layer, set_time, store};

const NOW: Time = Time::from_secs(1_000_000);

fn item(kept: Kept, size: u64, hours_ago: i64) -> Item {
    Item {
        kept,
        size,
        used: Time::from_secs(NOW.secs - hours_ago * 3600),
        shared: false,
        amends: None,
        in_use: false,
    }
}

fn blob(name: &str, size: u64, hours_ago: i64) -> Item {
    item(Kept::Blob(Digest::of(name.as_bytes())), size, hours_ago)
}

#[test]
fn a_policy_goes_by_age_and_size_and_spares_what_has_a_name() {
    let items = vec![
        blob("new", 10, 1),
        blob("old", 20, 100),
        blob("older", 30, 200),
        blob("named", 40, 300),
        item(Kept::Record(Key([1; 32])), 1, 150),
        item(Kept::CacheMount([1; 32]), 50, 400),
    ];
    let rooted: HashSet<Digest> = [Digest::of(b"named")].into();
    let usage = Usage { items, other: 0 };
    let chosen = |policy: Policy| {
        let chosen = choose(&usage, &rooted, NOW, &policy);
        let index = |item: &Item| usage.items.iter().position(|other| other == item).unwrap();
        chosen.iter().map(index).collect::<Vec<_>>()
    };
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
    let policy = Policy::default();
    assert_eq!(chosen(policy), [] as [usize; 0]);
    assert_eq!(
        chosen(Policy {
            all: true,
            ..policy
        }),
        [2, 4, 1, 0]
    );
    assert_eq!(
        chosen(Policy {
            all: true,
            cache_mounts: true,
            ..policy
        }),
        [5, 2, 4, 1, 0]
    );
    assert_eq!(
        chosen(Policy {
            unused_for: hours(120),
            ..policy
        }),
        [2, 4]
    );
    assert_eq!(
        chosen(Policy {
            unused_for: hours(0),
            ..policy
        }),
        [2, 4, 1, 0]
    );
    assert_eq!(
        chosen(Policy {
            max_size: Some(151),
            ..policy
        }),
        [] as [usize; 0]
    );
    assert_eq!(
        chosen(Policy {
            max_size: Some(150),
            ..policy
        }),
        [2]
    );
    assert_eq!(
        chosen(Policy {
            max_size: Some(120),
            ..policy
        }),
        [2, 4]
    );
    assert_eq!(
        chosen(Policy {
            max_size: Some(0),
            ..policy
        }),
        [2, 4, 1, 0]
    );
    let both = Policy {
        max_size: Some(140),
        unused_for: hours(180),
        ..policy
    };
    assert_eq!(chosen(both), [2]);
    let never = Policy {
        unused_for: Some(Duration::MAX),
        ..policy
    };
    assert_eq!(chosen(never), [] as [usize; 0]);
}

fn kinds(items: &[Item]) -> Vec<&'static str> {
    let mut kinds: Vec<_> = items
        .iter()
        .map(|item| match item.kept {
            Kept::Record(_) => "record",
            Kept::StatIndex(_) => "stat",
            Kept::Layer(_) => "layer",
            Kept::Blob(_) => "blob",
            Kept::CacheMount(_) => "mount",
        })
        .collect();
    kinds.sort_unstable();
    kinds
}

const ALL: Policy = Policy {
    unused_for: None,
    max_size: None,
    to_free: None,
    max_time: None,
    all: true,
    cache_mounts: true,
};

#[test]
fn everything_is_listed_and_what_is_not_needed_goes() {
    let (dir, store) = store();
    let root = dir.path().join("store");
    let kept = layer(&store, &[], |root| {
        fs::write(root.join("kept"), "x").unwrap();
    });
    let gone = layer(&store, &[], |root| {
        fs::write(root.join("gone"), "x").unwrap();
    });
    let manifest = store.put_blob(b"manifest").unwrap();
    let unnamed = store.put_blob(b"unnamed").unwrap();
    store.set_ref("name", &manifest).unwrap();
    store.put_record(&Key([1; 32]), &1).unwrap();
    let mount = store.cache_mount("id", Sharing::Shared).unwrap();
    fs::write(mount.path().join("file"), vec![1; 5000]).unwrap();
    let usage = store.usage().unwrap().items;
    assert_eq!(
        kinds(&usage),
        ["blob", "blob", "layer", "layer", "mount", "record"]
    );
    let mount_size = usage
        .iter()
        .find(|item| matches!(item.kept, Kept::CacheMount(_)));
    assert!(mount_size.unwrap().size >= 5000);

    let mut reach = |_: &Store, digest: &Digest| {
        assert_eq!(*digest, manifest);
        Ok(vec![kept.diff_id.0])
    };
    // This process has leased all of it, and uses the mount.
    let removed = store.collect(&ALL, NOW, &mut reach).unwrap();
    assert_eq!(kinds(&removed), [""; 0]);
    drop((mount, store));

    let store = Store::open(&root).unwrap();
    let removed = store.collect(&ALL, NOW, &mut reach).unwrap();
    assert_eq!(kinds(&removed), ["blob", "layer", "mount", "record"]);
    assert!(store.layer(&kept.diff_id).unwrap().is_some());
    assert!(store.layer(&gone.diff_id).unwrap().is_none());
    assert!(store.has_blob(&manifest).is_some() && store.has_blob(&unnamed).is_none());

    store.remove_ref("name").unwrap();
    drop(store);
    let store = Store::open(&root).unwrap();
    let mut nothing = |_: &Store, _: &Digest| Ok(Vec::new());
    assert_eq!(
        kinds(&store.collect(&ALL, NOW, &mut nothing).unwrap()),
        ["blob", "layer"]
    );
    let left = store.usage().unwrap().items;
    assert_eq!(left, []);
}

#[test]
fn use_is_what_counts() {
    let (dir, store) = store();
    let root = dir.path().join("store");
    let (old, used) = (
        store.put_blob(b"old").unwrap(),
        store.put_blob(b"used").unwrap(),
    );
    for digest in [old, used] {
        let hex = digest.hex();
        set_time(
            &root.join("blobs/sha256").join(&hex[..2]).join(&hex),
            NOW.secs - 1_000_000,
        );
    }
    drop(store);
    let store = Store::open(&root).unwrap();
    assert!(store.has_blob(&used).is_some());
    drop(store);
    let store = Store::open(&root).unwrap();
    let policy = Policy {
        unused_for: Some(Duration::from_secs(3600)),
        ..Policy::default()
    };
    let removed = store
        .collect(&policy, NOW, &mut |_, _| Ok(Vec::new()))
        .unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].kept, Kept::Blob(old));
}

#[test]
fn pruning_all_the_time_breaks_no_build() {
    let (dir, _store) = store();
    let root = dir.path().join("store");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let own = Store::open(&root).unwrap();
                // Whoever names an image must have its layers found again by what the name leads
                // to.
                own.collect(&ALL, NOW, &mut |store, digest| {
                    let bytes = store.read_blob(digest, 1000)?.unwrap_or_default();
                    let text = String::from_utf8(bytes).unwrap_or_default();
                    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
                })
                .unwrap();
            }
        });
        let builds: Vec<_> = (0..3u64)
            .map(|number| {
                let (root, stop) = (&root, &stop);
                scope.spawn(move || {
                    let begun = Instant::now();
                    let mut builds = 0u64;
                    while begun.elapsed() < Duration::from_secs(3) && !stop.load(Ordering::Relaxed)
                    {
                        build(root, number, builds % 4);
                        builds += 1;
                    }
                    builds
                })
            })
            .collect();
        let done: Vec<u64> = builds
            .into_iter()
            .map(|build| build.join().unwrap())
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(done.iter().all(|builds| *builds > 1), "{done:?}");
    });
}

/// Makes or finds a layer and a manifest, names them, and looks at them again from another
/// process's point of view.
fn build(root: &std::path::Path, number: u64, variant: u64) {
    let name = format!("image {number}");
    let store = Store::open(root).unwrap();
    let key = Key([variant as u8; 32]);
    let found: Option<DiffId> = store.record(&key).unwrap();
    let found = found.and_then(|id| store.layer(&id).unwrap());
    let made = found.unwrap_or_else(|| {
        let made = layer(&store, &[], |root| {
            for i in 0..20 {
                fs::write(root.join(format!("{variant}-{i}")), "x").unwrap();
                set_time(&root.join(format!("{variant}-{i}")), 5);
            }
        });
        store.put_record(&key, &made.diff_id).unwrap();
        made
    });
    std::thread::sleep(Duration::from_millis(2));
    let check = |store: &Store| {
        let size = store
            .write_layer_tar(&made.diff_id, &mut std::io::sink())
            .unwrap();
        assert_eq!(size, made.size);
    };
    check(&store);
    let manifest = store
        .put_blob(format!("{}\n{variant}", made.diff_id).as_bytes())
        .unwrap();
    store.set_ref(&name, &manifest).unwrap();
    check(&store);
    drop(store);
    // The name keeps it now.
    let store = Store::open(root).unwrap();
    let named = store.ref_(&name).unwrap().unwrap();
    assert!(store.read_blob(&named, 1000).unwrap().is_some());
    check(&store);
}

#[test]
fn a_prune_frees_as_much_as_is_asked_and_stops_in_time() {
    let (dir, store) = store();
    let root = dir.path().join("store");
    for n in 0..20u8 {
        store.put_blob(&[n; 10_000]).unwrap();
    }
    drop(store);
    let store = Store::open(&root).unwrap();
    let before = store.usage().unwrap();
    let mut nothing = |_: &Store, _: &Digest| Ok(Vec::new());
    let policy = Policy {
        to_free: Some(20_000),
        ..Policy::default()
    };
    let removed = store.collect(&policy, NOW, &mut nothing).unwrap();
    let freed: u64 = removed.iter().map(|item| item.size).sum();
    assert!((20_000..40_000).contains(&freed), "{freed}");
    assert_eq!(before.total() - store.usage().unwrap().total(), freed);
    let late = Policy {
        max_time: Some(Duration::ZERO),
        ..ALL
    };
    assert_eq!(store.collect(&late, NOW, &mut nothing).unwrap(), []);
}

#[test]
fn a_layer_and_its_blob_of_the_same_name_go_together() {
    let (dir, store) = store();
    let root = dir.path().join("store");
    let made = layer(&store, &[], |root| {
        fs::write(root.join("file"), "x").unwrap();
    });
    let mut tar = Vec::new();
    store.write_layer_tar(&made.diff_id, &mut tar).unwrap();
    assert_eq!(store.put_blob(&tar).unwrap(), made.diff_id.0);
    drop(store);
    let store = Store::open(&root).unwrap();
    let removed = store
        .collect(&ALL, NOW, &mut |_, _| Ok(Vec::new()))
        .unwrap();
    assert_eq!(kinds(&removed), ["blob", "layer"]);
}
