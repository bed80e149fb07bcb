//! What lies elsewhere and changes, or does not: files and repositories that ADD fetches, base images under a tag.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::edits::after_each;
use super::registry::{Auth, Registry, Reply};
use super::sources::repository;
use super::support::{MANIFEST, TestSpace, base_images, manifest, moved_base, shell, worked};

/// A server that gives this to every request for `/f`; none is a server that fails.
fn changing(reply: &Arc<Mutex<Option<Reply>>>) -> Registry {
    let server = Registry::start(Auth::Open);
    let reply = Arc::clone(reply);
    server.hook(move |request| {
        let failed = || Reply::new(403);
        (request.path == "/f").then(|| reply.lock().unwrap().clone().unwrap_or_else(failed))
    });
    server
}

fn file(body: &str, etag: &str) -> Option<Reply> {
    Some(Reply::new(200).body(body).header("etag", etag))
}

#[test]
fn a_file_counts_by_its_content() {
    let given = Arc::new(Mutex::new(file("one", "1")));
    let server = changing(&given);
    let add = format!("ADD http://{}/f /", server.host());
    let space = TestSpace::with(&format!("FROM busybox\n{add}\nRUN cat /f\n"));
    let all: &[&str] = &[&add, "RUN cat /f"];
    let give = |reply| *given.lock().unwrap() = reply;
    let dated = |date: &str| file("two", "3").map(|reply| reply.header("last-modified", date));
    after_each(
        &space,
        &["."],
        &[
            ("another etag", &|| give(file("one", "2")), &[]),
            ("another content", &|| give(file("two", "3")), all),
            // The file is made anew with its time, but is the same to whoever reads it.
            (
                "another time",
                &|| give(dated("Wed, 21 Oct 2015 07:28:00 GMT")),
                &[&add],
            ),
            ("back", &|| give(file("one", "4")), &[]),
        ],
    );
}

/// With `--checksum` nothing that the server could say matters.
#[test]
fn a_file_with_a_checksum_is_not_asked_for_again() {
    let given = Arc::new(Mutex::new(file("text", "1")));
    let server = changing(&given);
    let sum = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
    let add = format!("ADD --checksum=sha256:{sum} http://{}/f /", server.host());
    let space = TestSpace::with(&format!("FROM busybox\n{add}\n"));
    space.build(&["."]);
    let asked = server.seen().len();
    *given.lock().unwrap() = file("another", "2");
    assert_eq!(worked(&space.build(&["."])), [""; 0]);
    // Nor on another base, for another destination.
    space.write("Dockerfile", format!("FROM scratch\n{add}d/\n"));
    assert_eq!(space.files(&["."])["d/f"], "text");
    assert_eq!(server.seen().len(), asked);
    // The machine that takes the step from a cache elsewhere does not ask either.
    let cache = "type=local,dest=../cache";
    space.build(&["--cache-to", cache, "."]);
    std::fs::rename(space.path("../store"), space.path("../other")).unwrap();
    *given.lock().unwrap() = None;
    let far = space.build(&["--cache-from", "type=local,src=../cache", "."]);
    assert_eq!(worked(&far), [""; 0]);
    std::fs::remove_dir_all(space.path("../store")).unwrap();
    assert!(space.fails(&["."]).contains("403"));
}

/// Whatever the first build's SOURCE_DATE_EPOCH was, so that the next one takes nothing else than it would make.
#[test]
fn a_file_of_which_the_server_says_no_time_is_of_1970() {
    let given = Arc::new(Mutex::new(file("text", "1")));
    let server = changing(&given);
    let add = format!("ADD http://{}/f /", server.host());
    let space = TestSpace::with(&format!("FROM busybox\n{add}\nRUN stat -c 'at %Y' /f\n"));
    let first = space.build(&["--build-arg=SOURCE_DATE_EPOCH=1000", "."]);
    assert!(first.stderr.contains(" at 0\n"), "{}", first.stderr);
    let next = space.build(&["--build-arg=SOURCE_DATE_EPOCH=2000000", "."]);
    assert_eq!(worked(&next), [""; 0]);
}

#[test]
fn a_branch_counts_by_its_commit_and_a_context_by_its_files() {
    let space = TestSpace::empty();
    let server = repository(&space);
    let url = format!("http://{}/repo.git", server.host());
    let add = format!("ADD {url}#main:sub /sub");
    space.write(
        "Dockerfile",
        format!("FROM busybox\n{add}\nRUN cat /sub/file\n"),
    );
    let commit = |change: &str| {
        let publish = "git commit -q --allow-empty -am more; git push -q ../repo.git HEAD:main";
        let script = format!("{change}; {publish}; git -C ../repo.git update-server-info");
        shell(&space.path("../git/work"), &script);
    };
    after_each(
        &space,
        &["."],
        &[
            (
                "a file outside the directory",
                &|| commit("echo x > file"),
                &[&add],
            ),
            (
                "a file in it",
                &|| commit("echo x > sub/file"),
                &[&add, "RUN cat /sub/file"],
            ),
        ],
    );
    let context = format!("{url}#main:sub");
    after_each(
        &space,
        &[&context],
        &[
            ("a commit of nothing", &|| commit("true"), &[]),
            ("a file elsewhere", &|| commit("echo y > file"), &[]),
            (
                "a file of it",
                &|| commit("echo y > sub/file"),
                &["COPY . /in/"],
            ),
        ],
    );
}

/// The image of these files with another config.
fn configured(registry: &Registry, name: &str, value: Value) -> Vec<u8> {
    let repository = "library/configured";
    let plain = manifest(registry, repository, "amd64", &moved_base("files"));
    let mut image: Value = serde_json::from_slice(&plain).unwrap();
    let digest = image["config"]["digest"].as_str().unwrap().parse().unwrap();
    let config = registry.blob(repository, &digest).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["config"][name] = value;
    let config = config.to_string().into_bytes();
    image["config"]["digest"] = json!(registry.put_blob(repository, &config).to_string());
    image["config"]["size"] = json!(config.len());
    image.to_string().into_bytes()
}

/// What a base image's config says counts only where a step sees it.
#[test]
fn a_base_that_moved_to_the_same_files() {
    let registry = base_images();
    let put = |name: &str, value: Value| {
        let image = configured(registry, name, value);
        registry.put_manifest("library/configured", "latest", MANIFEST, &image);
    };
    put("Labels", json!({ "a": "b" }));
    let space = TestSpace::with(
        "FROM --platform=linux/amd64 configured AS base\nCOPY f /\n\
         FROM --platform=linux/amd64 busybox\nRUN echo 1\nCOPY --from=base /f /g\n",
    );
    space.write("f", "f");
    let relative = "FROM --platform=linux/amd64 configured\nCOPY f .\n";
    let pulled = ["--pull", "."];
    after_each(
        &space,
        &pulled,
        &[
            ("another label", &|| put("Labels", json!({ "a": "c" })), &[]),
            ("another variable", &|| put("Env", json!(["X=1"])), &[]),
            ("another command", &|| put("Cmd", json!(["y"])), &[]),
            ("another directory", &|| put("WorkingDir", json!("/w")), &[]),
            (
                "a step that sees it",
                &|| space.write("Dockerfile", relative),
                &["COPY f ."],
            ),
            (
                "another directory that is seen",
                &|| put("WorkingDir", json!("/v")),
                &["COPY f ."],
            ),
        ],
    );
}
