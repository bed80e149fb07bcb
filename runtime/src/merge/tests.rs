#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, mknodat, statat};

use super::shown::{c_path, is_opaque, is_whiteout, kind, open};
use super::{Marks, Take, fill, settle};

fn whiteout(path: &Path) {
    let mode = Mode::empty();
    mknodat(CWD, path, FileType::CharacterDevice, mode, 0).unwrap();
}

#[test]
fn layers_are_merged_and_told_apart_again() {
    let dir = tempfile::tempdir().unwrap();
    let [low, high, upper] = ["low", "high", "upper"].map(|name| dir.path().join(name));
    for path in [
        "low/a/b",
        "low/gone",
        "low/turns",
        "high/a",
        "high/turned",
        "upper",
    ] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(low.join("a/b/file"), "low").unwrap();
    fs::write(low.join("a/same"), "same").unwrap();
    fs::hard_link(low.join("a/same"), low.join("a/link")).unwrap();
    fs::set_permissions(low.join("a/same"), PermissionsExt::from_mode(0o4750)).unwrap();
    symlink("/nowhere", low.join("a/symlink")).unwrap();
    fs::write(low.join("turned"), "a file").unwrap();
    fs::write(high.join("a/over"), "high").unwrap();
    whiteout(&high.join("gone"));
    whiteout(&high.join("a/b"));
    let lowers = [low.clone(), high.clone()];
    let filled = fill(&lowers, &upper, Take::Copy).unwrap();
    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(upper.join(path))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(
        (names(""), names("a")),
        ("a turned turns".into(), "link over same symlink".into())
    );
    let meta = |name: &str| fs::symlink_metadata(upper.join(name)).unwrap();
    assert_eq!(meta("a/same").ino(), meta("a/link").ino());
    assert_ne!(
        meta("a/same").ino(),
        fs::metadata(low.join("a/same")).unwrap().ino()
    );
    assert_eq!(meta("a/same").mode() & 0o7777, 0o4750);
    assert_eq!(
        meta("a/same").mtime_nsec(),
        fs::metadata(low.join("a/same")).unwrap().mtime_nsec()
    );
    assert_eq!(
        fs::read_link(upper.join("a/symlink")).unwrap(),
        Path::new("/nowhere")
    );
    assert!(meta("turned").is_dir());
    // What a step removes is marked; what it leaves or makes is not.
    fs::remove_file(upper.join("a/over")).unwrap();
    fs::remove_dir(upper.join("turns")).unwrap();
    fs::write(upper.join("turns"), "").unwrap();
    fs::write(upper.join("new"), "").unwrap();
    settle(&lowers, &upper, &filled, Marks::Trusted).unwrap();
    let gone = statat(CWD, upper.join("a/over"), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert!(is_whiteout(&gone));
    assert_eq!(
        (names(""), names("a")),
        ("a new turned turns".into(), "link over same symlink".into())
    );
    // Once more, for reading only: links to the layers' own files.
    let view = dir.path().join("view");
    fs::create_dir(&view).unwrap();
    fill(&lowers, &view, Take::Link).unwrap();
    assert_eq!(
        fs::metadata(view.join("a/over")).unwrap().ino(),
        fs::metadata(high.join("a/over")).unwrap().ino()
    );
}

fn two_layers(dir: &Path) -> [PathBuf; 2] {
    let [lower, upper] = ["lower", "upper"].map(|name| dir.join(name));
    for path in ["again/old", "swap", "swapped", "gone"] {
        fs::create_dir_all(lower.join(path)).unwrap();
    }
    fs::write(lower.join("a"), "").unwrap();
    fs::hard_link(lower.join("a"), lower.join("b")).unwrap();
    fs::create_dir(&upper).unwrap();
    [lower, upper]
}

#[test]
fn what_came_into_the_place_of_something_hides_it() {
    for marks in [Marks::User, Marks::Own] {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper] = two_layers(dir.path());
        let lowers = [lower];
        let filled = fill(&lowers, &upper, Take::Copy).unwrap();
        fs::remove_dir_all(upper.join("again")).unwrap();
        fs::create_dir(upper.join("again")).unwrap();
        fs::remove_dir(upper.join("swapped")).unwrap();
        fs::rename(upper.join("swap"), upper.join("swapped")).unwrap();
        fs::remove_dir(upper.join("gone")).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(&upper)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        settle(&lowers, &upper, &filled, marks).unwrap();
        let is_opaque = |name: &str| {
            is_opaque(
                open(CWD, &c_path(&upper.join(name)).unwrap())
                    .unwrap()
                    .as_fd(),
            )
        };
        assert!(is_opaque("again") && is_opaque("swapped"));
        for name in ["gone", "swap"] {
            let gone = statat(CWD, upper.join(name), AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!((is_whiteout(&gone), kind(&gone)), (true, marks.whiteout()));
        }
        assert_eq!(fs::metadata(&upper).unwrap().modified().unwrap(), long_ago);
    }
}

#[test]
fn names_of_a_changed_file_are_parted() {
    let dir = tempfile::tempdir().unwrap();
    let [lower, upper] = two_layers(dir.path());
    let lowers = [lower];
    let filled = fill(&lowers, &upper, Take::Copy).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(upper.join("gone/socket")).unwrap();
    fs::remove_dir(upper.join("swap")).unwrap();
    fs::rename(upper.join("gone/socket"), upper.join("swap")).unwrap();
    settle(&lowers, &upper, &filled, Marks::Own).unwrap();
    drop(socket);
    let number = |name: &str| fs::metadata(upper.join(name)).unwrap().ino();
    assert_ne!(number("a"), number("b"));
    // A socket of the step is no mark.
    assert!(!upper.join("swap").exists());
}
