//! Images whose manifest, config or layers are not what they should be.

use std::time::Instant;

use serde_json::{Value, json};

use super::super::registry::{Auth, Registry};
use super::super::support::{TestSpace, archive, compressed};
use super::failed;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image that can be bent before it is put into a registry.
pub(crate) struct Forged {
    /// The config, before its digest is known.
    pub(crate) config: Value,
    /// The bytes of the config, where they are not those of `config`.
    pub(crate) config_bytes: Option<Vec<u8>>,
    /// Descriptors of the layers.
    pub(crate) layers: Vec<Value>,
    /// Changes the manifest at last.
    pub(crate) bend: fn(&mut Value),
}

impl Forged {
    /// A good one, of one layer with busybox's files under other names.
    pub(crate) fn of_layer(registry: &Registry, repository: &str, tar: &[u8]) -> Self {
        Self::of_blob(registry, repository, tar, &compressed("gzip", tar))
    }

    /// The layer `tar` comes as `blob`.
    pub(crate) fn of_blob(registry: &Registry, repository: &str, tar: &[u8], blob: &[u8]) -> Self {
        let digest = registry.put_blob(repository, blob).to_string();
        let diff_id = lapstrake_cache::Digest::of(tar).to_string();
        let architecture = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        Self {
            config: json!({ "architecture": architecture, "os": "linux", "config": {},
                            "rootfs": { "type": "layers", "diff_ids": [diff_id] } }),
            config_bytes: None,
            layers: vec![json!({ "mediaType": LAYER, "digest": digest, "size": blob.len() })],
            bend: |_| (),
        }
    }

    /// Puts it there under the tag `v1`; its manifest.
    pub(crate) fn put(&self, registry: &Registry, repository: &str) -> Value {
        let config = self
            .config_bytes
            .clone()
            .unwrap_or_else(|| self.config.to_string().into_bytes());
        let digest = registry.put_blob(repository, &config).to_string();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": digest, "size": config.len() },
            "layers": self.layers,
        });
        (self.bend)(&mut manifest);
        let served = manifest["mediaType"]
            .as_str()
            .unwrap_or(MANIFEST)
            .to_owned();
        let bytes = manifest.to_string();
        registry.put_manifest(repository, "v1", &served, bytes.as_bytes());
        manifest
    }
}

/// A layer that does no harm.
fn plain() -> Vec<u8> {
    archive(&[("file", "content")])
}

/// One lie: how the good image is bent, and what must be said of it.
type Lie = (&'static str, fn(&Registry, &mut Forged), &'static str);

