//! Faults on the way there.

use super::*;

/// Pushes a blob to the repository `a`, which has nothing like it.
async fn upload(client: &Client, registry: &Registry, blob: &[u8]) {
    let pushed = push(client, &image(registry.host(), "a"), blob, None).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let registry = Registry::start(Auth::Token { realm: None });
    let digest = registry.put_blob("base", b"one");
    let client = Client::new(with_user(registry.host()));
    let image = image(registry.host(), "app");
    assert_eq!(
        push(&client, &image, b"one", Some("base")).await.unwrap(),
        Pushed::Mounted
    );
    assert_eq!(registry.blob("app", &digest).unwrap(), b"one");
    let log = registry.log();
    let asked = log
        .iter()
        .find(|request| request.query.contains("base%3Apull"))
        .unwrap();
    assert!(
        asked.query.contains("repository%3Aapp%3Apull%2Cpush"),
        "{}",
        asked.query
    );
    assert!(
        client
            .mount_blob(
                &ImageRef {
                    repository: "b".into(),
                    ..image.clone()
                },
                &digest,
                "base"
            )
            .await
            .unwrap()
    );
    assert!(
        !client
            .mount_blob(&image, &Digest::of(b"none"), "base")
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload() {
    let registry = Registry::start(Auth::Token { realm: None });
    let client = Client::new(with_user(registry.host()));
    let image = image(registry.host(), "app");
    // The registry does not have it: it opens an upload instead, which is used.
    registry.log();
    assert_eq!(
        push(&client, &image, b"one", Some("base")).await.unwrap(),
        Pushed::Uploaded
    );
    let log = registry.log();
    let posts = log
        .iter()
        .filter(|r| r.method == "POST" && !r.header("authorization").is_empty());
    assert_eq!(posts.count(), 1);
    // We may not read there.
    assert_eq!(
        push(&client, &image, b"two", Some("private"))
            .await
            .unwrap(),
        Pushed::Uploaded
    );
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_stopped() {
    let registry = Registry::start(Auth::Open);
    registry.break_upload(400_000);
    let blob = noise(1_000_000);
    let client = Client::new(config());
    upload(&client, &registry, &blob).await;
    assert_eq!(registry.blob("a", &Digest::of(&blob)).unwrap(), blob);
    let log = registry.log();
    let patch = log
        .iter()
        .find(|request| request.method == "PATCH")
        .unwrap();
    assert_eq!(
        (patch.body.len(), patch.header("content-range")),
        (600_000, "400000-999999")
    );
    assert_eq!(count(&log, "POST"), 1);
}

#[tokio::test]
async fn a_lost_upload_begins_again() {
    let registry = Registry::start(Auth::Open);
    registry.fail(1, "PUT", Reply::new(404));
    registry.fail(1, "GET", Reply::new(404));
    let client = Client::new(config());
    upload(&client, &registry, b"one").await;
    assert_eq!(count(&registry.log(), "POST"), 2);
}

#[tokio::test]
async fn a_large_blob_is_sent_in_parts_where_it_must() {
    let registry = Registry::start(Auth::Open);
    registry.hook(|request| (request.body.len() > 9 << 20).then(|| Reply::new(413)));
    let blob = noise(20 << 20);
    let client = Client::new(Config {
        patience: Patience::default(),
        ..config()
    });
    upload(&client, &registry, &blob).await;
    assert_eq!(registry.blob("a", &Digest::of(&blob)).unwrap(), blob);
    assert_eq!(count(&registry.log(), "PATCH"), 3);
    registry.hook(|request| (!request.body.is_empty()).then(|| Reply::new(413)));
    let error = push(&client, &image(registry.host(), "a"), &blob[1..], None)
        .await
        .unwrap_err();
    assert!(
        error.contains("413 payload too large: the registry, or a proxy"),
        "{error}"
    );
}

#[tokio::test]
async fn answers_that_make_no_sense_end_the_push() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    registry.fail(1, "POST", Reply::new(202));
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("no Location"), "{error}");
    registry.fail(
        1,
        "POST",
        Reply::new(202).header("location", "file:///etc/passwd"),
    );
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("neither https nor http"), "{error}");
    registry.fail(
        1,
        "PUT",
        Reply::new(201).header("docker-content-digest", "sha256:1"),
    );
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("instead of"), "{error}");
    registry.fail(
        1,
        "PUT",
        Reply::new(201).header("docker-content-digest", Digest::of(b"x")),
    );
    let manifest = client
        .push_manifest(&image, Bytes::from_static(b"{}"), media::OCI_MANIFEST)
        .await;
    assert!(manifest.unwrap_err().to_string().contains("instead of"));
}

#[tokio::test]
async fn a_blob_that_changes_while_it_is_sent_is_our_fault() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let open = || Ok(Box::new(io::Cursor::new(noise(1000))) as Box<dyn Read + Send>);
    let descriptor = layer(&noise(2000));
    let source = Source {
        descriptor: &descriptor,
        open: &open,
        mount_from: None,
        meter: None,
    };
    let error = client
        .push_blob(&image(registry.host(), "a"), &source)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("read blob: blob ends 1000 bytes too early"),
        "{error}"
    );
    assert_eq!(error.retry, Retry::Never);
}

#[tokio::test]
async fn the_meter_tells_how_far_it_is() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(1_000_000);
    let copy = blob.clone();
    let open = move || Ok(Box::new(io::Cursor::new(copy.clone())) as Box<dyn Read + Send>);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let meter: lapstrake::registry::Meter = Arc::new(move |bytes| sink.lock().unwrap().push(bytes));
    let source = Source {
        descriptor: &layer(&blob),
        open: &open,
        mount_from: None,
        meter: Some(&meter),
    };
    Client::new(config())
        .push_blob(&image(registry.host(), "a"), &source)
        .await
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        seen.is_sorted() && seen.last() == Some(&1_000_000),
        "{seen:?}"
    );
}
