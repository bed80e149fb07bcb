//! The same as an ordinary user who is root of a user namespace with a single id.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use lapstrake_cache::{DiffId, Digest, Marks, Store};

use crate::support::{Raw, RawTar, layer, listing, run, set_xattr, tar_of};

const INSIDE: &str = "LAPSTRAKE_TEST_ROOTLESS";
/// Somebody without rights.
const NOBODY: u32 = 65_534;

#[test]
fn an_ordinary_user_has_a_store_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    // Where the tests are built, others may not be allowed to look.
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let nobody = NOBODY.to_string();
    let enter = [
        "--reuid",
        &nobody,
        "--regid",
        &nobody,
        "--clear-groups",
        "unshare",
        "-Urm",
    ];
    if !Command::new("setpriv")
        .args(enter)
        .arg("true")
        .status()
        .is_ok_and(|s| s.success())
    {
        eprintln!("SKIPPED: cannot make a user namespace");
        return;
    }
    let out = Command::new("setpriv")
        .args(enter)
        .arg(program)
        .args(["--exact", "rootless::inside", "--nocapture"])
        .env(INSIDE, &home)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&out.stdout)
    );
}

/// Not a test of its own: what runs in the namespace.
#[test]
fn inside() {
    let Ok(home) = std::env::var(INSIDE) else {
        return;
    };
    let home = Path::new(&home);
    let store = Store::open(&home.join("store")).unwrap();
    assert_eq!(store.marks(), Marks::User);
    assert_eq!(Store::open(store.root()).unwrap().marks(), Marks::User);

    let mut device = Raw::new(b'3', "null").mode(0o666);
    device.dev = (1, 3);
    let mut other = Raw::new(b'0', "other").mode(0o4755);
    other.uid = 1000;
    let tar = RawTar::new()
        .dir("d")
        .file("d/x", b"x")
        .entry(&device)
        .entry(&other)
        .entry(&Raw::new(b'6', "pipe"))
        .end();
    let id = DiffId(Digest::of(&tar));
    let base = store.extract(&tar[..], &id).unwrap();
    assert_eq!((base.omitted.devices, base.omitted.owners), (1, 1));
    assert_eq!(store.layer(&id).unwrap().unwrap(), base);
    let lower = store.layer_dir(&id);
    assert!(!lower.join("null").exists());
    assert_eq!(
        fs::metadata(lower.join("other")).unwrap().mode() & 0o7777,
        0o4755
    );

    let top = RawTar::new()
        .file("d/.wh..wh..opq", b"")
        .file("d/y", b"y")
        .file(".wh.pipe", b"")
        .end();
    let top_id = DiffId(Digest::of(&top));
    store.extract(&top[..], &top_id).unwrap();
    let view = home.join("view");
    fs::create_dir(&view).unwrap();
    let options = format!(
        "lowerdir={}:{},userxattr",
        store.layer_dir(&top_id).display(),
        lower.display()
    );
    let at = view.to_str().unwrap();
    run("mount", &["-t", "overlay", "overlay", "-o", &options, at]);
    let names: Vec<_> = listing(&view)
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    run("umount", &[at]);
    assert_eq!(names, ["d", "d/y", "other"]);

    // A step that makes a directory again leaves the mark of this kind.
    let made = layer(&store, &[lower], |root| {
        fs::create_dir(root.join("d")).unwrap();
        set_xattr(&root.join("d"), "user.overlay.opaque", b"y");
        fs::write(root.join("d/z"), "z").unwrap();
        set_xattr(&root.join("d/z"), "user.mine", b"1");
    });
    let text = String::from_utf8_lossy(&tar_of(&store, &made)).into_owned();
    assert!(text.contains("d/.wh..wh..opq") && !text.contains("user.overlay"));
    let again = Store::open(&home.join("other")).unwrap();
    assert_eq!(
        again
            .extract(&tar_of(&store, &made)[..], &made.diff_id)
            .unwrap(),
        made
    );
}
