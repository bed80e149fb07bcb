//! Any `--mount` value: read or refused.
#![no_main]

use lapstrake_frontend::{chmod, mount_from, parse_mount};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = mount_from(text);
    let _ = parse_mount(text, &mut |word| Ok(word.to_owned()));
    let _ = chmod::parse(text);
});
