//! The command: arguments, environment, user, output, exit.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use lapstrake_runtime::{Cancel, Error, Exit, run};

use crate::Test;
use crate::support::{Needs, Space, bind, outcome, refused, sh};

pub(crate) const TESTS: &[Test] = &[
    ("output_and_exit_code", Needs::Nothing, output_and_exit_code),
    (
        "much_output_arrives_whole",
        Needs::Nothing,
        much_output_arrives_whole,
    ),
    (
        "a_command_that_is_not_there",
        Needs::Nothing,
        a_command_that_is_not_there,
    ),
    (
        "requests_that_make_no_sense",
        Needs::Nothing,
        requests_that_make_no_sense,
    ),
    (
        "cancelling_kills_at_once",
        Needs::Nothing,
        cancelling_kills_at_once,
    ),
    (
        "the_step_ends_with_its_command",
        Needs::Nothing,
        the_step_ends_with_its_command,
    ),
    (
        "user_home_and_working_directory",
        Needs::Ids,
        user_home_and_working_directory,
    ),
    ("users_by_number", Needs::Ids, users_by_number),
    ("users_that_cannot_be", Needs::Nothing, users_that_cannot_be),
    (
        "passwd_is_not_followed_out",
        Needs::Nothing,
        passwd_is_not_followed_out,
    ),
    (
        "working_directory_stays_inside",
        Needs::Nothing,
        working_directory_stays_inside,
    ),
    (
        "environment_is_what_was_given",
        Needs::Nothing,
        environment_is_what_was_given,
    ),
    (
        "signals_are_as_a_shell_expects",
        Needs::Nothing,
        signals_are_as_a_shell_expects,
    ),
    ("nothing_is_inherited", Needs::Nothing, nothing_is_inherited),
    ("many_at_once", Needs::Nothing, many_at_once),
];

fn output_and_exit_code(space: &Space) {
    let got = outcome(&space.sh("echo out; echo err >&2; exit 3"));
    assert_eq!(
        (got.stdout.as_str(), got.stderr.as_str(), got.exit),
        ("out\n", "err\n", Exit::Code(3))
    );
    assert_eq!(
        outcome(&space.sh("sleep 9 & kill -9 $!; wait $!")).exit,
        Exit::Code(137)
    );
}

fn much_output_arrives_whole(space: &Space) {
    let got = outcome(
        &space.sh("yes 0123456789abcde | head -n 1000000; yes 1234567 | head -n 100000 >&2"),
    );
    assert_eq!(
        (got.stdout.len(), got.stderr.len(), got.exit),
        (16_000_000, 800_000, Exit::Code(0))
    );
}

fn a_command_that_is_not_there(space: &Space) {
    let got = outcome(&space.spec(&["nonexistent"]));
    assert_eq!(got.exit, Exit::Code(127));
    assert_eq!(
        got.stderr,
        "exec: \"nonexistent\": executable file not found in $PATH\n"
    );
    let got = outcome(&space.spec(&["/etc/passwd"]));
    assert_eq!(got.exit, Exit::Code(126));
    assert_eq!(got.stderr, "exec: \"/etc/passwd\": permission denied\n");
    assert_eq!(
        outcome(&space.spec(&["/bin/nothing"])).exit,
        Exit::Code(127)
    );
}

fn requests_that_make_no_sense(space: &Space) {
    assert_eq!(
        refused(&space.spec(&[])),
        "run an empty command: name a program"
    );
    let mut spec = space.sh("true");
    spec.process.cwd = "relative".into();
    assert!(refused(&spec).contains("not absolute"));
    let mut spec = space.sh("true");
    spec.process.env.push(("A=B".into(), String::new()));
    assert!(refused(&spec).contains("not a name"));
    assert!(refused(&space.sh("a\0b")).contains("zero byte"));
    let mut spec = space.sh("true");
    spec.root.upper = "/nonexistent".into();
    assert!(
        refused(&spec).starts_with("mount overlay: "),
        "{}",
        refused(&spec)
    );
    let mut spec = space.sh("true");
    spec.mounts.push(bind("/mnt", "/nonexistent", true));
    assert!(refused(&spec).starts_with("open /nonexistent for mounting: "));
}

fn cancelling_kills_at_once(space: &Space) {
    let cancel = Cancel::new().unwrap();
    let spec = space.sh("trap '' TERM; echo ready; sleep 60 & sleep 60");
    let start = Instant::now();
    let result = run(&spec, &mut |_, _| cancel.cancel(), &cancel);
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(
        run(&spec, &mut |_, _| {}, &cancel),
        Err(Error::Cancelled)
    ));
}

