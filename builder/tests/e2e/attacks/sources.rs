//! Servers of files and repositories, and names of them, that want something else than a build.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::registry::{Auth, Registry, Reply};
use super::super::support::{TestSpace, archive, shell};
use super::images::Forged;
use super::{Canary, failed};

#[test]
fn files_of_a_server() {
    let server = Registry::start(Auth::Open);
    let space = TestSpace::empty().env("LAPSTRAKE_TIMEOUT", "0.4");
    let canary = Canary::new(&space);
    let away = format!("file://{}", canary.path("secret"));
    server.hook(move |request| {
        let body = vec![b'x'; 100_000];
        Some(match request.path.as_str() {
            "/loop" => Reply::new(302).header("location", "/loop"),
            "/away" => Reply::new(302).header("location", &away),
            "/named" => Reply::new(200)
                .header(
                    "content-disposition",
                    "attachment; filename=\"../../../escaped\"",
                )
                .body("text"),
            "/silent" => Reply::new(200).stall(Duration::from_secs(60)),
            "/stalled" => Reply::new(200)
                .body(body)
                .slowly(9000, Duration::from_secs(60)),
            "/cut" => Reply::new(200).body(body).cut(9000),
            "/..%2f..%2fescaped" => Reply::new(200).body("text"),
            _ => Reply::new(404),
        })
    });
    let host = server.host();
    let away = format!("file://{}", canary.path("secret"));
    let cases = [
        (format!("http://{host}/loop"), "more than 10 times"),
        (format!("http://{host}/away"), "neither http nor https"),
        (format!("http://{host}/silent"), "nothing came for 0.4 s"),
        (format!("http://{host}/stalled"), "nothing came for 0.4 s"),
        (format!("http://{host}/cut"), "fetch http"),
        (format!("http://{host}/missing"), "404"),
        (away, "Dockerfile:2"),
    ];
    for (url, expected) in cases {
        space.write("Dockerfile", format!("FROM scratch\nADD {url} /x\n"));
        let start = Instant::now();
        let ended = space.run(&["build", "--progress=plain", "-o", "../out", "."]);
        failed(&space, &url, &ended, expected);
        assert!(
            ended.stderr.contains("Dockerfile:2"),
            "{url}: {}",
            ended.stderr
        );
        assert!(!space.path("../out").exists(), "{url}");
        assert!(start.elapsed() < Duration::from_secs(20), "{url}");
        canary.check(&url, &ended);
    }
    for path in ["named", "..%2f..%2fescaped"] {
        space.write(
            "Dockerfile",
            format!("FROM scratch\nADD http://{host}/{path} /a/b/\n"),
        );
        let ended = space.run(&["build", "--progress=plain", "-o", "-", "."]);
        if ended.code == Some(0) {
            let files = super::super::support::entries(&ended.stdout);
            assert!(
                files
                    .keys()
                    .all(|found| found.starts_with("a") && !found.contains("..")),
                "{files:?}"
            );
        }
        canary.check(path, &ended);
    }
}

#[test]
fn names_of_repositories() {
    let space = TestSpace::empty();
    let canary = Canary::new(&space);
    let bait = canary.path("vdir/made");
    for remote in [
        format!("ext::sh -c touch%20{bait}"),
        format!("--upload-pack=touch {bait} https://x.invalid/a.git"),
        format!("ssh://-oProxyCommand=touch${{IFS}}{bait}/a.git"),
        format!("git@-oProxyCommand=touch {bait}:a.git"),
        format!("file://{}/.git", canary.path("vdir")),
        format!("https://x.invalid/a.git#--upload-pack=touch {bait}"),
        format!("https://x.invalid/a.git#main:../../{bait}"),
    ] {
        space.write(
            "Dockerfile",
            format!("FROM scratch\nADD [\"{remote}\", \"/x\"]\n"),
        );
        let ended = space.run(&["build", "--progress=plain", "."]);
        assert_eq!(ended.code, Some(1), "{remote}");
        canary.check(&remote, &ended);
        let ended = space.run(&["build", "--progress=plain", &remote]);
        assert_eq!(ended.code, Some(1), "{remote}");
        canary.check(&remote, &ended);
    }
}

