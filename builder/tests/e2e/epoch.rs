//! `SOURCE_DATE_EPOCH`: where it comes from, and what it does to outputs.

use std::collections::BTreeMap;

use lapstrake_cache::Digest;
use serde_json::Value;

use super::registry::{Auth, Registry, Reply};
use super::support::{BASE_TIME, Entry, TestSpace, compressed, entries, shell};

const EPOCH: u64 = 1_600_000_000;

/// An image of an OCI archive, with its layers unpacked.
struct Image {
    index: Value,
    manifest: Value,
    config: Value,
    layers: Vec<BTreeMap<String, Entry>>,
}

impl Image {
    /// Reads one whose layers are not compressed, and checks that they are what the config says.
    fn read(archive: &[u8]) -> Self {
        let files = entries(archive);
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            files[&format!("blobs/sha256/{hex}")].content.clone()
        };
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let index = json(&files["index.json"].content);
        let manifest = json(&blob(&index["manifests"][0]["digest"]));
        let config = json(&blob(&manifest["config"]["digest"]));
        let layers = manifest["layers"].as_array().unwrap().iter();
        let tars: Vec<Vec<u8>> = layers.map(|layer| blob(&layer["digest"])).collect();
        for (tar, diff_id) in tars
            .iter()
            .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
        {
            assert_eq!(Digest::of(tar).to_string(), *diff_id);
        }
        Self {
            layers: tars.iter().map(|tar| entries(tar)).collect(),
            index,
            manifest,
            config,
        }
    }

    /// What the layers say of having been rewritten.
    fn rewritten(&self) -> Vec<Option<&str>> {
        let layers = self.manifest["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| layer["annotations"]["buildkit/rewritten-timestamp"].as_str())
            .collect()
    }

    fn created(&self) -> Vec<&str> {
        let history = self.config["history"].as_array().unwrap().iter();
        let history = history.map(|entry| entry["created"].as_str().unwrap());
        history.chain(self.config["created"].as_str()).collect()
    }
}

fn build(space: &TestSpace, options: &str, arguments: &[&str]) -> Image {
    let output = format!("type=oci,compression=uncompressed,dest=-{options}");
    let arguments = [&["-o", &output], arguments, &["."]].concat();
    Image::read(&space.build(&arguments).stdout)
}

fn space() -> TestSpace {
    let space = TestSpace::with(
        "FROM busybox\nCOPY old new folder /copied/\nRUN touch -t 200001010000 /early && echo 1 > /late\nENV a=b\n",
    );
    space.write("old", "old");
    space.write("new", "new");
    space.write("folder/in", "in");
    shell(
        &space.path("."),
        "touch -d @1500000000 old; touch -d @1600000000.5 new",
    );
    space
}

const EPOCH_TEXT: &str = "2020-09-13T12:26:40Z";

#[test]
fn times_of_files_are_rewritten() {
    let space = space();
    let epoch = format!("--build-arg=SOURCE_DATE_EPOCH={EPOCH}");
    let plain = build(&space, "", &[&epoch]);
    let image = build(&space, ",rewrite-timestamp=true", &[&epoch]);
    let of = |layer: usize, path: &str| image.layers[layer][path].mtime;
    assert_eq!(
        [
            of(1, "copied/old"),
            of(1, "copied/new"),
            of(1, "copied/in"),
            of(1, "copied")
        ],
        [1_500_000_000, EPOCH, EPOCH, EPOCH]
    );
    assert_eq!((of(2, "early"), of(2, "late")), (946_684_800, EPOCH));
    // The base image is as it was.
    assert_eq!(of(0, "bin/busybox"), BASE_TIME);
    assert_eq!(image.manifest["layers"][0], plain.manifest["layers"][0]);
    let text = EPOCH.to_string();
    assert_eq!(image.rewritten(), [None, Some(&*text), Some(&*text)]);
    assert_eq!(plain.rewritten(), [None; 3]);
    let base = "2020-01-01T00:00:00Z";
    let created = [base, EPOCH_TEXT, EPOCH_TEXT, EPOCH_TEXT, EPOCH_TEXT];
    assert_eq!(
        (image.created(), plain.created()),
        (created.to_vec(), created.to_vec())
    );
    let named = &image.index["manifests"][0]["annotations"]["org.opencontainers.image.created"];
    assert_eq!(named, EPOCH_TEXT);
    // Built anew it is the same, whatever the files' own times.
    shell(&space.path("."), "touch new folder folder/in");
    let again = build(&space, ",rewrite-timestamp=true", &[&epoch, "--no-cache"]);
    assert_eq!(again.manifest, image.manifest);
}

