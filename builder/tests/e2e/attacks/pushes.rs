//! Registries that fail while an image is pushed, seen from the command line (F-28): what passes is gone through, what lasts
//! is told of, and no tag leads to what is not all there.

use lapstrake_cache::Digest;

use super::super::registry::{Auth, Registry, Reply};
use super::super::support::TestSpace;
use super::failed;

/// Noise that does not compress, so that an upload has a middle.
fn noise() -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(300_000)
    .collect()
}

/// A space whose build is pushed to `app:v1`, by somebody with a password.
fn space(registry: &Registry) -> TestSpace {
    let space = TestSpace::with("FROM scratch\nCOPY large /\n")
        .env("LAPSTRAKE_TIMEOUT", "1")
        .env("LAPSTRAKE_RETRIES", "2");
    space.write("large", noise());
    let host = registry.host();
    let text = format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNzOndvcmQ="}}}}}}"#);
    space.write("../.docker/config.json", text);
    space
}

fn arguments(registry: &Registry) -> [String; 5] {
    let tag = format!("{}/app:v1", registry.host());
    [
        "build",
        "--progress=plain",
        "--push",
        &format!("-t={tag}"),
        ".",
    ]
    .map(str::to_owned)
}

const UPLOAD: &str = "PUT /v2/app/blobs/uploads";
const MANIFEST: &str = "PUT /v2/app/manifests";

type Bend = fn(&Registry);

#[test]
fn faults_that_pass_do_not_fail_a_push() {
    let faults: [(&str, Bend); 7] = [
        ("reset at the start", |r| r.break_upload(0)),
        ("reset in the middle", |r| r.break_upload(100_000)),
        ("no upload can begin", |r| {
            r.fail(2, "POST /v2/app/blobs", Reply::new(503));
        }),
        ("the upload fails", |r| r.fail(2, UPLOAD, Reply::new(502))),
        ("the upload is forgotten", |r| {
            r.fail(1, UPLOAD, Reply::new(404));
        }),
        ("too many requests", |r| {
            r.fail(1, MANIFEST, Reply::new(429).header("retry-after", 1));
        }),
        ("the token expires meanwhile", |r| {
            let realm = format!(r#"Bearer realm="http://{}/token",service="s""#, r.host());
            let expired = Reply::new(401).header("www-authenticate", realm);
            r.fail(1, UPLOAD, expired.clone());
            r.fail(1, MANIFEST, expired);
        }),
    ];
    for (what, bend) in faults {
        let registry = Registry::start(Auth::Token { realm: None });
        let space = space(&registry);
        bend(&registry);
        let arguments = arguments(&registry);
        let ended = space.run(&arguments.each_ref().map(String::as_str));
        assert_eq!(ended.code, Some(0), "{what}: {}", ended.stderr);
        let (_, manifest) = registry.manifest("app", "v1").unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        for blob in [&manifest["config"], &manifest["layers"][0]] {
            let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
            let bytes = registry.blob("app", &digest).unwrap();
            assert_eq!(Digest::of(&bytes), digest, "{what}");
        }
    }
}

#[test]
fn faults_that_last_fail_a_push_and_leave_no_tag() {
    let lasting: [(&str, &str, Reply, &str); 7] = [
        ("always reset", UPLOAD, Reply::new(0).cut(0), "PUT"),
        ("always failing", UPLOAD, Reply::new(500), "500"),
        ("too large", UPLOAD, Reply::new(413), "413"),
        ("nobody may", "POST /v2/app/blobs", Reply::new(403), "403"),
        ("manifest refused", MANIFEST, Reply::new(400), "400"),
        (
            "another blob than was sent",
            UPLOAD,
            Reply::new(201).header("docker-content-digest", Digest::of(b"x")),
            "instead of",
        ),
        (
            "another manifest than was sent",
            MANIFEST,
            Reply::new(201).header("docker-content-digest", Digest::of(b"x")),
            "instead of",
        ),
    ];
    for (what, line, reply, expected) in lasting {
        let registry = Registry::start(Auth::Token { realm: None });
        let space = space(&registry);
        let arguments = arguments(&registry);
        let arguments = arguments.each_ref().map(String::as_str);
        registry.fail(usize::MAX, line, reply);
        failed(&space, what, &space.run(&arguments), expected);
        assert!(registry.manifest("app", "v1").is_none(), "{what}");
        registry.mend();
        let again = space.run(&arguments);
        assert_eq!(again.code, Some(0), "{what}: {}", again.stderr);
        assert!(again.stderr.contains("CACHED"), "{what}: {}", again.stderr);
        assert!(registry.manifest("app", "v1").is_some(), "{what}");
    }
}
