//! Root file systems and Dockerfiles that lead steps, copies and mounts out of where they belong.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::super::support::{TestSpace, compressed};
use super::{Canary, SECRET};

/// What a Dockerfile may say with links of its own making; `OUT` is the canary's folder.
const TRAPS: &[(&str, &str)] = &[
    (
        "devices are a link",
        "RUN busybox rm -rf /dev && ln -s OUT/vdir /dev\nRUN echo x > /dev/null; ls /dev",
    ),
    (
        "null is a link",
        "RUN mkdir -p /a; ln -s OUT/secret /a/null\nRUN cat /dev/null /proc/kcore /proc/keys; echo x > /dev/null",
    ),
    (
        "proc is a link",
        "RUN busybox rmdir /proc; ln -s OUT/vdir /proc\nRUN ls /proc; cat /proc/self/status",
    ),
    (
        "sys is a file",
        "RUN busybox rmdir /sys; echo x > /sys\nRUN ls /sys",
    ),
    (
        "etc is a link",
        "RUN busybox mv /etc /old; ln -s OUT/vdir /etc\nRUN cat /etc/passwd; ls /etc",
    ),
    (
        "hosts is a link",
        "RUN ln -s OUT/secret /h\nCOPY --from=links hosts /etc/hosts\nRUN cat /etc/hosts; echo x >> /etc/hosts",
    ),
    (
        "passwd is a link",
        "COPY --from=links passwd /etc/passwd\nUSER canary-secret-word\nRUN cat /etc/passwd",
    ),
    (
        "passwd is a device",
        "COPY --from=links zero /etc/passwd\nUSER nobody\nRUN cat /etc/group",
    ),
    (
        "passwd is a pipe",
        "RUN rm /etc/passwd; busybox mkfifo /etc/passwd\nUSER user\nRUN true",
    ),
    (
        "working directory is a link",
        "RUN ln -s OUT/vdir /w\nWORKDIR /w/new\nRUN touch here; pwd",
    ),
    (
        "working directory leads up",
        "WORKDIR ../../../../OUT/vdir\nRUN touch here",
    ),
    (
        "working directory is a descriptor",
        "RUN ln -s /proc/self/fd/7 /w\nWORKDIR /w\nRUN ls ..",
    ),
    (
        "copy to a link",
        "RUN ln -s OUT/vdir /d; ln -s OUT/secret /f\nCOPY a /d/\nCOPY a /f\nCOPY a /d/inner/x",
    ),
    (
        "copy of a link",
        "RUN ln -s OUT/secret /l; ln -s OUT /d\nFROM busybox\nCOPY --from=0 /l /x\nCOPY --from=0 /d/secret /y",
    ),
    ("copy from above", "COPY ../canary/secret /x"),
    ("copy through the context", "COPY out/secret /x"),
    (
        "archive over a link",
        "RUN ln -s OUT/vdir /d\nADD links.tar /d/",
    ),
    (
        "archive with links",
        "ADD links.tar /\nRUN cat /out/secret; echo x > /out/vdir/x",
    ),
    (
        "bind of a link",
        "RUN --mount=type=bind,source=out,target=/m ls /m/; cat /m/secret",
    ),
    (
        "bind from above",
        "RUN --mount=type=bind,source=../canary,target=/m cat /m/secret",
    ),
    (
        "bind of a stage's link",
        "RUN ln -s OUT /l\nFROM busybox\nRUN --mount=from=0,source=/l,target=/m,rw cat /m/secret; touch /m/x",
    ),
    (
        "target is a link",
        "RUN ln -s OUT/vdir /t\nRUN --mount=type=tmpfs,target=/t/new --mount=type=cache,target=/t/cache touch /t/x",
    ),
    (
        "target leads up",
        "RUN --mount=type=cache,target=/../../OUT/vdir touch OUT/vdir/x",
    ),
    (
        "target is everything",
        "RUN --mount=type=tmpfs,target=/ ls /",
    ),
    (
        "target in proc",
        "RUN --mount=type=cache,target=/proc/self touch /proc/self/x",
    ),
    (
        "cache id leads up",
        "RUN --mount=type=cache,id=../../../canary/vdir,target=/m touch /m/x; ls /m",
    ),
    (
        "cache of a link",
        "RUN ln -s OUT /l\nFROM busybox\nRUN --mount=type=cache,from=0,source=/l,target=/m cat /m/secret; touch /m/vdir/x",
    ),
    (
        "cache from above",
        "RUN --mount=type=cache,source=../../../../canary,target=/m cat /m/secret",
    ),
    (
        "secret over etc",
        "RUN --mount=type=secret,id=s,target=/etc cat /etc",
    ),
    (
        "stub becomes a link",
        "RUN --mount=type=tmpfs,target=/stub/inner busybox mount; busybox umount /stub/inner; busybox rm -rf /stub; ln -s OUT /stub",
    ),
    (
        "stub beside the host's",
        "RUN --mount=type=bind,source=a,target=/canary/empty true",
    ),
    (
        "option of mount",
        "RUN --mount=type=bind,source=a,target=/m,bind-propagation=shared cat /m",
    ),
    (
        "more options of mount",
        "RUN --mount=type=bind,source=a,target=/m,dev,suid,exec cat /m",
    ),
    (
        "descriptors of the builder",
        "RUN for n in 3 4 5 6 7 8 9 10 11 12; do ls /proc/self/fd/$n/; cat /proc/self/fd/$n; done; ls /proc/1/root/../..",
    ),
    (
        "program of the builder",
        "RUN for p in /proc/[0-9]*/exe /proc/self/exe; do echo x > $p; done; cat /proc/*/root/OUT/secret",
    ),
    (
        "devices of the host",
        "RUN for d in 'b 8 0' 'b 254 0' 'c 1 1' 'c 10 200'; do busybox mknod /n $d && cat /n; rm -f /n; done",
    ),
    (
        "control of the kernel",
        "RUN echo x > /proc/sys/kernel/core_pattern; echo x > /proc/sysrq-trigger; echo x > /sys/kernel/uevent_helper; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x",
    ),
    (
        "mounting",
        "RUN busybox mount -t tmpfs x /mnt; busybox unshare -m true; busybox chroot / true; busybox mount -t proc x /mnt",
    ),
];

