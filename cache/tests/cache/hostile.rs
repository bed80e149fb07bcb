//! Archives that try to leave the folder they are unpacked into, to pass for something else, or to
//! exhaust us.
//!
//! Each attack runs twice, as a layer and as an archive of files, beside a canary tree that must
//! stay as it is.

mod attacks;
mod broken;
mod exhaust;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapstrake_cache::{DiffId, Digest, Error, Store, Unpack, unpack_archive};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::support::{Raw, RawTar, listing, store};
use Outcome::{Names, Refused};
use attacks::{escapes, malformed, marks};

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
    let attacks = [escapes(&canary), marks(&canary), malformed()];
    for attack in attacks.into_iter().flatten() {
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
