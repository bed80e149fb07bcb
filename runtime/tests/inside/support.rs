//! A root file system made of the host's static busybox, and one-line commands in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapstrake_runtime::{
    Cancel, Error, Exit, Limits, Network, Process, Root, RunSpec, Security, Stream, run,
};

/// The programs that the scripts of these tests use.
const APPLETS: &str = "sh cat ls echo true false id stat mount umount sleep env pwd touch mkdir rm rmdir ln mv cp grep \
    head tail wc hostname ifconfig ip nc mknod chroot chmod chown dd find kill ps sort tr cut sed awk readlink test \
    unshare seq yes mkfifo setsid nohup ulimit df ping wget nslookup nproc od printf su expr dmesg truncate";

/// A temp dir with one base layer.
pub(crate) struct Space {
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
    pub(crate) fn new() -> Space {
        let space = Space {
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
            },
            mounts: Vec::new(),
            network: Network::None,
            hosts: "127.0.0.1 localhost\n".into(),
            resolv_conf: "nameserver 192.0.2.1\n".into(),
            security: Security::Sandbox,
            limits: Limits::default(),
        }
    }

    pub(crate) fn sh(&self, script: &str) -> RunSpec {
        self.spec(&["/bin/sh", "-c", script])
    }
}

pub(crate) fn try_run(spec: &RunSpec) -> Result<Outcome, Error> {
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

/// The output of a shell script that must succeed.
#[track_caller]
pub(crate) fn sh(space: &Space, script: &str) -> String {
    outcome(&space.sh(script)).ok()
}
