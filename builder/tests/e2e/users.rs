//! The same builds as root and as an ordinary user: with subordinate ids the same images, byte for byte, with one id as
//! much of them as there can be, and a word about the rest. These tests need root, as who else could be somebody else?

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::support::{Ended, TestSpace, entries, shell};

/// Ids that nobody on this machine has.
const RANGE: &str = "nobody:2000000:65536";

/// Everything that has an owner, a mode or attributes, from every kind of step. What would have the time of the build
/// gets another one.
const DOCKERFILE: &str = r#"
FROM busybox AS made
ARG SOURCE_DATE_EPOCH
COPY --chown=1000:65534 --chmod=4755 a /owned/a
COPY --chown=user d /owned/d/
COPY . /all/
ADD archive.tar /etc/
WORKDIR /proc
WORKDIR /sys
WORKDIR /dev
WORKDIR /
RUN --mount=type=cache,target=/c,uid=1000,gid=33,mode=0750 mkdir -p /t && cd /t && ls -ldn /c | cut -c1-32 > cache && \
    for id in 0 1 1000 65533 65534 65535; do echo $id > f$id; chown $id:$id f$id; chmod 4750 f$id; done; \
    ln f1000 hard; ln -s f1 link; chown -h 7:8 link; mkfifo pipe; chown 5:5 pipe; \
    mkdir -m 2770 group; chgrp 1000 group; touch group/x; mkdir -m 1777 sticky; chmod 6711 f65534; chmod 0 f65535; \
    busybox find /t -exec touch -hd @1000000000 {} +
RUN --mount=type=secret,id=s,uid=1000,gid=7,mode=0440 ls -ln /run/secrets/s | cut -c1-32 > /seen; cat /proc/self/status | \
    grep ^Cap >> /seen; chown -R 1000:1000 /owned; chmod u+s /owned/a; mv /t/group /t/moved; \
    rm -rf /all /etc/group; touch -d @1000000000 / /t /t/moved /seen /etc /run /owned
WORKDIR /home/user/work
USER 1000:33
WORKDIR deep/er
RUN id > id && touch mine && mkdir dir && ln mine dir/hard && umask >> id && touch -d @1000000000 id mine dir .
FROM busybox
COPY --from=made / /
COPY --from=made --chown=33:34 /t/ /t2/
COPY --from=made --link /owned /linked/
COPY <<FILE /inline
text
FILE
USER 65534:65534
WORKDIR /tmp/nobody
RUN --mount=from=made,source=/t,target=/m ls -ln /m | cut -c1-32 > list; touch -d @1000000000 list .
"#;

/// Runs `lapstrake ARGUMENTS` as nobody, to whom `/etc/subuid` gives `ranges`. The space is nobody's afterwards.
fn as_nobody(space: &TestSpace, ranges: &str, arguments: &[&str]) -> Ended {
    let program = env!("CARGO_BIN_EXE_lapstrake");
    fs::write(space.path("../ranges"), format!("{ranges}\n")).unwrap();
    // By another process: a file that this one had open for writing, children of other tests may still have so.
    let script = format!(
        "test -e lapstrake || cp {program} lapstrake; chmod 755 .; chown -hR 65534:65534 ."
    );
    shell(&space.path(".."), &script);
    let script = "shift; mount --bind ../ranges /etc/subuid; mount --bind ../ranges /etc/subgid; \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups ../lapstrake \"$@\"";
    let script = format!("exec unshare -m sh -ec '{script}' sh \"$@\"");
    space.scripted(&script, arguments).output().unwrap().into()
}

/// An archive of a file that is somebody else's, has set-id bits, an attribute and capabilities.
fn archive() -> Vec<u8> {
    // Version 2, effective, CAP_NET_RAW: see capabilities(7).
    let mut capability = [0; 20];
    capability[..6].copy_from_slice(&[1, 0, 0, 2, 0, 0x20]);
    let attributes: [(&str, &[u8]); 2] = [
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.note", b"text"),
    ];
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_pax_extensions(attributes).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o6755);
    header.set_uid(1234);
    header.set_gid(4321);
    header.set_mtime(1_500_000_000);
    header.set_size(1);
    archive
        .append_data(&mut header, "capable", b"x".as_slice())
        .unwrap();
    archive.into_inner().unwrap()
}

/// A space with what [`DOCKERFILE`] reads. Its files have modes and times that no umask decides.
fn space() -> TestSpace {
    let space = TestSpace::with(DOCKERFILE);
    space.write("a", "a\n");
    space.write("d/b", "b\n");
    space.write("../secret", "hush");
    fs::write(space.path("archive.tar"), archive()).unwrap();
    let script = "ln -s b d/link; chmod 600 d/b; chmod 4755 a; chmod 755 . d; chmod 644 Dockerfile archive.tar; \
                  find . -exec touch -hd @1500000000 {} +";
    shell(&space.path("."), script);
    space
}

const BUILD: [&str; 6] = [
    "build",
    "--progress=plain",
    "--build-arg=SOURCE_DATE_EPOCH=1600000000",
    "--secret=id=s,src=../secret",
    "--output=type=oci,compression=uncompressed,dest=../out",
    ".",
];

/// What is in the layers of an OCI archive, a line each.
fn members(archive: &[u8]) -> BTreeSet<String> {
    let blobs = entries(archive).into_values().map(|entry| entry.content);
    let layers = blobs.filter(|blob| blob.get(257..262) == Some(b"ustar"));
    let lines = layers.flat_map(|blob| {
        let entries = entries(&blob).into_iter();
        entries
            .map(move |(path, entry)| format!("{path}: {entry:?}"))
            .collect::<Vec<_>>()
    });
    lines.collect()
}

