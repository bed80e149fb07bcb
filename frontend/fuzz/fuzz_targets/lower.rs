#![no_main]

use lapstrake_frontend::ignore::Ignore;
use lapstrake_frontend::image::Platform;
use lapstrake_frontend::plan::{Inputs, Lowered};
use lapstrake_frontend::{lower, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Ignore::parse(text);
    let Ok(dockerfile) = parse(text) else { return };
    let platform = Platform::new("linux", "amd64", None);
    let mut inputs = Inputs { build_platform: platform.clone(), target_platform: platform, ..Inputs::default() };
    while let Ok(Lowered::Need(wanted)) = lower(&dockerfile, &inputs) {
        for wanted in wanted {
            let old = inputs.images.insert((wanted.reference, wanted.platform), b"{}".to_vec());
            assert!(old.is_none(), "an image is asked for twice");
        }
    }
});
