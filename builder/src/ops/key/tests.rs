//! Every field of every op, with what it does to the key; the keys themselves pinned.
//!
//! `testdata/keys/NAME.txt` holds what an op's key is made of and the key. A difference there means that old caches are
//! not used any more: that is a decision. `UPDATE=1` writes the files anew.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use lapstrake_cache::{Explainer, Hasher, Key};
use lapstrake_frontend::plan::{Image, OpId};

use super::*;

mod copy;
mod encoding;
mod mounts;
mod others;
mod run;

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
        argv: vec!["/bin/sh".into(), "-c".into(), "make all".into()],
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