#[test]
fn repositories_that_do_more_than_hold_files() {
    let space = TestSpace::empty();
    let canary = Canary::new(&space);
    let folder = space.path("../git");
    fs::create_dir(&folder).unwrap();
    let bait = canary.path("vdir/made");
    let script = format!("
        git init -q -b main work; cd work; git config user.email a@b; git config user.name a
        ln -s {vdir} out; ln -s ../../../../.. up; mkdir real; ln -s real inside; echo a > real/file
        ln -s {secret} Dockerfile
        printf '* filter=bad\\n' > .gitattributes
        printf '[filter \"bad\"]\\n smudge = touch {bait}\\n[core]\\n fsmonitor = touch {bait}\\n' > .gitconfig
        git add .; git commit -qm first
        printf '[submodule \"a\"]\\n path = a\\n url = ext::sh -c \"touch {bait}\"\\n' > .gitmodules
        git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),a
        git add .gitmodules; git commit -qm second; git branch sub; git reset -q --hard HEAD~1
        cd ..; git clone -q --bare work repo.git; git -C repo.git update-server-info
        git clone -q --bare repo.git head.git; git -C head.git update-server-info
        printf 'ref: refs/heads/--upload-pack=touch {bait}\\n' > head.git/HEAD",
        vdir = canary.path("vdir"), secret = canary.path("secret"));
    shell(&folder, &script);
    let server = Registry::start(Auth::Open);
    server.hook(move |request| {
        let found = fs::read(folder.join(request.path.trim_start_matches('/')));
        Some(found.map_or(Reply::new(404), |bytes| Reply::new(200).body(bytes)))
    });
    let url = format!("http://{}/repo.git", server.host());
    for (source, expected) in [
        (
            format!("{url}#main:out"),
            "not a directory of the repository",
        ),
        (format!("{url}#main:up/etc"), "subdir"),
        (
            format!("{url}#main:inside"),
            "not a directory of the repository",
        ),
        (format!("{url}#sub"), "git"),
        (format!("http://{}/head.git", server.host()), ""),
    ] {
        space.write("Dockerfile", format!("FROM scratch\nADD {source} /x\n"));
        let ended = space.run(&["build", "--progress=plain", "-o", "../out", "."]);
        assert_eq!(ended.code, Some(1), "{source}: {}", ended.stderr);
        if expected != "subdir" {
            assert!(
                ended.stderr.contains(expected),
                "{source}: {}",
                ended.stderr
            );
        }
        canary.check(&source, &ended);
        assert!(space.is_clean(), "{source}");
    }
    // Its Dockerfile is a link out of it.
    let ended = space.run(&["build", "--progress=plain", &url]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    canary.check("Dockerfile", &ended);
    // Above its root there is nothing but its root.
    for (place, file) in [
        ("real", "x/file"),
        ("../../real", "x/file"),
        ("../..", "x/real/file"),
    ] {
        let text = format!("FROM scratch\nADD {url}#main:{place} /x/\n");
        space.write("Dockerfile", text);
        assert_eq!(space.files(&["."])[file], "a\n", "{place}");
    }
    canary.check("a directory of it", &space.run(&["build", "."]));
}

