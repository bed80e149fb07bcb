//! What a step must not see or do.

use std::process::Command;
use std::time::{Duration, Instant};

use lapstrake_runtime::{Device, DeviceKind, Exit, Network, Security, Ulimit};

use crate::support::{Needs, Space, bind, outcome, refused, sh};
use crate::{Test, leaks};

pub(crate) const TESTS: &[Test] = &[
    (
        "capabilities_and_filter",
        Needs::Nothing,
        capabilities_and_filter,
    ),
    ("capabilities_of_a_user", Needs::Ids, capabilities_of_a_user),
    (
        "namespaces_are_its_own",
        Needs::Nothing,
        namespaces_are_its_own,
    ),
    (
        "calls_that_are_refused",
        Needs::Nothing,
        calls_that_are_refused,
    ),
    (
        "proc_and_sys_are_protected",
        Needs::Nothing,
        proc_and_sys_are_protected,
    ),
    ("dev_is_minimal", Needs::Nothing, dev_is_minimal),
    (
        "devices_cannot_be_opened",
        Needs::Root,
        devices_cannot_be_opened,
    ),
    (
        "devices_that_are_given",
        Needs::Root,
        devices_that_are_given,
    ),
    (
        "a_device_by_another_name",
        Needs::Nothing,
        a_device_by_another_name,
    ),
    ("no_new_privileges", Needs::Ids, no_new_privileges),
    (
        "nothing_of_the_host_shows",
        Needs::Nothing,
        nothing_of_the_host_shows,
    ),
    (
        "limits_of_the_process",
        Needs::Nothing,
        limits_of_the_process,
    ),
    ("memory_is_bounded", Needs::Root, memory_is_bounded),
    ("tasks_are_bounded", Needs::Root, tasks_are_bounded),
    (
        "a_group_below_a_given_one",
        Needs::Root,
        a_group_below_a_given_one,
    ),
    (
        "other_users_than_there_are",
        Needs::Nothing,
        other_users_than_there_are,
    ),
    (
        "insecure_is_not_confined",
        Needs::Root,
        insecure_is_not_confined,
    ),
    (
        "own_program_cannot_be_written",
        Needs::Nothing,
        own_program_cannot_be_written,
    ),
];

fn status(space: &Space, user: &str) -> String {
    let mut spec =
        space.sh("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr '\\t' ' '");
    spec.process.user = user.into();
    outcome(&spec).ok()
}

fn capabilities_and_filter(space: &Space) {
    let expected = "CapInh: 0000000000000000\nCapPrm: 00000000a80425fb\nCapEff: 00000000a80425fb\n\
        CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\nNoNewPrivs: 0\nSeccomp: 2";
    assert_eq!(status(space, "root"), expected);
}

fn capabilities_of_a_user(space: &Space) {
    let expected = "CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\n\
        CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\nNoNewPrivs: 0\nSeccomp: 2";
    assert_eq!(status(space, "ann"), expected);
    // Programs that change the user work.
    let mut spec = space.sh("/tmp/busybox su -c 'id -u' root");
    spec.process.user = "ann".into();
    for directory in ["tmp", "etc"] {
        std::fs::create_dir(spec.root.upper.join(directory)).unwrap();
    }
    std::fs::write(
        spec.root.upper.join("etc/passwd"),
        "root::0:0::/:/bin/sh\nann::1000:1001::/:/bin/sh\n",
    )
    .unwrap();
    let program = spec.root.upper.join("tmp/busybox");
    std::fs::copy("/bin/busybox", &program).unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o4755),
    )
    .unwrap();
    assert_eq!(outcome(&spec).ok(), "0");
}

fn other_users_than_there_are(space: &Space) {
    if space.identity == lapstrake_runtime::Identity::Single {
        let mut spec = space.sh("true");
        spec.process.user = "ann".into();
        let message = refused(&spec);
        assert!(message.contains("/etc/subuid"), "{message}");
    }
}

fn namespaces_are_its_own(space: &Space) {
    for name in ["mnt", "pid", "ipc", "uts", "cgroup", "net", "time"] {
        let inside = sh(space, &format!("readlink /proc/self/ns/{name}"));
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(inside, outside.display().to_string(), "{name}");
    }
    assert_eq!(sh(space, "hostname"), "buildhost");
}

