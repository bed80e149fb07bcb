//! `RUN --mount` values, and what a `RUN` gives to its shell.
#![allow(clippy::unwrap_used)]

use lapstrake_frontend::ast::{Command, Kind, Run, Script};
use lapstrake_frontend::expand;
use lapstrake_frontend::plan::Sharing;
use lapstrake_frontend::{MountError, MountKind, MountSpec, mount_from, parse, parse_mount};

fn read(value: &str) -> Result<MountSpec, MountError> {
    let lookup = |name: &str| (name == "V").then(|| "value".into());
    parse_mount(value, &mut |word| {
        expand::word(word, '\\', &lookup).map(|found| found.text.into_owned())
    })
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn kinds() {
    let bind = MountSpec {
        target: some("/t"),
        readonly: true,
        ..MountSpec::default()
    };
    assert_eq!(read("target=/t").unwrap(), bind);
    assert_eq!(read("TYPE=Bind,Destination=/t").unwrap(), bind);
    assert_eq!(
        read("dst=/t,rw").unwrap(),
        MountSpec {
            readonly: false,
            ..bind.clone()
        }
    );
    assert_eq!(read("dst=/t,rw=false").unwrap(), bind);
    assert_eq!(
        read("dst=/t,ro=0").unwrap(),
        MountSpec {
            readonly: false,
            ..bind.clone()
        }
    );
    assert_eq!(
        read("from=stage,src=/s,target=/$V").unwrap(),
        MountSpec {
            from: some("stage"),
            source: some("/s"),
            target: some("/value"),
            ..bind.clone()
        }
    );
    assert_eq!(
        read("type=cache,target=/t,id=x,sharing=locked,mode=0755,uid=1,gid=2").unwrap(),
        MountSpec {
            kind: MountKind::Cache,
            readonly: false,
            id: some("x"),
            sharing: Some(Sharing::Locked),
            mode: Some(0o755),
            uid: Some(1),
            gid: Some(2),
            ..bind.clone()
        }
    );
    assert_eq!(
        read("type=tmpfs,target=/t,size=1.5k").unwrap(),
        MountSpec {
            kind: MountKind::Tmpfs,
            readonly: false,
            size: Some(1536),
            ..bind.clone()
        }
    );
    assert_eq!(
        read("type=secret,id=x,required,env=").unwrap(),
        MountSpec {
            kind: MountKind::Secret,
            target: None,
            id: some("x"),
            required: true,
            env: some(""),
            ..bind.clone()
        }
    );
    assert_eq!(
        read("type=ssh,required=false").unwrap(),
        MountSpec {
            kind: MountKind::Ssh,
            target: None,
            ..bind
        }
    );
    assert_eq!(
        read("\"target=/a,b\"\"\"\"c\",from=")
            .unwrap()
            .target
            .as_deref(),
        Some("/a,bc")
    );
    // Keys that a type does not use are let through.
    assert!(read("target=/t,env=A,id=x").is_ok());
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("10", Some(10)),
        ("10b", Some(10)),
        ("1k", Some(1 << 10)),
        ("1 KiB", Some(1 << 10)),
        ("2MB", Some(2 << 20)),
        ("0.5g", Some(1 << 29)),
        ("1t", Some(1 << 40)),
        ("0", None),
    ] {
        assert_eq!(
            read(&format!("type=tmpfs,target=/t,size={text}"))
                .unwrap()
                .size,
            bytes,
            "{text}"
        );
    }
}

