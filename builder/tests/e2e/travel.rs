//! Caches outside the store: what one machine (a space with a store of its own) leaves, another finds.
#![allow(clippy::unwrap_used)]

mod lies;
mod mounts;

use serde_json::{Value, json};

use super::registry::{Auth, Registry, Reply, Request};
use super::support::{Ended, TestSpace, base_images};

/// Two stages: a COPY from the first, whose selection must be known without its files.
const APP: &str = "FROM busybox AS build\nWORKDIR /src\nCOPY main.c .\nRUN cat main.c > program && echo built\n\
    FROM busybox\nRUN echo runtime > /runtime\nCOPY --from=build /src/program /bin/\nRUN cat /bin/program > /check\n";

const CACHE: &str = "application/vnd.lapstrake.cache.v1+json";

/// A machine with the application and its main.c.
pub(super) fn machine() -> TestSpace {
    let space = TestSpace::with(APP);
    space.write("main.c", "int main;");
    space
}

/// The steps of the Dockerfile that were worked, by their instruction.
pub(super) fn worked(ended: &Ended) -> Vec<String> {
    let lines: Vec<(&str, &str)> = ended
        .stderr
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let is_cached = |number: &str| lines.contains(&(number, "CACHED"));
    let mut names: Vec<String> = Vec::new();
    for (number, rest) in &lines {
        let is_step = rest.starts_with('[') && !rest.starts_with("[internal]");
        if let (true, Some((_, name))) = (is_step, rest.split_once("] "))
            && !name.starts_with("FROM")
            && !is_cached(number)
            && !names.contains(&name.to_owned())
        {
            names.push(name.to_owned());
        }
    }
    names
}

fn to(registry: &Registry, more: &str) -> String {
    format!(
        "--cache-to=type=registry,ref={}/cache:main{more}",
        registry.host()
    )
}

fn from(registry: &Registry) -> String {
    format!("--cache-from={}/cache:main", registry.host())
}

/// Paths of the blobs that were downloaded, by repository.
fn downloads(log: &[Request]) -> Vec<&str> {
    let blobs = log
        .iter()
        .filter(|request| request.method == "GET" && request.path.contains("/blobs/"));
    blobs.map(|request| request.path.as_str()).collect()
}

/// The manifest of a cache and its index.
fn index(registry: &Registry, repository: &str) -> (Value, Value) {
    let (_, manifest) = registry.manifest(repository, "main").unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["config"]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let index = registry.blob(repository, &digest).unwrap();
    (manifest, serde_json::from_slice(&index).unwrap())
}

/// Puts another index in the place of a cache's.
fn replace(registry: &Registry, mut manifest: Value, index: &Value) {
    let index = index.to_string().into_bytes();
    let digest = registry.put_blob("cache", &index);
    manifest["config"] =
        json!({ "mediaType": CACHE, "digest": digest.to_string(), "size": index.len() });
    let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
    registry.put_manifest(
        "cache",
        "main",
        &media_type,
        manifest.to_string().as_bytes(),
    );
}

#[test]
fn another_machine_runs_nothing_and_downloads_no_layer() {
    let registry = Registry::start(Auth::Open);
    let first = machine();
    let id = first
        .build(&["-q", &to(&registry, ",mode=max"), "."])
        .text();
    registry.log();

    let second = machine();
    let built = second.build(&[&from(&registry), "."]);
    assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
    let (manifest, _) = index(&registry, "cache");
    let log = registry.log();
    let config = manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(
        downloads(&log),
        [format!("/v2/cache/blobs/{config}")],
        "only the index is fetched"
    );
    assert_eq!(
        second.build(&["-q", &from(&registry), "."]).text(),
        id,
        "the same image"
    );
    assert!(
        downloads(&registry.log()).is_empty(),
        "the index is known by now"
    );
}

#[test]
fn with_mode_min_only_layers_of_the_result_travel_and_still_nothing_runs() {
    let registry = Registry::start(Auth::Open);
    machine().build(&[&to(&registry, ""), "."]);
    let (manifest, index) = index(&registry, "cache");
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    assert_eq!(index["steps"].as_array().unwrap().len(), 6);
    registry.log();
    let second = machine();
    let built = second.build(&[&from(&registry), "."]);
    assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
    // What the cache does not hold is worked when it is needed, and only that.
    second.write("main.c", "int other;");
    let built = second.build(&[&from(&registry), "-o", "../out", "."]);
    assert!(
        !worked(&built).contains(&"RUN echo runtime > /runtime".to_owned()),
        "{}",
        built.stderr
    );
    assert_eq!(second.read("../out/check"), "int other;");
}

