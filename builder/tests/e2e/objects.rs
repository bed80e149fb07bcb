//! Caches where objects lie by their names: S3 (a real server for it, which `testdata/bin/setup test` installs) and the
//! cache of GitHub Actions (a server in this process that follows both of its protocols).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::registry::{Auth, Registry, Reply, Request};
use super::support::TestSpace;
use super::travel::{machine, worked};

/// The S3 server, for all tests.
struct S3 {
    child: Child,
    port: u16,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl S3 {
    fn start() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let program = target.join("s3-server/bin/moto_server");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let child = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "run {}: {error}: run testdata/bin/setup test",
                    program.display()
                )
            });
        let server = Self { child, port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the S3 server does not listen"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// One request; this server wants to see a signature and does not check it. The answer.
    fn ask(&self, method: &str, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host = format!("127.0.0.1:{}", self.port);
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: {host}\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=a/20260101/us-east-1/s3/aws4_request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The names of all objects of a bucket.
    fn objects(&self, bucket: &str) -> Vec<String> {
        let listing = self.ask("GET", &format!("/{bucket}?list-type=2"));
        let keys = listing.split("<Key>").skip(1);
        keys.map(|rest| rest.split("</Key>").next().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_bucket_holds_a_cache() {
    let s3 = S3::start();
    assert!(s3.ask("PUT", "/caches").contains(" 200 "));
    let endpoint = format!("endpoint_url=http://127.0.0.1:{}", s3.port);
    let cache = format!("type=s3,bucket=caches,region=us-east-1,{endpoint},prefix=ci/,name=main");
    let to = format!("--cache-to={cache},mode=max,mounts=all");
    let keys = |space: TestSpace| {
        space
            .env("AWS_ACCESS_KEY_ID", "the-key")
            .env("AWS_SECRET_ACCESS_KEY", "the-secret/of+it")
    };
    let first = keys(machine());
    let built = first.build(&[&to, "."]);
    for secret in ["the-secret", "Signature"] {
        assert!(!built.stderr.contains(secret), "{}", built.stderr);
    }
    let objects = s3.objects("caches");
    assert_eq!(objects.len(), 7, "{objects:?}");
    assert!(
        objects.contains(&"ci/manifests/main".to_owned()),
        "{objects:?}"
    );

    let from = format!("--cache-from={cache}");
    let second = keys(machine());
    let built = second.build(&[&from, "-o", "../out", "."]);
    assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
    assert_eq!(second.read("../out/check"), "int main;");

    // The keys may be given, with the token that goes with them.
    let given =
        format!("{from},access_key_id=k,secret_access_key=s,session_token=t,use_path_style=true");
    let built = machine().build(&[&given, "."]);
    assert_eq!(worked(&built), [""; 0], "{}", built.stderr);

    // Partly gone, it is a smaller cache; what is put again is put again.
    for blob in objects.iter().filter(|name| name.contains("/blobs/")) {
        let answer = s3.ask("DELETE", &format!("/caches/{blob}"));
        assert!(answer.contains(" 204 "), "{answer}");
    }
    let third = keys(machine());
    let built = third.build(&[&from, &to, "-o", "../out", "."]);
    assert_eq!(third.read("../out/check"), "int main;", "{}", built.stderr);
    assert!(built.stderr.contains("cannot be used"), "{}", built.stderr);
    assert!(s3.objects("caches").len() > 3);

    let missing = keys(machine()).build(&[&from.replace("main", "none"), "."]);
    assert!(
        missing.stderr.contains("is not used: it is not there"),
        "{}",
        missing.stderr
    );
    let error = keys(machine()).fails(&[&to.replace("bucket=caches", "bucket=none"), "."]);
    assert!(error.contains("export the cache to s3://none/"), "{error}");
    assert!(!error.contains("Signature"), "{error}");
}

const TOKEN: &str = "Bearer the-token";

/// What the cache of GitHub Actions holds.
#[derive(Default)]
struct Service {
    entries: Vec<Entry>,
}

#[derive(Default)]
struct Entry {
    key: String,
    version: String,
    bytes: Vec<u8>,
    blocks: BTreeMap<String, Vec<u8>>,
    is_whole: bool,
}

impl Service {
    /// A server of it.
    fn start() -> (Registry, Arc<Mutex<Self>>) {
        let server = Registry::start(Auth::Open);
        let service = Arc::new(Mutex::new(Self::default()));
        let host = server.host().to_owned();
        let own = Arc::clone(&service);
        server.hook(move |request| Some(own.lock().unwrap().answer(&host, request)));
        (server, service)
    }

    fn answer(&mut self, host: &str, request: &Request) -> Reply {
        let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        if let ["files", id] = path.as_slice() {
            return self.file(id.parse().unwrap(), request);
        }
        if request.header("authorization") != TOKEN {
            return Reply::new(401);
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let json = |status, value: Value| Reply::new(status).body(value.to_string());
        let url = |id: usize| format!("http://{host}/files/{id}?sig=a%2Bsecret%2F");
        match (request.method.as_str(), path.as_slice()) {
            ("POST", ["twirp", "github.actions.results.api.v1.CacheService", call]) => {
                match *call {
                    "CreateCacheEntry" => match self.reserve(&body) {
                        Some(id) => json(200, json!({ "ok": true, "signed_upload_url": url(id) })),
                        None => json(409, json!({ "code": "already_exists" })),
                    },
                    "FinalizeCacheEntryUpload" => {
                        let size: usize = body["size_bytes"].as_str().unwrap().parse().unwrap();
                        let entry = self
                            .entries
                            .iter_mut()
                            .find(|e| e.key == body["key"])
                            .unwrap();
                        entry.is_whole = entry.bytes.len() == size;
                        json(200, json!({ "ok": entry.is_whole, "entry_id": "1" }))
                    }
                    "GetCacheEntryDownloadURL" => {
                        let restore = body["restore_keys"].as_array().cloned().unwrap_or_default();
                        let keys = std::iter::once(body["key"].clone()).chain(restore);
                        let keys: Vec<String> =
                            keys.map(|key| key.as_str().unwrap().to_owned()).collect();
                        match self.find(&keys, body["version"].as_str().unwrap()) {
                            Some(id) => json(
                                200,
                                json!({ "ok": true, "signed_download_url": url(id), "matched_key": self.entries[id].key }),
                            ),
                            None => json(200, json!({ "ok": false, "signed_download_url": "" })),
                        }
                    }
                    _ => Reply::new(404),
                }
            }
            ("GET", ["_apis", "artifactcache", "cache"]) => {
                let keys = request.field("keys").unwrap();
                let keys: Vec<String> = keys.split(',').map(str::to_owned).collect();
                match self.find(&keys, &request.field("version").unwrap()) {
                    Some(id) => json(
                        200,
                        json!({ "cacheKey": self.entries[id].key, "archiveLocation": url(id), "scope": "refs/heads/main" }),
                    ),
                    None => Reply::new(204),
                }
            }
            ("POST", ["_apis", "artifactcache", "caches"]) => match self.reserve(&body) {
                Some(id) => json(201, json!({ "cacheId": id })),
                None => json(
                    409,
                    json!({ "typeKey": "ArtifactCacheItemAlreadyExistsException" }),
                ),
            },
            ("PATCH", ["_apis", "artifactcache", "caches", id]) => {
                let entry = &mut self.entries[id.parse::<usize>().unwrap()];
                let range = request.header("content-range");
                assert!(
                    range.starts_with(&format!("bytes {}-", entry.bytes.len())),
                    "{range}"
                );
                entry.bytes.extend_from_slice(&request.body);
                Reply::new(204)
            }
            ("POST", ["_apis", "artifactcache", "caches", id]) => {
                let entry = &mut self.entries[id.parse::<usize>().unwrap()];
                entry.is_whole = body["size"] == entry.bytes.len();
                Reply::new(if entry.is_whole { 204 } else { 400 })
            }
            _ => Reply::new(404),
        }
    }

    /// Blob storage, which knows nothing of the token.
    fn file(&mut self, id: usize, request: &Request) -> Reply {
        if request.field("sig").as_deref() != Some("a+secret/")
            || !request.header("authorization").is_empty()
        {
            return Reply::new(403);
        }
        let entry = &mut self.entries[id];
        match (request.method.as_str(), request.field("comp").as_deref()) {
            ("GET", _) => Reply::new(200).body(entry.bytes.clone()),
            ("PUT", Some("block")) => {
                let id = request.field("blockid").unwrap();
                entry.blocks.insert(id, request.body.clone());
                Reply::new(201)
            }
            ("PUT", Some("blocklist")) => {
                let list = String::from_utf8_lossy(&request.body).into_owned();
                for id in list.split("<Latest>").skip(1) {
                    let id = id.split("</Latest>").next().unwrap();
                    entry.bytes.extend_from_slice(&entry.blocks[id]);
                }
                Reply::new(201)
            }
            ("PUT", None) if request.header("x-ms-blob-type") == "BlockBlob" => {
                entry.bytes.clone_from(&request.body);
                Reply::new(201)
            }
            _ => Reply::new(400),
        }
    }

    fn reserve(&mut self, body: &Value) -> Option<usize> {
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        let (key, version) = (text("key"), text("version"));
        if self
            .entries
            .iter()
            .any(|e| e.key == key && e.version == version)
        {
            return None;
        }
        self.entries.push(Entry {
            key,
            version,
            ..Entry::default()
        });
        Some(self.entries.len() - 1)
    }

    fn find(&self, keys: &[String], version: &str) -> Option<usize> {
        let whole = || {
            let all = self.entries.iter().enumerate().rev();
            all.filter(|(_, entry)| entry.is_whole && entry.version == version)
        };
        let exact = whole().find(|(_, entry)| entry.key == keys[0]);
        let begins = || {
            whole().find(|(_, entry)| keys.iter().any(|key| entry.key.starts_with(key.as_str())))
        };
        exact.or_else(begins).map(|(id, _)| id)
    }
}

fn actions(space: TestSpace, server: &Registry, protocol: u8) -> TestSpace {
    let url = format!("http://{}/", server.host());
    let space = space.env("ACTIONS_RUNTIME_TOKEN", "the-token");
    match protocol {
        1 => space.env("ACTIONS_CACHE_URL", url),
        _ => space
            .env("ACTIONS_RESULTS_URL", url)
            .env("ACTIONS_CACHE_URL", "http://127.0.0.1:1/")
            .env("ACTIONS_CACHE_SERVICE_V2", "True"),
    }
}

fn github_actions(protocol: u8) {
    let (server, service) = Service::start();
    let to = "--cache-to=type=gha,mode=max,scope=app";
    let from = "--cache-from=type=gha,scope=app";
    let first = actions(machine(), &server, protocol);
    let built = first.build(&[to, "."]);
    for secret in ["the-token", "secret"] {
        assert!(!built.stderr.contains(secret), "{}", built.stderr);
    }
    assert_eq!(service.lock().unwrap().entries.len(), 7);
    let second = actions(machine(), &server, protocol);
    let built = second.build(&[from, to, "-o", "../out", "."]);
    assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
    assert_eq!(second.read("../out/check"), "int main;");
    assert_eq!(service.lock().unwrap().entries.len(), 7, "nothing changed");

    // Another index, and a layer that goes up in blocks.
    let noise: Vec<u8> = (0_u32..9 << 20)
        .flat_map(|n| {
            n.wrapping_mul(2_654_435_761)
                .rotate_left(n % 31)
                .to_le_bytes()
        })
        .collect();
    second.write("main.c", &noise[..33 << 20]);
    second.build(&[from, to, "."]);
    let third = actions(machine(), &server, protocol);
    third.write("main.c", &noise[..33 << 20]);
    let built = third.build(&[from, "-o", "../out", "."]);
    assert_eq!(worked(&built), [""; 0], "{}", built.stderr);
    assert!(std::fs::read(third.path("../out/check")).unwrap() == noise[..33 << 20]);
    let keys: Vec<String> = service
        .lock()
        .unwrap()
        .entries
        .iter()
        .map(|e| e.key.clone())
        .collect();
    assert!(
        keys.contains(&"lapstrake-index-1-app#2".to_owned()),
        "{keys:?}"
    );
}

#[test]
fn the_cache_of_github_actions_over_rest() {
    github_actions(1);
}

#[test]
fn the_cache_of_github_actions_over_twirp() {
    github_actions(2);
}

#[test]
fn outside_of_github_actions_there_is_a_note() {
    let built = machine().build(&["--cache-from=type=gha", "--cache-to=type=gha,mode=max", "."]);
    assert!(
        built.stderr.contains("no job of GitHub Actions"),
        "{}",
        built.stderr
    );
}