#[test]
fn nothing_leads_out() {
    let space = TestSpace::empty();
    let canary = Canary::new(&space);
    space.write("a", "a");
    space.write("s", "secret");
    symlink(canary.path(""), space.path("out")).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut link = |name: &str, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
    };
    link("out", &canary.path(""));
    link("hosts", &canary.path("secret"));
    link("passwd", &canary.path("passwd"));
    link("zero", "/dev/zero");
    space.write("links.tar", tar.into_inner().unwrap());
    for (name, text) in TRAPS {
        let text = text.replace("OUT", canary.path("").trim_end_matches('/'));
        let text = format!("FROM scratch AS links\nADD links.tar /\nFROM busybox\n{text}\n");
        let text = if text.contains("--from=0") || text.contains("from=0") {
            format!(
                "FROM busybox\n{}",
                text.split_once("FROM busybox\n").unwrap().1
            )
        } else {
            text
        };
        space.write("Dockerfile", text);
        let start = Instant::now();
        let arguments = [
            "build",
            "--progress=plain",
            "--secret=id=s,src=s",
            "-o",
            "-",
            ".",
        ];
        let ended = space.run(&arguments);
        assert!(
            matches!(ended.code, Some(0 | 1)),
            "{name}: {}",
            ended.stderr
        );
        assert!(
            !ended.stderr.contains("panicked"),
            "{name}: {}",
            ended.stderr
        );
        let shown = ended
            .stderr
            .replace(&format!("USER {SECRET}"), "USER")
            .replace(&format!("user \"{SECRET}\""), "user");
        canary.check(
            name,
            &super::super::support::Ended {
                stderr: shown,
                ..ended
            },
        );
        assert!(start.elapsed() < Duration::from_secs(30), "{name}");
        assert!(space.is_clean(), "{name}");
        assert!(
            !space.path("new").exists() && space.path("a").exists(),
            "{name}"
        );
    }
}

