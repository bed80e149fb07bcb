//! A root file system made of the host's static busybox, and one-line commands in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use lapstrake_runtime::{
    Cancel, Error, Exit, Identity, Limits, Mount, MountKind, Network, Process, Root, RunSpec,
    Security, Stream, run,
};

/// The programs that the scripts of these tests use.
const APPLETS: &str = "sh cat ls echo true false id stat mount umount sleep env pwd touch mkdir rm rmdir ln mv cp grep \
    head tail wc hostname ifconfig ip nc mknod chroot chmod chown dd find kill ps sort tr cut sed awk readlink test \
    unshare seq yes mkfifo setsid nohup ulimit df ping wget nslookup nproc od printf su expr dmesg truncate";

/// Whom a test has to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// Other ids than that of root exist.
    Ids,
    Root,
}

impl Needs {
    pub(crate) fn met(self, identity: Identity) -> bool {
        match self {
            Needs::Nothing => true,
            Needs::Ids => identity != Identity::Single,
            Needs::Root => identity == Identity::Root,
        }
    }
}

/// A temp dir with one base layer.
pub(crate) struct Space {
    pub(crate) identity: Identity,
    dir: tempfile::TempDir,
    count: AtomicUsize,
}

/// How a command ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(
            self.exit,
            Exit::Code(0),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self.stdout.trim_end().to_owned()
    }
}

impl Space {
    pub(crate) fn new(identity: Identity) -> Space {
        let space = Space {
            identity,
            dir: tempfile::tempdir().unwrap(),
            count: AtomicUsize::new(0),
        };
        let base = space.base();
        for name in ["bin", "etc", "root", "tmp", "usr/bin", "home/ann"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for applet in APPLETS.split_whitespace() {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        fs::write(
            base.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            base.join("etc/group"),
            "root:x:0:\nann:x:1001:\nwheel:x:10:ann\naudio:x:29:root,ann\n",
        )
        .unwrap();
        space
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    /// A new, empty directory.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(format!(
            "{name}-{}",
            self.count.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn spec(&self, argv: &[&str]) -> RunSpec {
        let step = self.fresh("step");
        let [upper, work] = ["upper", "work"].map(|name| step.join(name));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        RunSpec {
            root: Root {
                lowers: vec![self.base()],
                upper,
                work,
            },
            process: Process {
                argv: argv.iter().map(ToString::to_string).collect(),
                env: vec![("PATH".into(), "/usr/bin:/bin".into())],
                cwd: "/".into(),
                user: String::new(),
                hostname: "buildhost".into(),
                additional_groups: Vec::new(),
            },
            mounts: Vec::new(),
            network: Network::None,
            hosts: "127.0.0.1 localhost\n".into(),
            resolv_conf: "nameserver 192.0.2.1\n".into(),
            devices: Vec::new(),
            security: Security::Sandbox,
            no_new_privileges: false,
            limits: Limits::default(),
        }
    }

    pub(crate) fn sh(&self, script: &str) -> RunSpec {
        self.spec(&["/bin/sh", "-c", script])
    }
}

pub(crate) fn try_run(spec: &RunSpec) -> Result<Outcome, Error> {
    // An overlay takes a work directory only once; some tests run a request again.
    let _ = fs::remove_dir_all(spec.root.work.join("work"));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = |stream: Stream, bytes: &[u8]| match stream {
        Stream::Stdout => stdout.extend_from_slice(bytes),
        Stream::Stderr => stderr.extend_from_slice(bytes),
    };
    let exit = run(spec, &mut output, &Cancel::new().unwrap())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Outcome {
        exit,
        stdout: text(&stdout),
        stderr: text(&stderr),
    })
}

#[track_caller]
pub(crate) fn outcome(spec: &RunSpec) -> Outcome {
    match try_run(spec) {
        Ok(outcome) => outcome,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn mount(target: &str, kind: MountKind) -> Mount {
    Mount {
        target: target.into(),
        kind,
    }
}

/// A file with these bytes, readable by all.
pub(crate) fn file(target: &str, content: &str) -> Mount {
    mount(
        target,
        MountKind::File {
            content: content.into(),
            mode: 0o444,
            uid: 0,
            gid: 0,
        },
    )
}

pub(crate) fn bind(target: &str, source: impl Into<PathBuf>, readonly: bool) -> Mount {
    mount(
        target,
        MountKind::Bind {
            source: source.into(),
            readonly,
        },
    )
}

/// The message of a set-up that must fail.
#[track_caller]
pub(crate) fn refused(spec: &RunSpec) -> String {
    match try_run(spec) {
        Err(error) => error.to_string(),
        Ok(outcome) => panic!("must fail, but: {outcome:?}"),
    }
}

/// The output of a shell script that must succeed.
#[track_caller]
pub(crate) fn sh(space: &Space, script: &str) -> String {
    outcome(&space.sh(script)).ok()
}

/// Everything below `root`, directories with a slash.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, path: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let directory = path.symlink_metadata().unwrap().is_dir();
            found.push(if directory { format!("{name}/") } else { name });
            if directory {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

/// A layer with these files.
pub(crate) fn layer(space: &Space, files: &[(&str, &str)]) -> PathBuf {
    let layer = space.fresh("layer");
    for (path, content) in files {
        let path = layer.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    layer
}
