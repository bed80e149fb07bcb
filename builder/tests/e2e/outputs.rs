//! What comes out of a build: every kind of output, and the files beside it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::registry::{Auth, Registry};
use super::support::{Entry, TestSpace, base_images, entries, shell};

const DOCKERFILE: &str =
    "FROM busybox\nLABEL own=1\nCOPY a /a\nRUN ln -s a /link; echo b > /b; chmod 4711 /b\n";

fn space() -> TestSpace {
    let space = TestSpace::with(DOCKERFILE);
    space.write("a", "A");
    space
}

/// The manifest and the config in an archive or folder of an OCI layout.
fn documents(files: &BTreeMap<String, Entry>) -> (Value, Value) {
    let document = |digest: &Value| -> Value {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        serde_json::from_slice(&files[&format!("blobs/sha256/{hex}")].content).unwrap()
    };
    let index: Value = serde_json::from_slice(&files["index.json"].content).unwrap();
    let manifest = document(&index["manifests"][0]["digest"]);
    let config = document(&manifest["config"]["digest"]);
    (manifest, config)
}

#[test]
fn several_outputs_at_once() {
    let space = space();
    let registry = Registry::start(Auth::Open);
    let pushed = format!("{}/app:1", registry.host());
    let ended = space.build(&[
        "-t",
        &pushed,
        "-o",
        "type=oci,dest=../a.tar",
        "-o",
        "type=oci,dest=../layout,tar=false",
        "-o",
        "type=docker,dest=../docker.tar",
        "-o",
        "type=local,dest=../files",
        "-o",
        "type=tar,dest=../files.tar",
        "-o",
        "type=registry",
        "--metadata-file=../metadata",
        "--label=given=2",
        "--label=own=3",
        ".",
    ]);
    assert!(ended.stdout.is_empty());
    let read = |path: &str| std::fs::read(space.path(path)).unwrap();
    let (manifest, config) = documents(&entries(&read("../a.tar")));
    let labels = &config["config"]["Labels"];
    assert_eq!(
        (&labels["own"], &labels["given"]),
        (&"3".into(), &"2".into())
    );
    let id = manifest["config"]["digest"].as_str().unwrap();
    space.build(&["--iidfile=../iid", "--label=given=2", "--label=own=3", "."]);
    assert_eq!(space.read("../iid"), id);
    let metadata: Value = serde_json::from_slice(&read("../metadata")).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id);
    assert_eq!(metadata["image.name"], pushed);
    let docker = entries(&read("../docker.tar"));
    let listed: Value = serde_json::from_slice(&docker["manifest.json"].content).unwrap();
    assert_eq!(listed[0]["RepoTags"][0], pushed);
    assert_eq!(listed[0]["Config"], id.replace("sha256:", "blobs/sha256/"));
    assert!(space.path("../layout/oci-layout").exists());
    let (_, bytes) = registry.manifest("app", "1").unwrap();
    let there: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(there["config"]["digest"], id);
    let facts = shell(
        &space.path("../files"),
        "stat -c '%a %s' b; readlink link; cat a",
    );
    assert_eq!(facts, "4711 2\na\nA");
    let files = entries(&read("../files.tar"));
    assert_eq!(files["b"].mode & 0o7777, 0o4711);
    assert_eq!(files["link"].kind, tar::EntryType::Symlink);
}

#[test]
fn outputs_on_standard_output_and_quiet() {
    let space = space();
    let (manifest, _) = documents(&entries(
        &space.build(&["-o", "type=oci,dest=-", "."]).stdout,
    ));
    let id = manifest["config"]["digest"].as_str().unwrap();
    let docker = entries(&space.build(&["-o", "type=docker,dest=-", "."]).stdout);
    assert!(docker.contains_key(&id.replace("sha256:", "blobs/sha256/")));
    let quiet = space.run(&["build", "-q", "."]);
    assert_eq!((quiet.code, quiet.text()), (Some(0), format!("{id}\n")));
    assert_eq!(quiet.stderr, "");
    space.build(&["-o", "../plain", "."]);
    assert_eq!(space.read("../plain/a"), "A");
    let error = space.fails(&["-o", "type=tar,dest=-", "-o", "type=oci,dest=-", "."]);
    assert!(
        error.contains("several outputs go to standard output"),
        "{error}"
    );
    let error = space.fails(&["-o", "type=flat,dest=x", "."]);
    assert!(error.contains("flat"), "{error}");
}