fn calls_that_are_refused(space: &Space) {
    let scripts = [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs x /tmp",
        "mount -o remount,rw /sys",
        "dmesg",
    ];
    for script in scripts.into_iter().chain([
        "umount /etc/hosts",
        "hostname other",
        "chroot / unshare -n true",
    ]) {
        let got = outcome(&space.sh(script));
        assert!(
            got.exit != Exit::Code(0) && got.stderr.contains("ermi"),
            "{script}: {got:?}"
        );
    }
    assert_eq!(sh(space, "chroot / /bin/echo works"), "works");
}

fn proc_and_sys_are_protected(space: &Space) {
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
        "/proc/sys/kernel/hostname",
    ] {
        let script = format!(
            "test -e {path} || exit 0; (echo x > {path}) 2>/dev/null && echo WRITTEN; true"
        );
        assert_eq!(sh(space, &script), "", "{path}");
    }
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/interrupts",
        "/proc/sched_debug",
    ] {
        assert_eq!(
            sh(
                space,
                &format!("test -e {path} || exit 0; head -c 10 {path}")
            ),
            "",
            "{path}"
        );
    }
    for path in [
        "/sys/firmware",
        "/proc/acpi",
        "/proc/scsi",
        "/sys/devices/virtual/powercap",
        "/sys/dev/block",
    ] {
        let script = format!(
            "test -d {path} || exit 0; ls -A {path}; touch {path}/x 2>/dev/null && echo WRITTEN; true"
        );
        assert_eq!(sh(space, &script), "", "{path}");
    }
    let script =
        "find /sys/fs/cgroup -type d -exec mkdir {}/x \\; 2>/dev/null; find /sys/fs/cgroup -name x";
    assert_eq!(sh(space, script), "");
    // Those of the machine are not seen on its network either, where a user's /sys is the machine's.
    let mut spec = space.sh("ls -d /sys/fs/cgroup/*/ 2> /dev/null; true");
    spec.network = Network::Host;
    assert_eq!(outcome(&spec).ok(), "");
    let writable = "grep -E ' /(proc|sys)' /proc/mounts | grep ' rw,' | cut -d' ' -f2 | grep -v -E '^/proc(/|$)'; true";
    assert_eq!(sh(space, writable), "");
}

