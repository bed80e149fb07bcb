#![allow(clippy::unwrap_used)]
use super::*;

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn descriptor(media_type: &str, text: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#,
        digest(text),
        text.len()
    )
}

fn image(layers: usize) -> String {
    let layers: Vec<String> = (0..layers)
        .map(|n| descriptor(media::OCI_LAYER_GZIP, &n.to_string()))
        .collect();
    let config = descriptor(media::OCI_CONFIG, "config");
    let kind = media::OCI_MANIFEST;
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    )
}

fn refused(document: &str, served_as: Option<&str>) -> String {
    format!("{:#}", parse(document.as_bytes(), served_as).unwrap_err())
}

#[test]
fn what_is_written_is_what_was_read() {
    let text = image(2);
    let Document::Manifest(manifest) = parse(text.as_bytes(), Some(media::OCI_MANIFEST)).unwrap()
    else {
        panic!("not a manifest")
    };
    assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), text);
}

#[test]
fn unknown_fields_and_nulls_survive() {
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{}","size":1,"data":"eA=="}},"layers":null,"annotations":null,"x":[1]}}"#,
        media::OCI_CONFIG,
        digest("x")
    );
    let Document::Manifest(manifest) = parse(text.as_bytes(), None).unwrap() else {
        panic!("not a manifest")
    };
    assert!(manifest.layers.is_empty() && manifest.annotations.is_empty());
    assert_eq!(manifest.config.other["data"], "eA==");
    assert_eq!(manifest.other["x"], serde_json::json!([1]));
}

#[test]
fn media_type_parameters_and_case_do_not_matter() {
    let served = format!("{}; charset=utf-8", media::OCI_MANIFEST.to_uppercase());
    assert!(parse(image(1).as_bytes(), Some(&served)).is_ok());
    assert!(parse(image(1).as_bytes(), Some("application/json")).is_ok());
    assert!(parse(image(1).as_bytes(), None).is_ok());
}

#[test]
fn confusing_documents_are_refused() {
    let both = image(1).replacen('{', r#"{"manifests":[],"#, 1);
    assert!(refused(&both, Some(media::OCI_MANIFEST)).contains("both"));
    assert!(refused(&both, None).contains("both"));
    assert!(refused(&image(1), Some(media::OCI_INDEX)).contains("is served as"));
    let untyped = image(1).replacen(&format!(r#""mediaType":"{}","#, media::OCI_MANIFEST), "", 1);
    assert!(refused(&untyped, Some(media::OCI_INDEX)).contains("does not have the fields"));
    assert!(refused(r#"{"schemaVersion":2}"#, None).contains("neither"));
    assert!(
        refused(r#"{"schemaVersion":2,"layers":[]}"#, None).contains("does not have the fields")
    );
    assert!(refused(r#"{"manifests":[]}"#, None).contains("schemaVersion"));
    assert!(
        refused(
            r#"{"schemaVersion":2,"mediaType":"text/html","manifests":[]}"#,
            None
        )
        .contains("unknown media")
    );
    assert!(refused("[]", None).contains("parse manifest"));
    assert!(refused("null", None).contains("parse manifest"));
    let twice = image(1).replacen('{', r#"{"config":{},"#, 1);
    assert!(refused(&twice, None).contains("duplicate"));
}

#[test]
fn schema_1_is_refused_by_name() {
    let served = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for (document, served_as) in [
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, None),
        (r#"{"schemaVersion":2,"layers":[]}"#, Some(served)),
    ] {
        assert!(
            refused(document, served_as).contains("schema 1"),
            "{document}"
        );
    }
}

#[test]
fn sizes_and_digests_are_checked() {
    assert!(parse(image(500).as_bytes(), None).is_ok());
    assert!(refused(&image(501), None).contains("501 layers"));
    let good = image(1);
    for (from, to) in [
        (digest("config"), "sha256:12".to_owned()),
        (digest("config"), "sha512:".to_owned() + &"0".repeat(128)),
        (digest("config"), "../../etc/passwd".to_owned()),
        (digest("config"), digest("config").to_uppercase()),
        (r#""size":6"#.to_owned(), r#""size":-6"#.to_owned()),
        (r#""size":6"#.to_owned(), r#""size":1e30"#.to_owned()),
    ] {
        let bad = good.replacen(&from, &to, 1);
        assert_ne!(bad, good);
        assert!(refused(&bad, None).contains("parse image manifest"), "{to}");
    }
    let long = good.replacen('{', &format!("{{{}", " ".repeat(4 << 20)), 1);
    assert!(refused(&long, None).contains("larger"));
    let deep = good.replacen(
        '{',
        &format!(r#"{{"x":{}{},"#, "[".repeat(200_000), "]".repeat(200_000)),
        1,
    );
    assert!(refused(&deep, None).contains("recursion limit"));
}

fn config(kind: &str, ids: &[&str]) -> String {
    serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": kind, "diff_ids": ids}}).to_string()
}

fn refused_config(document: &str, manifest: &Manifest) -> String {
    format!(
        "{:#}",
        parse_config(document.as_bytes(), manifest).unwrap_err()
    )
}

#[test]
fn a_config_must_fit_its_manifest() {
    let Document::Manifest(manifest) = parse(image(1).as_bytes(), None).unwrap() else {
        panic!("not a manifest")
    };
    let id = digest("tar");
    let (_, ids) = parse_config(config("layers", &[&id]).as_bytes(), &manifest).unwrap();
    assert_eq!(ids, [DiffId(Digest::of(b"tar"))]);
    assert!(refused_config(&config("layers", &[]), &manifest).contains("0 diff ids for 1 layers"));
    assert!(refused_config(&config("layers", &[&id, &id]), &manifest).contains("2 diff ids"));
    assert!(
        refused_config(&config("layers", &["sha256:1"]), &manifest).contains("malformed diff id")
    );
    assert!(refused_config(&config("windows", &[&id]), &manifest).contains("rootfs of type"));
    assert!(refused_config("null", &manifest).contains("parse image config"));
    assert!(refused_config("{}", &manifest).contains("diff ids"));

    let mut chart = manifest.clone();
    chart.config.media_type = "application/vnd.cncf.helm.config.v1+json".into();
    assert!(refused_config("{}", &chart).contains("not a container image"));
    let mut odd = *manifest;
    odd.layers[0].media_type = "application/x-tar".into();
    assert!(refused_config("{}", &odd).contains("unsupported type"));
}

#[test]
fn blobs_are_listed_once() {
    let layer = Descriptor::of(media::OCI_LAYER, b"x");
    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    let manifest = Manifest::new(
        media::OCI_MANIFEST,
        config.clone(),
        vec![layer.clone(), layer.clone()],
    );
    assert_eq!(blobs(&manifest), [&config, &layer]);
}

#[test]
fn compressions_of_layer_types() {
    use media::Compression::{Gzip, None as Plain, Zstd};
    for (media_type, compression) in [
        (media::OCI_LAYER, Some(Plain)),
        (media::OCI_LAYER_GZIP, Some(Gzip)),
        (media::OCI_LAYER_ZSTD, Some(Zstd)),
        (media::DOCKER_LAYER, Some(Plain)),
        (media::DOCKER_LAYER_GZIP, Some(Gzip)),
        (media::DOCKER_LAYER_ZSTD, Some(Zstd)),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            Some(Gzip),
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Some(Gzip),
        ),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", None),
        ("application/vnd.in-toto+json", None),
    ] {
        assert_eq!(media::compression(media_type), compression, "{media_type}");
    }
}
