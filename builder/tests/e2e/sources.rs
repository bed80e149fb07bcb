//! What builds read: contexts of every kind, named ones, and what ADD fetches.

use std::path::Path;

use super::registry::{Auth, Registry, Reply};
use super::support::{TestSpace, archive, compressed, entries, shell};

/// A server of files: the paths of `folder`, and nothing else.
fn server(folder: &Path) -> Registry {
    let server = Registry::start(Auth::Open);
    let folder = folder.to_owned();
    server.hook(move |request| {
        let path = folder.join(request.path.trim_start_matches('/'));
        let found = std::fs::read(path).map(|bytes| Reply::new(200).body(bytes));
        Some(found.unwrap_or_else(|_| Reply::new(404)))
    });
    server
}

/// A repository with the branch `main`, the tag `v1` and the branch `topic`, ready to be served as `/repo.git`.
pub(super) fn repository(space: &TestSpace) -> Registry {
    let folder = space.path("../git");
    std::fs::create_dir(&folder).unwrap();
    let script = "
        git init -q -b main work; cd work
        git config user.email a@b; git config user.name a
        mkdir sub; printf 'FROM busybox\\nCOPY . /in/\\n' > Dockerfile; cp Dockerfile sub/
        echo one > file; echo two > sub/file; ln -s file link; echo x > run; chmod 755 run
        git add .; git commit -qm first; git tag -am v1 v1
        git checkout -qb topic; echo topic > file; git commit -qam second; git checkout -q main
        cd ..; git clone -q --bare work repo.git; git -C repo.git update-server-info";
    shell(&folder, script);
    server(&folder)
}

#[test]
fn modes_of_a_checkout_do_not_depend_on_the_umask() {
    let space = TestSpace::empty();
    let repository = repository(&space);
    let url = format!("http://{}/repo.git", repository.host());
    let added = format!("FROM busybox\nADD {url} /added/\nCOPY run file /copied/\n");
    space.write("run", "x");
    space.write("file", "x");
    space.write("Dockerfile", added);
    for arguments in [vec![url.as_str()], vec!["."]] {
        let modes = ["022", "077"].map(|umask| {
            let program = env!("CARGO_BIN_EXE_lapstrake");
            let store = space.path("../store").display().to_string();
            let mirrors = format!("docker.io={}", super::support::base_images().host());
            let script = format!(
                "umask {umask}; LAPSTRAKE_MIRRORS={mirrors} {program} --root {store}{umask} build --progress=quiet \
                 --build-arg SOURCE_DATE_EPOCH=1 -o type=tar,dest=- {} | tar -tv | grep -E 'in/|added/'",
                arguments[0]
            );
            let listing = shell(&space.path("."), &script);
            let mode_and_name = |line: &str| {
                let mut words = line.split_whitespace();
                let mode = words.next().unwrap_or_default().to_owned();
                (words.last().unwrap_or_default().to_owned(), mode)
            };
            listing.lines().map(mode_and_name).collect::<Vec<_>>()
        });
        assert!(modes[0].len() > 3, "{modes:?}");
        assert_eq!(modes[0], modes[1], "{arguments:?}");
    }
}

#[test]
fn an_archive_on_standard_input_is_the_context() {
    let space = TestSpace::empty();
    let dockerfile = "FROM busybox\nCOPY a .dockerignore /out/\n";
    let files = [
        ("Dockerfile", "FROM nowhere"),
        ("sub/Other", dockerfile),
        ("a", "A"),
        (".dockerignore", "a"),
    ];
    let plain = archive(&files);
    let inputs = ["gzip", "bzip2", "xz", "zstd"].map(|program| compressed(program, &plain));
    for input in inputs.iter().chain([&plain]) {
        let built = space.files_with(&["-f", "sub/Other", "-"], input);
        assert_eq!(built["out/a"], "A");
    }
    let error = space.fails_with(&["-f", "nope", "-"], &plain);
    assert!(error.contains("nope"), "{error}");
    let error = space.fails_with(&["-f", "../../../../../etc/passwd", "-"], &plain);
    assert!(error.contains("error: "), "{error}");
}

