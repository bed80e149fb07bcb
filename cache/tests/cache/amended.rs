//! Layers that amend others: they are what they would be if they held all files themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lapstrake_cache::{DiffId, Digest, Error, Kept, Layer, Policy, Repair, Store, Time};

use crate::support::{layer, listing, set_time, store, tar_of};

const OLD: i64 = 1_000_000_000;

/// Puts a file there, with the time of everything.
fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    for path in path.ancestors().take_while(|path| *path != root) {
        set_time(path, OLD);
    }
}

fn first(root: &Path) {
    for path in ["a", "d/b", "d/c", "d/e/f", "g/h"] {
        put(root, path, path);
    }
}

/// Of [`first`], what a change of two files and one more are, and all directories.
fn change(root: &Path) {
    put(root, "d/c", "changed");
    put(root, "d/e/new", "new");
    fs::create_dir(root.join("g")).unwrap();
    set_time(&root.join("g"), OLD);
    put(root, "a", "changed too");
}

fn amend(store: &Store, amended: DiffId, write: impl FnOnce(&Path)) -> Result<Layer, Error> {
    let mut active = store.snapshot(&[]).unwrap();
    active.amends = store.amendable(&amended).unwrap();
    write(active.upper());
    store.commit(active)
}

#[test]
fn an_amendment_is_the_layer_that_it_would_be_as_a_whole() {
    let (_dir, store) = store();
    let base = layer(&store, &[], first);
    let amended = amend(&store, base.diff_id, change).unwrap();
    let (_other_dir, other) = crate::support::store();
    let whole = layer(&other, &[], |root| {
        first(root);
        change_whole(root);
    });
    assert_eq!(amended, whole);
    assert_eq!(tar_of(&store, &amended), tar_of(&other, &whole));
    assert_eq!(store.layer(&amended.diff_id).unwrap(), Some(amended));
    let latest = Time::from_secs(OLD - 1);
    let clamped = store.clamp_layer(&amended.diff_id, latest).unwrap();
    assert_eq!(clamped, other.clamp_layer(&whole.diff_id, latest).unwrap());
    // The next change amends the first layer too.
    assert_eq!(
        store.amendable(&amended.diff_id).unwrap(),
        Some(base.diff_id)
    );
    assert_eq!(store.check(Repair::No).unwrap(), []);
}

/// As [`change`] where the files are there already.
fn change_whole(root: &Path) {
    for (path, text) in [("d/c", "changed"), ("d/e/new", "new"), ("a", "changed too")] {
        put(root, path, text);
    }
}

#[test]
fn both_folders_are_lower_directories_and_none_twice() {
    let (_dir, store) = store();
    let base = layer(&store, &[], first);
    let one = amend(&store, base.diff_id, change).unwrap();
    let two = amend(&store, base.diff_id, |root| {
        change(root);
        put(root, "g/h", "other");
    });
    let two = two.unwrap();
    let [base, one, two] = [base, one, two].map(|layer| layer.diff_id);
    let folders = |layers: &[DiffId]| {
        let folders = layers.iter().map(|layer| store.layer_dir(layer));
        folders.collect::<Vec<_>>()
    };
    assert_eq!(store.lowers(&[one]).unwrap(), folders(&[base, one]));
    let both = store.lowers(&[one, two]).unwrap();
    assert_eq!(both, folders(&[one, base, two]));
    // What is committed over it is compared with both.
    let same = |root: &Path| put(root, "d/b", "d/b");
    let next = layer(&store, &store.lowers(&[one]).unwrap(), same);
    assert_eq!(listing(&store.layer_dir(&next.diff_id)), [""; 0]);
}

