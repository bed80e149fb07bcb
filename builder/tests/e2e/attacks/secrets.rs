//! Secrets of every kind in one build: none of them is left anywhere.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::registry::{Auth, Registry, Reply};
use super::super::support::{Ended, TestSpace, root_files, shell};
use super::images::Forged;
use super::watch::Running;

/// Each is a word of its own, so that a failure tells which one it was.
const FILE: &str = "word-of-a-file-secret";
const ENV: &str = "word-of-an-env-secret";
const GIT: &str = "word-of-a-git-url";
const GIT_TOKEN: &str = "word-of-a-git-secret";
const HTTP: &str = "word-of-an-http-url";
const HTTP_TOKEN: &str = "word-of-an-http-secret";
const PROXY: &str = "word-of-a-proxy-url";
/// That of the registry of these tests.
const LOGIN: &str = "pass:word";
const ALL: [&str; 8] = [FILE, ENV, GIT, GIT_TOKEN, HTTP, HTTP_TOKEN, PROXY, LOGIN];

/// How `text` may have been written down.
fn forms(text: &str) -> Vec<String> {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let mut forms = vec![text.to_owned()];
    for user in ["", "me:", "user:", "x-access-token:"] {
        forms.push(base64.encode(format!("{user}{text}")));
    }
    forms
}

/// None of them is in `text`, in any form.
fn check(text: &str, place: &str) {
    for secret in ALL {
        for form in forms(secret) {
            assert!(!text.contains(&form), "{secret} is in {place}: {text}");
        }
    }
}

/// None of them is in a file at or below `path`, or in a name there.
fn check_files(path: &Path) {
    let patterns: Vec<String> = ALL.iter().flat_map(|secret| forms(secret)).collect();
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", "-D", "skip", "--", &patterns.join("\n")]);
    let found = grep.arg(path).output().unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.is_empty(), "secrets are in {found}");
    let names = Command::new("find").arg(path).output().unwrap();
    check(
        &String::from_utf8_lossy(&names.stdout),
        "the names of files",
    );
}

/// A server that wants credentials: of files, and of a repository with a submodule whose address is a relative one.
fn server(space: &TestSpace) -> Registry {
    let folder = space.path("../git");
    fs::create_dir(&folder).unwrap();
    let script = "
        for name in sub main; do
          git init -q -b main $name; git -C $name config user.email a@b; git -C $name config user.name a
          echo $name > $name/file; git -C $name add .; git -C $name commit -qm first
        done
        git clone -q --bare sub sub.git; git -C sub.git update-server-info
        cd main; git -c protocol.file.allow=always submodule --quiet add ../sub.git sub
        git commit -qm second; cd ..
        git clone -q --bare main main.git; git -C main.git update-server-info";
    shell(&folder, script);
    let server = Registry::start(Auth::Open);
    server.hook(move |request| {
        if request.header("authorization").is_empty() {
            return Some(Reply::new(401).header("www-authenticate", "Basic realm=\"x\""));
        }
        if request.path.starts_with("/slow.git") {
            return Some(Reply::new(200).stall(Duration::from_secs(60)));
        }
        if request.path == "/file" {
            return Some(Reply::new(200).body("content"));
        }
        let found = fs::read(folder.join(request.path.trim_start_matches('/')));
        Some(found.map_or(Reply::new(404), |bytes| Reply::new(200).body(bytes)))
    });
    server
}

struct Build {
    space: TestSpace,
    server: Registry,
    base: Registry,
    _agent: UnixListener,
}