#[test]
fn refusals() {
    for (value, message) in [
        ("", "failed to parse csv mounts: the value is empty"),
        (
            "target=\"/t\"",
            "failed to parse csv mounts: a quote must surround the whole field, as in \"name=a,b\"",
        ),
        (
            "\"target=/t",
            "failed to parse csv mounts: a quote is not closed",
        ),
        (
            "\"target=/t\"x",
            "failed to parse csv mounts: a comma must follow a closing quote",
        ),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("type=bnd", "unsupported mount type \"bnd\""),
        ("sorce=x", "unexpected key 'sorce' in 'sorce=x'"),
        (
            "type=cache,sharing=lock",
            "unsupported sharing value \"lock\"",
        ),
        ("ro=yes", "invalid value for ro: yes"),
        (
            "required",
            "unexpected key 'required' for mount type 'bind'",
        ),
        (
            "required,type=secret",
            "unexpected key 'required' for mount type 'bind'",
        ),
        ("size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=1x", "invalid value for size: 1x"),
        ("type=tmpfs,size=-1", "invalid value for size: -1"),
        ("type=cache,mode=8", "invalid value 8 for mode"),
        ("type=cache,uid=+1", "invalid value +1 for uid"),
        (
            "type=cache,gid=4294967296",
            "invalid value 4294967296 for gid",
        ),
        ("uid=1", "uid not allowed for \"bind\" type mounts"),
        (
            "type=tmpfs,mode=1",
            "mode not allowed for \"tmpfs\" type mounts",
        ),
        (
            "type=secret",
            "invalid secret mount, one of id, source, target required",
        ),
        (
            "type=secret,id=a,source=b",
            "both source and id can't be set",
        ),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        (
            "type=secret,id=a,sharing=shared",
            "secret mount should not define sharing",
        ),
        (
            "target=/t,sharing=shared",
            "invalid cache sharing set for bind mount",
        ),
        (
            "target=${X:?is needed}",
            "failed to process \"${X:?is needed}\": X: is needed",
        ),
    ] {
        assert_eq!(read(value).unwrap_err().message, message, "{value}");
    }
    assert_eq!(
        read("sorce=x").unwrap_err().hint.as_deref(),
        Some("did you mean source?")
    );
    assert_eq!(
        read("type=bnd").unwrap_err().hint.as_deref(),
        Some("did you mean bind?")
    );
}

#[test]
fn from_is_known_before_expansion() {
    assert_eq!(
        mount_from("type=bind,From=a,target=$X").as_deref(),
        Some("a")
    );
    assert_eq!(mount_from("from=a,from=b").as_deref(), Some("b"));
    assert_eq!(mount_from("target=from"), None);
    assert_eq!(mount_from("\"from=a"), None);
}

fn run(text: &str) -> Run {
    let mut dockerfile = parse(&format!("FROM a\nRUN {text}\n")).unwrap();
    match dockerfile.instructions.pop().unwrap().kind {
        Kind::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn scripts() {
    let text = |text: &str| Some(Script::Text(text.into()));
    let file = |name: &str, body: &str| {
        Some(Script::File {
            name: name.into(),
            body: body.to_owned(),
        })
    };
    assert_eq!(run("a  b").script(), text("a  b"));
    assert_eq!(run("").script(), text(""));
    assert_eq!(run("[\"a\"]").script(), None);
    assert_eq!(run("[\"a\"]").command, Command::Exec(vec!["a".into()]));
    assert_eq!(run("<<EOF\na $b\n\nEOF").script(), text("a $b\n\n"));
    assert_eq!(run("<<-EOF\n\ta\n\t\tb\n\tEOF").script(), text("a\nb\n"));
    assert_eq!(
        run("<<EOF\n#!/bin/x\na\nEOF").script(),
        file("EOF", "#!/bin/x\na\n")
    );
    assert_eq!(
        run("<<-EOF\n\t#!/bin/x\nEOF").script(),
        file("EOF", "#!/bin/x\n")
    );
    assert_eq!(
        run("cat <<EOF > /x\na\nEOF").script(),
        text("cat <<EOF > /x\na\nEOF")
    );
    assert_eq!(
        run("<<A cat <<-'B'\na\nA\n\tb\n\tB").script(),
        text("<<A cat <<-'B'\na\nA\n\tb\nB")
    );
    assert_eq!(
        run("--mount=type=tmpfs,target=/x <<EOF\na\nEOF").script(),
        text("a\n")
    );
}

#[test]
fn titles() {
    assert_eq!(run("<<EOF\n\n a\r\nb\nEOF").script_title(), some("a..."));
    assert_eq!(run("<<EOF\na\nEOF").script_title(), some("a"));
    assert_eq!(run("cat <<EOF\na\nEOF").script_title(), None);
    assert_eq!(run("a").script_title(), None);
}