#[test]
fn what_is_amended_is_as_long_there_as_what_amends_it() {
    let (_dir, store) = store();
    let base = layer(&store, &[], first);
    let top = amend(&store, base.diff_id, change).unwrap();
    let [base, top] = [base, top].map(|layer| layer.diff_id);
    let layers = |store: &Store| {
        let items = store.usage().unwrap().items.into_iter();
        let layers = items.filter_map(|item| match item.kept {
            Kept::Layer(layer) => Some((layer, item.shared, item.amends)),
            _ => None,
        });
        layers.collect::<std::collections::HashSet<_>>()
    };
    let expected = [(base, true, None), (top, true, Some(base))];
    assert_eq!(layers(&store), expected.into());
    let root = store.root().to_owned();
    drop(store);

    let store = Store::open(&root).unwrap();
    let usage = store.usage().unwrap();
    let of = |layer: DiffId| {
        let is_it = |item: &&lapstrake_cache::Item| item.kept == Kept::Layer(layer);
        *usage.items.iter().find(is_it).unwrap()
    };
    assert!(of(base).used > of(top).used);
    assert_eq!(usage.removable(vec![of(base)]), []);
    assert_eq!(
        usage.removable(vec![of(top), of(base)]),
        [of(top), of(base)]
    );
    let all = Policy {
        all: true,
        ..Policy::default()
    };
    let now = Time::from_secs(0);
    // A name leads to the one, and so to the other.
    let name = Digest::of(b"a manifest");
    store.set_ref("name", &name).unwrap();
    let mut reach = |_: &Store, _: &Digest| Ok(vec![top.0]);
    assert_eq!(store.collect(&all, now, &mut reach).unwrap(), []);
    store.remove_ref("name").unwrap();
    let removed = store.collect(&all, now, &mut reach).unwrap();
    assert_eq!(removed, [of(top), of(base)]);
}

#[test]
fn without_what_it_amends_a_layer_is_none() {
    let (_dir, store) = store();
    let base = layer(&store, &[], first);
    let top = amend(&store, base.diff_id, change).unwrap();
    fs::write(store.layer_dir(&base.diff_id).join("d/b"), "damaged").unwrap();
    assert_eq!(store.check(Repair::No).unwrap().len(), 2);
    store.remove_layer(&base.diff_id).unwrap();
    assert_eq!(store.layer(&top.diff_id).unwrap(), None);
    assert_eq!(store.check(Repair::Yes).unwrap().len(), 1);
    // It can be made again, alone.
    let whole = layer(&store, &[], |root| {
        first(root);
        change_whole(root);
    });
    assert_eq!(whole, top);
    assert_eq!(store.amendable(&top.diff_id).unwrap(), Some(top.diff_id));
}

/// Where the upper folder cannot say what the layer is while the amended one is below it.
#[test]
fn what_would_not_be_seen_makes_no_amendment() {
    let (_dir, store) = store();
    let below = layer(&store, &[], |root| {
        put(root, "d/b", "below");
        fs::create_dir(root.join("g")).unwrap();
    });
    let lowers = store.lowers(&[below.diff_id]).unwrap();
    let earlier = layer(&store, &lowers, |root| {
        first(root);
        fs::set_permissions(root.join("g"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    let amend = |write: &dyn Fn(&Path)| {
        let mut active = store.snapshot(&lowers).unwrap();
        active.amends = store.amendable(&earlier.diff_id).unwrap();
        for path in ["d/e", "g"] {
            fs::create_dir_all(active.upper().join(path)).unwrap();
        }
        write(active.upper());
        store.commit(active)
    };
    let unamendable = |path: &str, write: &dyn Fn(&Path)| match amend(write) {
        Err(Error::Unamendable(found)) => assert_eq!(found, path),
        other => panic!("{path}: {other:?}"),
    };
    // It is as in the layers below, so that it is no part of the layer; the amended one has another.
    unamendable("d/b", &|root| put(root, "d/b", "below"));
    // Files of directories below would show in this one.
    unamendable("d/c", &|root| fs::create_dir(root.join("d/c")).unwrap());
    // A directory for which nothing shows through.
    unamendable("d/e", &|root| fs::remove_dir(root.join("d/e")).unwrap());
    let only_g = layer(&store, &lowers, |root| {
        fs::create_dir(root.join("g")).unwrap();
        fs::set_permissions(root.join("g"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    let mut active = store.snapshot(&lowers).unwrap();
    active.amends = store.amendable(&only_g.diff_id).unwrap();
    fs::create_dir(active.upper().join("g")).unwrap();
    let same = store.commit(active);
    assert!(matches!(same, Err(Error::Unamendable(_))), "{same:?}");
    amend(&|_| {}).unwrap();
}

#[test]
fn only_files_show_through() {
    let (_dir, store) = store();
    let base = layer(&store, &[], first);
    let without = amend(&store, base.diff_id, |root| put(root, "a", "changed"));
    let error = without.unwrap_err().to_string();
    assert!(error.contains('d'), "{error}");
    let link = layer(&store, &[], |root| {
        std::os::unix::fs::symlink("x", root.join("link")).unwrap();
    });
    assert!(amend(&store, link.diff_id, |_| {}).is_err());
}
