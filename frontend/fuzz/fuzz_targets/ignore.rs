//! A list of patterns, and below its first empty line a path: matched or not, and what is matched in a directory that is
//! not entered is never looked for.
#![no_main]

use lapstrake_frontend::ignore::Ignore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (list, path) = text.split_once("\n\n").unwrap_or((text, "a/b"));
    let Ok(ignore) = Ignore::parse(list) else { return };
    let path = path.trim_matches('/');
    let taken = !ignore.matches(path);
    if let Some((parent, _)) = path.rsplit_once('/') {
        assert!(!taken || !ignore.matches(parent) || ignore.may_descend(parent));
    }
    let _ = ignore.may_match_below(path);
});