const LIES: &[Lie] = &[
    (
        "nullcfg",
        |_, image| image.config_bytes = Some(b"null".to_vec()),
        "config",
    ),
    (
        "emptycfg",
        |_, image| image.config_bytes = Some(Vec::new()),
        "config",
    ),
    (
        "cfgdeep",
        |_, image| {
            let deep = 200_000;
            image.config_bytes = Some([vec![b'['; deep], vec![b']'; deep]].concat());
        },
        "config",
    ),
    (
        "cfgbig",
        |_, image| {
            image.config["config"]["Labels"] = json!({ "a": "x".repeat(5 << 20) });
        },
        "more than",
    ),
    (
        "fewer diff ids",
        |_, image| image.config["rootfs"]["diff_ids"] = json!([]),
        "layers",
    ),
    (
        "diff id of another layer",
        |_, image| {
            image.config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "0".repeat(64))]);
        },
        "layer is corrupt",
    ),
    (
        "diff id that is a path",
        |_, image| {
            image.config["rootfs"]["diff_ids"] = json!(["sha256:../../../../../../etc/passwd"]);
        },
        "diff id",
    ),
    (
        "digest that is a path",
        |_, image| {
            image.layers[0]["digest"] = json!("sha256:../../../../../../etc/passwd");
        },
        "digest",
    ),
    (
        "short digest",
        |_, image| image.layers[0]["digest"] = json!("sha256:abc"),
        "digest",
    ),
    (
        "other algorithm",
        |_, image| {
            image.layers[0]["digest"] = json!(format!("md5:{}", "0".repeat(32)));
        },
        "digest",
    ),
    (
        "size too small",
        |_, image| image.layers[0]["size"] = json!(3),
        "bytes",
    ),
    (
        "size too large",
        |_, image| image.layers[0]["size"] = json!(1u64 << 40),
        "bytes",
    ),
    (
        "size below zero",
        |_, image| image.layers[0]["size"] = json!(-1),
        "manifest",
    ),
    (
        "many layers",
        |_, image| {
            image.layers = vec![image.layers[0].clone(); 5000];
        },
        "5000 layers",
    ),
    (
        "unknown layer type",
        |_, image| {
            image.layers[0]["mediaType"] = json!("application/x-executable");
        },
        "application/x-executable",
    ),
    (
        "foreign layer",
        |_, image| {
            image.layers[0]["digest"] = json!(format!("sha256:{}", "1".repeat(64)));
            image.layers[0]["urls"] = json!(["http://169.254.169.254/layer", "file:///etc/passwd"]);
        },
        "404",
    ),
    (
        "both kinds",
        |_, image| image.bend = |manifest| manifest["manifests"] = json!([]),
        "both",
    ),
    (
        "no kind",
        |_, image| {
            image.bend = |manifest| {
                *manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST });
            }
        },
        "fields",
    ),
    (
        "schema 1",
        |_, image| {
            image.bend = |manifest| {
                *manifest = json!({ "schemaVersion": 1, "fsLayers": [] });
            }
        },
        "schema 1",
    ),
    (
        "an index in an index",
        |registry, image| {
            let inner =
                json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }).to_string();
            registry.put_manifest("an-index-in-an-index", "inner", INDEX, inner.as_bytes());
            image.bend = |manifest| {
                let inner = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
                let inner = inner.to_string();
                let digest = lapstrake_cache::Digest::of(inner.as_bytes()).to_string();
                let architecture = if cfg!(target_arch = "aarch64") {
                    "arm64"
                } else {
                    "amd64"
                };
                let platform = json!({ "os": "linux", "architecture": architecture });
                *manifest = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
                { "mediaType": INDEX, "digest": digest, "size": inner.len(), "platform": platform },
            ] });
            };
        },
        "index",
    ),
    (
        "user that cannot be",
        |_, image| {
            image.config["config"]["User"] = json!("4294967295");
        },
        "ids go up to",
    ),
    (
        "variable with a zero byte",
        |_, image| {
            image.config["config"]["Env"] = json!(["PATH=/bin", "A=b\0c"]);
        },
        "zero byte",
    ),
    (
        "variable without a name",
        |_, image| {
            image.config["config"]["Env"] = json!(["PATH=/bin", "=b"]);
        },
        "name",
    ),
];

fn repository(name: &str) -> String {
    name.replace(' ', "-")
}

#[test]
fn lies_are_refused_and_leave_nothing() {
    let registry = Registry::start(Auth::Open);
    let space = TestSpace::empty();
    for (name, bend, expected) in LIES {
        let repository = repository(name);
        let mut image = Forged::of_layer(&registry, &repository, &plain());
        bend(&registry, &mut image);
        image.put(&registry, &repository);
        let from = format!(
            "# a comment\nFROM {}/{repository}:v1\nRUN true\n",
            registry.host()
        );
        space.write("Dockerfile", from);
        let start = Instant::now();
        let ended = space.run(&[
            "build",
            "--progress=plain",
            "-o",
            "type=tar,dest=../out",
            ".",
        ]);
        failed(&space, name, &ended, expected);
        assert!(
            ended.stderr.contains("Dockerfile:"),
            "{name}: {}",
            ended.stderr
        );
        assert!(!space.path("../out").exists(), "{name}");
        assert!(start.elapsed().as_secs() < 30, "{name}");
    }
    assert!(
        registry
            .log()
            .iter()
            .all(|request| request.path.starts_with("/v2/"))
    );
    space.write("Dockerfile", "FROM busybox\nRUN echo works > /x\n");
    assert_eq!(space.files(&["."])["x"], "works\n");
}

/// What a layer is called, what the config says that it holds, what comes, and what must be said of it.
type Blob<'a> = (&'a str, &'a [u8], &'a [u8], Option<&'a str>);

