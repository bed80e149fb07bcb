//! Mounts of a RUN.

use super::*;

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