/// A context whose directories become links while they are read.
#[test]
fn a_context_that_changes_meanwhile() {
    let space = TestSpace::with("FROM scratch\nCOPY d /d\nCOPY d/secret /x\n");
    let canary = Canary::new(&space);
    space.write("d/secret", "harmless");
    space.write("d/inner/file", "harmless");
    symlink(canary.path(""), space.path("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (space.path("d"), space.path("link"));
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..12 {
            let ended = space.run(&["build", "--progress=plain", "--no-cache", "-o", "-", "."]);
            canary.check("swapped directory", &ended);
            assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        }
        stop.store(true, Ordering::Relaxed);
    });
    // A file that grows or goes away meanwhile: the build names it, or has all of it.
    space.write("Dockerfile", "FROM scratch\nCOPY files /\n");
    for number in 0..300 {
        space.write(&format!("files/{number}"), "x".repeat(3000));
    }
    stop.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let path = space.path("files/150");
                let _ = fs::remove_file(&path);
                let _ = fs::write(&path, "y".repeat(9000));
            }
        });
        for _ in 0..8 {
            let ended = space.run(&["build", "--progress=plain", "-o", "-", "."]);
            match ended.code {
                Some(0) => assert!(ended.stdout.len() > 300 * 3000),
                _ => super::failed(&space, "changing file", &ended, "files/150"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Two stages of one build, of which one turns a directory of their shared cache into a link, again and again.
#[test]
fn a_cache_that_is_swapped_meanwhile() {
    let space = TestSpace::empty();
    let canary = Canary::new(&space);
    let text = format!(
        "FROM busybox AS swapper\n\
         RUN --mount=type=cache,id=c,target=/c cd /c; for n in 1 2 3 4 5 6 7 8 9; do for m in 1 2 3 4 5 6 7 8 9; do \\
             mkdir -p d; rm -rf d; ln -s {out} d; rm d; done; done; busybox mkdir -p /c/d; echo {{}} > /done\n\
         FROM busybox AS user\n\
         RUN --mount=type=cache,id=c,target=/c for n in 1 2 3 4 5 6 7 8 9; do cat /c/d/secret; touch /c/d/x; done; true\n\
         RUN --mount=type=cache,id=c,source=d,target=/m ls /m; cat /m/secret; touch /m/x; true\n\
         FROM busybox\nCOPY --from=swapper /done /\nCOPY --from=user /etc/passwd /p\n",
        out = canary.path("")
    );
    space.write("Dockerfile", text);
    for _ in 0..3 {
        let ended = space.run(&["build", "--progress=plain", "--no-cache", "-o", "-", "."]);
        canary.check("swapped cache", &ended);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

/// An archive on standard input is somebody else's context.
#[test]
fn a_context_on_standard_input_that_leads_out() {
    let space = TestSpace::empty();
    let canary = Canary::new(&space);
    let make = |files: &[(&str, &str)], links: &[(&str, String, tar::EntryType)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, target, kind) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
        }
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        tar.into_inner().unwrap()
    };
    let dockerfile = ("Dockerfile", "FROM scratch\nCOPY . /\n");
    let secret = canary.path("secret");
    let (soft, hard) = (tar::EntryType::Symlink, tar::EntryType::Link);
    for (name, input) in [
        (
            "link to a directory",
            make(
                &[dockerfile, ("l/escaped", "x")],
                &[("l", canary.path("vdir"), soft)],
            ),
        ),
        (
            "hard link out",
            make(&[dockerfile], &[("h", secret.clone(), hard)]),
        ),
        (
            "hard link up",
            make(
                &[dockerfile],
                &[("h", format!("{}{secret}", "../".repeat(20)), hard)],
            ),
        ),
        (
            "Dockerfile is a link",
            make(&[], &[("Dockerfile", secret.clone(), soft)]),
        ),
        (
            "Dockerfile is a hard link",
            make(&[], &[("Dockerfile", secret, hard)]),
        ),
    ] {
        for input in [compressed("gzip", &input), input] {
            let ended = space.run_with(&["build", "--progress=plain", "-o", "-", "-"], &input);
            canary.check(name, &ended);
            assert!(
                !ended.stderr.contains("panicked"),
                "{name}: {}",
                ended.stderr
            );
            assert!(space.is_clean(), "{name}");
        }
    }
}
