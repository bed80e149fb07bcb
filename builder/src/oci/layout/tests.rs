#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::oci::manifest::Manifest;
use crate::oci::verify::{Report, verify};

/// An image of one layer in a folder; `layer` is the uncompressed tar.
fn write(root: &Path, layer: &[u8]) -> Descriptor {
    let put = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        let path = root.join(blob_path(&descriptor.digest));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        descriptor
    };
    let diff_id = Digest::of(layer).to_string();
    let config = serde_json::json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "history": [{"created_by": "x"}]});
    let config = put(media::OCI_CONFIG, config.to_string().as_bytes());
    let packed = zstd::encode_all(layer, 1).unwrap();
    let layer = put(media::OCI_LAYER_ZSTD, &packed);
    let manifest = put(
        media::OCI_MANIFEST,
        &Manifest::new(media::OCI_MANIFEST, config.clone(), vec![layer]).to_bytes(),
    );
    let docker = DockerImage {
        config: blob_path(&config.digest),
        repo_tags: vec![],
        layers: vec![],
    };
    let docker = DockerImage {
        layers: vec![blob_path(&Digest::of(&packed))],
        ..docker
    };
    fs::write(root.join("manifest.json"), docker_json(&[docker])).unwrap();
    fs::write(root.join("oci-layout"), OCI_LAYOUT).unwrap();
    fs::write(root.join("index.json"), index_json(vec![manifest.clone()])).unwrap();
    manifest
}

fn pack(root: &Path, archive: &Path) {
    let mut builder = tar::Builder::new(File::create(archive).unwrap());
    builder.append_dir_all(".", root).unwrap();
    builder.finish().unwrap();
}

#[test]
fn a_folder_and_an_archive_read_the_same() {
    let space = tempfile::tempdir().unwrap();
    let (root, archive) = (space.path().join("layout"), space.path().join("image.tar"));
    let manifest = write(&root, b"some tar");
    pack(&root, &archive);
    for path in [&root, &archive] {
        let layout = Layout::open(path).unwrap();
        let expected = Report {
            manifests: vec![manifest.digest],
            docker_images: 1,
            layers: 1,
        };
        assert_eq!(verify(&layout).unwrap(), expected, "{path:?}");
        assert_eq!(find(&layout.index().unwrap(), None).unwrap(), &manifest);
    }
}

