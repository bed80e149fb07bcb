//! Any text: expanded or refused, bounded in size.
#![no_main]

use lapstrake_frontend::expand;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lookup = |name: &str| match name {
        "A" => Some("a/b*c?d\\e\nf".into()),
        "B" => Some("x".repeat(1000).into()),
        "C" => Some("".into()),
        _ => None,
    };
    if let Ok(found) = expand::word(text, '\\', &lookup) {
        assert!(found.text.len() <= text.len() + (1 << 20));
    }
    let _ = expand::word(text, '`', &lookup);
    let _ = expand::words(text, '\\', &lookup);
    let _ = expand::body(text, &lookup);
    let _ = expand::display(text, '\\', &lookup);
});