#[test]
fn streams_that_are_not_layers_are_refused() {
    let tar = plain();
    let whole = compressed("gzip", &tar);
    let two = [
        compressed("gzip", &tar[..700]),
        compressed("gzip", &tar[700..]),
    ]
    .concat();
    let blobs: [Blob; 7] = [
        (
            "truncated",
            &tar,
            &whole[..whole.len() - 9],
            Some("extract layer"),
        ),
        (
            "garbage after it",
            &tar,
            &[&whole[..], b"garbage"].concat(),
            Some("extract layer"),
        ),
        (
            "no archive",
            &[b'n'; 2048],
            &[b'n'; 2048],
            Some("extract layer"),
        ),
        (
            "half an archive",
            &tar[..700],
            &tar[..700],
            Some("extract layer"),
        ),
        (
            "another one",
            b"what the config says",
            &whole,
            Some("extract layer"),
        ),
        ("two members", &tar, &two, None),
        ("uncompressed", &tar, &tar, None),
    ];
    let registry = Registry::start(Auth::Open);
    let space = TestSpace::empty();
    for (name, tar, blob, expected) in blobs {
        let repository = repository(name);
        Forged::of_blob(&registry, &repository, tar, blob).put(&registry, &repository);
        let text = format!("FROM {}/{repository}:v1\nWORKDIR /new\n", registry.host());
        space.write("Dockerfile", text);
        match expected {
            Some(expected) => {
                let ended = space.run(&["build", "--progress=plain", "-o", "../out", "."]);
                failed(&space, name, &ended, expected);
                assert!(
                    ended.stderr.contains("Dockerfile:"),
                    "{name}: {}",
                    ended.stderr
                );
                assert!(!space.path("../out").exists(), "{name}");
            }
            None => assert_eq!(space.files(&["."])["file"], "content", "{name}"),
        }
    }
}

/// A blob that says to be another layer must not stand for it.
#[test]
fn a_layer_is_not_known_by_what_others_call_it() {
    let registry = Registry::start(Auth::Open);
    let (victim, evil) = (archive(&[("who", "victim")]), archive(&[("who", "evil")]));
    let space = TestSpace::empty();
    Forged::of_blob(&registry, "evil", &victim, &compressed("gzip", &evil)).put(&registry, "evil");
    Forged::of_blob(&registry, "victim", &victim, &compressed("zstd", &victim))
        .put(&registry, "victim");
    let build = |name: &str| {
        let text = format!(
            "FROM {}/{name}:v1\nCOPY --from={0}/{name}:v1 who /copy\n",
            registry.host()
        );
        space.write("Dockerfile", text);
        space.run(&["build", "--progress=plain", "-o", "-", "."])
    };
    failed(&space, "evil", &build("evil"), "extract layer");
    let built = build("victim");
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let files = super::super::support::entries(&built.stdout);
    assert_eq!(
        (&*files["who"].content, &*files["copy"].content),
        (&b"victim"[..], &b"victim"[..])
    );
}

#[test]
fn a_name_means_the_same_all_through_a_build() {
    let registry = Registry::start(Auth::Open);
    for (tag, text) in [("a", "first"), ("b", "second")] {
        let image = Forged::of_layer(&registry, "moving", &archive(&[("which", text)]));
        let bytes = image.put(&registry, "moving").to_string();
        registry.put_manifest("moving", tag, MANIFEST, bytes.as_bytes());
    }
    // Each question about the tag gets another answer.
    let (answers, mut count) = (registry.clone(), 0);
    let found = ["a", "b"].map(|tag| answers.manifest("moving", tag).unwrap());
    registry.hook(move |request| {
        let asked = request.path.ends_with("/manifests/v1");
        count += usize::from(asked);
        let (kind, bytes) = &found[count % 2];
        let digest = lapstrake_cache::Digest::of(bytes);
        asked.then(|| {
            super::super::registry::Reply::new(200)
                .header("content-type", kind)
                .header("docker-content-digest", digest)
                .body(bytes.clone())
        })
    });
    let image = format!("{}/moving:v1", registry.host());
    let text = format!("FROM {image} AS a\nFROM {image}\nCOPY --from=a which /other\n");
    let space = TestSpace::with(&text);
    let files = space.files(&["."]);
    assert_eq!(files["which"], files["other"]);
    assert_eq!(
        registry
            .log()
            .iter()
            .filter(|r| r.path.ends_with("/v1"))
            .count(),
        1
    );
}

