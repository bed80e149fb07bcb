//! Faults on the way here.

use super::*;

/// Pulls a blob from the repository `a`.
async fn download(client: &Client, registry: &Registry, blob: &[u8]) -> Vec<u8> {
    let pulled = pull(client, &image(registry.host(), "a"), &layer(blob)).await;
    pulled.unwrap()
}

#[tokio::test]
async fn passing_faults_pass() {
    let registry = Registry::start(Auth::Open);
    let (_, bytes) = put_image(&registry, "a");
    registry.fail(2, "GET /v2/a/manifests", Reply::new(503));
    let client = Client::new(config());
    assert_eq!(
        client
            .resolve(&image(registry.host(), "a"))
            .await
            .unwrap()
            .1,
        bytes
    );
    assert_eq!(registry.log().len(), 3);
    registry.fail(usize::MAX, "GET /v2/a/manifests", Reply::new(503));
    let error = client
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with("503 service unavailable"),
        "{error}"
    );
    assert_eq!(registry.log().len(), 6);
}

#[tokio::test]
async fn a_registry_says_how_long_to_wait() {
    let registry = Registry::start(Auth::Open);
    put_image(&registry, "a");
    registry.fail(
        1,
        "GET /v2/a/manifests",
        Reply::new(429).header("retry-after", 1),
    );
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let on_wait = move |error: &lapstrake::registry::Error, pause| {
        listener.lock().unwrap().push((error.to_string(), pause));
    };
    let client = Client::new(Config {
        on_wait: Some(Arc::new(on_wait)),
        ..config()
    });
    let started = Instant::now();
    client.resolve(&image(registry.host(), "a")).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].0.ends_with("429 too many requests") && told[0].1 >= Duration::from_secs(1),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_dropped_transfer_goes_on_where_it_stopped() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(1_000_000);
    let digest = registry.put_blob("a", &blob);
    let path = format!("GET /v2/a/blobs/{digest}");
    registry.fail(1, &path, Reply::new(200).body(blob.clone()).cut(300_000));
    let rest = Reply::new(206).header("content-range", "bytes 300000-999999/1000000");
    registry.fail(1, &path, rest.body(&blob[300_000..]).cut(300_000));
    let client = Client::new(config());
    assert_eq!(download(&client, &registry, &blob).await, blob);
    let ranges: Vec<String> = registry
        .log()
        .iter()
        .map(|r| r.header("range").to_owned())
        .collect();
    assert_eq!(ranges, ["", "bytes=300000-", "bytes=600000-"]);
}

#[tokio::test]
async fn a_registry_without_ranges_starts_again() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(500_000);
    let digest = registry.put_blob("a", &blob);
    let path = format!("GET /v2/a/blobs/{digest}");
    registry.fail(1, &path, Reply::new(200).body(blob.clone()).cut(123_456));
    registry.fail(1, &path, Reply::new(200).body(blob.clone()));
    let client = Client::new(config());
    assert_eq!(download(&client, &registry, &blob).await, blob);
    assert_eq!(registry.log().len(), 2);
}

#[tokio::test]
async fn a_registry_that_always_drops_is_given_up() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(100_000);
    registry.fail(usize::MAX, "GET", Reply::new(200).body(blob.clone()).cut(0));
    let client = Client::new(config());
    let error = pull(&client, &image(registry.host(), "a"), &layer(&blob))
        .await
        .unwrap_err();
    assert!(error.contains("/blobs/sha256:"), "{error}");
    assert_eq!(registry.log().len(), 6);
}

#[tokio::test]
async fn wrong_bytes_are_never_the_end() {
    let registry = Registry::start(Auth::Open);
    let (good, mut bad) = (noise(100_000), noise(100_000));
    bad[50_000] ^= 1;
    registry.fail(usize::MAX, "GET", Reply::new(200).body(bad));
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let error = pull(&client, &image, &layer(&good)).await.unwrap_err();
    assert!(error.contains("blob has the digest"), "{error}");
    assert_eq!(registry.log().len(), 1);
    // What is small is got once more before giving up.
    assert!(client.blob_small(&image, &layer(&good)).await.is_err());
    assert_eq!(registry.log().len(), 2);
}