#[test]
fn damage_is_found() {
    let space = tempfile::tempdir().unwrap();
    let root = space.path();
    write(root, b"some tar");
    let blobs: Vec<_> = fs::read_dir(root.join("blobs/sha256"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(blobs.len(), 3);
    for blob in blobs {
        let good = fs::read(&blob).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        for bytes in [&bad, &good[1..].to_vec(), &Vec::new()] {
            fs::write(&blob, bytes).unwrap();
            assert!(verify(&Layout::open(root).unwrap()).is_err(), "{blob:?}");
        }
        fs::remove_file(&blob).unwrap();
        assert!(verify(&Layout::open(root).unwrap()).is_err(), "{blob:?}");
        fs::write(&blob, good).unwrap();
    }
    assert!(verify(&Layout::open(root).unwrap()).is_ok());
}

#[test]
fn a_false_diff_id_is_found() {
    let space = tempfile::tempdir().unwrap();
    let root = space.path();
    let manifest = write(root, b"some tar");
    let text = fs::read_to_string(root.join(blob_path(&manifest.digest))).unwrap();
    let other = Descriptor::of(media::OCI_LAYER, b"other tar");
    fs::write(root.join(blob_path(&other.digest)), b"other tar").unwrap();
    let mut lying: Manifest = serde_json::from_str(&text).unwrap();
    lying.layers = vec![other];
    let bytes = lying.to_bytes();
    let lying = Descriptor::of(media::OCI_MANIFEST, &bytes);
    fs::write(root.join(blob_path(&lying.digest)), bytes).unwrap();
    fs::write(root.join("index.json"), index_json(vec![lying])).unwrap();
    let error = format!("{:#}", verify(&Layout::open(root).unwrap()).unwrap_err());
    assert!(error.contains("its diff id is"), "{error}");
}

fn refused(root: &Path) -> String {
    match Layout::open(root).and_then(|layout| verify(&layout)) {
        Ok(report) => panic!("accepted: {report:?}"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn links_pipes_and_large_files_are_refused() {
    let space = tempfile::tempdir().unwrap();
    let secret = space.path().join("secret");
    fs::write(&secret, b"canary").unwrap();
    let root = space.path().join("layout");
    let manifest = write(&root, b"some tar");

    let blob = root.join(blob_path(&manifest.digest));
    fs::rename(&blob, space.path().join("moved")).unwrap();
    symlink(space.path().join("moved"), &blob).unwrap();
    assert!(refused(&root).contains("symbolic link"));
    fs::remove_file(&blob).unwrap();
    fs::rename(space.path().join("moved"), &blob).unwrap();

    fs::rename(root.join("blobs"), space.path().join("blobs")).unwrap();
    symlink(space.path().join("blobs"), root.join("blobs")).unwrap();
    assert!(refused(&root).contains("symbolic link"));
    fs::remove_file(root.join("blobs")).unwrap();
    fs::rename(space.path().join("blobs"), root.join("blobs")).unwrap();

    let index = File::options()
        .write(true)
        .open(root.join("index.json"))
        .unwrap();
    index.set_len(MAX_DOCUMENT + 1).unwrap();
    assert!(refused(&root).contains("more than"));

    fs::remove_file(root.join("oci-layout")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("oci-layout"),
        FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(refused(&root).contains("not a regular file"));
}

fn archive(entries: &[(&str, tar::EntryType, &[u8], &str)]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(file.as_file_mut());
    for (name, kind, bytes, link) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.finish().unwrap();
    drop(builder);
    file
}

#[test]
fn links_inside_an_archive_stay_inside() {
    use tar::EntryType::{Link, Regular, Symlink};
    let file = archive(&[
        ("./a/layer.tar", Regular, b"one", ""),
        ("b/layer.tar", Symlink, b"", "../a/layer.tar"),
        ("c/layer.tar", Link, b"", "a/layer.tar"),
        ("loop", Symlink, b"", "loop"),
        ("up", Symlink, b"", "../../etc/passwd"),
        ("abs", Symlink, b"", "/etc/passwd"),
        ("../out", Regular, b"out", ""),
    ]);
    let layout = Layout::open(file.path()).unwrap();
    for name in ["a/layer.tar", "./b/layer.tar", "c/layer.tar"] {
        let (mut content, size) = layout.docker_member(name).unwrap();
        let mut text = String::new();
        content.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), size), ("one", 3), "{name}");
    }
    for name in ["loop", "up", "abs", "out", "../out", "", "nothing"] {
        assert!(layout.docker_member(name).is_err(), "{name}");
    }
}

#[test]
fn bad_archives_are_refused() {
    let cases: [(&[u8], &str); 4] = [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (&[b'x'; 2000], "read image archive"),
        (b"short", "truncated"),
        (b"", "neither"),
    ];
    for (bytes, expected) in cases {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        assert!(
            refused(file.path()).contains(expected),
            "{}",
            refused(file.path())
        );
    }
    let file = archive(&[("blob", tar::EntryType::Regular, &[0; 5000], "")]);
    file.as_file().set_len(2000).unwrap();
    assert!(refused(file.path()).contains("truncated"));
}

#[test]
fn names_of_a_layout() {
    let named = |name: &str| {
        let mut descriptor = Descriptor::of(media::OCI_MANIFEST, name.as_bytes());
        descriptor.annotations.insert(REF_NAME.into(), name.into());
        descriptor
    };
    let index = Index::new(media::OCI_INDEX, vec![named("v1"), named("v2")]);
    assert_eq!(find(&index, Some("v2")).unwrap(), &named("v2"));
    assert_eq!(
        find(&index, Some(&named("v1").digest.to_string())).unwrap(),
        &named("v1")
    );
    assert!(
        find(&index, None)
            .unwrap_err()
            .to_string()
            .contains("v1, v2")
    );
    assert!(
        find(&index, Some("v3"))
            .unwrap_err()
            .to_string()
            .contains("no image \"v3\"")
    );
    assert!(
        find(&Index::new(media::OCI_INDEX, vec![]), None)
            .unwrap_err()
            .to_string()
            .contains("empty")
    );
}
