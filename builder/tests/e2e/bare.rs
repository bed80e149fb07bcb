//! `--isolation=none`, as root of a container that may not mount anything.

use std::process::Command;

use super::support::{TestSpace, entries};

/// Without the right to mount, to make namespaces, or to read around permissions of others' mounts.
const DROPPED: &str = "-sys_admin,-sys_ptrace,-net_admin,-sys_resource";

fn build(space: &TestSpace, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new("setpriv");
    command
        .args([
            format!("--bounding-set={DROPPED}"),
            format!("--inh-caps={DROPPED}"),
        ])
        .arg(env!("CARGO_BIN_EXE_lapstrake"))
        .args(["build", "--progress=plain"])
        .args(arguments);
    space.prepare(&mut command);
    command.output().unwrap()
}

const DOCKERFILE: &str = "\
FROM busybox AS tools
RUN echo from-stage > /tool && mkdir -p /deep/er && echo x > /deep/er/file && rm /etc/group
FROM busybox
COPY a /copied/
ADD archive.tar /etc/
RUN --mount=from=tools,target=/t cat /t/tool > /bind; ls /t/etc > /whiteout
RUN --mount=type=cache,target=/cache,id=c echo one >> /cache/log
RUN --mount=type=cache,target=/cache,id=c wc -l < /cache/log > /lines
RUN --mount=type=tmpfs,target=/tmp/empty touch /tmp/empty/x
RUN --mount=type=secret,id=s,target=/run/key,mode=0400 stat -c %a /run/key > /secret; cat /run/key | wc -c >> /secret
RUN rm /copied/a /bin/sleep && echo > /dev/null && mkdir /copied/new && chmod 700 /tmp
WORKDIR /place/here
USER user
RUN id > /tmp/id || true; sleep 1 & id -u
";

#[test]
fn images_without_namespaces_are_the_same() {
    let space = TestSpace::with(DOCKERFILE);
    space.write("a", "context\n");
    space.write("../secret", "hush");
    std::fs::write(
        space.path("archive.tar"),
        super::support::archive(&[("conf.d/x", "y"), ("hello", "z")]),
    )
    .unwrap();
    let out = |name: &str| space.path(&format!("../{name}.tar"));
    let arguments = |name: &str| {
        [
            "--secret=id=s,src=../secret".to_owned(),
            "--build-arg=SOURCE_DATE_EPOCH=1".to_owned(),
            format!("--output=type=tar,dest={}", out(name).display()),
            ".".to_owned(),
        ]
    };
    let with = arguments("with");
    space.build(&with.each_ref().map(String::as_str));
    let without = arguments("without");
    // A store of its own, which was made without the right to set overlayfs's own attributes.
    let mut all = vec!["--isolation=none", "--root=../other"];
    all.extend(without.iter().map(String::as_str));
    let output = build(&space, &all);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("steps are not confined"), "{said}");
    let read = |name: &str| {
        let all = entries(&std::fs::read(out(name)).unwrap());
        all.into_iter()
            .map(|(path, entry)| (path, (entry.kind, entry.mode, entry.owner, entry.content)))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let (with, without) = (read("with"), read("without"));
    assert_eq!(
        with.keys().collect::<Vec<_>>(),
        without.keys().collect::<Vec<_>>()
    );
    for (path, entry) in &with {
        assert_eq!(Some(entry), without.get(path), "{path}");
    }
    assert!(!without.contains_key("copied/a") && !without.contains_key("run/key"));
}

#[test]
fn what_takes_namespaces_is_refused_without_them() {
    let space = TestSpace::with("FROM busybox\nRUN --network=none true\n");
    let output = build(&space, &["--isolation=none", "."]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("no network") && said.contains("there are none"),
        "{said}"
    );
    let error = space.fails(&["--isolation=hyperv", "."]);
    assert!(error.contains("use default or none"), "{error}");
}

/// More directories, and more files of several names, than a process may open; and names that layers' files get while
/// they are read.
#[test]
fn copies_of_layers_keep_few_files_open() {
    let space = TestSpace::with(
        "FROM busybox AS b\n\
         RUN mkdir /m; i=0; while [ $i -lt 300 ]; do mkdir /m/d$i; echo $i > /m/d$i/f; ln /m/d$i/f /m/h$i; i=$((i+1)); done\n\
         FROM b\nCOPY --from=b /m /q\nRUN cat /q/d299/f /q/h299 /m/h299 > /read\n",
    );
    let arguments = [
        "build",
        "--isolation=none",
        "-o",
        "type=tar,dest=out.tar",
        ".",
    ];
    let output = space
        .scripted("ulimit -n 200; exec \"$@\"", &arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let all = entries(&std::fs::read(space.path("out.tar")).unwrap());
    assert_eq!(
        all["read"].content,
        b"299
299
299
"
    );
}