#[test]
fn an_edit_fetches_what_must_be_run_on() {
    let registry = Registry::start(Auth::Open);
    machine().build(&[&to(&registry, ",mode=max"), "."]);
    let second = machine();
    second.write(
        "Dockerfile",
        format!("{APP}RUN cat /check /runtime > /both\n"),
    );
    registry.log();
    let built = second.build(&[&from(&registry), "-o", "../out", "."]);
    assert_eq!(
        worked(&built),
        ["RUN cat /check /runtime > /both"],
        "{}",
        built.stderr
    );
    assert_eq!(second.read("../out/both"), "int main;runtime\n");
    // The index and the three layers of the last stage; none of the stage that was copied from.
    assert_eq!(downloads(&registry.log()).len(), 4);
}

#[test]
fn a_push_to_the_registry_of_the_cache_mounts() {
    let registry = Registry::start(Auth::Open);
    machine().build(&[&to(&registry, ",mode=max"), "."]);
    registry.log();
    let second = machine();
    let name = format!("{}/app:1", registry.host());
    let output = format!("--output=type=image,name={name},push=true");
    second.build(&[&from(&registry), &output, "."]);
    let log = registry.log();
    assert_eq!(downloads(&log).len(), 1, "only the index");
    let uploads = log
        .iter()
        .filter(|request| request.method == "PUT" && request.path.contains("/uploads/"));
    // The config of the image, and the base's layer, which is of another registry.
    assert_eq!(uploads.count(), 2);
    let mounts = log
        .iter()
        .filter(|request| request.query.contains("mount=") && request.query.contains("from=cache"));
    assert_eq!(mounts.count(), 3);

    // A cache in the image's own repository costs no more than a look.
    let beside = format!("--cache-to=type=registry,ref={}/app:cache", registry.host());
    second.build(&[&from(&registry), &beside, "."]);
    let log = registry.log();
    let sent = log.iter().filter(|request| request.method == "PUT").count();
    assert_eq!(sent, 2, "the index and the manifest: {log:?}");
}

#[test]
fn nothing_changed_nothing_is_sent() {
    let registry = Registry::start(Auth::Open);
    let space = machine();
    space.build(&[&to(&registry, ",mode=max"), "."]);
    registry.log();
    space.build(&[&to(&registry, ",mode=max"), "."]);
    let log = registry.log();
    assert!(
        log.iter().all(|request| request.method == "HEAD"),
        "{log:?}"
    );
}

#[test]
fn a_directory_holds_caches_by_their_tags() {
    let first = machine();
    first.build(&["--cache-to=type=local,dest=../cache,mode=max", "."]);
    first.build(&[
        "--cache-to=type=local,dest=../cache,tag=small,compression=zstd",
        ".",
    ]);
    for (from, layers) in [("", 6), (",tag=small", 3)] {
        let index: Value = serde_json::from_str(&first.read("../cache/index.json")).unwrap();
        let tag = if from.is_empty() { "latest" } else { "small" };
        let found = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .find(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"] == tag)
            .unwrap();
        let hex = found["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        let manifest: Value =
            serde_json::from_str(&first.read(&format!("../cache/blobs/sha256/{hex}"))).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), layers);
        let second = machine();
        let cache = format!(
            "--cache-from=type=local,src={}{from}",
            first.path("../cache").display()
        );
        let built = second.build(&[&cache, "-o", "../out", "."]);
        assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
        assert_eq!(second.read("../out/check"), "int main;");
    }
}