#[test]
fn compression_is_changed_on_request() {
    let space = space();
    for (options, base, own) in [
        ("", "tar", "tar+gzip"),
        (",compression=zstd", "tar", "tar+zstd"),
        (
            ",compression=zstd,force-compression=true",
            "tar+zstd",
            "tar+zstd",
        ),
        (",compression=uncompressed", "tar", "tar"),
        (",force-compression=true", "tar+gzip", "tar+gzip"),
    ] {
        let output = format!("type=oci,dest=-{options}");
        let (manifest, _) = documents(&entries(&space.build(&["-o", &output, "."]).stdout));
        let types = [0, 1].map(|at| {
            let kind = manifest["layers"][at]["mediaType"].as_str().unwrap();
            kind.replace("application/vnd.oci.image.layer.v1.", "")
        });
        assert_eq!(types, [base, own], "{options}");
    }
}

#[test]
fn a_base_that_was_never_fetched_can_be_pushed_later() {
    let space = TestSpace::with("FROM busybox\nLABEL a=b\n");
    base_images().log();
    let registry = Registry::start(Auth::Open);
    let name = format!("{}/late:1", registry.host());
    space.build(&["-t", &name, "."]);
    let ended = space.run(&["push", &name]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(registry.manifest("late", "1").is_some());
}

#[test]
fn base_images_without_history() {
    let space = TestSpace::with("FROM dir\nCOPY --from=dir a /b\nENV x=y\n");
    space.write("../dir/a", "A");
    let config = space.config(&["--build-context=dir=../dir", "."]);
    let history = config["history"].as_array().unwrap();
    let filled = history.iter().filter(|entry| entry["empty_layer"] != true);
    assert_eq!(
        filled.count(),
        config["rootfs"]["diff_ids"].as_array().unwrap().len()
    );
}

#[test]
fn source_date_epoch() {
    let dockerfile = "FROM busybox\nCOPY <<EOF /text\nhi\nEOF\nRUN echo x > /x\nENV a=b\n";
    let space = TestSpace::with(dockerfile);
    let config = space.config(&["--build-arg=SOURCE_DATE_EPOCH=1700000000", "."]);
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    let history = config["history"].as_array().unwrap();
    assert_eq!(history[0]["created"], "2020-01-01T00:00:00Z");
    assert!(
        history[1..]
            .iter()
            .all(|entry| entry["created"] == "2023-11-14T22:13:20Z")
    );
    let space = space.env("SOURCE_DATE_EPOCH", "1700000001");
    assert_eq!(space.config(&["."])["created"], "2023-11-14T22:13:21Z");
    let error = space.fails(&["--build-arg=SOURCE_DATE_EPOCH=yesterday", "."]);
    assert!(error.contains("SOURCE_DATE_EPOCH"), "{error}");
}

#[test]
fn no_cache_runs_again() {
    let dockerfile = "FROM busybox AS one\nRUN cat /proc/sys/kernel/random/uuid > /t\nFROM busybox AS two\nRUN cat /proc/sys/kernel/random/uuid > /u\nFROM scratch\n\
                      COPY --from=one /t /t\nCOPY --from=two /u /u\n";
    let space = TestSpace::with(dockerfile);
    let times = |arguments: &[&str]| {
        let files = space.files(&[arguments, &["."]].concat());
        (files["t"].clone(), files["u"].clone())
    };
    let first = times(&[]);
    assert_eq!(times(&[]), first);
    let filtered = times(&["--no-cache-filter=two"]);
    assert_eq!(filtered.0, first.0);
    assert_ne!(filtered.1, first.1);
    let fresh = times(&["--no-cache"]);
    assert!(fresh.0 != first.0 && fresh.1 != filtered.1);
    assert_eq!(times(&[]), fresh);
}