fn the_step_ends_with_its_command(space: &Space) {
    let start = Instant::now();
    let script = "sleep 60 & (setsid sleep 60 &) ; nohup sleep 60 >/dev/null 2>&1 & echo done";
    assert_eq!(sh(space, script), "done");
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn user_home_and_working_directory(space: &Space) {
    let mut spec =
        space.sh("id -u; id -g; id -G; echo $HOME; pwd; stat -c %u:%g .; umask; hostname");
    spec.process.user = "ann".into();
    spec.process.cwd = "/srv/new/deep".into();
    let expected = [
        "1000",
        "1001",
        "1001 10 29",
        "/home/ann",
        "/srv/new/deep",
        "1000:1001",
        "0022",
        "buildhost",
    ];
    assert_eq!(outcome(&spec).ok().lines().collect::<Vec<_>>(), expected);
    // It was made for the user and stays.
    assert!(spec.root.upper.join("srv/new/deep").is_dir());
    assert_eq!(sh(space, "id -u; echo $HOME; pwd"), "0\n/root\n/");
}

fn users_by_number(space: &Space) {
    for (user, expected) in [
        ("1", "1 0 0 /"),
        ("01", "1 0 0 /"),
        ("1:0", "1 0 0 /"),
        ("1000", "1000 1001 1001 10 29 /home/ann"),
        ("1000:5", "1000 5 5 /home/ann"),
        ("ann:wheel", "1000 10 10 /home/ann"),
        ("root", "0 0 0 29 /root"),
        ("", "0 0 0 29 /root"),
        ("7:audio", "7 29 29 /"),
    ] {
        let mut spec = space.sh("echo $(id -u) $(id -g) $(id -G) $HOME");
        spec.process.user = user.into();
        assert_eq!(outcome(&spec).ok(), expected, "{user:?}");
    }
}

fn users_that_cannot_be(space: &Space) {
    for (user, expected) in [
        ("nobody-here", "find user \"nobody-here\""),
        (" 0", "find user \" 0\""),
        ("-1", "find user \"-1\""),
        ("4294967295", "ids go up to"),
        ("4294967296", "ids go up to"),
        ("0:4294967295", "ids go up to"),
        ("root:nothing", "find group \"nothing\""),
    ] {
        let mut spec = space.sh("true");
        spec.process.user = user.into();
        let message = refused(&spec);
        assert!(
            message.starts_with("resolve user ") && message.contains(expected),
            "{message}"
        );
    }
}

fn passwd_is_not_followed_out(space: &Space) {
    let outside = space.fresh("outside").join("passwd");
    std::fs::write(&outside, "eve:x:0:0::/:/bin/sh\n").unwrap();
    for (trap, expected) in [
        ("link", "find user"),
        ("directory", "not a regular file"),
        ("fifo", "not a regular file"),
        ("huge", "larger than 10 MiB"),
    ] {
        let layer = space.fresh("layer");
        std::fs::create_dir(layer.join("etc")).unwrap();
        let file = layer.join("etc/passwd");
        match trap {
            "link" => symlink(&outside, file).unwrap(),
            "directory" => symlink("/bin", file).unwrap(),
            "fifo" => assert!(Command::new("mkfifo").arg(file).status().unwrap().success()),
            _ => std::fs::File::create(file)
                .unwrap()
                .set_len(11 << 20)
                .unwrap(),
        }
        let mut spec = space.sh("true");
        spec.root.lowers.push(layer);
        spec.process.user = "eve".into();
        let start = Instant::now();
        let message = refused(&spec);
        assert!(message.contains(expected), "{message}");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

fn working_directory_stays_inside(space: &Space) {
    let canary = space.fresh("canary");
    let layer = space.fresh("layer");
    symlink(&canary, layer.join("link")).unwrap();
    symlink("/proc/self/fd/3", layer.join("fd")).unwrap();
    for cwd in [
        "/link",
        "/link/deep",
        "/../../link/x",
        "/fd",
        "/proc/self/fd/3",
        "/fd/..",
    ] {
        let mut spec = space.sh("pwd; ls / | grep -c bin; touch here");
        spec.root.lowers.push(layer.clone());
        spec.process.cwd = cwd.into();
        // Inside, or refused; in any case not in the host's directory.
        let _ = crate::support::try_run(&spec);
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0, "{cwd}");
    }
    let mut spec = space.sh("pwd");
    spec.root.lowers.push(layer);
    spec.process.cwd = "/link/deep".into();
    assert_eq!(outcome(&spec).ok(), format!("{}/deep", canary.display()));
}

fn environment_is_what_was_given(space: &Space) {
    let mut spec = space.spec(&["/bin/env"]);
    spec.process
        .env
        .extend([("A".into(), "1\n2".into()), ("EMPTY".into(), String::new())]);
    assert_eq!(
        outcome(&spec).ok(),
        "PATH=/usr/bin:/bin\nA=1\n2\nEMPTY=\nHOME=/root"
    );
    spec = space.spec(&["/bin/env"]);
    spec.process.env = vec![("HOME".into(), "/elsewhere".into())];
    assert_eq!(outcome(&spec).ok(), "HOME=/elsewhere");
}

fn signals_are_as_a_shell_expects(space: &Space) {
    let status = sh(
        space,
        "grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/self/status | tr -d '\\t\\n'",
    );
    assert_eq!(
        status,
        "SigBlk:0000000000000000SigIgn:0000000000000000SigCgt:0000000000000000"
    );
    // Ended by SIGPIPE, not by an error when writing.
    assert_eq!(outcome(&space.sh("yes | head -n 1")).stderr, "");
}

fn nothing_is_inherited(space: &Space) {
    // The list is whole before anything reads it: in a pipe, ls may be done before its reader exists.
    assert_eq!(
        sh(
            space,
            "echo $$; processes=$(ls /proc); echo \"$processes\" | grep -c '^[0-9]'"
        ),
        "1\n2"
    );
    // 3 is the directory that ls reads.
    assert_eq!(sh(space, "ls /proc/self/fd"), "0\n1\n2\n3");
    assert_eq!(
        sh(
            space,
            "readlink /proc/self/fd/0; cat; ls /proc/1/task | wc -l"
        ),
        "/dev/null\n1"
    );
    // A process group and a session of its own, without a terminal.
    assert_eq!(sh(space, "cut -d' ' -f5,6,7 /proc/self/stat"), "1 1 0");
    let keys = outcome(&space.sh("cat /proc/keys")).stdout;
    assert_eq!(keys, "");
}

fn many_at_once(space: &Space) {
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(
                        sh(space, &format!("echo {number}; touch /made")),
                        number.to_string()
                    );
                }
            });
        }
    });
}
