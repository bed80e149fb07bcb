//! What is pushed and pulled where nothing goes wrong.

use super::*;

#[tokio::test]
async fn what_is_pushed_is_what_is_pulled() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let image = image(registry.host(), "a/b");
    let blob = noise(3_000_000);
    assert_eq!(
        push(&client, &image, &blob, None).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(
        push(&client, &image, &blob, None).await.unwrap(),
        Pushed::Existed
    );
    assert_eq!(
        push(&client, &image, b"", None).await.unwrap(),
        Pushed::Uploaded
    );
    assert!(client.has_blob(&image, &Digest::of(&blob)).await.unwrap());
    assert!(
        !client
            .has_blob(&image, &Digest::of(b"other"))
            .await
            .unwrap()
    );

    // The bytes of a manifest are kept as they are, whatever their form.
    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    let manifest = Manifest::new(media::OCI_MANIFEST, config, vec![layer(&blob)]);
    let manifest = serde_json::to_string_pretty(&manifest).unwrap() + "\n";
    let bytes = Bytes::from(manifest);
    let digest = client
        .push_manifest(&image, bytes.clone(), media::OCI_MANIFEST)
        .await
        .unwrap();
    let (descriptor, found) = client.resolve(&image).await.unwrap();
    assert_eq!(
        (&found, &descriptor),
        (&bytes, &Descriptor::of(media::OCI_MANIFEST, &bytes))
    );
    assert_eq!(client.head(&image).await.unwrap().unwrap(), descriptor);
    assert_eq!(client.manifest(&image, &digest).await.unwrap().1, bytes);
    assert_eq!(pull(&client, &image, &layer(&blob)).await.unwrap(), blob);
    assert_eq!(pull(&client, &image, &layer(b"")).await.unwrap(), b"");
    assert_eq!(
        client.blob_small(&image, &layer(b"")).await.unwrap(),
        Bytes::new()
    );
}

#[tokio::test]
async fn what_is_missing_is_said_in_one_line() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let error = client
        .resolve(&image(registry.host(), "a/b"))
        .await
        .unwrap_err();
    assert!(error.is_not_found());
    let url = format!("http://{}/v2/a/b/manifests/v1", registry.host());
    let expected = format!("GET {url}: 404 not found: as the test wants (MANIFEST_UNKNOWN)");
    assert_eq!(error.to_string(), expected);
    assert_eq!(registry.log().len(), 1);
}