#[test]
fn a_dockerfile_on_standard_input() {
    let space = TestSpace::empty();
    space.write("a", "A");
    space.write("ignored", "");
    space.write(".dockerignore", "ignored");
    let alone = space.files_with(&["-"], b"FROM busybox\nRUN echo ran > /x\n");
    assert_eq!(alone["x"], "ran\n");
    let error = space.fails_with(&["-"], b"FROM busybox\nCOPY a /\n");
    assert!(
        error.contains("Dockerfile:2") && error.contains("\"/a\": not found"),
        "{error}"
    );
    let built = space.files_with(&["-f", "-", "."], b"FROM busybox\nCOPY . /in/\n");
    assert_eq!(built["in/a"], "A");
    assert!(!built.contains_key("in/ignored"));
    let error = space.fails_with(&["-f", "-", "-"], b"FROM busybox\n");
    assert!(
        error.contains("standard input") || error.contains("stdin"),
        "{error}"
    );
    let error = space.fails_with(&["-"], b"");
    assert!(error.contains("error"), "{error}");
}

#[test]
fn a_dockerfile_outside_the_context_has_its_own_ignore_list() {
    let space = TestSpace::empty();
    space.write("../Other.Dockerfile", "FROM scratch\nCOPY . /\n");
    space.write("../Other.Dockerfile.dockerignore", "*\n!kept\n");
    space.write(".dockerignore", "kept");
    space.write("kept", "k");
    space.write("dropped", "d");
    let built = space.files(&["-f", "../Other.Dockerfile", "."]);
    assert_eq!(built.keys().collect::<Vec<_>>(), ["kept"]);
    let error = space.fails(&["."]);
    assert!(error.contains("there is no Dockerfile in ."), "{error}");
    space.write("Dockerfile", "FROM scratch\nCOPY kept /\n");
    let error = space.fails(&["."]);
    assert!(
        error.contains("Dockerfile:2") && error.contains("not found"),
        "{error}"
    );
    assert!(error.contains("CopyIgnoredFile"), "{error}");
}