fn dev_is_minimal(space: &Space) {
    let list = sh(space, "ls /dev | tr '\\n' ' '");
    assert_eq!(
        list,
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    let script = "for n in null zero full random urandom tty; do stat -c '%F %t:%T %a' /dev/$n; done | sort -u";
    let expected = "character special file 1:3 666\ncharacter special file 1:5 666\ncharacter special file 1:7 666\n\
        character special file 1:8 666\ncharacter special file 1:9 666\ncharacter special file 5:0 666";
    assert_eq!(sh(space, script), expected);
    assert_eq!(
        sh(
            space,
            "echo x > /dev/null; head -c 3 /dev/zero | od -An -tx1; stat -c %a /dev/shm"
        ),
        " 00 00 00\n1777"
    );
    let mut spec = space.sh(
        "df -k /dev/shm | tail -n 1 | sed 's/  */ /g' | cut -d' ' -f2; grep /dev/shm /proc/mounts",
    );
    spec.limits.shm_size = Some(1 << 20);
    let output = outcome(&spec).ok();
    assert!(
        output.starts_with("1024\n") && output.contains("noexec"),
        "{output}"
    );
    assert!(sh(space, "grep /dev/shm /proc/mounts").contains("size=65536k"));
}

fn devices_cannot_be_opened(space: &Space) {
    let script = "mknod /b b 254 0; mknod /m c 1 1; mknod /dev/d b 7 0; mknod /tun c 10 200; mknod /console c 5 1
        for d in /b /m /dev/d /tun /console; do head -c 1 $d 2>&1; done
        mknod /n c 1 3; echo x > /n && echo null works";
    let output = sh(space, script);
    assert_eq!(
        output.matches("peration not permitted").count(),
        5,
        "{output}"
    );
    assert!(output.ends_with("null works"), "{output}");
}

fn device(target: &str, source: &str, access: &str) -> Device {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let node = std::fs::metadata(source).unwrap();
    Device {
        target: target.into(),
        source: source.into(),
        kind: if node.file_type().is_block_device() {
            DeviceKind::Block
        } else {
            DeviceKind::Character
        },
        major: (node.rdev() >> 8) as u32 & 0xfff,
        minor: (node.rdev() & 0xff) as u32,
        access: access.into(),
        mode: Some(0o640),
        uid: Some(7),
        gid: Some(8),
    }
}

fn devices_that_are_given(space: &Space) {
    let known = ["/dev/fuse", "/dev/loop-control", "/dev/net/tun"];
    let source = known
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap();
    let opens = |mode: &str| format!("(exec 9{mode}/dev/sub/it) 2>&1 | grep -c 'not permitted'");
    let script = format!(
        "stat -c '%a %u:%g' /dev/sub/it; {}; {}; mknod /z b 254 77; head -c 1 /z 2>&1 | grep -c 'not permitted'",
        opens("<"),
        opens("<>")
    );
    for (access, expected) in [("rwm", "640 7:8\n0\n0\n1"), ("r", "640 7:8\n0\n1\n1")] {
        let mut spec = space.sh(&script);
        spec.devices = vec![device("/dev/sub/it", source, access)];
        assert_eq!(outcome(&spec).ok(), expected, "{source} {access}");
        assert_eq!(
            std::fs::read_dir(&spec.root.upper)
                .unwrap()
                .filter(|e| e.as_ref().unwrap().file_name() == "dev")
                .count(),
            1
        );
        assert_eq!(
            std::fs::read_dir(spec.root.upper.join("dev"))
                .unwrap()
                .count(),
            0
        );
    }
}

fn a_device_by_another_name(space: &Space) {
    for target in ["/dev/mine", "/opt/mine"] {
        let mut spec = space.sh(&format!("head -c 2 {target} | od -An -tx1"));
        spec.devices = vec![device(target, "/dev/zero", "rw")];
        assert_eq!(outcome(&spec).ok(), " 00 00", "{target}");
        assert!(!spec.root.upper.join("opt").exists());
        spec.devices[0].minor = 8;
        if target.starts_with("/opt") {
            assert!(refused(&spec).contains("/dev/zero is another device"));
        }
    }
}

fn no_new_privileges(space: &Space) {
    let mut spec = space.sh("grep NoNewPrivs /proc/self/status | tr '\\t' ' '; id -u");
    spec.no_new_privileges = true;
    spec.process.user = "ann".into();
    assert_eq!(outcome(&spec).ok(), "NoNewPrivs: 1\n1000");
}

fn nothing_of_the_host_shows(space: &Space) {
    // No name of a directory of the host, and nothing of it below a mount point.
    let mounts = sh(space, "cat /proc/self/mountinfo");
    let host = space.base();
    assert!(!mounts.contains(&host.display().to_string()), "{mounts}");
    let points =
        "/ /dev /dev/mqueue /dev/pts /dev/shm /etc/hosts /etc/resolv.conf /proc /proc/ /sys /sys/";
    for line in mounts.lines() {
        let point = line.split_whitespace().nth(4).unwrap();
        let known = points.split(' ').any(|known| {
            point == known || known.ends_with('/') && known != "/" && point.starts_with(known)
        });
        let node = ["null", "zero", "full", "random", "urandom", "tty"]
            .iter()
            .any(|node| point == format!("/dev/{node}"));
        assert!(known || node, "{line}");
    }
}

fn limits_of_the_process(space: &Space) {
    let mut spec = space.sh("ulimit -n; ulimit -Hn; ulimit -c");
    let limit = |name: &str, soft, hard| Ulimit {
        name: name.into(),
        soft,
        hard,
    };
    spec.limits.ulimits = vec![limit("nofile", 100, 200), limit("core", 0, 0)];
    assert_eq!(outcome(&spec).ok(), "100\n200\n0");
    spec.limits.ulimits = vec![limit("files", 100, 200)];
    assert_eq!(
        refused(&spec),
        "set resource limits: no limit is called \"files\""
    );
    assert!(sh(space, "ulimit -n").parse::<u64>().unwrap() <= 1 << 20);
    // More than this process may give is as much as it may.
    let mut spec = space.sh("ulimit -Hn");
    spec.limits.ulimits = vec![limit("nofile", 1 << 40, 1 << 40)];
    assert!(outcome(&spec).ok().parse::<u64>().unwrap() <= 1 << 30);
}

fn memory_is_bounded(space: &Space) {
    let mut spec = space.sh("dd if=/dev/zero of=/dev/null bs=200M count=1");
    spec.limits.memory = Some(64 << 20);
    assert_eq!(outcome(&spec).exit, Exit::OutOfMemory);
    let mut spec = space.sh("exit 137");
    spec.limits.memory = Some(64 << 20);
    assert_eq!(outcome(&spec).exit, Exit::Code(137));
    spec.limits.memory = Some(1);
    // Too little to start at all: an error or a killed command, but not success.
    assert!(!crate::support::try_run(&spec).is_ok_and(|outcome| outcome.exit == Exit::Code(0)));
}

fn tasks_are_bounded(space: &Space) {
    let mut spec = space.sh("for i in $(seq 50); do sleep 5 & done; true");
    spec.limits.pids = Some(20);
    let got = outcome(&spec);
    assert!(got.stderr.contains("can't fork"), "{got:?}");
    // Everybody in the room, and it still ends at once.
    let mut bomb = space.sh("bomb() { bomb | bomb & }; bomb; sleep 0.2");
    bomb.limits.pids = Some(100);
    let start = Instant::now();
    outcome(&bomb);
    assert!(start.elapsed() < Duration::from_secs(20));
    spec.limits.cpu_quota = Some(50_000);
    spec.limits.cpu_period = Some(100_000);
    spec.limits.cpu_shares = Some(512);
    spec.limits.cpuset_cpus = Some("0".into());
    spec.process.argv = vec!["nproc".into()];
    assert_eq!(outcome(&spec).ok(), "1");
    // Refused by the keeper, while the plan is still on its way.
    spec.limits.cpuset_cpus = Some("9999".into());
    spec.process.env.push(("LONG".into(), "x".repeat(1 << 20)));
    let message = refused(&spec);
    assert!(
        message.starts_with("make a control group: set cpuset.cpus to 9999: "),
        "{message}"
    );
}

fn a_group_below_a_given_one(_space: &Space) {
    // In a build of its own, at whose end its group is removed.
    let output = Command::new(std::env::current_exe().unwrap())
        .args([leaks::GROUP, "/lapstrake-test/inner"])
        .output();
    assert_eq!(
        String::from_utf8_lossy(&output.unwrap().stdout).trim(),
        "0::/"
    );
    let mut parents: Vec<_> = leaks::groups()
        .into_iter()
        .filter(|path| path.ends_with("lapstrake-test"))
        .collect();
    assert!(!parents.is_empty());
    let start = Instant::now();
    while let Some(parent) = parents.last() {
        let _ = std::fs::remove_dir(parent.join("inner"));
        if std::fs::remove_dir(parent).is_ok() {
            parents.pop();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{parents:?}");
    }
}

fn insecure_is_not_confined(space: &Space) {
    let script = "grep -E '^(CapEff|Seccomp:)' /proc/self/status | tr '\\t' ' '; mount -t tmpfs x /tmp && echo mounted
        test -e /dev/kmsg && echo devices; unshare -m true && echo unshared; stat -c %a /proc/sys/kernel/core_pattern
        grep ' /sys ' /proc/mounts | cut -c1-12";
    let mut spec = space.sh(script);
    spec.security = Security::Insecure;
    let output = outcome(&spec).ok();
    for expected in [
        "Seccomp: 0",
        "mounted",
        "devices",
        "unshared",
        "none /sys sy",
    ] {
        assert!(output.contains(expected), "{output}");
    }
    assert!(!output.contains("00000000a80425fb"), "{output}");
    if space.identity == lapstrake_runtime::Identity::Root {
        let mut spec =
            space.sh("mount -t tmpfs x /tmp && id -u; test -c /dev/net/tun && echo deep");
        spec.security = Security::Insecure;
        spec.process.user = "1000".into();
        let deep = if std::path::Path::new("/dev/net/tun").exists() {
            "\ndeep"
        } else {
            ""
        };
        assert_eq!(outcome(&spec).ok(), format!("1000{deep}"), "another user");
    }
}

/// The argument that makes this program try to overwrite itself.
pub(crate) const SELF_WRITE: &str = "self-write";

/// Says why its own file cannot be opened for writing.
pub(crate) fn write_to_self() {
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open("/proc/self/exe");
    println!("{:?}", opened.map(drop).map_err(|error| error.kind()));
}

fn own_program_cannot_be_written(space: &Space) {
    // Before the command takes its place, the process is this program; the libraries let it run inside.
    let mut spec = space.spec(&["/proc/self/exe", SELF_WRITE]);
    for directory in ["/lib", "/lib64", "/usr/lib"] {
        if std::path::Path::new(directory).exists() {
            spec.mounts.push(bind(directory, directory, true));
        }
    }
    assert_eq!(outcome(&spec).ok(), "Err(ReadOnlyFilesystem)");
    let before = std::fs::metadata(std::env::current_exe().unwrap())
        .unwrap()
        .modified()
        .unwrap();
    outcome(&space.sh("for f in /proc/*/exe; do : 2>/dev/null > $f; done; true"));
    assert_eq!(
        std::fs::metadata(std::env::current_exe().unwrap())
            .unwrap()
            .modified()
            .unwrap(),
        before
    );
}
