//! Registries that misbehave, seen from the command line. What the client does in detail is tested in `tests/registry.rs`.

use std::time::{Duration, Instant};

use super::super::registry::{Auth, Registry, Reply};
use super::super::support::{TestSpace, archive};
use super::failed;
use super::images::Forged;

/// A space whose waits are short.
fn hasty(registry: &Registry) -> TestSpace {
    let text = format!("FROM {}/app:v1\nWORKDIR /new\n", registry.host());
    TestSpace::with(&text)
        .env("LAPSTRAKE_TIMEOUT", "0.4")
        .env("LAPSTRAKE_RETRIES", "1")
}

/// A registry with the image `app:v1`, whose layer is large enough to be slow.
fn registry(auth: Auth) -> Registry {
    let registry = Registry::start(auth);
    // Noise that does not compress.
    let mut state = 1u32;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b' ' + (state >> 24) as u8 % 90)
    })
    .take(200_000)
    .collect();
    let image = Forged::of_layer(&registry, "app", &archive(&[("file", &noise)]));
    image.put(&registry, "app");
    registry
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn silence_is_given_up_and_the_next_build_works() {
    let registry = registry(Auth::Open);
    let space = hasty(&registry);
    let body = vec![b'x'; 1 << 20];
    let cases: [(&str, &str, Reply, &str); 7] = [
        (
            "silent",
            "HEAD /v2/app/manifests",
            Reply::new(200).stall(LONG),
            "no answer for",
        ),
        (
            "manifest without end",
            "GET /v2/app/manifests",
            Reply::new(200).body(body.clone()).slowly(1, LONG),
            "did not arrive",
        ),
        (
            "huge manifest",
            "GET /v2/app/manifests",
            Reply::new(200).body(vec![b' '; 5 << 20]),
            "larger than",
        ),
        (
            "huge manifest of unknown size",
            "GET /v2/app/manifests",
            Reply::new(200).body(vec![b' '; 9 << 20]).chunked(),
            "larger than",
        ),
        ("closing", "GET /v2/app/blobs", Reply::new(0), "GET http"),
        (
            "larger than declared",
            "GET /v2/app/blobs",
            Reply::new(200).body(body.clone()).stall(LONG),
            "blob has",
        ),
        (
            "larger, of unknown size",
            "GET /v2/app/blobs",
            Reply::new(200).body(body).chunked(),
            "longer than declared",
        ),
    ];
    for (name, line, reply, expected) in cases {
        registry.fail(usize::MAX, line, reply);
        let start = Instant::now();
        let ended = space.run(&["build", "--progress=plain", "-t", "made", "."]);
        failed(&space, name, &ended, expected);
        assert!(start.elapsed() < LONG, "{name}: {:?}", start.elapsed());
        assert_eq!(space.run(&["inspect", "made"]).code, Some(1), "{name}");
        registry.mend();
    }
    space.build(&["-t", "made", "."]);
}

#[test]
fn a_transfer_that_stands_still_is_given_up() {
    let registry = registry(Auth::Open);
    let (_, manifest) = registry.manifest("app", "v1").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let blob = registry.blob("app", &digest.parse().unwrap()).unwrap();
    let line = format!("GET /v2/app/blobs/{digest}");
    let space = hasty(&registry);
    for (name, reply, expected) in [
        (
            "stalled",
            Reply::new(200).body(blob.clone()).slowly(9000, LONG),
            "nothing came for",
        ),
        (
            "cut",
            Reply::new(200).body(blob.clone()).cut(9000),
            "GET http",
        ),
        (
            "endless",
            Reply::new(200)
                .body([&blob[..], &[7; 1 << 20]].concat())
                .chunked(),
            "longer than declared",
        ),
        (
            "wrong",
            Reply::new(200).body(vec![0; blob.len()]),
            "blob is corrupt",
        ),
    ] {
        registry.fail(usize::MAX, &line, reply);
        let start = Instant::now();
        let ended = space.run(&["build", "--progress=plain", "-o", "../out", "."]);
        failed(&space, name, &ended, expected);
        assert!(
            ended.stderr.contains("Dockerfile:2"),
            "{name}: {}",
            ended.stderr
        );
        assert!(start.elapsed() < LONG, "{name}: {:?}", start.elapsed());
        assert!(!space.path("../out").exists(), "{name}");
        registry.mend();
    }
    // A fault that passes is not the user's business.
    registry.fail(1, &line, Reply::new(200).body(blob.clone()).cut(9000));
    registry.fail(1, &line, Reply::new(200).body(vec![0; blob.len()]));
    space.build(&["-o", "../out", "."]);
}

