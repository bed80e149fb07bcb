//! Blobs on their way into the store.

use super::*;

#[tokio::test]
async fn the_store_gets_exactly_the_blob() {
    let registry = Registry::start(Auth::Open);
    let (blob, mut bad) = (noise(1_000_000), noise(1_000_000));
    bad[999_999] ^= 1;
    let digest = registry.put_blob("a", &blob);
    registry.fail(1, "GET", Reply::new(200).body(bad.clone()));
    let space = tempfile::tempdir().unwrap();
    let store = Store::open(space.path()).unwrap();
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    pull_blob(&client, &store, &image, &layer(&blob), None)
        .await
        .unwrap();
    assert_eq!(store.read_blob(&digest, 1 << 20).unwrap().unwrap(), blob);
    assert_eq!(registry.log().len(), 2);
    pull_blob(&client, &store, &image, &layer(&blob), None)
        .await
        .unwrap();
    assert_eq!(registry.log().len(), 0);

    let other = noise(500_000);
    registry.fail(usize::MAX, "GET", Reply::new(200).body(&bad[..500_000]));
    let error = pull_blob(&client, &store, &image, &layer(&other[1..]), None)
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("not the 499999 declared"),
        "{error:#}"
    );
    let mut wrong = layer(&other);
    wrong.digest = Digest::of(b"x");
    let error = pull_blob(&client, &store, &image, &wrong, None)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("corrupt"), "{error:#}");
    assert_eq!(store.has_blob(&wrong.digest), None);
}

#[tokio::test]
async fn what_the_store_has_is_not_fetched() {
    let registry = Registry::start(Auth::Open);
    let (digest, bytes) = put_image(&registry, "a");
    registry.put_blob("a", b"{}");
    let space = tempfile::tempdir().unwrap();
    let store = Store::open(space.path()).unwrap();
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let first = fetch_manifest(&client, &store, &image).await.unwrap();
    assert_eq!(
        first,
        (
            Descriptor::of(media::OCI_MANIFEST, &bytes),
            Bytes::from(bytes)
        )
    );
    assert_eq!(
        (count(&registry.log(), "GET"), registry.log().len()),
        (1, 0)
    );
    assert_eq!(
        fetch_manifest(&client, &store, &image).await.unwrap(),
        first
    );
    assert_eq!(lines(&registry.log()), ["HEAD /v2/a/manifests/v1"]);
    let pinned = ImageRef {
        digest: Some(digest.to_string()),
        ..image.clone()
    };
    assert_eq!(
        fetch_manifest(&client, &store, &pinned).await.unwrap(),
        first
    );
    assert_eq!(
        fetch_manifest_by_digest(&client, &store, &image, &digest)
            .await
            .unwrap(),
        first
    );
    assert_eq!(registry.log().len(), 0);

    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    for _ in 0..2 {
        assert_eq!(
            fetch_config(&client, &store, &image, &config)
                .await
                .unwrap(),
            "{}"
        );
    }
    assert_eq!(registry.log().len(), 1);

    // A registry that cannot answer HEAD is asked with GET.
    registry.fail(1, "HEAD", Reply::new(405));
    assert_eq!(
        fetch_manifest(&client, &store, &image).await.unwrap(),
        first
    );
    registry.fail(1, "HEAD", Reply::new(404));
    assert!(fetch_manifest(&client, &store, &image).await.is_err());
}
