//! A folder with a build context and a store, and the base images that builds in it find.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::registry::{Auth, Registry};

/// The type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The time of everything in the base images.
pub const BASE_TIME: u64 = 1_577_836_800;

/// A folder for one test, removed afterwards. Its subfolder `context` is where commands run.
pub struct TestSpace {
    dir: TempDir,
    env: BTreeMap<String, String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; none if it was killed.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it reported.
    pub stderr: String,
}

impl From<std::process::Output> for Ended {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Waits until a command ends.
pub fn ended(child: Child) -> Ended {
    child.wait_with_output().unwrap().into()
}

/// Names of the steps that were not taken from the cache.
pub fn worked(ended: &Ended) -> Vec<String> {
    let named = |line: &str| {
        let (number, rest) = line.split_once(' ')?;
        Some((number.to_owned(), rest.to_owned()))
    };
    let lines: Vec<(String, String)> = ended.stderr.lines().filter_map(named).collect();
    let is = |number: &str, what: &str| lines.iter().any(|(n, rest)| n == number && rest == what);
    let steps = lines
        .iter()
        .filter(|(_, rest)| rest.starts_with('[') && rest.contains("] ") && !rest.contains("FROM"));
    let steps =
        steps.filter(|(number, rest)| !rest.starts_with("[internal]") && !is(number, "CACHED"));
    let name = |rest: &str| rest.split_once("] ").unwrap().1.to_owned();
    // One that says more after others is named again.
    let mut seen = std::collections::HashSet::new();
    let first = steps.filter(|(number, _)| seen.insert(number.clone()));
    first.map(|(_, rest)| name(rest)).collect()
}

impl TestSpace {
    /// An empty one.
    pub fn empty() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        let base = base_images().host();
        let env = [
            (
                "LAPSTRAKE_ROOT",
                dir.path().join("store").display().to_string(),
            ),
            ("LAPSTRAKE_MIRRORS", format!("docker.io={base}")),
            ("HOME", dir.path().display().to_string()),
            ("PATH", std::env::var("PATH").unwrap()),
        ];
        let env = env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Self {
            env: env.collect(),
            dir,
        }
    }

    /// One with this Dockerfile.
    pub fn with(dockerfile: &str) -> Self {
        let space = Self::empty();
        space.write("Dockerfile", dockerfile);
        space
    }

    /// Sets an environment variable for the commands.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// A path in the build context; `../x` is beside it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("context").join(path)
    }

    /// Writes a file, with its folders.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Reads a file as text.
    pub fn read(&self, path: &str) -> String {
        let path = self.path(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `lapstrake ARGUMENTS` in the context, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapstrake"));
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// The same by way of a shell script, which has the program and its arguments as `"$@"`.
    pub fn scripted(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_lapstrake")]);
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Has a command run where and with what those of this space run.
    pub fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.path("."))
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null());
    }

    /// Whether no build left anything of its work in the store.
    pub fn is_clean(&self) -> bool {
        let tmp = self.path("../store/tmp");
        std::fs::read_dir(tmp).map_or(true, |mut left| left.next().is_none())
    }

    /// Runs `lapstrake ARGUMENTS` in the context.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, b"")
    }

    /// Starts `lapstrake ARGUMENTS` in the context, with nothing on its standard input once that is dropped.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The same with this standard input.
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = self.start(arguments);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // It may well end before it has read everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let ended = ended(child);
        writer.join().unwrap();
        ended
    }

    /// `lapstrake build ARGUMENTS`, which must succeed.
    pub fn build(&self, arguments: &[&str]) -> Ended {
        self.build_with(arguments, b"")
    }

    /// The same with this standard input.
    pub fn build_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let ended = self.run_with(&[&["build", "--progress=plain"], arguments].concat(), input);
        assert_eq!(ended.code, Some(0), "{arguments:?}\n{}", ended.stderr);
        ended
    }

    /// `lapstrake build ARGUMENTS`, which must fail; what it reported.
    pub fn fails(&self, arguments: &[&str]) -> String {
        self.fails_with(arguments, b"")
    }

    /// The same with this standard input.
    pub fn fails_with(&self, arguments: &[&str], input: &[u8]) -> String {
        let ended = self.run_with(&[&["build", "--progress=plain"], arguments].concat(), input);
        assert_eq!(ended.code, Some(1), "{arguments:?}\n{}", ended.stderr);
        ended.stderr
    }

    /// Builds with `arguments` and gives the files of the result's root file system: what is a file, as text; the rest
    /// is left out.
    pub fn files(&self, arguments: &[&str]) -> BTreeMap<String, String> {
        self.files_with(arguments, b"")
    }

    /// The same with this standard input.
    pub fn files_with(&self, arguments: &[&str], input: &[u8]) -> BTreeMap<String, String> {
        let tar = self.build_with(&[&["-o", "type=tar,dest=-"], arguments].concat(), input);
        entries(&tar.stdout)
            .into_iter()
            .filter(|(_, entry)| entry.kind == tar::EntryType::Regular)
            .map(|(path, entry)| (path, String::from_utf8_lossy(&entry.content).into_owned()))
            .collect()
    }

    /// The config of the image that `build ARGUMENTS` makes.
    pub fn config(&self, arguments: &[&str]) -> Value {
        let archive = self.build(&[&["-o", "type=oci,dest=-"], arguments].concat());
        let files = entries(&archive.stdout);
        let document = |digest: &Value| -> Value {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            serde_json::from_slice(&files[&format!("blobs/sha256/{hex}")].content).unwrap()
        };
        let index: Value = serde_json::from_slice(&files["index.json"].content).unwrap();
        let manifest = document(&index["manifests"][0]["digest"]);
        document(&manifest["config"]["digest"])
    }
}

