//! The command: arguments, environment, user, output, exit.

use lapstrake_runtime::{Cancel, Error, Exit, run};

use crate::Test;
use crate::support::{Space, outcome, sh};

pub(crate) const TESTS: &[Test] = &[
    ("output_and_exit_code", output_and_exit_code),
    ("a_command_that_is_not_there", a_command_that_is_not_there),
    ("cancelling_kills_at_once", cancelling_kills_at_once),
    (
        "user_home_and_working_directory",
        user_home_and_working_directory,
    ),
];

fn output_and_exit_code(space: &Space) {
    let got = outcome(&space.sh("echo out; echo err >&2; exit 3"));
    assert_eq!(
        (got.stdout.as_str(), got.stderr.as_str(), got.exit),
        ("out\n", "err\n", Exit::Code(3))
    );
    assert_eq!(
        outcome(&space.sh("kill -9 $$; sleep 9 & kill -9 $!; wait $!")).exit,
        Exit::Code(137)
    );
}

fn a_command_that_is_not_there(space: &Space) {
    let got = outcome(&space.spec(&["nonexistent"]));
    assert_eq!(got.exit, Exit::Code(127));
    assert_eq!(
        got.stderr,
        "exec: \"nonexistent\": executable file not found in $PATH\n"
    );
    assert_eq!(outcome(&space.spec(&["/etc/passwd"])).exit, Exit::Code(126));
}

fn cancelling_kills_at_once(space: &Space) {
    let cancel = Cancel::new().unwrap();
    let spec = space.sh("trap '' TERM; echo ready; sleep 60 & sleep 60");
    let start = std::time::Instant::now();
    let result = run(&spec, &mut |_, _| cancel.cancel(), &cancel);
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(start.elapsed().as_secs() < 5);
    assert!(matches!(
        run(&spec, &mut |_, _| {}, &cancel),
        Err(Error::Cancelled)
    ));
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
    assert_eq!(sh(space, "id -u; echo $HOME; pwd"), "0\n/root\n/");
}
