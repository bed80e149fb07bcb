//! Every field of every op, with what it does to the key; the keys themselves pinned.
//!
//! `testdata/keys/NAME.txt` holds what an op's key is made of and the key. A difference there means that old caches are
//! not used any more: that is a decision. `UPDATE=1` writes the files anew.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use lapstrake_cache::{Explainer, Hasher, Key};
use lapstrake_frontend::plan::{Image, OpId};

use super::*;

const BASE: Content = Content([0xb1; 32]);
const OTHER: Content = Content([0xb2; 32]);
const SELECTION: Content = Content([0xb3; 32]);

type Encode<'a> = dyn Fn(&mut dyn Encoder) + 'a;

fn key_of(encode: &Encode<'_>) -> Key {
    let mut hasher = Hasher::new();
    encode(&mut hasher);
    hasher.finish()
}

/// What a change does to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Another,
    None,
}
use Effect::{Another, None as Unchanged};

/// A copy of a value with one change.
fn with<T: Clone>(value: &T, change: impl FnOnce(&mut T)) -> T {
    let mut changed = value.clone();
    change(&mut changed);
    changed
}

/// Each case is a field, what it does, and the op with another value of it.
fn check<T>(what: &str, key: impl Fn(&T) -> Key, original: &T, cases: Vec<(&str, Effect, T)>) {
    let known = key(original);
    let mut keys = vec![known];
    for (field, effect, changed) in cases {
        let found = key(&changed);
        match effect {
            Another => {
                assert!(
                    !keys.contains(&found),
                    "{what}: {field} does not change the key"
                );
                keys.push(found);
            }
            Unchanged => assert_eq!(found, known, "{what}: {field} changes the key"),
        }
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn pairs<S: for<'a> From<&'a str>>(pairs: &[(&str, &str)]) -> Vec<(S, S)> {
    let owned = |(name, value): &(&str, &str)| (S::from(name), S::from(value));
    pairs.iter().map(owned).collect()
}

fn bind() -> Mount {
    Mount::Bind {
        target: "/bind".into(),
        from: OpId(1),
        source: "/src".into(),
        writable: false,
    }
}

fn cache() -> Mount {
    Mount::Cache {
        target: "/cache".into(),
        id: "id".into(),
        sharing: Sharing::Shared,
        readonly: false,
        from: None,
        source: "/".into(),
        mode: 0o755,
        uid: 0,
        gid: 0,
    }
}

fn secret() -> Mount {
    Mount::Secret {
        target: Some("/secret".into()),
        id: "id".into(),
        env: None,
        required: false,
        mode: 0o400,
        uid: 0,
        gid: 0,
    }
}

fn ssh() -> Mount {
    Mount::Ssh {
        target: "/agent".into(),
        id: "default".into(),
        required: false,
        mode: 0o600,
        uid: 0,
        gid: 0,
    }
}

fn tmpfs() -> Mount {
    Mount::Tmpfs {
        target: "/tmp".into(),
        size: None,
    }
}

fn a_run() -> Run {
    Run {
        base: OpId(0),
        argv: texts(&["/bin/sh", "-c", "make all"]),
        script: pairs(&[("EOF", "echo 1\n")]),
        env: pairs(&[("PATH", "/bin"), ("MODE", "x")]),
        proxy: pairs(&[("http_proxy", "http://proxy")]),
        cwd: "/w".into(),
        user: "user".into(),
        network: Network::Default,
        security: Security::Sandbox,
        devices: vec![("gpu".into(), false)],
        mounts: vec![bind(), cache(), secret(), ssh(), tmpfs()],
        hostname: "host".into(),
        platform: Platform::new("linux", "arm64", Some("v8")),
    }
}

fn visible() -> Visible {
    Visible {
        host_names: texts(&["a"]),
        ulimits: texts(&["nofile=1:2"]),
        shm_size: Some(64),
        cgroup_parent: None,
        no_new_privileges: false,
    }
}

fn run_key(op: &Run) -> Key {
    key_of(&|encoder| run(encoder, op, &visible(), BASE, &[OTHER]))
}

#[test]
fn fields_of_run() {
    let op = a_run();
    // A field that is not here does not compile: give it a case below.
    let Run {
        base: _,
        argv: _,
        script: _,
        env: _,
        proxy: _,
        cwd: _,
        user: _,
        network: _,
        security: _,
        devices: _,
        mounts: _,
        hostname: _,
        platform: _,
    } = &op;
    let cases = vec![
        // The number of the op; its content is what counts.
        ("base", Unchanged, with(&op, |op| op.base = OpId(7))),
        ("argv", Another, with(&op, |op| op.argv[2].push(' '))),
        (
            "argv, cut elsewhere",
            Another,
            with(&op, |op| op.argv = texts(&["/bin/sh -c", "make all"])),
        ),
        (
            "argv, one more",
            Another,
            with(&op, |op| op.argv.push(String::new())),
        ),
        (
            "script, its text",
            Another,
            with(&op, |op| op.script[0].1.push('x')),
        ),
        (
            "script, its name",
            Another,
            with(&op, |op| op.script[0].0.push('x')),
        ),
        ("no script", Another, with(&op, |op| op.script.clear())),
        (
            "env, a value",
            Another,
            with(&op, |op| op.env[1].1 = "y".into()),
        ),
        (
            "env, a name",
            Another,
            with(&op, |op| op.env[1].0 = "NODE".into()),
        ),
        ("env, the order", Another, with(&op, |op| op.env.reverse())),
        (
            "env, across the border",
            Another,
            with(&op, |op| op.env[1] = ("MODEx".into(), "".into())),
        ),
        ("proxy", Unchanged, with(&op, |op| op.proxy.clear())),
        ("cwd", Another, with(&op, |op| op.cwd = "/".into())),
        ("user", Another, with(&op, |op| op.user = "0".into())),
        (
            "network none",
            Another,
            with(&op, |op| op.network = Network::None),
        ),
        (
            "network host",
            Another,
            with(&op, |op| op.network = Network::Host),
        ),
        (
            "security",
            Another,
            with(&op, |op| op.security = Security::Insecure),
        ),
        (
            "device",
            Another,
            with(&op, |op| op.devices[0].0 = "x".into()),
        ),
        (
            "device, required",
            Another,
            with(&op, |op| op.devices[0].1 = true),
        ),
        ("no device", Another, with(&op, |op| op.devices.clear())),
        (
            "mounts, the order",
            Another,
            with(&op, |op| op.mounts.reverse()),
        ),
        (
            "mounts, one less",
            Another,
            with(&op, |op| drop(op.mounts.pop())),
        ),
        (
            "hostname",
            Another,
            with(&op, |op| op.hostname = "other".into()),
        ),
        (
            "platform",
            Another,
            with(&op, |op| {
                op.platform = Platform::new("linux", "amd64", None);
            }),
        ),
        (
            "variant",
            Another,
            with(&op, |op| op.platform.variant = Some("v9".into())),
        ),
        (
            "no variant",
            Another,
            with(&op, |op| op.platform.variant = None),
        ),
        (
            "os",
            Another,
            with(&op, |op| op.platform.os = "plan9".into()),
        ),
        (
            "os version",
            Another,
            with(&op, |op| op.platform.os_version = Some("1".into())),
        ),
    ];
    check("run", run_key, &op, cases);
}

#[test]
fn what_run_reads() {
    let op = a_run();
    let key = |(base, source): &(Content, Content)| {
        key_of(&|encoder| run(encoder, &op, &visible(), *base, &[*source]))
    };
    let cases = vec![
        ("content of the base", Another, (OTHER, OTHER)),
        ("content of a mount", Another, (BASE, BASE)),
        ("both, exchanged", Another, (OTHER, BASE)),
    ];
    check("run", key, &(BASE, OTHER), cases);
}

#[test]
fn settings_that_run_sees() {
    let op = a_run();
    let seen = visible();
    let Visible {
        host_names: _,
        ulimits: _,
        shm_size: _,
        cgroup_parent: _,
        no_new_privileges: _,
    } = &seen;
    let key = |seen: &Visible| key_of(&|encoder| run(encoder, &op, seen, BASE, &[OTHER]));
    let cases = vec![
        (
            "host names",
            Another,
            with(&seen, |seen| seen.host_names.push("b".into())),
        ),
        (
            "from hosts to ulimits",
            Another,
            with(&seen, |seen| {
                let moved = seen.host_names.remove(0);
                seen.ulimits.insert(0, moved);
            }),
        ),
        (
            "ulimits",
            Another,
            with(&seen, |seen| seen.ulimits[0].push('3')),
        ),
        (
            "shm size",
            Another,
            with(&seen, |seen| seen.shm_size = Some(65)),
        ),
        (
            "no shm size",
            Another,
            with(&seen, |seen| seen.shm_size = None),
        ),
        (
            "no new privileges",
            Another,
            with(&seen, |seen| seen.no_new_privileges = true),
        ),
        (
            "cgroup parent",
            Another,
            with(&seen, |seen| seen.cgroup_parent = Some(String::new())),
        ),
    ];
    check("visible", key, &seen, cases);
}

fn mount_key(mount: &Mount) -> Key {
    let op = Run {
        mounts: vec![mount.clone()],
        ..a_run()
    };
    run_key(&op)
}

/// The same mount with other values of its fields. A field that is not taken apart does not compile.
fn other_mounts(mount: &Mount) -> Vec<(&'static str, Effect, Mount)> {
    let mut all = Vec::new();
    let mut add = |what, effect, change: &dyn Fn(&mut Mount)| {
        all.push((what, effect, with(mount, |mount| change(mount))));
    };
    macro_rules! set {
        ($kind:ident, $effect:expr, $field:ident, $value:expr) => {
            add(stringify!($field), $effect, &|mount| {
                if let Mount::$kind { $field, .. } = mount {
                    *$field = $value;
                }
            })
        };
    }
    match mount {
        Mount::Bind {
            target: _,
            from: _,
            source: _,
            writable: _,
        } => {
            set!(Bind, Another, target, "/x".into());
            set!(Bind, Unchanged, from, OpId(9));
            set!(Bind, Another, source, "/x".into());
            set!(Bind, Another, writable, true);
        }
        Mount::Cache {
            target: _,
            id: _,
            sharing: _,
            readonly: _,
            from: _,
            source: _,
            mode: _,
            uid: _,
            gid: _,
        } => {
            set!(Cache, Another, target, "/x".into());
            set!(Cache, Another, id, "x".into());
            set!(Cache, Another, sharing, Sharing::Private);
            set!(Cache, Another, sharing, Sharing::Locked);
            set!(Cache, Another, readonly, true);
            set!(Cache, Another, from, Some(OpId(1)));
            set!(Cache, Another, source, "/x".into());
            set!(Cache, Another, mode, 0o700);
            set!(Cache, Another, uid, 1);
            set!(Cache, Another, gid, 1);
        }
        Mount::Tmpfs { target: _, size: _ } => {
            set!(Tmpfs, Another, target, "/x".into());
            set!(Tmpfs, Another, size, Some(1));
        }
        Mount::Secret {
            target: _,
            id: _,
            env: _,
            required: _,
            mode: _,
            uid: _,
            gid: _,
        } => {
            set!(Secret, Another, target, None);
            set!(Secret, Another, target, Some("/x".into()));
            set!(Secret, Another, id, "x".into());
            set!(Secret, Another, env, Some("X".into()));
            set!(Secret, Another, required, true);
            set!(Secret, Another, mode, 0o444);
            set!(Secret, Another, uid, 1);
            set!(Secret, Another, gid, 1);
        }
        Mount::Ssh {
            target: _,
            id: _,
            required: _,
            mode: _,
            uid: _,
            gid: _,
        } => {
            set!(Ssh, Another, target, "/x".into());
            set!(Ssh, Another, id, "x".into());
            set!(Ssh, Another, required, true);
            set!(Ssh, Another, mode, 0o666);
            set!(Ssh, Another, uid, 1);
            set!(Ssh, Another, gid, 1);
        }
    }
    all
}

#[test]
fn fields_of_mounts() {
    for mount in [bind(), cache(), secret(), ssh(), tmpfs()] {
        check("mount", mount_key, &mount, other_mounts(&mount));
    }
}

fn a_copy() -> Copy {
    Copy {
        base: OpId(0),
        sources: vec![
            CopySource::Path {
                from: OpId(1),
                pattern: "src".into(),
                unpack: false,
            },
            CopySource::Inline {
                name: "note".into(),
                text: "text".into(),
            },
        ],
        destination: "/dest/".into(),
        chown: Some("1:2".into()),
        chmod: Some(Chmod::Octal(0o644)),
        link: false,
        parents: false,
        excludes: texts(&["*.o"]),
    }
}

fn copy_key(op: &Copy) -> Key {
    key_of(&|encoder| copy(encoder, op, Some(BASE), SELECTION))
}

#[test]
fn fields_of_copy() {
    let op = a_copy();
    let Copy {
        base: _,
        sources: _,
        destination: _,
        chown: _,
        chmod: _,
        link: _,
        parents: _,
        excludes: _,
    } = &op;
    let path = |from, pattern: &str, unpack| CopySource::Path {
        from: OpId(from),
        pattern: pattern.into(),
        unpack,
    };
    let inline = |name: &str, text: &str| CopySource::Inline {
        name: name.into(),
        text: text.into(),
    };
    let source = |source: CopySource| with(&op, |op| op.sources[0] = source);
    let note = |source: CopySource| with(&op, |op| op.sources[1] = source);
    let cases = vec![
        ("base", Unchanged, with(&op, |op| op.base = OpId(7))),
        ("from", Unchanged, source(path(7, "src", false))),
        // What a pattern selects is what counts: its names are in the digest of the selection.
        ("pattern", Unchanged, source(path(1, "s*c", false))),
        ("unpack", Another, source(path(1, "src", true))),
        (
            "sources, one less",
            Another,
            with(&op, |op| drop(op.sources.remove(0))),
        ),
        (
            "sources, the order",
            Another,
            with(&op, |op| op.sources.reverse()),
        ),
        ("inline name", Another, note(inline("x", "text"))),
        ("inline text", Another, note(inline("note", "x"))),
        ("across the border", Another, note(inline("notet", "ext"))),
        (
            "destination",
            Another,
            with(&op, |op| op.destination = "/dest".into()),
        ),
        (
            "chown",
            Another,
            with(&op, |op| op.chown = Some("1:3".into())),
        ),
        ("no chown", Another, with(&op, |op| op.chown = None)),
        (
            "chmod",
            Another,
            with(&op, |op| op.chmod = Some(Chmod::Octal(0o600))),
        ),
        (
            "chmod, symbolic",
            Another,
            with(&op, |op| op.chmod = Some(Chmod::Symbolic("u=r".into()))),
        ),
        ("no chmod", Another, with(&op, |op| op.chmod = None)),
        ("link", Another, with(&op, |op| op.link = true)),
        ("parents", Another, with(&op, |op| op.parents = true)),
        (
            "excludes",
            Another,
            with(&op, |op| op.excludes.push("x".into())),
        ),
        ("no excludes", Another, with(&op, |op| op.excludes.clear())),
    ];
    check("copy", copy_key, &op, cases);
    let key = |(base, selection): &(Option<Content>, Content)| {
        key_of(&|encoder| copy(encoder, &op, *base, *selection))
    };
    let cases = vec![
        ("content of the base", Another, (Some(OTHER), SELECTION)),
        ("no base", Another, (None, SELECTION)),
        ("what is selected", Another, (Some(BASE), OTHER)),
    ];
    check("copy", key, &(Some(BASE), SELECTION), cases);
}

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
        ("user", Another, with(&op, |op| op.user = String::new())),
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
    let key = |op: &Git| key_of(&|encoder| git(encoder, op, "0123"));
    check("git", key, &op, cases);
    assert_ne!(
        key_of(&|encoder| git(encoder, &op, "0124")),
        key(&op),
        "commit"
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

/// What an encoder is told, to be told again with changes.
#[derive(Default)]
struct Tape(Vec<Entry>);

#[derive(Clone)]
enum Entry {
    Field(&'static str, Vec<u8>),
    List(&'static str, usize),
}

impl Encoder for Tape {
    fn field(&mut self, name: &'static str, value: &[u8]) {
        self.0.push(Entry::Field(name, value.to_vec()));
    }

    fn list(&mut self, name: &'static str, len: usize) {
        self.0.push(Entry::List(name, len));
    }
}

fn replay(tape: &[Entry]) -> Key {
    key_of(&|encoder| {
        for entry in tape {
            match entry {
                Entry::Field(name, value) => encoder.field(name, value),
                Entry::List(name, len) => encoder.list(name, *len),
            }
        }
    })
}

fn examples() -> Vec<(&'static str, Box<Encode<'static>>)> {
    let make = MakeDir {
        base: OpId(0),
        path: "/w".into(),
        user: "user".into(),
    };
    let fetched = Http {
        url: "https://example.com/a".into(),
        checksum: None,
        filename: "a".into(),
    };
    let checked_out = Git {
        remote: "https://example.com/a.git".into(),
        reference: None,
        subdir: Some("x".into()),
        checksum: None,
        keep_git_dir: true,
        submodules: true,
        commit_time: false,
    };
    vec![
        (
            "run",
            Box::new(|encoder| run(encoder, &a_run(), &visible(), BASE, &[OTHER])),
        ),
        (
            "copy",
            Box::new(|encoder| copy(encoder, &a_copy(), Some(BASE), SELECTION)),
        ),
        (
            "workdir",
            Box::new(move |encoder| make_dir(encoder, &make, BASE)),
        ),
        (
            "http",
            Box::new(move |encoder| http(encoder, &fetched, &Digest::of(b"a"), Some(5))),
        ),
        (
            "git",
            Box::new(move |encoder| git(encoder, &checked_out, "0123")),
        ),
    ]
}

#[test]
fn no_byte_moves_across_a_border() {
    for (what, encode) in examples() {
        let mut tape = Tape::default();
        encode(&mut tape);
        let tape = tape.0;
        let mut keys = vec![replay(&tape)];
        assert_eq!(keys[0], key_of(&encode), "{what}");
        let fields: Vec<usize> = (0..tape.len())
            .filter(|at| matches!(tape[*at], Entry::Field(..)))
            .collect();
        for two in fields.windows(2) {
            let mut changed = tape.clone();
            if !move_byte(&mut changed, two[0], two[1]) {
                continue;
            }
            let key = replay(&changed);
            assert!(
                !keys.contains(&key),
                "{what}: a byte moves from part {} to the next",
                two[0]
            );
            keys.push(key);
        }
        assert!(keys.len() > fields.len() / 2, "{what}");
    }
}

/// Moves the last byte of one field to the front of another; false if there is none.
fn move_byte(tape: &mut [Entry], from: usize, to: usize) -> bool {
    let moved = match &mut tape[from] {
        Entry::Field(_, value) => value.pop(),
        Entry::List(..) => None,
    };
    match (moved, &mut tape[to]) {
        (Some(byte), Entry::Field(_, value)) => {
            value.insert(0, byte);
            true
        }
        _ => false,
    }
}

#[test]
fn keys_are_pinned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/keys");
    let update = std::env::var_os("UPDATE").is_some();
    for (what, encode) in examples() {
        let mut explainer = Explainer::new();
        encode(&mut explainer);
        let mut text = String::new();
        for part in explainer.finish() {
            text.push_str(&format!("{}: {}\n", part.name, part.value));
        }
        text.push_str(&format!("= {}\n", key_of(&encode)));
        let file = folder.join(format!("{what}.txt"));
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let pinned = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, pinned, "{}: UPDATE=1 writes it anew", file.display());
    }
}