/// A member of a tar archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// File, directory, link…
    pub kind: tar::EntryType,
    /// Permissions.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    /// User and group.
    pub owner: (u64, u64),
    /// What is in it.
    pub content: Vec<u8>,
}

/// The members of an archive by their path, without `./` and `/` around it.
pub fn entries(bytes: &[u8]) -> BTreeMap<String, Entry> {
    let mut archive = tar::Archive::new(bytes);
    let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let header = entry.header();
        let facts = Entry {
            kind: header.entry_type(),
            mode: header.mode().unwrap(),
            mtime: header.mtime().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            content,
        };
        (path, facts)
    };
    archive.entries().unwrap().map(entry).collect()
}

/// An archive of files with this content.
pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = header(tar::EntryType::Regular, 0o644);
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// Compresses with the program of that name.
pub fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("run {program}: {error}"));
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

/// A program that must succeed, run in `dir`; what it printed.
pub fn shell(dir: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(BASE_TIME);
    header.set_size(0);
    header
}

/// The registry of the base images: `busybox` for this machine, and `two` for linux/amd64 and linux/arm64, where the one
/// that is not this machine's cannot run.
pub fn base_images() -> &'static Registry {
    static BASE: OnceLock<Registry> = OnceLock::new();
    BASE.get_or_init(|| {
        let registry = Registry::start(Auth::Open);
        let native = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let plain = manifest(
            &registry,
            "library/busybox",
            native,
            &root_files(native, None),
        );
        registry.put_manifest("library/busybox", "latest", MANIFEST, &plain);
        let images = ["amd64", "arm64"].map(|architecture| {
            let foreign = (architecture != native).then_some(architecture);
            let layer = root_files(architecture, foreign);
            let bytes = manifest(&registry, "library/two", architecture, &layer);
            let digest = registry.put_manifest("library/two", architecture, MANIFEST, &bytes);
            json!({ "mediaType": MANIFEST, "digest": digest.to_string(), "size": bytes.len(),
                    "platform": { "os": "linux", "architecture": architecture } })
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": images });
        registry.put_manifest("library/two", "latest", INDEX, index.to_string().as_bytes());
        registry
    })
}

/// The root file system of a base image. For a foreign architecture the programs are only the head of one.
pub fn root_files(architecture: &str, foreign: Option<&str>) -> Vec<u8> {
    let program = match foreign {
        None => std::fs::read("/usr/bin/busybox").expect("install busybox-static"),
        Some(architecture) => foreign_program(architecture),
    };
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        let mut header = header(tar::EntryType::Directory, mode);
        builder
            .append_data(&mut header, path, std::io::empty())
            .unwrap();
    }
    let files: [(&str, u32, &[u8]); 4] = [
        ("bin/busybox", 0o755, &program),
        (
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        ),
        ("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n"),
        ("etc/architecture", 0o644, architecture.as_bytes()),
    ];
    for (path, mode, content) in files {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    }
    for applet in
        "sh cat echo ln chmod ls stat id grep sed sort mkdir rm touch wc test ulimit df hostname sleep"
            .split(' ')
    {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        builder
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// The root file system of a base image with one file in it.
pub fn moved_base(text: &str) -> Vec<u8> {
    archive(&[("moved", text)])
}

/// The head of an ELF program for another machine: the kernel does not run it.
fn foreign_program(architecture: &str) -> Vec<u8> {
    let machine: u16 = if architecture == "arm64" { 183 } else { 62 };
    let mut program = vec![0; 120];
    program[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    program[16..20].copy_from_slice(&[2, 0, machine as u8, 0]);
    program
}

/// Puts an image of one layer there; its manifest.
pub fn manifest(
    registry: &Registry,
    repository: &str,
    architecture: &str,
    layer: &[u8],
) -> Vec<u8> {
    let diff_id = registry.put_blob(repository, layer);
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2020-01-01T00:00:00Z",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        "history": [{ "created": "2020-01-01T00:00:00Z", "created_by": "base" }],
    });
    let config = config.to_string().into_bytes();
    let digest = registry.put_blob(repository, &config);
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": digest.to_string(), "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": diff_id.to_string(), "size": layer.len() }],
    })
    .to_string()
    .into_bytes()
}