#[test]
fn an_image_holds_its_own_cache() {
    // Also where its layers are not those that the steps made.
    for (times, asked) in [
        ("", "--cache-to=type=inline"),
        ("", "--build-arg=BUILDKIT_INLINE_CACHE=1"),
        (
            ",rewrite-timestamp=true,source-date-epoch=1",
            "--cache-to=type=inline",
        ),
    ] {
        let registry = Registry::start(Auth::Open);
        let name = format!("{}/app:1", registry.host());
        let output = format!("--output=type=image,name={name},push=true{times}");
        let first = machine();
        first.build(&[asked, &output, "."]);
        registry.log();
        let second = machine();
        let built = second.build(&["--cache-from", &name, "."]);
        assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
        assert_eq!(
            downloads(&registry.log()).len(),
            1,
            "only the image's config"
        );
        let built = second.build(&["--cache-from", &name, "-o", "../out", "."]);
        assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
        assert_eq!(second.read("../out/check"), "int main;");
        // An image on top of it does not pass for it.
        let third = TestSpace::with(&format!("FROM {name}\nRUN echo more > /more\n"));
        let config = third.config(&["."]);
        assert!(config.get("lapstrake.cache.v1").is_none(), "{config}");
    }
}

#[test]
fn a_cache_that_cannot_be_read_is_a_note() {
    let registry = Registry::start(Auth::Open);
    let space = machine();
    let notes = |ended: &Ended| {
        let is_note = |line: &&str| line.contains("is not used");
        ended.stderr.lines().filter(is_note).count()
    };
    let missing = space.build(&[&from(&registry), "."]);
    assert_eq!(notes(&missing), 1, "{}", missing.stderr);
    let base = format!("--cache-from={}/library/busybox", base_images().host());
    let no_cache = space.build(&[&base, "--cache-from=type=local,src=../none", "."]);
    assert_eq!(notes(&no_cache), 2, "{}", no_cache.stderr);
    space.build(&[&to(&registry, ""), "."]);
    let (manifest, index) = index(&registry, "cache");
    let bent = |path: &str, value: Value| {
        let mut index = index.clone();
        *index.pointer_mut(path).unwrap() = value;
        index
    };
    let spoilt = [
        json!([]),
        json!({ "version": 2, "layers": [], "steps": [] }),
        bent("/steps/0/layer", json!(1000)),
        bent("/steps/0/created", json!("\u{1b}[2J")),
        bent("/layers/0/diff_id", json!("sha256:../../etc")),
    ];
    for index in spoilt {
        replace(&registry, manifest.clone(), &index);
        let ended = machine().build(&[&from(&registry), "."]);
        assert_eq!(notes(&ended), 1, "{index}: {}", ended.stderr);
    }
}

#[test]
fn a_cache_whose_blobs_are_gone_is_a_smaller_cache() {
    let registry = Registry::start(Auth::Open);
    machine().build(&[&to(&registry, ",mode=max"), "."]);
    let (_, index) = index(&registry, "cache");
    // The layer of `RUN echo runtime`, which is copied onto.
    let gone = index["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["blob"]["digest"].as_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    for digest in &gone {
        let space = machine();
        let path = format!("/v2/cache/blobs/{digest}");
        registry.hook(move |request| {
            (request.path == path && request.method == "GET").then(|| Reply::new(404))
        });
        let built = space.build(&[&from(&registry), "-o", "../out", "."]);
        assert_eq!(space.read("../out/check"), "int main;", "{}", built.stderr);
        assert!(worked(&built).len() <= 1, "{}", built.stderr);
        registry.mend();
    }
    // All of them at once, in a build that must run on them.
    registry.hook(move |request| {
        let is_layer = gone.iter().any(|digest| request.path.ends_with(digest));
        (is_layer && request.method == "GET").then(|| Reply::new(404))
    });
    let space = machine();
    space.write(
        "Dockerfile",
        format!("{APP}RUN cat /check /runtime > /both\n"),
    );
    let built = space.build(&[&from(&registry), "-o", "../out", "."]);
    assert_eq!(space.read("../out/both"), "int main;runtime\n");
    assert!(built.stderr.contains("cannot be used"), "{}", built.stderr);
}

#[test]
fn failures_of_an_export_are_errors_unless_they_are_ignored() {
    let registry = Registry::start(Auth::Open);
    registry.hook(|request| (request.method == "POST").then(|| Reply::new(403)));
    let space = machine();
    let error = space.fails(&[&to(&registry, ""), "."]);
    assert!(error.contains("export the cache to"), "{error}");
    let built = space.build(&[&to(&registry, ",ignore-error=true"), "."]);
    assert!(
        built.stderr.contains("which is ignored"),
        "{}",
        built.stderr
    );
}