/// What images say of themselves reaches no terminal as it is.
#[test]
fn control_characters_are_shown_as_such() {
    let registry = Registry::start(Auth::Open);
    let trick = "\u{1b}]0;owned\u{7}\u{1b}[2J\rnot\nwhat it seems";
    let tar = archive(&[("file", "x"), ("a\u{1b}[31m\nb", "y")]);
    let mut image = Forged::of_layer(&registry, "tricky", &tar);
    image.config["history"] = json!([{ "created_by": trick, "comment": trick }]);
    image.config["config"]["Labels"] = json!({ trick: trick });
    image.config["os.version"] = json!(trick);
    image.put(&registry, "tricky");
    let name = format!("{}/tricky:v1", registry.host());
    let text = format!(
        "FROM {name}\nCOPY --from={name} a* /there/\nRUN printf '{}'\n",
        "\\033]0;t\\007"
    );
    let space = TestSpace::with(&text);
    let ended = space.run(&["build", "--progress=plain", "-t", "made", "."]);
    let seen = |ended: &super::super::support::Ended| {
        let all = [ended.stderr.as_bytes(), &ended.stdout].concat();
        all.iter()
            .any(|byte| *byte < b' ' && *byte != b'\n' && *byte != b'\t')
    };
    assert!(!seen(&ended), "{:?}", ended.stderr);
    let text = format!("FROM {name}\n");
    space.write("Dockerfile", text);
    space.build(&["-t", "made", "."]);
    for command in [
        &["history", "--no-trunc", "made"][..],
        &["history", "made"],
        &["inspect", "made"],
        &["images"],
        &["du", "--verbose"],
    ] {
        let ended = space.run(command);
        assert_eq!(ended.code, Some(0), "{command:?}: {}", ended.stderr);
        assert!(!seen(&ended), "{command:?}: {:?}", ended.text());
    }
    // A registry that complains in colours; a Dockerfile that does.
    registry.hook(move |_| {
        let body = json!({ "errors": [{ "code": "X", "message": trick }] }).to_string();
        Some(super::super::registry::Reply::new(403).body(body))
    });
    space.write("Dockerfile", format!("FROM {}/other:v1\n", registry.host()));
    assert!(!seen(&space.run(&["build", "."])));
    for text in [
        "FROM scratch\nCOPPY \u{1b}[2J a\n",
        "FROM scratch\nCOPY \u{1b}[2Jx /\n",
        "# \u{1b}[2J\nFROM \u{1b}[2J\n",
    ] {
        space.write("Dockerfile", text);
        let ended = space.run(&["build", "."]);
        assert_eq!(ended.code, Some(1));
        assert!(!seen(&ended), "{:?}", ended.stderr);
    }
}

/// Of a file of 5 GiB of nothing but zeros: the head of its archive, and the whole in 5 MB.
fn bomb() -> (Vec<u8>, Vec<u8>) {
    const SIZE: usize = 5 << 30;
    const PIECE: usize = 16 << 20;
    let mut header = tar::Header::new_ustar();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size(SIZE as u64);
    header.set_cksum();
    let head = header.as_bytes().to_vec();
    let piece = compressed("gzip", &vec![0; PIECE]);
    let packed = [compressed("gzip", &head), piece.repeat(SIZE / PIECE)].concat();
    (head, packed)
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    let (head, packed) = bomb();
    let refused = |space: &TestSpace, what: &str| {
        let start = Instant::now();
        let ended = space.run(&["build", "--progress=plain", "."]);
        failed(
            space,
            what,
            &ended,
            "out of all proportion to its packed size",
        );
        assert!(
            start.elapsed().as_secs() < 5,
            "{what}: {:?}",
            start.elapsed()
        );
    };
    let space = TestSpace::with("FROM scratch\nADD bomb.tar.gz /\n");
    space.write("bomb.tar.gz", &packed);
    refused(&space, "an archive");
    let registry = Registry::start(Auth::Open);
    Forged::of_blob(&registry, "bomb", &head, &packed).put(&registry, "bomb");
    let image = format!("FROM {}/bomb:v1\nWORKDIR /x\n", registry.host());
    refused(&TestSpace::with(&image), "a layer");
}
