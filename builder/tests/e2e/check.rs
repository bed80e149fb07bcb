//! What `--check` and `--call` say.

use super::support::TestSpace;

#[test]
fn a_first_build() {
    let space = TestSpace::with("FROM busybox\nCOPY a /b\nRUN cat /b > /c\n");
    space.write("a", "hello\n");
    let files = space.files(&["."]);
    assert_eq!(files["c"], "hello\n");
    let again = space.build(&["."]);
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
}
