//! Runs the table `testdata/ignore.txt`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]

use lapstrake_frontend::ignore::Ignore;

#[test]
fn the_table_holds() {
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/ignore.txt");
    let table = std::fs::read_to_string(table).unwrap();
    for line in table
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        // A pattern may hold `|`, a path too; blanks around it are what separates.
        let mut columns = line.rsplitn(3, " | ");
        let (want, path, patterns) = (
            columns.next().unwrap(),
            columns.next().unwrap(),
            columns.next().unwrap(),
        );
        let ignore = Ignore::parse(&patterns.replace(';', "\n")).unwrap();
        let got = match path.strip_suffix('/') {
            Some(dir) if ignore.may_descend(dir) => "enter",
            Some(_) => "skip",
            None if ignore.matches(path) => "out",
            None => "in",
        };
        assert_eq!(got, want, "{line}");
    }
}