#[tokio::test]
async fn bodies_of_another_length_are_refused() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let blob = noise(10_000);
    for (reply, expected) in [
        (
            Reply::new(200).body(noise(10_001)),
            "10001 bytes, not the 10000 declared",
        ),
        (
            Reply::new(200).body(noise(9_999)),
            "9999 bytes, not the 10000 declared",
        ),
        (
            Reply::new(200).body(noise(10_000_000)).chunked(),
            "longer than declared",
        ),
        (
            Reply::new(200).body(noise(10_001)).chunked(),
            "longer than declared",
        ),
        (Reply::new(200).body(noise(9_999)).chunked(), "closed early"),
    ] {
        registry.fail(6, "GET", reply);
        let error = pull(&client, &image, &layer(&blob)).await.unwrap_err();
        registry.mend();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(200_000);
    registry.put_blob("a", &blob);
    let client = Client::new(hasty());
    let image = image(registry.host(), "a");
    let long = Duration::from_secs(60);
    registry.fail(1, "GET", Reply::new(200).stall(long));
    registry.fail(1, "GET", Reply::new(200).body(blob.clone()).stall(long));
    assert_eq!(pull(&client, &image, &layer(&blob)).await.unwrap(), blob);
    registry.fail(usize::MAX, "GET", Reply::new(200).stall(long));
    let started = Instant::now();
    let error = pull(&client, &image, &layer(&blob)).await.unwrap_err();
    assert!(error.contains("no answer for"), "{error}");
    let error = client.resolve(&image).await.unwrap_err();
    assert!(error.to_string().contains("no answer for"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_trickle_is_not_waited_for() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(200_000);
    let slow = Reply::new(200)
        .body(blob.clone())
        .slowly(10, Duration::from_millis(50));
    registry.fail(usize::MAX, "GET /v2/a/blobs", slow.clone());
    registry.fail(usize::MAX, "GET", slow);
    let client = Client::new(hasty());
    let image = image(registry.host(), "a");
    let started = Instant::now();
    let error = pull(&client, &image, &layer(&blob)).await.unwrap_err();
    assert!(error.contains("too slowly"), "{error}");
    let error = client.resolve(&image).await.unwrap_err();
    assert!(
        error.to_string().contains("did not arrive within"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn lies_about_manifests_are_refused() {
    let registry = Registry::start(Auth::Open);
    let (digest, bytes) = put_image(&registry, "a");
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let of = |kind: &str, body: Vec<u8>| Reply::new(200).header("content-type", kind).body(body);
    let other = Digest::of(b"other");
    let cases = [
        (
            of(media::OCI_MANIFEST, bytes.clone()).header("docker-content-digest", other),
            "has the digest",
        ),
        (of(media::OCI_INDEX, bytes.clone()), "is served as"),
        (of(media::OCI_MANIFEST, vec![b' '; 5 << 20]), "larger than"),
        (
            of(media::OCI_MANIFEST, vec![b' '; 5 << 20]).chunked(),
            "larger than",
        ),
        (of("text/html", b"<html>".to_vec()), "parse manifest"),
        (
            of(
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                b"{}".to_vec(),
            ),
            "schema 1",
        ),
    ];
    for (reply, expected) in cases {
        registry.fail(1, "GET", reply.clone());
        registry.fail(1, "GET", reply);
        let error = client
            .resolve(&image)
            .await
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains(expected), "{expected}: {error}");
        registry.mend();
    }
    registry.fail(
        2,
        "GET",
        of(media::OCI_MANIFEST, [bytes.as_slice(), b" "].concat()),
    );
    let error = client.manifest(&image, &digest).await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("not {digest}")),
        "{error}"
    );
    let odd = ImageRef {
        digest: Some("sha512:00".into()),
        ..image
    };
    assert!(
        client
            .resolve(&odd)
            .await
            .unwrap_err()
            .to_string()
            .contains("not supported")
    );
}
