//! WORKDIR, and what has its key from elsewhere.

use super::*;

#[test]
fn fields_of_workdir() {
    let op = MakeDir {
        base: OpId(0),
        path: "/w".into(),
        user: "user".into(),
    };
    let MakeDir {
        base: _,
        path: _,
        user: _,
    } = &op;
    let cases = vec![
        ("base", Unchanged, with(&op, |op| op.base = OpId(7))),
        ("path", Another, with(&op, |op| op.path = "/".into())),
        ("user", Another, with(&op, |op| op.user = "".into())),
        (
            "across the border",
            Another,
            with(&op, |op| {
                (op.path, op.user) = ("/wu".into(), "ser".into());
            }),
        ),
    ];
    let key = |op: &MakeDir| key_of(&|encoder| make_dir(encoder, op, BASE));
    check("workdir", key, &op, cases);
    let other = key_of(&|encoder| make_dir(encoder, &op, OTHER));
    assert_ne!(
        other,
        key(&op),
        "the content of the base does not change the key"
    );
}

#[test]
fn fields_of_http() {
    let op = Http {
        url: "https://example.com/a".into(),
        checksum: None,
        filename: "a".into(),
    };
    let Http {
        url: _,
        checksum: _,
        filename: _,
    } = &op;
    let cases = vec![
        // What it gave is what counts.
        (
            "url",
            Unchanged,
            with(&op, |op| op.url = "https://example.org/a".into()),
        ),
        // Its time is another one then.
        (
            "checksum",
            Another,
            with(&op, |op| op.checksum = Some("sha256:0".into())),
        ),
        (
            "filename",
            Another,
            with(&op, |op| op.filename = "b".into()),
        ),
    ];
    let digest = Digest::of(b"a");
    let key = |op: &Http| key_of(&|encoder| http(encoder, op, &digest, Some(5)));
    check("http", key, &op, cases);
    let of = |digest: &Digest, modified| key_of(&|encoder| http(encoder, &op, digest, modified));
    assert_ne!(of(&Digest::of(b"b"), Some(5)), key(&op), "content");
    assert_ne!(of(&digest, Some(6)), key(&op), "time");
    assert_ne!(of(&digest, None), key(&op), "no time");
}

#[test]
fn fields_of_git() {
    let op = Git {
        remote: "https://example.com/a.git".into(),
        reference: None,
        subdir: None,
        checksum: None,
        keep_git_dir: false,
        submodules: true,
        commit_time: false,
    };
    let Git {
        remote: _,
        reference: _,
        subdir: _,
        checksum: _,
        keep_git_dir: _,
        submodules: _,
        commit_time: _,
    } = &op;
    let cases = vec![
        // Relative URLs of submodules depend on it.
        (
            "remote",
            Another,
            with(&op, |op| op.remote = "https://example.org/a.git".into()),
        ),
        // The commit that it led to is what counts.
        (
            "reference",
            Unchanged,
            with(&op, |op| op.reference = Some("main".into())),
        ),
        (
            "checksum",
            Unchanged,
            with(&op, |op| op.checksum = Some("0".into())),
        ),
        (
            "subdir",
            Another,
            with(&op, |op| op.subdir = Some("x".into())),
        ),
        (
            "keep git dir",
            Another,
            with(&op, |op| op.keep_git_dir = true),
        ),
        ("submodules", Another, with(&op, |op| op.submodules = false)),
        (
            "commit time",
            Another,
            with(&op, |op| op.commit_time = true),
        ),
    ];
    let at = |op: &Git, commit, name| key_of(&|encoder| git(encoder, op, commit, name));
    let key = |op: &Git| at(op, "0123", "HEAD");
    check("git", key, &op, cases);
    assert_ne!(at(&op, "0124", "HEAD"), key(&op), "commit");
    assert_eq!(at(&op, "0123", "refs/tags/v1"), key(&op), "reference");
    let kept = with(&op, |op| op.keep_git_dir = true);
    assert_ne!(
        at(&kept, "0123", "refs/tags/v1"),
        key(&kept),
        "reference that is kept"
    );
    let secret = with(&op, |op| {
        op.remote = "https://user:token@example.com/a.git".into();
    });
    let other = with(&op, |op| {
        op.remote = "https://user:other@example.com/a.git".into();
    });
    assert_eq!(key(&secret), key(&other), "a password changes the key");
}

/// Images and contexts have no keys: what they hold is in the keys of those who read them.
#[test]
fn fields_of_sources() {
    let image = Image {
        reference: "busybox".parse().unwrap(),
        platform: Platform::new("linux", "amd64", None),
    };
    let Image {
        reference: _,
        platform: _,
    } = image;
}
