//! Builds that are killed, disks that are full, stores that cannot be written, clocks that go backwards.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::support::{TestSpace, entries, shell};

const KILLS: u32 = 200;

const DOCKERFILE: &str = "\
FROM busybox AS one
COPY n /
RUN --mount=type=cache,target=/c cat /n > /a && cat /n >> /c/log
WORKDIR /w
FROM busybox
COPY many /many
COPY --from=one /a /
RUN cat /a > /b && echo crash-test-marker > /m
";

/// A generator that the seed makes repeatable.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let given = std::env::var("LAPSTRAKE_TEST_SEED").ok();
        let seed = given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.unwrap().as_nanos() as u64 | 1
        });
        eprintln!("LAPSTRAKE_TEST_SEED={seed} repeats this");
        Self(seed)
    }

    /// A part of `whole`.
    fn part(&mut self, whole: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        whole.mul_f64((self.0 % 10_000) as f64 / 10_000.0)
    }
}

fn space() -> TestSpace {
    let space = TestSpace::with(DOCKERFILE);
    for n in 0..40 {
        space.write(&format!("many/{n}"), format!("{n}"));
    }
    space
}

/// What a build makes, and that it succeeds.
fn result(space: &TestSpace) -> BTreeMap<String, String> {
    space.files(&["."])
}

fn is_sound(space: &TestSpace) {
    let checked = space.run(&["fsck"]);
    // Locks of those that were killed may be left over.
    let text = checked.text();
    assert!(
        text.ends_with("the store is sound\n"),
        "{text}{}",
        checked.stderr
    );
    assert!(
        !text.contains("damaged") && !text.contains("cannot be checked"),
        "{text}"
    );
}

/// Folders of processes that are gone.
fn left_over(space: &TestSpace) -> String {
    shell(&space.path("../store/tmp"), "ls -A")
}

/// Steps that run on although nobody waits for them.
fn strays() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let commands = processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .map(|command| String::from_utf8_lossy(&command).into_owned());
    commands
        .filter(|command| command.contains("crash-test-marker") && command.contains("/bin/sh"))
        .collect()
}

#[test]
fn killed_at_any_moment() {
    let space = space();
    space.write("n", "0");
    let begun = Instant::now();
    space.build(&["."]);
    let whole = begun.elapsed();
    let mut random = Random::new();
    for kill in 1..=KILLS {
        // Something to do each time: the whole build now and then, its second half otherwise.
        space.write("n", format!("{kill}"));
        if kill % 5 == 0 {
            space.write("many/1", format!("{kill}"));
        }
        let mut build = space.start(&["build", "--progress=plain", "-t", "app", "."]);
        std::thread::sleep(random.part(whole));
        build.kill().unwrap();
        build.wait().unwrap();
        if kill % 20 == 0 {
            is_sound(&space);
            assert_eq!(result(&space)["b"], format!("{kill}"));
        }
    }
    is_sound(&space);
    assert_eq!(left_over(&space), "", "folders of killed builds are left");
    assert_eq!(strays(), [""; 0]);
    let fresh = self::space();
    for name in ["n", "many/1"] {
        fresh.write(name, space.read(name));
    }
    assert_eq!(result(&space), result(&fresh));
}

/// A file system of its own for the store, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let mount = format!(
            "mount -t tmpfs -o size={size},mode=0700 lapstrake-test '{}'",
            at.display()
        );
        shell(Path::new("/"), &mount);
        Self(at)
    }

    fn remount(&self, how: &str) {
        shell(
            Path::new("/"),
            &format!("mount -o remount,{how} '{}'", self.0.display()),
        );
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        shell(Path::new("/"), &format!("umount '{}'", self.0.display()));
    }
}

#[test]
fn a_disk_that_is_full() {
    let space = TestSpace::with("FROM busybox\nRUN echo 1 > /small\nRUN cat /dev/zero > /large\n");
    let _disk = Disk::new(space.path("../store"), "24m");
    let failed = space.fails(&["."]);
    assert!(failed.contains("No space left on device"), "{failed}");
    assert_eq!(left_over(&space), "", "what did not fit is left");
    is_sound(&space);
    // Not even room for a record.
    shell(&space.path("../store"), "cat /dev/zero > full || true");
    let again = space.run(&["build", "--progress=plain", "--no-cache", "."]);
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    let errors = again.stderr.lines();
    let errors = errors.filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{}", again.stderr);
    let pruned = space.run(&["prune", "-af"]);
    assert_eq!(pruned.code, Some(0), "{}", pruned.stderr);
    shell(&space.path("../store"), "rm full");
    space.write("Dockerfile", "FROM busybox\nRUN echo 1 > /small\n");
    assert_eq!(result(&space)["small"], "1\n");
    is_sound(&space);
}