#[test]
fn rewritten_images_are_kept_pushed_and_built_on() {
    let space = space();
    let registry = Registry::start(Auth::Open);
    let pushed = format!("{}/app:1", registry.host());
    let epoch = format!("--build-arg=SOURCE_DATE_EPOCH={EPOCH}");
    let output = format!("type=registry,rewrite-timestamp=true,name={pushed}");
    let kept = "type=image,rewrite-timestamp=true,name=app";
    space.build(&[&epoch, "-o", &output, "-o", kept, "--iidfile=../id", "."]);
    let config = &build(&space, ",rewrite-timestamp=true", &[&epoch]).manifest["config"];
    assert_eq!(space.read("../id"), *config["digest"].as_str().unwrap());
    let manifest: Value =
        serde_json::from_slice(&registry.manifest("app", "1").unwrap().1).unwrap();
    assert_eq!(manifest["config"], *config);
    // From the store it is pushed with the layers that it has been pushed with before.
    let again = format!("{}/app:2", registry.host());
    assert_eq!(space.run(&["tag", "app", &again]).code, Some(0));
    assert_eq!(space.run(&["push", &again]).code, Some(0));
    let second: Value = serde_json::from_slice(&registry.manifest("app", "2").unwrap().1).unwrap();
    let digests = |manifest: &Value| {
        let own = manifest["layers"].as_array().unwrap()[1..].iter();
        own.map(|layer| layer["digest"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests(&second), digests(&manifest));
    space.write(
        "Dockerfile",
        format!("FROM {pushed}\nRUN stat -c %Y /late > /time\n"),
    );
    assert_eq!(space.files(&["."])["time"], format!("{EPOCH}\n"));
    assert_eq!(space.run(&["fsck"]).code, Some(0));
}

#[test]
fn outputs_have_a_time_of_their_own() {
    let space = space();
    let plain = build(&space, "", &[]);
    // Nothing to go by, and nothing changes.
    let none = [
        "-o",
        "type=oci,compression=uncompressed,rewrite-timestamp=true,dest=-",
        ".",
    ];
    let ended = space.build(&none);
    assert!(
        ended.stderr.contains("without SOURCE_DATE_EPOCH"),
        "{}",
        ended.stderr
    );
    assert_eq!(Image::read(&ended.stdout).manifest, plain.manifest);
    let own = build(
        &space,
        ",rewrite-timestamp=true,source-date-epoch=1550000000",
        &[],
    );
    assert_eq!(own.created()[1..], ["2019-02-12T19:33:20Z"; 4]);
    assert_eq!(own.layers[2]["late"].mtime, 1_550_000_000);
    // It only makes times earlier, and replaces the build's.
    let epoch = format!("--build-arg=SOURCE_DATE_EPOCH={EPOCH}");
    let later = build(&space, ",source-date-epoch=1700000000", &[&epoch]);
    assert_eq!(later.created()[1..], [EPOCH_TEXT; 4]);
    // Without a value the output has none.
    let reset = build(
        &space,
        ",rewrite-timestamp=true,source-date-epoch=",
        &[&epoch],
    );
    assert_eq!(reset.rewritten(), [None; 3]);
    assert_eq!(reset.created()[1..], [EPOCH_TEXT; 4]);
    let error = space.fails(&["-o", "type=image,rewrite-timestamp=true,unpack=true", "."]);
    assert!(error.contains("unpack"), "{error}");
}

#[test]
fn exported_files_all_have_that_time() {
    let space = space();
    let epoch = format!("--build-arg=SOURCE_DATE_EPOCH={EPOCH}");
    let tar = entries(&space.build(&[&epoch, "-o", "type=tar,dest=-", "."]).stdout);
    assert!(tar.len() > 10 && tar.values().all(|entry| entry.mtime == EPOCH));
    space.build(&[
        &epoch,
        "-o",
        "type=local,dest=../out,source-date-epoch=7",
        ".",
    ]);
    let times = shell(
        &space.path("../out"),
        "find . -mindepth 1 -printf '%Ts\\n' | sort -u",
    );
    assert_eq!(times, "7\n");
    let own = "type=tar,dest=-,source-date-epoch=";
    let tar = entries(&space.build(&[&epoch, "-o", own, "."]).stdout);
    assert_eq!(tar["copied/old"].mtime, 1_500_000_000);
}

#[test]
fn entries_without_a_layer_have_the_time_of_one() {
    let space = TestSpace::with("FROM busybox\nENV a=b\n");
    let image = build(&space, "", &[]);
    assert_eq!(image.created(), ["2020-01-01T00:00:00Z"; 3]);
    space.write(
        "Dockerfile",
        "FROM busybox\nENV a=b\nRUN echo > /x\nENV c=d\n",
    );
    let created = build(&space, "", &[]);
    let created = created.created();
    assert!(
        created[1] > "2025" && created[1..].iter().all(|time| *time == created[1]),
        "{created:?}"
    );
    // The epoch is not younger than a base image.
    space.write("Dockerfile", "FROM busybox\n");
    let epoch = format!("--build-arg=SOURCE_DATE_EPOCH={EPOCH}");
    assert_eq!(
        build(&space, "", &[&epoch]).created(),
        ["2020-01-01T00:00:00Z"; 2]
    );
}

/// What the steps of an image see that shows its epoch, and when the image was made.
const SHOW: &str =
    "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo ${SOURCE_DATE_EPOCH-unset} > /epoch\n";

/// The epoch of a build, as its steps and its image say.
fn epoch_of(space: &TestSpace, arguments: &[&str], input: &[u8]) -> String {
    let output = "type=oci,compression=uncompressed,dest=-";
    let arguments = [&["-o", output], arguments].concat();
    let image = Image::read(&space.build_with(&arguments, input).stdout);
    let seen = String::from_utf8_lossy(&image.layers[1]["epoch"].content).into_owned();
    let created = image.config["created"].as_str().unwrap();
    let created = shell(&space.path("."), &format!("date -d {created} +%s"));
    assert!(seen == created || seen == "unset\n", "{seen} {created}");
    seen.trim().to_owned()
}

/// An archive with `SHOW` as Dockerfile, whose newest file is of that time.
fn dated_archive(space: &TestSpace, newest: u64) -> Vec<u8> {
    space.write("../archive/Dockerfile", SHOW);
    space.write("../archive/folder/newest", "");
    let script = format!("touch -d @{newest} folder/newest; touch -d @1 Dockerfile; tar -cf - .");
    let folder = space.path("../archive");
    let output = std::process::Command::new("sh")
        .args(["-euc", &script])
        .current_dir(folder)
        .output();
    output.unwrap().stdout
}

/// Serves a repository and archives, below `/dated/` with a time.
fn dated_sources(space: &TestSpace) -> Registry {
    let folder = space.path("../git");
    space.write(
        "../git/tree/Dockerfile",
        format!("{SHOW}COPY Dockerfile /\n"),
    );
    let script = "
        export GIT_COMMITTER_DATE='@1700000101 +0000' GIT_AUTHOR_DATE='@1 +0000'
        git init -q -b main tree; cd tree; git add .
        git -c user.email=a@b -c user.name=a commit -qm first
        cd ..; git clone -q --bare tree repo.git; git -C repo.git update-server-info";
    shell(&folder, script);
    let archive = dated_archive(space, 1_700_000_302);
    space.write("../git/a.tar.gz", compressed("gzip", &archive));
    space.write("../git/a.tar", archive);
    space.write("../git/text", "no archive");
    let server = Registry::start(Auth::Open);
    server.hook(move |request| {
        let dated = request.path.strip_prefix("/dated");
        let path = dated.unwrap_or(&request.path).trim_start_matches('/');
        let Ok(found) = std::fs::read(folder.join(path)) else {
            return Some(Reply::new(404));
        };
        let reply = Reply::new(200).body(found);
        Some(match dated {
            Some(_) => reply.header("last-modified", "Tue, 14 Nov 2023 22:16:41 GMT"),
            None => reply,
        })
    });
    server
}

#[test]
fn the_context_says_the_epoch() {
    let space = TestSpace::with(SHOW);
    let server = dated_sources(&space);
    let url = |path: &str| format!("http://{}/{path}", server.host());
    let of = |context: &str, input: &[u8]| {
        epoch_of(
            &space,
            &["--build-arg=SOURCE_DATE_EPOCH=context", context],
            input,
        )
    };
    assert_eq!(of(&url("repo.git"), b""), "1700000101");
    assert_eq!(of(&url("a.tar"), b""), "1700000302");
    assert_eq!(of(&url("dated/a.tar.gz"), b""), "1700000201");
    assert_eq!(of("-", &dated_archive(&space, 1_700_000_303)), "1700000303");
    // Files that change as the user works have no time, nor has a Dockerfile alone.
    assert_eq!(of(".", b""), "unset");
    assert_eq!(of("-", SHOW.as_bytes()), "unset");
    // Files of a repository have the time of the commit then, unless the URL says otherwise.
    let copied = |url: &str| {
        let output = [
            "--build-arg=SOURCE_DATE_EPOCH=1700000999",
            "-o",
            "type=tar,dest=-,source-date-epoch=",
            url,
        ];
        // Times are in no key: another store shows the new ones.
        entries(&TestSpace::empty().build(&output).stdout)["Dockerfile"].mtime
    };
    assert_eq!(copied(&url("repo.git")), 1_700_000_101);
    assert!(copied(&url("repo.git?mtime=checkout")) > 1_700_000_999);
}

#[test]
fn stages_and_named_contexts_say_the_epoch() {
    let space = TestSpace::empty();
    let server = dated_sources(&space);
    let url = |path: &str| format!("http://{}/{path}", server.host());
    let head = "ARG SOURCE_DATE_EPOCH=source\n";
    let stage = |add: &str| {
        space.write(
            "Dockerfile",
            format!("{head}FROM scratch AS source\nADD {add} /\n{SHOW}"),
        );
        epoch_of(&space, &["."], b"")
    };
    let sum = Digest::of(&std::fs::read(space.path("../git/a.tar")).unwrap());
    assert_eq!(stage(&url("a.tar")), "1700000302");
    assert_eq!(stage(&url("dated/text")), "1700000201");
    assert_eq!(stage(&url("text")), "unset");
    assert_eq!(stage(&url("repo.git#main")), "1700000101");
    // A server is not asked for the time of what is pinned.
    assert_eq!(
        stage(&format!("--checksum={sum} {}", url("dated/a.tar"))),
        "1700000302"
    );
    assert_eq!(
        epoch_of(&space, &["--build-arg=SOURCE_DATE_EPOCH=5", "."], b""),
        "5"
    );
    space.write("Dockerfile", format!("{head}{SHOW}"));
    let named = |context: &str| {
        let context = format!("--build-context=source={context}");
        epoch_of(&space, &[&context, "."], b"")
    };
    assert_eq!(named(&url("dated/a.tar")), "1700000201");
    assert_eq!(named(&url("a.tar.gz")), "1700000302");
    assert_eq!(named(&url("repo.git")), "1700000101");
    assert_eq!(named("."), "unset");
    assert_eq!(named("docker-image://busybox"), "unset");
    let error = space.fails(&["."]);
    assert!(
        error.contains("invalid SOURCE_DATE_EPOCH: source"),
        "{error}"
    );
    assert!(error.contains("Dockerfile:1"), "{error}");
    let gone = format!("--build-context=source={}", url("gone"));
    let error = space.fails(&[&gone, "."]);
    assert!(error.contains("find out SOURCE_DATE_EPOCH"), "{error}");
}