#[test]
fn a_repository_is_the_context() {
    let space = TestSpace::empty();
    let server = repository(&space);
    let url = format!("http://{}/repo.git", server.host());
    let built = space.files(&[&url]);
    assert_eq!(
        (&*built["in/file"], &*built["in/sub/file"]),
        ("one\n", "two\n")
    );
    assert!(
        !built.keys().any(|path| path.contains(".git/")),
        "{built:?}"
    );
    let kept = space.files(&["--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &url]);
    assert!(kept.contains_key("in/.git/HEAD"), "{kept:?}");
    assert_eq!(space.files(&[&format!("{url}#:sub")])["in/file"], "two\n");
    assert_eq!(
        space.files(&[&format!("{url}#topic")])["in/file"],
        "topic\n"
    );
    assert_eq!(
        space.files(&[&format!("{url}?branch=topic&subdir=sub")])["in/file"],
        "two\n"
    );
    assert_eq!(
        space.files(&["-f", "sub/Dockerfile", &format!("{url}#v1")])["in/file"],
        "one\n"
    );
    let error = space.fails(&[&format!("{url}#nope")]);
    assert!(
        error.contains("no branch, tag or commit \"nope\""),
        "{error}"
    );
    let error = space.fails(&[&format!("{url}#main:nope")]);
    assert!(error.contains("no directory \"nope\""), "{error}");
    let error = space.fails(&[&format!("{url}?ref=main&commit=0123abcd")]);
    assert!(error.contains("not 0123abcd"), "{error}");
    let error = space.fails(&["file:///tmp/repo.git"]);
    assert!(error.contains("file:///tmp/repo.git"), "{error}");
}

/// Names of commits may be longer ones.
#[test]
fn a_repository_of_sha_256() {
    let space = TestSpace::empty();
    let folder = space.path("../git");
    std::fs::create_dir(&folder).unwrap();
    let script = "
        git init -q --object-format=sha256 -b main work; cd work; echo one > file; git add .
        git -c user.email=a@b -c user.name=a commit -qm first
        cd ..; git clone -q --bare work repo.git; git -C repo.git update-server-info";
    shell(&folder, script);
    let commit = shell(&folder, "git -C work rev-parse HEAD");
    let server = server(&folder);
    let url = format!("http://{}/repo.git", server.host());
    let commit = commit.trim();
    space.write(
        "Dockerfile",
        format!("FROM scratch\nADD --checksum={commit} {url}#main /a/\nADD {url}#{commit} /b/\n"),
    );
    let added = space.files(&["."]);
    assert_eq!([&added["a/file"], &added["b/file"]], ["one\n"; 2]);
}

#[test]
fn files_of_a_repository_may_have_the_time_of_the_commit() {
    let space = TestSpace::empty();
    let server = repository(&space);
    let url = format!("http://{}/repo.git", server.host());
    let committed = shell(&space.path("../git/work"), "git log -1 --format=%ct v1");
    let committed: u64 = committed.trim().parse().unwrap();
    // The checkout must not fall into the second of the commit.
    let second = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_secs()
    };
    while second() == committed {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    space.write(
        "Dockerfile",
        format!("FROM scratch\nADD {url}?tag=v1&mtime=commit /of/\nADD {url}?tag=v1 /now/\n"),
    );
    let added = entries(&space.build(&["-o", "-", "."]).stdout);
    for path in ["of", "of/file", "of/link", "of/sub", "of/sub/file"] {
        assert_eq!(added[path].mtime, committed, "{path}");
    }
    assert!(added["now/file"].mtime > committed);
    let copied = entries(
        &space
            .build(&["-o", "-", &format!("{url}?mtime=commit")])
            .stdout,
    );
    assert_eq!(copied["in/sub/file"].mtime, committed);
}

#[test]
fn a_url_is_the_context() {
    let space = TestSpace::empty();
    let folder = space.path("../www");
    std::fs::create_dir(&folder).unwrap();
    let server = server(&folder);
    let url = format!("http://{}", server.host());
    let tar = archive(&[("Dockerfile", "FROM scratch\nCOPY a /b\n"), ("a", "A")]);
    std::fs::write(folder.join("context.tar.gz"), compressed("gzip", &tar)).unwrap();
    std::fs::write(folder.join("alone"), "FROM busybox\nRUN echo alone > /x\n").unwrap();
    std::fs::write(folder.join("other"), "FROM scratch\nCOPY a /other\n").unwrap();
    assert_eq!(space.files(&[&format!("{url}/context.tar.gz")])["b"], "A");
    assert_eq!(space.files(&[&format!("{url}/alone")])["x"], "alone\n");
    space.write("a", "local");
    assert_eq!(
        space.files(&["-f", &format!("{url}/other"), "."])["other"],
        "local"
    );
    let error = space.fails(&[&format!("{url}/missing")]);
    assert!(error.contains("404"), "{error}");
}

#[test]
fn named_contexts_replace_stages_and_images() {
    let dockerfile = "\
FROM nowhere:1 AS base
RUN false
FROM busybox
COPY --from=base etc/architecture /arch
COPY --from=dir a /a
RUN --mount=from=dir,target=/m cat /m/a > /mounted
";
    let space = TestSpace::with(dockerfile);
    space.write("../dir/a", "A");
    space.write("../dir/ignored", "");
    space.write("../dir/.dockerignore", "ignored");
    let dir = "--build-context=dir=../dir";
    let built = space.files(&[dir, "--build-context=base=docker-image://busybox", "."]);
    assert_eq!((&*built["a"], &*built["mounted"]), ("A", "A"));
    assert!(built.contains_key("arch"));
    // An image by its name, in any form of it.
    let image = "--build-context=docker.io/library/nowhere:1=docker-image://busybox:latest";
    space.write("Dockerfile", "FROM nowhere:1\nCOPY --from=dir . /d/\n");
    let built = space.files(&[dir, image, "."]);
    assert!(built.contains_key("d/a") && !built.contains_key("d/ignored"));
    // A layout that a build wrote.
    space.build(&[
        dir,
        image,
        "-o",
        "type=oci,dest=../layout,tar=false,name=made:v1",
        ".",
    ]);
    space.write("Dockerfile", "FROM made\nRUN cat /d/a > /again\n");
    let layout = space.path("../layout").display().to_string();
    let from_layout = format!("--build-context=made=oci-layout://{layout}:v1");
    assert_eq!(space.files(&[&from_layout, "."])["again"], "A");
    let error = space.fails(&[
        &format!("--build-context=made=oci-layout://{layout}:v9"),
        ".",
    ]);
    assert!(error.contains("v9"), "{error}");
    let error = space.fails(&["--build-context=made=../nope", "."]);
    assert!(
        error.contains("--build-context made: ../nope is not a directory"),
        "{error}"
    );
    space.write("Dockerfile", "FROM dir\nCOPY --from=dir a /b\n");
    assert_eq!(space.files(&[dir, "."])["b"], "A");
}

#[test]
fn remote_named_contexts() {
    let space = TestSpace::empty();
    let git = repository(&space);
    let folder = space.path("../www");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.tar"), archive(&[("in/tar", "T")])).unwrap();
    std::fs::write(folder.join("a.txt"), "text").unwrap();
    let www = server(&folder);
    let dockerfile = "\
FROM scratch
COPY --from=repo file /repo
COPY --from=tar context /tar
COPY --from=text context /text
";
    space.write("Dockerfile", dockerfile);
    let built = space.files(&[
        &format!("--build-context=repo=http://{}/repo.git#topic", git.host()),
        &format!("--build-context=tar=http://{}/a.tar", www.host()),
        &format!("--build-context=text=http://{}/a.txt", www.host()),
        ".",
    ]);
    assert_eq!((&*built["repo"], &*built["text"]), ("topic\n", "text"));
    // As with BuildKit the file is there as it is; ADD in a stage of its own unpacks it.
    assert!(built["tar"].starts_with("in/tar\0"));
}

#[test]
fn add_of_a_url() {
    let space = TestSpace::empty();
    let server = Registry::start(Auth::Open);
    let tar = archive(&[("in/tar", "T")]);
    let packed = compressed("gzip", &tar);
    server.hook(move |request| {
        let reply = |body: &[u8]| Reply::new(200).body(body);
        Some(match request.path.as_str() {
            "/moved" => Reply::new(302).header("location", "/a.txt?x=1"),
            "/loop" => Reply::new(302).header("location", "/loop"),
            "/away" => Reply::new(302).header("location", "file:///etc/passwd"),
            "/a.txt" if request.header("if-none-match") == "\"e\"" => Reply::new(304),
            "/a.txt" => reply(b"text")
                .header("etag", "\"e\"")
                .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
            "/a.tar.gz" => reply(&packed),
            _ => Reply::new(404),
        })
    });
    let url = format!("http://{}", server.host());
    let sum = "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
    let dockerfile = format!(
        "FROM scratch\n\
         ADD {url}/a.txt /plain/\n\
         ADD --checksum={sum} --chmod=0640 --chown=7:8 {url}/moved /moved\n\
         ADD {url}/a.tar.gz /packed/\n\
         ADD --unpack=true {url}/a.tar.gz /unpacked/\n\
         ADD {url}/moved /named/\n"
    );
    space.write("Dockerfile", dockerfile);
    let built = entries(&space.build(&["-o", "-", "."]).stdout);
    let plain = &built["plain/a.txt"];
    assert_eq!(
        (plain.mode & 0o7777, plain.mtime, plain.owner),
        (0o600, 1_445_412_480, (0, 0))
    );
    let moved = &built["moved"];
    assert_eq!((moved.mode & 0o7777, moved.owner), (0o640, (7, 8)));
    assert!(built.contains_key("packed/a.tar.gz") && built.contains_key("named/moved"));
    assert_eq!(built["unpacked/in/tar"].content, b"T");
    let again = space.build(&["."]);
    assert!(!again.stderr.contains("[2/6] ADD http") || again.stderr.contains("CACHED"));
    for (path, why) in [
        ("/missing", "404"),
        ("/loop", "redirected more than"),
        ("/away", "neither http nor https"),
    ] {
        space.write("Dockerfile", format!("FROM scratch\nADD {url}{path} /x\n"));
        let error = space.fails(&["."]);
        assert!(
            error.contains(why) && error.contains("Dockerfile:2"),
            "{error}"
        );
    }
    let wrong = sum.replace("982d", "0000");
    space.write(
        "Dockerfile",
        format!("FROM scratch\nADD --checksum={wrong} {url}/a.txt /x\n"),
    );
    let error = space.fails(&["."]);
    assert!(
        error.contains("digest mismatch") && error.contains("Dockerfile:2"),
        "{error}"
    );
}

#[test]
fn add_of_a_repository() {
    let space = TestSpace::empty();
    let server = repository(&space);
    let url = format!("http://{}/repo.git", server.host());
    let commit = shell(&space.path("../git/work"), "git rev-parse topic");
    let (commit, short) = (commit.trim(), &commit[..8]);
    let dockerfile = format!(
        "FROM scratch\n\
         ADD {url}#v1:sub /sub/\n\
         ADD --checksum={short} --keep-git-dir=true {url}#topic /topic/\n\
         ADD {url}#{commit} /commit/\n\
         ADD --chown=5:6 {url} /main/\n"
    );
    space.write("Dockerfile", dockerfile);
    let built = entries(&space.build(&["-o", "-", "."]).stdout);
    assert_eq!(built["sub/file"].content, b"two\n");
    assert_eq!(built["topic/file"].content, b"topic\n");
    assert_eq!(built["commit/file"].content, b"topic\n");
    assert!(built.contains_key("topic/.git/HEAD") && !built.contains_key("commit/.git"));
    // What names the commit, and nothing of when, where and by whom it was fetched.
    assert_eq!(
        built["topic/.git/refs/heads/topic"].content,
        format!("{commit}\n").as_bytes()
    );
    for path in ["topic/.git/logs", "topic/.git/FETCH_HEAD"] {
        assert!(!built.contains_key(path), "{path}");
    }
    let modes = ["main/file", "main/run", "main/sub"].map(|path| built[path].mode & 0o7777);
    assert_eq!(modes, [0o644, 0o755, 0o755]);
    assert_eq!(
        (built["main/file"].owner, built["commit/file"].owner),
        ((5, 6), (0, 0))
    );
    assert_eq!(built["main/link"].kind, tar::EntryType::Symlink);
    space.write(
        "Dockerfile",
        format!("FROM scratch\nADD --checksum=0123456789 {url}#v1 /x\n"),
    );
    let error = space.fails(&["."]);
    assert!(
        error.contains("Dockerfile:2") && error.contains("--checksum"),
        "{error}"
    );
    space.write("Dockerfile", format!("FROM scratch\nCOPY {url} /x\n"));
    let error = space.fails(&["."]);
    assert!(error.contains("Dockerfile:2"), "{error}");
}

#[test]
fn add_unpacks_local_archives() {
    let dockerfile = "\
FROM scratch
ADD a.gz a.bz2 a.xz a.zst a.tar /all/
ADD --unpack=false a.gz /kept/
ADD text.gz empty.tar /text/
COPY a.gz /copied/
ADD --chown=3:4 --chmod=600 a.gz /owned/
";
    let space = TestSpace::with(dockerfile);
    let named = |name: &'static str| archive(&[(name, name)]);
    for (file, program) in [
        ("gz", "gzip"),
        ("bz2", "bzip2"),
        ("xz", "xz"),
        ("zst", "zstd"),
    ] {
        space.write(&format!("a.{file}"), compressed(program, &named(program)));
    }
    space.write("a.tar", named("plain"));
    space.write("text.gz", compressed("gzip", b"no archive"));
    space.write("empty.tar", [0; 10240]);
    let built = entries(&space.build(&["-o", "-", "."]).stdout);
    for name in ["gzip", "bzip2", "xz", "zstd", "plain"] {
        assert_eq!(built[&format!("all/{name}")].content, name.as_bytes());
    }
    for path in ["kept/a.gz", "text/text.gz", "text/empty.tar", "copied/a.gz"] {
        assert!(built.contains_key(path), "{path}");
    }
    let owned = &built["owned/gzip"];
    assert_eq!((owned.mode & 0o7777, owned.owner), (0o644, (3, 4)));
    // The mode is that of files that are copied.
    let folder = &built["owned"];
    assert_eq!((folder.mode & 0o7777, folder.owner), (0o755, (3, 4)));
}

/// Each is unpacked over what the one before left, above the base.
#[test]
fn several_archives_into_one_directory_of_an_image() {
    let space =
        TestSpace::with("FROM busybox\nRUN mkdir /d && echo > /d/base\nADD *.tar plain /d/\n");
    space.write("a.tar", archive(&[("both", "a"), ("a", "a")]));
    space.write("b.tar", archive(&[("both", "b"), ("base", "b")]));
    space.write("plain", "p");
    let built = entries(&space.build(&["-o", "-", "."]).stdout);
    for (name, content) in [("both", "b"), ("a", "a"), ("base", "b"), ("plain", "p")] {
        assert_eq!(built[&format!("d/{name}")].content, content.as_bytes());
    }
}