#[test]
fn passing_faults_pass_and_lasting_ones_are_told() {
    let registry = registry(Auth::Open);
    let space = hasty(&registry).env("LAPSTRAKE_RETRIES", "3");
    registry.fail(2, "HEAD /v2/app/manifests", Reply::new(503));
    registry.fail(
        1,
        "GET /v2/app/blobs",
        Reply::new(429).header("retry-after", 1),
    );
    let start = Instant::now();
    space.build(&["."]);
    assert!(start.elapsed() > Duration::from_secs(1));
    for status in [429, 503, 401, 403, 404, 500] {
        registry.fail(usize::MAX, "", Reply::new(status));
        space.write("Dockerfile", format!("FROM {}/other:v1\n", registry.host()));
        let ended = hasty_again(&space, &["build", "--progress=plain", "--pull", "."]);
        failed(&space, "lasting", &ended, &status.to_string());
        assert!(ended.stderr.contains("Dockerfile:1"), "{}", ended.stderr);
        registry.mend();
    }
    // Unreachable: nothing listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    space.write("Dockerfile", format!("FROM {closed}/app:v1\n"));
    let ended = hasty_again(&space, &["build", "--progress=plain", "."]);
    failed(&space, "unreachable", &ended, &closed.to_string());
    assert!(ended.stderr.contains("Dockerfile:1"), "{}", ended.stderr);
    space.write("Dockerfile", "FROM no-such-host.invalid/app:v1\n");
    let ended = hasty_again(&space, &["build", "--progress=plain", "."]);
    failed(&space, "no such host", &ended, "no-such-host.invalid");
}

fn hasty_again(space: &TestSpace, arguments: &[&str]) -> super::super::support::Ended {
    let output = space
        .command(arguments)
        .env("LAPSTRAKE_RETRIES", "0")
        .output();
    output.unwrap().into()
}

/// The user's credentials for a registry are shown to nobody else.
#[test]
fn credentials_stay_with_the_registry_that_they_are_for() {
    // The base64 of `user:pass:word`.
    const BASIC: &str = "dXNlcjpwYXNzOndvcmQ=";
    let thief = registry(Auth::Open);
    let log_in = |space: &TestSpace, host: &str| {
        let text = format!(r#"{{"auths":{{"{host}":{{"auth":"{BASIC}"}}}}}}"#);
        space.write("../.docker/config.json", text);
    };
    let innocent = |registry: &Registry, what: &str| {
        for request in registry.log() {
            let all = format!("{request:?}");
            assert_eq!(request.header("authorization"), "", "{what}: {all}");
            assert!(
                !all.contains(BASIC) && !all.contains("pass:word"),
                "{what}: {all}"
            );
        }
    };
    // Blobs come from another port of the same host, and from another host.
    let first = registry(Auth::Basic);
    let space = hasty(&first);
    log_in(&space, first.host());
    let port = thief.host().rsplit(':').next().unwrap();
    for host in [thief.host().to_owned(), format!("localhost:{port}")] {
        first.hook(move |request| {
            let known =
                request.path.contains("/blobs/") && !request.header("authorization").is_empty();
            let to = format!("http://{host}{}", request.path);
            known.then(|| Reply::new(307).header("location", to))
        });
        space.build(&["--no-cache", "-o", "../out", "."]);
        innocent(&thief, "redirect");
        first.mend();
    }
    // The token service is the thief's.
    let realm = format!("http://{}/token", thief.host());
    let second = registry(Auth::Token { realm: Some(realm) });
    let space = hasty(&second);
    log_in(&space, second.host());
    space.run(&["build", "."]);
    innocent(&thief, "realm");
    // Nobody is asked again and again.
    let third = registry(Auth::Basic);
    third.hook(|_| Some(Reply::new(401).header("www-authenticate", "Basic realm=\"x\"")));
    let space = hasty(&third);
    log_in(&space, third.host());
    let ended = space.run(&["build", "--progress=plain", "."]);
    failed(&space, "401 for ever", &ended, "401");
    assert!(third.log().len() < 10);
    assert!(
        !ended.stderr.contains("word") && !ended.stderr.contains(BASIC),
        "{}",
        ended.stderr
    );
}

#[test]
fn tls_is_not_given_up_for_a_mirror() {
    let plain = registry(Auth::Open);
    let space = hasty(&plain).env(
        "LAPSTRAKE_MIRRORS",
        format!("example.com=https://{}", plain.host()),
    );
    space.write("Dockerfile", "FROM example.com/app:v1\nWORKDIR /new\n");
    // The registry itself cannot be reached from here; if it can, it has no such image.
    let ended = hasty_again(&space, &["build", "--progress=plain", "."]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        plain
            .log()
            .iter()
            .all(|request| !request.path.starts_with("/v2/"))
    );
    let strange = Registry::start_tls();
    let space = hasty(&strange).env(
        "LAPSTRAKE_MIRRORS",
        format!("example.com=https://{}", strange.host()),
    );
    space.write("Dockerfile", "FROM example.com/app:v1\n");
    assert_eq!(hasty_again(&space, &["build", "."]).code, Some(1));
    assert!(
        strange.log().is_empty(),
        "a certificate that nobody knows was taken"
    );
}

#[test]
fn waits_that_make_no_sense_are_refused() {
    for (name, value) in [
        ("TIMEOUT", "0"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "soon"),
        ("RETRIES", "-1"),
        ("RETRIES", "x"),
    ] {
        let name = format!("LAPSTRAKE_{name}");
        let space = TestSpace::with("FROM scratch\nLABEL a=b\n").env(&name, value);
        assert!(space.fails(&["."]).contains(&name));
    }
}
