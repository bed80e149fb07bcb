//! The registry client against Docker's own registry program, in the clear and over TLS with HTTP/2.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapstrake::oci::{Descriptor, Manifest, media};
use lapstrake::registry::{
    Client, Config, Credential, Mirror, Pushed, Secret, Source, Sources, fetch_manifest, pull_blob,
};
use lapstrake_cache::{Digest, Store};
use lapstrake_frontend::image::ImageRef;

/// A line of htpasswd for `user` with the password `pass:word`.
const USER: &str = "user:$2y$05$Fj4LdX8JIthbwlOYHW/JH.1PhNY4qbiEgL4cSYQK9WWT4.ZtHmv9m";

/// The program, running on a free port with its data in a temporary folder.
struct Program {
    child: Child,
    port: u16,
    space: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e/tls")
        .join(name)
}

/// Starts it; `None`, said loudly, where it is not installed.
fn start(is_tls: bool) -> Option<Program> {
    let space = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let path = |name: &str| space.path().join(name).display().to_string();
    std::fs::write(path("htpasswd"), format!("{USER}\n")).unwrap();
    let (cert, key) = (tls_file("server.crt"), tls_file("server.key"));
    let tls = match is_tls {
        true => format!(
            "  tls: {{certificate: {}, key: {}}}\n",
            cert.display(),
            key.display()
        ),
        false => String::new(),
    };
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n{tls}",
        path("data"),
        path("htpasswd")
    );
    std::fs::write(path("config.yml"), text).unwrap();
    let mut command = Command::new("docker-registry");
    command
        .arg("serve")
        .arg(path("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("SKIPPED: docker-registry cannot be started: {error}");
            assert!(
                std::env::var_os("LAPSTRAKE_NO_SKIP").is_none(),
                "nothing may be skipped here"
            );
            return None;
        }
    };
    let program = Program { child, port, space };
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "docker-registry does not listen"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(program)
}

fn image(registry: &str, repository: &str) -> ImageRef {
    let (registry, repository) = (registry.to_owned(), repository.to_owned());
    ImageRef {
        registry,
        repository,
        tag: Some("v1".into()),
        digest: None,
    }
}

fn with_user(host: &str) -> Config {
    let user = Credential::Basic {
        username: "user".into(),
        password: Secret::new("pass:word"),
    };
    let credentials = Sources {
        given: [(host.to_owned(), user)].into(),
        ..Sources::default()
    };
    Config {
        credentials,
        ..Config::default()
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

async fn push(client: &Client, image: &ImageRef, bytes: &[u8], from: Option<&str>) -> Pushed {
    let copy = bytes.to_vec();
    let open = move || Ok(Box::new(io::Cursor::new(copy.clone())) as Box<dyn Read + Send>);
    let descriptor = Descriptor::of(media::OCI_LAYER, bytes);
    let source = Source {
        descriptor: &descriptor,
        open: &open,
        mount_from: from,
        meter: None,
    };
    client.push_blob(image, &source).await.unwrap()
}

/// Everything that an image needs, there and back again.
async fn round_trip(client: &Client, host: &str, space: &Path) {
    let image = image(host, "some/app");
    let (layer, config) = (noise(30_000_000), b"{ }".to_vec());
    for blob in [&layer, &config, &Vec::new()] {
        assert_eq!(push(client, &image, blob, None).await, Pushed::Uploaded);
        assert_eq!(push(client, &image, blob, None).await, Pushed::Existed);
    }
    let layer = Descriptor::of(media::OCI_LAYER, &layer);
    let manifest = Manifest::new(
        media::OCI_MANIFEST,
        Descriptor::of(media::OCI_CONFIG, &config),
        vec![layer.clone()],
    );
    let text = Bytes::from(serde_json::to_string_pretty(&manifest).unwrap() + "\n");
    let digest = client
        .push_manifest(&image, text.clone(), media::OCI_MANIFEST)
        .await
        .unwrap();
    assert_eq!(digest, Digest::of(&text));

    let store = Store::open(&space.join("store")).unwrap();
    let (descriptor, bytes) = fetch_manifest(client, &store, &image).await.unwrap();
    assert_eq!(
        (&descriptor, &bytes),
        (&Descriptor::of(media::OCI_MANIFEST, &text), &text)
    );
    assert_eq!(client.manifest(&image, &digest).await.unwrap().1, text);
    pull_blob(client, &store, &image, &layer, None)
        .await
        .unwrap();
    assert_eq!(store.has_blob(&layer.digest), Some(layer.size));
    assert_eq!(
        client.blob_small(&image, &manifest.config).await.unwrap(),
        config
    );

    let other = ImageRef {
        repository: "other".into(),
        ..image
    };
    assert!(!client.has_blob(&other, &layer.digest).await.unwrap());
    let wrong = client
        .mount_blob(&other, &Digest::of(b"nothing"), "some/app")
        .await
        .unwrap();
    assert!(!wrong, "mounted what is not there");
    assert!(
        client
            .mount_blob(&other, &layer.digest, "some/app")
            .await
            .unwrap()
    );
    assert!(client.has_blob(&other, &layer.digest).await.unwrap());
    assert!(client.resolve(&other).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn in_the_clear() {
    let Some(program) = start(false) else { return };
    let host = format!("localhost:{}", program.port);
    round_trip(&Client::new(with_user(&host)), &host, program.space.path()).await;
    let stranger = Client::new(Config::default())
        .resolve(&image(&host, "some/app"))
        .await;
    let error = stranger.unwrap_err();
    assert!(
        error.is_denied() && error.to_string().contains("docker login"),
        "{error}"
    );
}

#[tokio::test]
async fn over_tls() {
    let Some(program) = start(true) else { return };
    let host = format!("localhost:{}", program.port);
    let client = Client::new(with_user(&host));
    round_trip(&client, &host, program.space.path()).await;

    // As a mirror its certificate matters.
    let endpoints = vec![format!("https://{host}")];
    let mirrors = vec![Mirror {
        registry: "registry.invalid".into(),
        endpoints,
        insecure: false,
    }];
    let config = Config {
        mirrors,
        roots: vec![tls_file("ca.crt")],
        ..with_user(&host)
    };
    Client::new(config)
        .resolve(&image("registry.invalid", "some/app"))
        .await
        .unwrap();
}