#[test]
fn with_subordinate_ids_images_are_byte_for_byte_those_of_root() {
    let root = space();
    let ended = root.run(&BUILD);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // What takes its time from the clock shall be found.
    std::thread::sleep(Duration::from_millis(1100));
    let user = space();
    let ended = as_nobody(&user, RANGE, &BUILD);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(user.is_clean() && !ended.stderr.contains("one id"));
    let (root, user) = [root, user]
        .map(|space| fs::read(space.path("../out")).unwrap())
        .into();
    let (of_root, of_user) = (members(&root), members(&user));
    let differ: Vec<_> = of_root.symmetric_difference(&of_user).collect();
    assert!(root == user, "{differ:#?}");
    let held = |text: &str| {
        user.windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(
        held("SCHILY.xattr.security.capability") && held("user.note"),
        "attributes are missing"
    );
}

#[test]
fn with_one_id_what_is_lost_is_said_once_and_what_cannot_be_is_refused() {
    let lossy = "FROM busybox\nCOPY . /all/\nWORKDIR /w\nRUN touch x && ls -ln x > owner\n";
    let space = TestSpace::with(lossy);
    let arguments = ["build", "--progress=plain", "-o", "../out", "."];
    let ended = as_nobody(&space, "", &arguments);
    let said = &ended.stderr;
    assert_eq!(ended.code, Some(0), "{said}");
    assert_eq!(said.matches("one id").count(), 1, "{said}");
    assert!(
        said.contains("install uidmap") && said.contains("/etc/subuid"),
        "{said}"
    );
    assert!(space.read("../out/w/owner").contains(" 0        0 "));
    // What was made without owners is not taken by a build that has them.
    let again = as_nobody(&space, RANGE, &arguments);
    assert!(
        again.code == Some(0) && !again.stderr.contains("CACHED"),
        "{}",
        again.stderr
    );
    assert!(!again.stderr.contains("one id"), "{}", again.stderr);
    let cached = as_nobody(&space, "", &arguments);
    assert!(
        !cached.stderr.contains("one id"),
        "nothing was worked: {}",
        cached.stderr
    );

    for step in [
        "COPY --chown=1000 . /x/",
        "USER 1000\nWORKDIR /x",
        "USER 1000\nRUN true",
        "RUN --mount=type=cache,target=/c,uid=1000 true",
        "RUN --mount=type=secret,id=s,uid=1000 true",
    ] {
        let space = TestSpace::with(&format!("FROM busybox\n{step}\n"));
        space.write("../secret", "hush");
        let ended = as_nobody(&space, "", &["build", "--secret=id=s,src=../secret", "."]);
        assert_eq!(ended.code, Some(1), "{step}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("1000") && ended.stderr.contains("/etc/subuid"),
            "{step}: {}",
            ended.stderr
        );
    }
    let space = TestSpace::with("FROM busybox\nCOPY --chown=70000 . /x/\n");
    let ended = as_nobody(&space, RANGE, &["build", "."]);
    assert!(
        ended.stderr.contains("70000:70000"),
        "too large: {}",
        ended.stderr
    );
}

#[test]
fn the_store_of_an_ordinary_user_is_in_the_home_directory() {
    let space = TestSpace::with("FROM busybox\nRUN true\n").env("LAPSTRAKE_ROOT", "");
    let home = space.path("..").canonicalize().unwrap();
    let wanted = home.join(".local/share/lapstrake");
    let ended = as_nobody(&space, RANGE, &["build", "--progress=plain", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(wanted.join("version").exists());
    let told = as_nobody(&space, RANGE, &["info"]).text();
    assert!(told.contains(&format!(" {}\n", wanted.display())), "{told}");
    let space = space.env("XDG_DATA_HOME", home.join("data").display().to_string());
    let told = as_nobody(&space, RANGE, &["info"]).text();
    assert!(
        told.contains(&format!(" {}\n", home.join("data/lapstrake").display())),
        "{told}"
    );
}

#[test]
fn few_threads_are_enough_or_there_is_one_error() {
    // Nobody else has threads that count.
    const USER: &str = "64321";
    let space = TestSpace::with("FROM busybox\nCOPY . /all/\nRUN touch /a\nRUN touch /b\n");
    for number in 0..200 {
        space.write(&format!("d{}/{number}", number % 20), "x");
    }
    let program = env!("CARGO_BIN_EXE_lapstrake");
    let script = format!("cp {program} lapstrake; chmod 755 .; chown -hR {USER}:{USER} .");
    shell(&space.path(".."), &script);
    let script = format!(
        "limit=$2; shift 2; exec setpriv --reuid={USER} --regid={USER} --clear-groups prlimit --nproc=$limit ../lapstrake \"$@\""
    );
    for limit in (1..12).chain([30]) {
        let arguments = [
            &limit.to_string(),
            "build",
            "--progress=plain",
            "--no-cache",
            "--output=type=oci,dest=../out.tar",
            ".",
        ];
        let command = space.scripted(&script, &arguments).output().unwrap();
        let ended = Ended::from(command);
        assert!(
            !ended.stderr.contains("panicked"),
            "{limit}: {}",
            ended.stderr
        );
        match ended.code {
            Some(0) => {}
            Some(1) if limit < 12 => {
                let errors = ended.stderr.matches("\nerror: ").count();
                assert!(
                    errors == 1 || ended.stderr.starts_with("error: "),
                    "{limit}: {}",
                    ended.stderr
                );
                assert!(
                    ended.stderr.contains("ulimit -u"),
                    "{limit}: {}",
                    ended.stderr
                );
            }
            _ => panic!("{limit}: {ended:?}"),
        }
    }
}