/// Programs of an image are run in it, never beside it.
#[test]
fn programs_of_an_image_do_not_help_to_build_it() {
    let registry = Registry::start(Auth::Open);
    let programs = [
        "bin/git",
        "bin/xz",
        "bin/gzip",
        "bin/unpigz",
        "bin/zstd",
        "bin/tar",
        "bin/pasta",
        "bin/newuidmap",
        "bin/ssh",
    ];
    let files: Vec<(&str, &str)> = programs
        .iter()
        .map(|path| (*path, "#!/bin/sh\ntouch /was-run\n"))
        .collect();
    let mut image = Forged::of_layer(&registry, "trojan", &archive(&files));
    image.config["config"]["Env"] = serde_json::json!([
        "PATH=/bin",
        "LD_PRELOAD=/bin/git",
        "GIT_SSH_COMMAND=/bin/ssh"
    ]);
    image.put(&registry, "trojan");
    let space = TestSpace::empty();
    let packed = super::super::support::compressed("xz", &archive(&[("inner", "x")]));
    space.write("a.tar.xz", packed);
    let text = format!(
        "FROM {}/trojan:v1\nADD a.tar.xz /\nADD http://127.0.0.1:9/a.git /git\n",
        registry.host()
    );
    space.write("Dockerfile", text);
    space.run(&["build", "."]);
    space.write(
        "Dockerfile",
        format!("FROM {}/trojan:v1\nADD a.tar.xz /\n", registry.host()),
    );
    let files = space.files(&["."]);
    assert!(
        files.contains_key("inner") && !files.contains_key("was-run"),
        "{files:?}"
    );
}

/// How a layout is bent, given its folder, its largest blob and a file outside; and what must be said of it.
type Trick = (&'static str, fn(&Path, &Path, &str), &'static str);

/// An image layout is somebody else's folder.
#[test]
fn layouts_with_links_and_pipes() {
    let space = TestSpace::with("FROM busybox\n");
    space.build(&[
        "-o",
        "type=oci,tar=false,dest=../good,name=image:latest",
        ".",
    ]);
    let canary = Canary::new(&space);
    let first = |folder: &Path| {
        let blobs = fs::read_dir(folder.join("blobs/sha256")).unwrap();
        let largest = blobs
            .map(|entry| entry.unwrap())
            .max_by_key(|entry| entry.metadata().unwrap().len());
        largest.unwrap().path()
    };
    let cases: [Trick; 6] = [
        (
            "blob is a link",
            |_, blob, secret| {
                fs::remove_file(blob).unwrap();
                symlink(secret, blob).unwrap();
            },
            "symbolic link",
        ),
        (
            "index is a link",
            |folder, _, secret| {
                fs::remove_file(folder.join("index.json")).unwrap();
                symlink(secret, folder.join("index.json")).unwrap();
            },
            "symbolic link",
        ),
        (
            "marker is a pipe",
            |folder, _, _| {
                fs::remove_file(folder.join("oci-layout")).unwrap();
                shell(folder, "mkfifo oci-layout");
            },
            "not a regular file",
        ),
        (
            "blobs is a link",
            |folder, _, _| {
                fs::rename(folder.join("blobs"), folder.join("other")).unwrap();
                symlink("other", folder.join("blobs")).unwrap();
            },
            "symbolic link",
        ),
        (
            "huge index",
            |folder, _, _| {
                fs::File::options()
                    .write(true)
                    .open(folder.join("index.json"))
                    .unwrap()
                    .set_len(1 << 30)
                    .unwrap();
            },
            "more than",
        ),
        (
            "blob cut",
            |_, blob, _| {
                fs::File::options()
                    .write(true)
                    .open(blob)
                    .unwrap()
                    .set_len(99)
                    .unwrap();
            },
            "99 bytes",
        ),
    ];
    for (name, bend, expected) in cases {
        shell(&space.path(".."), "rm -rf bad; cp -a good bad");
        let bad = space.path("../bad");
        bend(&bad, &first(&bad), &canary.path("secret"));
        let text = "FROM image\nWORKDIR /new\n";
        space.write("Dockerfile", text);
        shell(&space.path(".."), "rm -rf store");
        let start = Instant::now();
        let ended = space.run(&[
            "build",
            "--progress=plain",
            "--build-context=image=oci-layout://../bad",
            "-o",
            "../out",
            ".",
        ]);
        failed(&space, name, &ended, expected);
        canary.check(name, &ended);
        assert!(start.elapsed() < Duration::from_secs(20), "{name}");
    }
}
