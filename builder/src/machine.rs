//! The machine that builds.

use lapstrake_frontend::image::Platform;

/// Its platform, with the names that Go has for architectures.
pub(crate) fn platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        "x86" => "386",
        other => other,
    };
    Platform::new(std::env::consts::OS, architecture, None).normalized()
}
