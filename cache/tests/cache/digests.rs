//! Digests of real results. They are promises: a change here makes every store start again, so it
//! is a decision, and raises a version.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use lapstrake_cache::{
    ChainId, DiffId, Digest, Encoder, Explainer, Hasher, Owners, Visit, file_digest, tree_digest,
    walk,
};
use rustix::fs::FileType;

use crate::support::{layer, mknod, set_time, set_xattr, store, tar_of};

fn fixture(root: &Path) {
    fs::create_dir_all(root.join("etc/conf.d")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0\n").unwrap();
    fs::write(root.join("etc/conf.d/big"), vec![b'b'; 1_500_000]).unwrap();
    fs::hard_link(root.join("etc/passwd"), root.join("etc/passwd-")).unwrap();
    fs::write(root.join(format!("etc/{}", "long".repeat(40))), "").unwrap();
    fs::write(root.join("etc/gr\u{fc}n"), "text").unwrap();
    symlink("passwd", root.join("etc/link")).unwrap();
    mknod(&root.join("fifo"), FileType::Fifo, 0, 0);
    mknod(&root.join("null"), FileType::CharacterDevice, 1, 3);
    set_xattr(&root.join("etc/passwd"), "user.note", b"a=b");
    fs::set_permissions(root.join("etc/passwd"), fs::Permissions::from_mode(0o4640)).unwrap();
    chown(root.join("etc/gr\u{fc}n"), Some(3_000_000), Some(1000)).unwrap();
    times(root);
}

fn times(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            times(&path);
        }
        set_time(&path, 1_700_000_000);
    }
}

#[test]
fn a_layer_has_the_same_digests_everywhere() {
    let (_dir, store) = store();
    let base = layer(&store, &[], fixture);
    assert_eq!(
        base.diff_id.to_string(),
        "sha256:b3766165a5556cf29248270b21199b895d363cfff4a1813477868855d360f98a"
    );
    assert_eq!(
        base.content.to_string(),
        "772785d33619090b152b7bbf5125b3388690f5e79e6d9a67bb48701ac40b87bd"
    );
    let top = layer(&store, &[store.layer_dir(&base.diff_id)], |root| {
        fs::create_dir_all(root.join("etc/conf.d")).unwrap();
        set_xattr(&root.join("etc/conf.d"), "trusted.overlay.opaque", b"y");
        mknod(&root.join("etc/passwd-"), FileType::CharacterDevice, 0, 0);
        fs::write(root.join("etc/conf.d/new"), "new").unwrap();
        times(root);
    });
    assert_eq!(
        top.diff_id.to_string(),
        "sha256:03b5874d8fa445149ca1afa1de6575737ae1ab70acf727de156155dce7490865"
    );
    assert_eq!(
        top.content.to_string(),
        "1fe1817baba68af7e73428cd492627248a7541aad62a722ac11a820137d7c107"
    );
    assert_eq!(
        ChainId::of(&[base.diff_id, top.diff_id])
            .unwrap()
            .to_string(),
        "sha256:927566a987fa76c4a8f14cc3d6729d4f5ccbe2e7911f58963a5a53cc58356567"
    );
}

#[test]
fn nothing_makes_an_empty_layer() {
    let (_dir, store) = store();
    let empty = layer(&store, &[], |_| {});
    assert_eq!(tar_of(&store, &empty), [0; 1024]);
    assert_eq!(empty.diff_id, DiffId(Digest::of(&[0; 1024])));
}

#[test]
fn a_selection_has_the_same_digest_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    fixture(dir.path());
    let root = fs::File::open(dir.path()).unwrap();
    let entries = walk(root.as_fd(), Path::new("etc"), &|_, _| Visit::Take).unwrap();
    let digest = |owners| {
        let etc = fs::File::open(dir.path().join("etc")).unwrap();
        tree_digest(&entries, owners, &|entry| {
            file_digest(etc.as_fd(), &entry.path, &entry.meta)
        })
        .unwrap()
        .to_string()
    };
    assert_eq!(
        digest(Owners::Count),
        "85ff05cc55933ade32de1aa9c4153ed3fa4029cacaad1c98dfc14ea9ddd61e0d"
    );
    assert_eq!(
        digest(Owners::Ignored),
        "05986e0b0c2f89a7dd210dc097e005370bd0ecf6bab857de7cee189e501e80d9"
    );
}

