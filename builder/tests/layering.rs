//! The crates are a star: the three leaves know nothing of each other, and only the builder knows them.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn leaves_have_no_workspace_dependency() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: Vec<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    for leaf in ["lapstrake-frontend", "lapstrake-cache", "lapstrake-runtime"] {
        let package = packages
            .iter()
            .find(|package| package["name"] == leaf)
            .expect(leaf);
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            assert!(!names.contains(&name), "{leaf} depends on {name}");
        }
    }
}

#[test]
fn only_the_builder_has_an_async_runtime_or_a_network() {
    for leaf in ["frontend", "cache", "runtime"] {
        let manifest = format!("{}/../{leaf}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&manifest).unwrap();
        for word in ["tokio", "reqwest", "rustls", "clap"] {
            assert!(!text.contains(word), "{leaf} depends on {word}");
        }
    }
}
