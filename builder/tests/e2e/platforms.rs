//! Builds for several platforms at once, and for another than this machine's.

use serde_json::Value;

use super::registry::{Auth, Registry};
use super::support::{TestSpace, entries};

#[test]
fn two_platforms_make_one_index() {
    let dockerfile = "\
FROM --platform=$BUILDPLATFORM two AS tool
ARG BUILDARCH
RUN echo \"made on $BUILDARCH\" > /made; echo tool >> /log
FROM two
ARG TARGETPLATFORM TARGETARCH
COPY --from=tool /made /made
LABEL for=$TARGETPLATFORM
";
    let space = TestSpace::with(dockerfile);
    let registry = Registry::start(Auth::Open);
    let name = format!("{}/multi:1", registry.host());
    let platforms = "--platform=linux/amd64,linux/arm64";
    let arguments = [
        platforms,
        "-t",
        &name,
        "-o",
        "type=registry",
        "--iidfile=../iid",
        ".",
    ];
    let ended = space.build(&arguments);
    let runs = ended
        .stderr
        .lines()
        .filter(|line| line.contains("RUN echo") && !line.contains("CACHED"));
    assert_eq!(runs.count(), 1, "{}", ended.stderr);
    let (kind, bytes) = registry.manifest("multi", "1").unwrap();
    assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
    let index: Value = serde_json::from_slice(&bytes).unwrap();
    let made = index["manifests"].as_array().unwrap();
    let architectures: Vec<&Value> = made
        .iter()
        .map(|m| &m["platform"]["architecture"])
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    for (at, architecture) in [(0, "amd64"), (1, "arm64")] {
        let (_, manifest) = registry
            .manifest("multi", made[at]["digest"].as_str().unwrap())
            .unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let digest = manifest["config"]["digest"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let config: Value =
            serde_json::from_slice(&registry.blob("multi", &digest).unwrap()).unwrap();
        assert_eq!(config["architecture"], architecture);
        assert_eq!(
            config["config"]["Labels"]["for"],
            format!("linux/{architecture}")
        );
    }
    // Files of several platforms go into a folder each.
    space.build(&[platforms, "-o", "../out", "."]);
    assert_eq!(space.read("../out/linux_arm64/etc/architecture"), "arm64");
    assert_eq!(space.read("../out/linux_amd64/etc/architecture"), "amd64");
    let own = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    assert_eq!(
        space.read("../out/linux_arm64/made"),
        format!("made on {own}\n")
    );
    // An archive holds the index too, and the store keeps it under its name.
    let archive = entries(
        &space
            .build(&[platforms, "-o", "type=oci,dest=-", "."])
            .stdout,
    );
    let top: Value = serde_json::from_slice(&archive["index.json"].content).unwrap();
    assert_eq!(
        top["manifests"][0]["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    space.build(&[platforms, "-t", "multi", "."]);
    let listed = space.run(&["images"]);
    assert!(listed.text().contains("multi"), "{listed:?}");
    let error = space.fails(&[platforms, "-o", "type=docker,dest=-", "."]);
    assert!(error.contains("one platform"), "{error}");
}

#[test]
fn a_step_for_another_machine_says_what_is_missing() {
    let foreign = if cfg!(target_arch = "aarch64") {
        "amd64"
    } else {
        "arm64"
    };
    let space = TestSpace::with("FROM two\nRUN echo hi\n");
    let error = space.fails(&[&format!("--platform=linux/{foreign}"), "."]);
    assert!(error.contains("Dockerfile:2"), "{error}");
    assert!(
        error.contains("binfmt_misc") && error.contains(foreign),
        "{error}"
    );
}

#[test]
fn a_platform_that_the_base_lacks() {
    let space = TestSpace::with("FROM two\nLABEL a=b\n");
    let error = space.fails(&["--platform=linux/riscv64", "."]);
    assert!(error.contains("Dockerfile:1"), "{error}");
    assert!(
        error.contains("linux/riscv64") && error.contains("linux/amd64"),
        "{error}"
    );
}

/// Manifests, the index, and the descriptors of both; from the store they are pushed as they were built.
#[test]
fn annotations_of_several_platforms() {
    let space = TestSpace::with("FROM scratch\nCOPY f /\n");
    space.write("f", "");
    let registry = Registry::start(Auth::Open);
    let name = format!("{}/noted:1", registry.host());
    let annotations = [
        "--annotation=manifest[linux/arm64]:m=arm64",
        "--annotation=m=all",
        "--annotation=manifest-descriptor:md=1",
        "--annotation=index,index-descriptor:i=1",
    ];
    let build = |more: &[&str]| {
        let platforms = &["build", "--platform=linux/amd64,linux/arm64", "."];
        let ended = space.run(&[&platforms[..], &annotations, more].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
    };
    build(&["--output=type=oci,dest=../oci,tar=false"]);
    let read = |path: &str| -> Value { serde_json::from_str(&space.read(path)).unwrap() };
    let top = read("../oci/index.json");
    assert_eq!(top["manifests"][0]["annotations"]["i"], "1");
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        read(&format!("../oci/blobs/{}", digest.replace(':', "/")))
    };
    let index = blob(&top["manifests"][0]);
    assert_eq!(index["annotations"]["i"], "1");
    for (at, m) in [(0, "all"), (1, "arm64")] {
        let descriptor = &index["manifests"][at];
        assert_eq!(descriptor["annotations"]["md"], "1");
        assert_eq!(blob(descriptor)["annotations"]["m"], m);
    }
    build(&["-t", &name]);
    let ended = space.run(&["push", &name]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (_, pushed) = registry.manifest("noted", "1").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&pushed).unwrap(), index);
}

#[test]
fn annotations_that_an_image_cannot_carry() {
    let space = TestSpace::with("FROM scratch\nCOPY Dockerfile /\n");
    let oci = "type=oci,dest=../oci.tar";
    let docker = "type=oci,dest=../oci.tar,oci-mediatypes=false";
    for (annotation, output, said) in [
        ("index:a=b", oci, "has no index to annotate"),
        (
            "manifest[linux/arm/v7]:a=b",
            oci,
            "no image of platform linux/arm/v7",
        ),
        (
            "manifest-descriptor:a=b",
            docker,
            "only manifests can be annotated",
        ),
    ] {
        let platform = "--platform=linux/amd64";
        let error = space.fails(&[platform, "--annotation", annotation, "-o", output, "."]);
        assert!(error.contains(said), "{error}");
    }
}
