//! A tree becomes a layer, its tar is read by other programs, and becomes a tree again.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use lapstrake_cache::{DiffId, Digest, Store};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

#[test]
fn smoke() {
    let (dir, store) = store();
    let active = store.snapshot(&[]).unwrap();
    let up = active.upper().to_owned();
    fs::create_dir_all(up.join("a/b")).unwrap();
    fs::write(up.join("a/b/file"), b"hello").unwrap();
    fs::write(up.join("a/big"), vec![7u8; 3 << 20]).unwrap();
    fs::hard_link(up.join("a/big"), up.join("a/zlink")).unwrap();
    symlink("/etc/passwd", up.join("link")).unwrap();
    fs::set_permissions(up.join("a/b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(up.join(format!("a/{}", "x".repeat(150))), b"long").unwrap();
    for i in 0..600 {
        fs::write(up.join(format!("a/f{i}")), format!("{i}")).unwrap();
    }
    let layer = store.commit(active).unwrap();
    let mut tar = Vec::new();
    let n = store.write_layer_tar(&layer.diff_id, &mut tar).unwrap();
    assert_eq!(n, layer.size);
    assert_eq!(n, tar.len() as u64);
    assert_eq!(DiffId(Digest::of(&tar)), layer.diff_id);
    let path = dir.path().join("t.tar");
    fs::write(&path, &tar).unwrap();
    let out = Command::new("tar").arg("tvf").arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    assert_eq!(text.lines().count(), 607, "{text}");

    let other = Store::open(&dir.path().join("other")).unwrap();
    let pulled = other.extract(&tar[..], &layer.diff_id).unwrap();
    assert_eq!(pulled, layer);
    let mut again = Vec::new();
    other.write_layer_tar(&layer.diff_id, &mut again).unwrap();
    assert!(again == tar);
}
