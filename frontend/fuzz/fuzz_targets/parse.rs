//! Any bytes: parsed, linted and rendered without panic.
#![no_main]

use lapstrake_frontend::diag::Color;
use lapstrake_frontend::lint::{Scope, lint};
use lapstrake_frontend::{parse_bytes, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (source, result) = parse_bytes(bytes);
    let _ = parse_trigger(&source);
    match result {
        Ok(dockerfile) => {
            for instruction in &dockerfile.instructions {
                assert!(instruction.span.end as usize <= source.len());
            }
            let _ = lint(&dockerfile, Scope::All, Vec::new(), None);
        }
        Err(found) => {
            for found in found {
                assert!(found.span.start <= found.span.end && found.span.end as usize <= source.len());
                found.render("Dockerfile", &source, Color::Ansi);
            }
        }
    }
});
