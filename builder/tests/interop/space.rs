//! Where an interop test works: a context, a store, and other tools with their own folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lapstrake_cache::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder of its own, with a context that holds a Dockerfile and busybox.
pub(crate) struct Space {
    folder: TempDir,
}

impl Space {
    pub(crate) fn new(dockerfile: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("interop-")
            .tempdir()
            .unwrap();
        let space = Self { folder };
        fs::create_dir(space.path("context")).unwrap();
        fs::write(space.path("context/Dockerfile"), dockerfile).unwrap();
        let busybox = Path::new("/usr/bin/busybox");
        assert!(
            busybox.exists(),
            "no static busybox on this machine: apt-get install busybox-static"
        );
        fs::copy(busybox, space.path("context/busybox")).unwrap();
        fs::create_dir(space.path("docker-config")).unwrap();
        space
    }

    /// A path below the space.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn lapstrake(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapstrake"));
        command
            .args(["build", "--progress=plain"])
            .args(args)
            .arg(self.path("context"));
        command
            .env("LAPSTRAKE_ROOT", self.path("store"))
            .env("DOCKER_CONFIG", self.path("docker-config"));
        command.output().unwrap()
    }

    /// Builds the context.
    pub(crate) fn build(&self, args: &[&str]) {
        succeed("lapstrake build", &self.lapstrake(args));
    }

    /// Builds the context, which must fail; gives what was printed.
    pub(crate) fn build_fails(&self, args: &[&str]) -> String {
        let done = self.lapstrake(args);
        assert_eq!(
            done.status.code(),
            Some(1),
            "lapstrake build {args:?}: {}",
            text(&done.stderr)
        );
        text(&done.stdout) + &text(&done.stderr)
    }

    /// Builds the context into an archive; gives its path.
    pub(crate) fn archive(&self, format: &str, options: &str) -> String {
        let path = self.path(&format!(
            "image-{}.tar",
            fs::read_dir(self.folder.path()).unwrap().count()
        ));
        self.build(&["--output", &format!("type={format},dest={path}{options}")]);
        path
    }

    /// The digest of the image in an OCI archive, which is that of its manifest.
    pub(crate) fn digest(&self, archive: &str) -> String {
        let index: Value =
            serde_json::from_str(&self.run("tar", &["-xOf", archive, "index.json"])).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().to_owned()
    }

    /// Runs a tool that must succeed; gives its standard output.
    pub(crate) fn run(&self, tool: &str, args: &[&str]) -> String {
        let done = Command::new(tool)
            .args(args)
            .env("PATH", tool_path())
            .current_dir(self.folder.path())
            .output();
        let done = done.unwrap_or_else(|error| panic!("{tool}: {error}: apt-get install {tool}"));
        succeed(&format!("{tool} {args:?}"), &done);
        text(&done.stdout).trim_end().to_owned()
    }

    pub(crate) fn json(&self, tool: &str, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(tool, args)).unwrap()
    }

    /// buildah, with a storage of its own.
    pub(crate) fn buildah(&self, args: &[&str]) -> String {
        let (root, runroot) = (self.path("buildah"), self.path("buildah-run"));
        self.run(
            "buildah",
            &[
                &[
                    "--root",
                    &root,
                    "--runroot",
                    &runroot,
                    "--storage-driver",
                    "vfs",
                ],
                args,
            ]
            .concat(),
        )
    }

    /// Gives lapstrake the account of a registry.
    pub(crate) fn credentials(&self, host: &str, account: &str) {
        let (user, password) = account.split_once(':').unwrap();
        let auth = self.run(
            "sh",
            &[
                "-c",
                "printf '%s:%s' \"$0\" \"$1\" | base64",
                user,
                password,
            ],
        );
        let config = json!({"auths": {host: {"auth": auth}}});
        fs::write(self.path("docker-config/config.json"), config.to_string()).unwrap();
    }
}

/// A script of `testdata/bin`.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/bin")
        .join(name)
}

/// Daemons lie in folders that are not on everybody's `PATH`.
fn tool_path() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(what: &str, done: &Output) {
    assert!(
        done.status.success(),
        "{what} failed\n{}{}",
        text(&done.stdout),
        text(&done.stderr)
    );
}

/// Debian's docker-registry on a loopback port, until dropped.
pub(crate) struct Registry {
    /// `localhost:PORT`
    pub(crate) host: String,
    folder: String,
}

impl Registry {
    /// Starts one, for everybody or for `USER:PASSWORD`.
    pub(crate) fn start(space: &Space, account: Option<&str>) -> Self {
        let folder = space.path("registry");
        let host = space.run(
            script("registry").to_str().unwrap(),
            &["start", &folder, account.unwrap_or("")],
        );
        Self { host, folder }
    }

    /// The digest of an image, as the registry's bytes have it.
    pub(crate) fn digest(&self, space: &Space, name: &str, flags: &[&str]) -> String {
        let target = format!("docker://{}/{name}", self.host);
        let copy = space.path("digest");
        let args: &[&str] = &["copy", "-q", "--preserve-digests", "--src-tls-verify=false"];
        let creds: Vec<String> = flags
            .iter()
            .map(|flag| flag.replace("--creds", "--src-creds"))
            .collect();
        let creds: Vec<&str> = creds.iter().map(String::as_str).collect();
        space.run(
            "skopeo",
            &[args, &creds, &[&target, &format!("dir:{copy}")]].concat(),
        );
        let manifest = fs::read(format!("{copy}/manifest.json")).unwrap();
        fs::remove_dir_all(copy).unwrap();
        Digest::of(&manifest).to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let stopped = Command::new(script("registry"))
            .args(["stop", &self.folder])
            .status();
        drop(stopped);
    }
}

/// A Docker daemon of its own, until dropped.
pub(crate) struct Dockerd {
    host: String,
    folder: String,
}

impl Dockerd {
    /// Starts one; `None`, said loudly, where this machine cannot.
    pub(crate) fn start(space: &Space) -> Option<Self> {
        let folder = space.path("dockerd");
        let tools = ["dockerd", "docker"]
            .map(|tool| space.run("sh", &["-c", "command -v \"$0\" || true", tool]));
        assert!(
            tools.iter().all(|tool| !tool.is_empty()),
            "no docker on this machine: apt-get install docker.io"
        );
        let done = Command::new(script("dockerd"))
            .args(["start", &folder])
            .env("PATH", tool_path())
            .output()
            .unwrap();
        if done.status.success() {
            return Some(Self {
                host: text(&done.stdout).trim().to_owned(),
                folder,
            });
        }
        let reason = text(&done.stderr);
        assert!(
            std::env::var_os("LAPSTRAKE_NO_SKIP").is_none(),
            "dockerd does not start: {reason}"
        );
        eprintln!("SKIPPED: dockerd does not start: {reason}");
        None
    }

    /// The major version of the daemon.
    pub(crate) fn major(&self) -> u32 {
        self.run(&["version", "--format", "{{.Server.Version}}"])
            .split('.')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Runs `docker` on it.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let done = Command::new("docker")
            .args(["--host", &self.host])
            .args(args)
            .env("DOCKER_BUILDKIT", "0")
            .output()
            .unwrap();
        succeed(&format!("docker {args:?}"), &done);
        text(&done.stdout).trim_end().to_owned()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let stopped = Command::new(script("dockerd"))
            .args(["stop", &self.folder])
            .status();
        drop(stopped);
    }
}