impl Build {
    fn new() -> Self {
        let space = TestSpace::empty()
            .env("ENV_SECRET", ENV)
            .env("HTTP_TOKEN", HTTP_TOKEN)
            .env("GIT_TOKEN", GIT_TOKEN)
            .env("https_proxy", format!("http://me:{PROXY}@127.0.0.1:9"));
        let base = Registry::start(Auth::Basic);
        let mut image = Forged::of_layer(&base, "base", &root_files("any", None));
        image.config["config"]["Env"] = serde_json::json!(["PATH=/bin"]);
        image.put(&base, "base");
        // The base64 of `user:pass:word`.
        let login = format!(
            r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNzOndvcmQ="}}}}}}"#,
            base.host()
        );
        space.write("../.docker/config.json", login);
        space.write("../key", FILE);
        let agent = UnixListener::bind(space.path("../agent")).unwrap();
        let server = server(&space);
        Self {
            space,
            server,
            base,
            _agent: agent,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let host = self.server.host();
        let other = host.replace("127.0.0.1", "localhost");
        [
            "build",
            "--progress=plain",
            "--secret=id=file,src=../key",
            "--secret=id=env,env=ENV_SECRET",
            &format!("--secret=id=HTTP_AUTH_TOKEN_{other},env=HTTP_TOKEN"),
            &format!("--secret=id=GIT_AUTH_TOKEN.{other},env=GIT_TOKEN"),
            &format!("--ssh=default={}", self.space.path("../agent").display()),
            "--metadata-file=../metadata.json",
            "-t",
            &format!("{}/made:v1", self.base.host()),
            "-o",
            "type=oci,compression=uncompressed,dest=../out.tar",
            "-o",
            "type=local,dest=../out",
            "-o",
            "type=image",
            ".",
        ]
        .map(str::to_owned)
        .into()
    }

    fn dockerfile(&self, last: &str) -> String {
        let host = self.server.host();
        let other = host.replace("127.0.0.1", "localhost");
        format!(
            "\
FROM {base}/base:v1
ADD http://me:{HTTP}@{host}/file /url
ADD http://{other}/file /url-token
ADD --keep-git-dir=true http://me:{GIT}@{host}/main.git /git
ADD --keep-git-dir=true http://{other}/main.git#main /git-token
RUN --mount=type=secret,id=file,target=/etc/key --mount=type=ssh \\
    test -s /etc/key && test -S $SSH_AUTH_SOCK
RUN --mount=type=secret,id=file --mount=type=cache,target=/cache test -s /run/secrets/file
RUN --mount=type=secret,id=env,env=WORD test -n \"$WORD\" && export OTHER=$WORD
RUN test ! -e /run/secrets/file && test ! -s /etc/key && test -z \"$WORD\"
{last}",
            base = self.base.host()
        )
    }

    fn run(&self) -> Ended {
        let arguments = self.arguments();
        self.space
            .run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Nothing in what was reported, written out, pushed or stored.
    fn check(&self, ended: &Ended) {
        check(&ended.stderr, "what is reported");
        check(&ended.text(), "standard output");
        for path in ["metadata.json", "out.tar", "out", "store"] {
            let path = self.space.path("..").join(path);
            if path.exists() {
                check_files(&path);
            }
        }
    }
}

#[test]
fn no_secret_is_left_anywhere() {
    let build = Build::new();
    let space = &build.space;
    space.write("Dockerfile", build.dockerfile("LABEL a=b\n"));
    let ended = build.run();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    build.check(&ended);
    let git = space.path("../out/git/.git");
    assert!(git.join("config").exists() && space.path("../out/git/sub/file").exists());
    let name = format!("{}/made:v1", build.base.host());
    let pushed = space.run(&["push", &name]);
    assert_eq!(pushed.code, Some(0), "{}", pushed.stderr);
    build.check(&pushed);
    for command in [
        &["history", "--no-trunc", &name][..],
        &["inspect", &name],
        &["du", "--verbose"],
        &["info"],
    ] {
        build.check(&space.run(command));
    }
    // Whoever asks the servers is who may.
    let asked: Vec<String> = build
        .server
        .log()
        .iter()
        .map(|r| r.header("authorization").to_owned())
        .collect();
    for secret in [HTTP, GIT, HTTP_TOKEN, GIT_TOKEN] {
        let sent = |form: &String| asked.iter().any(|header| header.ends_with(form.as_str()));
        assert!(
            forms(secret).iter().any(sent),
            "{secret} was not used: {asked:?}"
        );
    }
}

/// Failures are told, with their lines of the Dockerfile, but without what is in them.
#[test]
fn no_secret_is_told_when_a_build_fails() {
    let build = Build::new();
    let host = build.server.host();
    for (last, expected) in [
        (format!("ADD http://me:{HTTP}@{host}/missing /x\n"), "404"),
        (
            format!(
                "ADD --checksum=sha256:{} http://me:{HTTP}@{host}/file /x\n",
                "0".repeat(64)
            ),
            "mismatch",
        ),
        (
            format!("ADD http://me:{GIT}@{host}/missing.git /x\n"),
            "git",
        ),
        (
            format!("ADD http://me:{GIT}@{host}/main.git#nope /x\n"),
            "nope",
        ),
        (
            format!("ADD --nope http://me:{HTTP}@{host}/file /x\n"),
            "nope",
        ),
        (
            format!("COPY http://me:{HTTP}@{host}/file /x\n"),
            "Dockerfile:",
        ),
        (
            "RUN --mount=type=secret,id=env,env=WORD exit 9\n".into(),
            "exit code: 9",
        ),
    ] {
        let text = format!("FROM {}/base:v1\n{last}", build.base.host());
        build.space.write("Dockerfile", text);
        let ended = build.run();
        assert_eq!(ended.code, Some(1), "{last}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{last}: {}", ended.stderr);
        build.check(&ended);
    }
    for url in [
        format!("http://me:{GIT}@{host}/missing.git"),
        format!("http://me:{HTTP}@{host}/missing"),
    ] {
        let ended = build.space.run(&["build", "--progress=rawjson", &url]);
        assert_eq!(ended.code, Some(1));
        build.check(&ended);
    }
}

/// A step does not find the secrets of another one in /proc, and nobody on the machine finds them in arguments.
#[test]
fn no_secret_is_in_the_arguments_of_a_process() {
    let build = Build::new();
    let text = format!(
        "FROM {0}/base:v1 AS one\nRUN --mount=type=secret,id=env,env=WORD --mount=type=secret,id=file echo ready; sleep 2\n\
         FROM {0}/base:v1\nRUN cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/root/run/secrets/* > /found; true\n\
         ADD http://me:{GIT}@{1}/slow.git /x\nCOPY --from=one /bin/sh /x/\n",
        build.base.host(),
        build.server.host()
    );
    build.space.write("Dockerfile", text);
    let arguments = build.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = build.space.command(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut running = Running::start(command);
    let server = build.server.clone();
    running.wait_until("git", |log| {
        log.contains("ready")
            && server
                .seen()
                .iter()
                .any(|request| request.path.starts_with("/slow.git"))
    });
    let family = running.family();
    for id in family.ids() {
        let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        check(&line, "the arguments of a process");
    }
    running.signal(rustix::process::Signal::INT);
    assert_eq!(running.end().code, Some(130));
    family.check_gone("secrets");
    check_files(&build.space.path("../store"));
}