/// Docker's own registry, on a free port.
struct DockerRegistry {
    child: std::process::Child,
    host: String,
    _data: tempfile::TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    fn start() -> Self {
        use std::net::{TcpListener, TcpStream};
        use std::process::{Command, Stdio};
        let data = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = data.path().join("config.yml");
        let root = data.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("run docker-registry: {error}: install it"));
        let server = Self {
            child,
            host,
            _data: data,
        };
        let started = std::time::Instant::now();
        while TcpStream::connect(&server.host).is_err() {
            let waited = started.elapsed();
            assert!(waited.as_secs() < 30, "docker-registry does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        server
    }
}

#[test]
fn a_real_registry_holds_caches_of_each_form() {
    let registry = DockerRegistry::start();
    let host = &registry.host;
    for (number, form) in [
        "",
        ",mode=max,compression=zstd",
        ",oci-mediatypes=false",
        ",compression=uncompressed",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("{host}/cache{number}:main");
        machine().build(&[&format!("--cache-to=type=registry,ref={name}{form}"), "."]);
        let space = machine();
        let push = format!("--output=type=image,name={host}/app{number}:1,push=true");
        let built = space.build(&["--cache-from", &name, &push, "."]);
        assert_eq!(worked(&built), [""; 0], "{form}: {}", built.stderr);
        let built = space.build(&["--cache-from", &name, "-o", "../out", "."]);
        assert_eq!(worked(&built), [""; 0], "{form}: {}", built.stderr);
        assert_eq!(space.read("../out/check"), "int main;");
        // What was pushed is whole.
        let other = TestSpace::with(&format!(
            "FROM {host}/app{number}:1\nRUN cat /check > /again\n"
        ));
        other.build(&["-o", "../out", "."]);
        assert_eq!(other.read("../out/again"), "int main;");
    }
}

#[test]
fn a_registry_that_is_not_there_does_not_hold_up_a_build_for_long() {
    let space = machine();
    let started = std::time::Instant::now();
    let built = space.build(&["--cache-from=127.0.0.1:1/cache", "."]);
    assert!(built.stderr.contains("is not used"), "{}", built.stderr);
    assert!(started.elapsed().as_secs() < 60, "{}", built.stderr);
}

#[test]
fn many_machines_share_one_cache_at_once() {
    let registry = Registry::start(Auth::Token { realm: None });
    let name = format!("{}/cache:main", registry.host());
    let machines: Vec<TestSpace> = (0..4).map(|_| machine()).collect();
    for space in &machines {
        let auth = r#"{"auths":{"HOST":{"auth":"dXNlcjpwYXNzOndvcmQ="}}}"#;
        space.write(
            "../.docker/config.json",
            auth.replace("HOST", registry.host()),
        );
    }
    let build = |space: &TestSpace| {
        let (to, from) = (format!("--cache-to={name}"), format!("--cache-from={name}"));
        space.build(&[&to, &from, "-o", "../out", "."]);
        assert_eq!(space.read("../out/check"), "int main;");
    };
    std::thread::scope(|scope| {
        for space in &machines {
            scope.spawn(|| build(space));
        }
    });
    let last = machine();
    last.write(
        "../.docker/config.json",
        machines[0].read("../.docker/config.json"),
    );
    let built = last.build(&[&format!("--cache-from={name}"), "."]);
    assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
}

#[test]
fn layers_go_up_while_later_steps_run() {
    let registry = Registry::start(Auth::Open);
    let first = std::sync::Arc::new(std::sync::Mutex::new(None));
    let seen = std::sync::Arc::clone(&first);
    registry.hook(move |request| {
        if request.method == "PUT" && request.path.contains("/uploads/") {
            seen.lock()
                .unwrap()
                .get_or_insert_with(std::time::Instant::now);
        }
        None
    });
    let space = TestSpace::with("FROM busybox\nRUN echo first > /first\nRUN sleep 6\n");
    space.build(&[&to(&registry, ",mode=max"), "."]);
    let sent = first.lock().unwrap().expect("something was sent");
    assert!(
        sent.elapsed().as_secs() >= 2,
        "the first layer was sent only at the end"
    );
}