fn describe(encoder: &mut dyn Encoder) {
    encoder.number("version", 1);
    encoder.text("kind", "run");
    encoder.texts(
        "argv",
        &["sh".to_owned(), "-c".to_owned(), "a\nb".to_owned()],
    );
    encoder.flag("insecure", false);
    encoder.optional("user", None);
    encoder.optional("cwd", Some(b"/"));
    encoder.field("raw", b"\xff\0");
}

#[test]
fn a_description_has_the_same_key_everywhere() {
    let mut hasher = Hasher::new();
    describe(&mut hasher);
    assert_eq!(
        hasher.finish().to_string(),
        "b022c9a8fdfdad9d5be3b633bff484d52910ee3460748f1821c00702c8090da4"
    );
    let mut explainer = Explainer::new();
    describe(&mut explainer);
    let parts: Vec<String> = explainer
        .finish()
        .iter()
        .map(|part| format!("{}: {}", part.name, part.value))
        .collect();
    let expected = [
        "version: 1",
        "kind: run",
        "argv: sh",
        "argv: -c",
        "argv: a\\nb",
        "insecure: no",
        "cwd: /",
        "raw: ff00",
    ];
    assert_eq!(parts, expected);
}

#[test]
fn explanations_name_variables_but_do_not_show_them() {
    let mut explainer = Explainer::new();
    explainer.group("mount /x");
    explainer.text("id", "a");
    explainer.group("");
    explainer.pairs("env", &[("TOKEN", "secret")]);
    let parts = explainer.finish();
    assert_eq!((&*parts[0].name, &*parts[0].value), ("mount /x id", "a"));
    assert_eq!(parts[1].name, "env TOKEN");
    assert!(!parts[1].value.contains("secret"), "{parts:?}");
}

#[test]
fn no_byte_can_move_across_a_border() {
    type Write = fn(&mut Hasher);
    let descriptions: [Write; 12] = [
        |h| h.texts("a", &["xy".to_owned()]),
        |h| h.texts("a", &["x".to_owned(), "y".to_owned()]),
        |h| h.texts("a", &["xy".to_owned(), String::new()]),
        |h| h.texts("a", &[String::new(), "xy".to_owned()]),
        |h| {
            h.texts("a", &["x".to_owned()]);
            h.texts("a", &["y".to_owned()]);
        },
        |h| h.text("a", "xy"),
        |h| h.text("ax", "y"),
        |h| {
            h.text("a", "x");
            h.text("a", "y");
        },
        |h| h.optional("a", None),
        |h| h.optional("a", Some(b"")),
        |h| h.text("a", ""),
        |_| {},
    ];
    let keys: Vec<String> = descriptions
        .iter()
        .map(|write| {
            let mut hasher = Hasher::new();
            write(&mut hasher);
            hasher.finish().to_string()
        })
        .collect();
    for (index, key) in keys.iter().enumerate() {
        assert!(
            !keys[..index].contains(key),
            "description {index} has the key of another"
        );
    }
}

#[test]
fn texts_of_digests() {
    let digest = Digest::of(b"abc");
    let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest.to_string(), text);
    assert_eq!(text.parse::<Digest>().unwrap(), digest);
    assert_eq!(
        serde_json::to_string(&digest).unwrap(),
        format!("\"{text}\"")
    );
    assert_eq!(
        serde_json::from_str::<DiffId>(&format!("\"{text}\"")).unwrap(),
        DiffId(digest)
    );
    for wrong in [
        "",
        "sha256:",
        &text[..70],
        &text.to_uppercase(),
        &text[7..],
        "sha512:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "sha256:../../../../etc/passwd/////////////////////////////////////////",
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a\u{e9}",
    ] {
        assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
    }
}