/// A prune of the store would not help.
#[test]
fn a_full_disk_where_the_output_goes() {
    let space =
        TestSpace::with("FROM busybox\nRUN cat /bin/busybox /bin/busybox /bin/busybox > /large\n");
    let disk = Disk::new(space.path("../out"), "1m");
    for kind in ["tar", "oci", "docker"] {
        let failed = space.fails(&["-o", &format!("type={kind},dest=../out/file"), "."]);
        let error = failed.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("{failed}"));
        assert!(
            error.contains("/file: ") && error.contains("No space left on device"),
            "{error}"
        );
        assert!(!error.contains("prune"), "{error}");
    }
    drop(disk);
    is_sound(&space);
}

#[test]
fn a_store_that_cannot_be_written() {
    let space = TestSpace::with("FROM busybox\nRUN echo 1 > /a\n");
    let disk = Disk::new(space.path("../store"), "64m");
    let made = result(&space);
    disk.remount("ro");
    let failed = space.fails(&["."]);
    assert!(failed.contains("Read-only file system"), "{failed}");
    assert_eq!(failed.matches("error: ").count(), 1, "{failed}");
    disk.remount("rw");
    assert_eq!(result(&space), made);
    is_sound(&space);
}

#[test]
fn a_clock_that_was_set_back() {
    let space = space();
    space.write("n", "1");
    let made = result(&space);
    // All that the store has is of the future now, and so is the context.
    shell(
        &space.path(".."),
        "find store context -name fs -prune -o -exec touch -h -d '+10 years' {} +",
    );
    assert_eq!(result(&space), made);
    let cached = space.build(&["."]).stderr;
    assert!(
        cached.contains("CACHED") && !cached.contains("DONE 0.0s\n#9 [stage"),
        "{cached}"
    );
    space.write("n", "2");
    shell(&space.path("."), "touch -d '+10 years' n");
    assert_eq!(result(&space)["b"], "2");
    space.write("n", "3");
    shell(&space.path("."), "touch -d '+10 years' n");
    assert_eq!(
        result(&space)["b"],
        "3",
        "a file of the future was taken for known"
    );
    for arguments in [
        &["du"][..],
        &["prune", "-f", "--filter=until=1h"],
        &["explain"],
        &["images"],
    ] {
        let ended = space.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    }
    is_sound(&space);
}

/// A server that takes a request and never answers holds `git` and its helper, which do not notice that the builder is gone.
#[test]
fn git_ends_with_a_builder_that_is_killed() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/repo.git", server.local_addr().unwrap());
    let space = TestSpace::with(&format!("FROM scratch\nADD {url} /\n"));
    let mut build = space.start(&["build", "."]);
    let (mut request, _) = server.accept().unwrap();
    assert!(request.read(&mut [0; 1]).unwrap() > 0);
    build.kill().unwrap();
    build.wait().unwrap();
    // Shorter than the time after which git gives up by itself.
    let patience = Duration::from_secs(10);
    request.set_read_timeout(Some(patience)).unwrap();
    let begun = Instant::now();
    // An error is either that time, or that the connection was reset.
    let _ = std::io::copy(&mut request, &mut std::io::sink());
    assert!(begun.elapsed() < patience, "git is still there");
}

/// A power cut: all that the disk was not told to keep is gone. With data that is late but names that are there, it is worst a
/// few seconds after the build.
#[test]
fn a_power_cut_after_a_build() {
    const SHUT_DOWN: &str = "import fcntl, os, struct, sys\nfd = os.open(sys.argv[1], os.O_RDONLY)\n# FS_IOC_SHUTDOWN, without writing the journal\n\
         fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))\n";
    let space = space();
    space.write("../cut.py", SHUT_DOWN);
    shell(
        &space.path(".."),
        "truncate -s 256M disk; mkfs.ext4 -q disk; mkdir -p store",
    );
    for (boot, seconds) in (0..).step_by(2).zip(["0", "0.3", "2.5"]) {
        space.write("n", format!("{boot}"));
        let made = cut_after(&space, boot, seconds);
        let again = cut_after(&space, boot + 1, "0");
        assert_eq!(again, made, "after {seconds} seconds");
    }
}

/// What a build makes after the machine was started for the `number`th time. The store is sound then, and so many seconds
/// later the power is cut. The disk is mounted where other tests do not see it, lest they hold it.
fn cut_after(space: &TestSpace, number: u32, seconds: &str) -> BTreeMap<String, Vec<u8>> {
    space.write(
        "../boot_id",
        format!("{number:08}-0000-4000-8000-000000000000\n"),
    );
    let script = format!(
        "exec unshare -m sh -ec 'mount -o loop,commit=1 ../disk ../store; \
         mount --bind ../boot_id /proc/sys/kernel/random/boot_id; \"$@\"; \"$1\" fsck >&2; \
         sleep {seconds}; python3 ../cut.py ../store' sh \"$@\""
    );
    let arguments = ["build", "--progress=plain", "-o", "type=tar,dest=-", "."];
    let output = space.scripted(&script, &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "boot {number}: {said}");
    let released = "until [ -z \"$(losetup -j disk)\" ]; do sleep 0.02; done";
    shell(&space.path(".."), released);
    let files = entries(&output.stdout).into_iter();
    files.map(|(path, entry)| (path, entry.content)).collect()
}
