//! Mirrors, and whom we trust.

use super::*;

fn mirrored(endpoints: &[String], insecure: bool) -> Config {
    let registry = "registry.invalid".to_owned();
    Config {
        mirrors: vec![Mirror {
            registry,
            endpoints: endpoints.to_vec(),
            insecure,
        }],
        ..config()
    }
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order() {
    let (first, second) = (Registry::start(Auth::Open), Registry::start(Auth::Open));
    let (_, bytes) = put_image(&second, "a");
    let blob = noise(300_000);
    second.put_blob("a", &blob);
    let mut bad = blob.clone();
    bad[0] ^= 1;
    first.fail(1, "GET /v2/a/blobs", Reply::new(200).body(bad));
    first.fail(
        usize::MAX,
        "GET /v2/a/blobs",
        Reply::new(200).body(blob.clone()).cut(100_000),
    );
    let closed = "http://127.0.0.1:1".to_owned();
    let places = [
        closed,
        format!("http://{}", first.host()),
        second.host().to_owned(),
    ];
    let client = Client::new(mirrored(&places, false));
    let image = image("registry.invalid", "a");
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
    assert!(client.head(&image).await.unwrap().is_some());
    assert_eq!(
        client.blob_small(&image, &layer(&blob)).await.unwrap(),
        blob
    );
    assert_eq!(pull(&client, &image, &layer(&blob)).await.unwrap(), blob);
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("https://registry.invalid/"), "{error}");
}

fn authority() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/tls/ca.crt")
}

#[tokio::test]
async fn certificates_are_verified() {
    let registry = Registry::start_tls();
    let (_, bytes) = put_image(&registry, "a");
    let image = image("registry.invalid", "a");
    let port = registry.host().rsplit_once(':').unwrap().1;
    let place = [format!("https://localhost:{port}")];
    let known = Config {
        roots: vec![authority()],
        ..mirrored(&place, false)
    };
    assert_eq!(Client::new(known).resolve(&image).await.unwrap().1, bytes);

    let space = tempfile::tempdir().unwrap();
    let folder = space.path().join(format!("localhost:{port}"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(authority(), folder.join("ca.crt")).unwrap();
    let folders = Config {
        certs: vec![space.path().to_owned()],
        ..mirrored(&place, false)
    };
    assert_eq!(Client::new(folders).resolve(&image).await.unwrap().1, bytes);

    registry.log();
    assert!(
        Client::new(mirrored(&place, false))
            .resolve(&image)
            .await
            .is_err()
    );
    let other_name = [format!("https://127.0.0.2:{port}")];
    let wrong = Config {
        roots: vec![authority()],
        ..mirrored(&other_name, false)
    };
    assert!(Client::new(wrong).resolve(&image).await.is_err());
    assert_eq!(registry.log().len(), 0);
    assert_eq!(
        Client::new(mirrored(&place, true))
            .resolve(&image)
            .await
            .unwrap()
            .1,
        bytes
    );
}

#[tokio::test]
async fn an_unknown_certificate_is_named_as_the_reason() {
    let registry = Registry::start_tls();
    let port = registry.host().rsplit_once(':').unwrap().1;
    let image = image("registry.invalid", "a");
    // The mirror is the only place: what the registry itself says would hide its failure.
    let told = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&told);
    let on_wait: lapstrake::registry::OnWait =
        Arc::new(move |error, _| *sink.lock().unwrap() = error.to_string());
    let config = Config {
        on_wait: Some(on_wait),
        ..mirrored(&[format!("https://localhost:{port}")], false)
    };
    let _ = Client::new(config).resolve(&image).await;
    assert!(
        !told.lock().unwrap().contains("localhost"),
        "a bad certificate was tried again: {}",
        told.lock().unwrap()
    );
}

#[tokio::test]
async fn tls_is_not_given_up() {
    let plain = Registry::start(Auth::Open);
    put_image(&plain, "a");
    let image = image("registry.invalid", "a");
    let config = mirrored(&[format!("https://{}", plain.host())], false);
    assert!(Client::new(config).resolve(&image).await.is_err());
    assert_eq!(plain.log().len(), 0);
}

#[tokio::test]
async fn a_registry_on_this_machine_may_speak_tls() {
    let registry = Registry::start_tls();
    let (_, bytes) = put_image(&registry, "a");
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
}
