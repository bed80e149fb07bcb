//! What lapstrake makes, in the hands of other tools: skopeo, buildah, umoci, docker, and Debian's docker-registry. A tool that is
//! not installed fails its test; a tool that this machine cannot run (Docker's daemon wants root) skips it loudly, unless
//! `LAPSTRAKE_NO_SKIP` is set.

#![allow(clippy::unwrap_used)]

mod space;

use std::os::unix::fs::MetadataExt;

use lapstrake_cache::Digest;
use serde_json::Value;

use space::{Dockerd, Registry, Space};

/// The image that most tests build: a layer of its own for each kind of change.
const DOCKERFILE: &str = r#"
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "ln", "/bin/busybox", "/bin/sh"]
ENV PATH=/bin
RUN busybox --list | grep -vx -e busybox -e sh | while read -r name; do ln -s busybox "/bin/$name"; done
RUN mkdir -p -m 1777 /tmp && mkdir -p /etc /data && echo 'root:x:0:0::/:/bin/sh' > /etc/passwd \
    && echo one > /data/one && ln /data/one /data/hard && echo two > /data/two && cp /data/one /data/setuid && chown 7:8 /data/setuid && chmod 4750 /data/setuid
RUN rm /data/two && ln -s one /data/soft && mkdir /data/sub && echo three > /data/sub/three
RUN rm -r /data/sub && mkdir /data/sub && echo four > /data/sub/four

FROM base
ENV GREETING="hello there"
LABEL kind=interop
WORKDIR /data
EXPOSE 8080
USER 7:8
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $GREETING from $(id -u):$(id -g) in $PWD: $(ls | tr '\\n' ' ')$(ls sub)"]
"#;

/// What its command prints.
const GREETING: &str = "hello there from 7:8 in /data: hard one setuid soft sub four";

#[test]
fn skopeo_reads_and_copies_archives() {
    let space = Space::new(DOCKERFILE);
    let archive = space.archive("oci", "");
    let digest = space.digest(&archive);
    let seen: Value = space.json("skopeo", &["inspect", &format!("oci-archive:{archive}")]);
    assert_eq!(seen["Digest"], digest.as_str());
    assert_eq!(seen["Labels"]["kind"], "interop");
    assert_eq!(
        seen["Architecture"],
        if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        }
    );

    let copy = space.path("copy");
    space.run(
        "skopeo",
        &[
            "copy",
            "-q",
            "--preserve-digests",
            &format!("oci-archive:{archive}"),
            &format!("dir:{copy}"),
        ],
    );
    let manifest = std::fs::read(format!("{copy}/manifest.json")).unwrap();
    assert_eq!(Digest::of(&manifest).to_string(), digest);
}

#[test]
fn skopeo_reads_every_form() {
    let space = Space::new(DOCKERFILE);
    let layers = |transport: &str, path: &str| -> Value {
        let seen: Value = space.json(
            "skopeo",
            &["inspect", "--config", &format!("{transport}:{path}")],
        );
        seen["rootfs"]["diff_ids"].clone()
    };
    let wanted = layers("oci-archive", &space.archive("oci", ""));
    assert_eq!(wanted.as_array().unwrap().len(), 7);
    for options in [
        ",compression=zstd",
        ",compression=uncompressed",
        ",compression=gzip,compression-level=9",
        ",oci-mediatypes=false",
    ] {
        let archive = space.archive("oci", options);
        // A copy reads every layer and checks every digest.
        let copy = space.path("copy");
        space.run(
            "skopeo",
            &[
                "copy",
                "-q",
                &format!("oci-archive:{archive}"),
                &format!("dir:{copy}"),
            ],
        );
        assert_eq!(layers("oci-archive", &archive), wanted, "{options}");
        std::fs::remove_dir_all(copy).unwrap();
    }
    assert_eq!(
        layers("docker-archive", &space.archive("docker", "")),
        wanted
    );
    let layout = space.path("layout");
    space.build(&["--output", &format!("type=oci,tar=false,dest={layout}")]);
    assert_eq!(layers("oci", &layout), wanted);
}

#[test]
fn buildah_starts_from_it_and_runs_it() {
    let space = Space::new(DOCKERFILE);
    let archive = space.archive("oci", "");
    let name = space.buildah(&["from", &format!("oci-archive:{archive}")]);
    let said = space.buildah(&[
        "run",
        "--isolation",
        "chroot",
        &name,
        "--",
        "/bin/sh",
        "-c",
        "echo $GREETING; cat one hard soft sub/four",
    ]);
    assert_eq!(said, "hello there\none\none\none\nfour");
    let seen: Value = serde_json::from_str(&space.buildah(&["inspect", &name])).unwrap();
    assert_eq!(seen["OCIv1"]["config"]["User"], "7:8");
    assert_eq!(seen["FromImageDigest"], space.digest(&archive).as_str());
}

#[test]
fn umoci_unpacks_it() {
    let space = Space::new(DOCKERFILE);
    let layout = space.path("layout");
    space.build(&[
        "-t",
        "interop:latest",
        "--output",
        &format!("type=oci,tar=false,dest={layout}"),
    ]);
    let bundle = space.path("bundle");
    let rootless: &[&str] = if rustix::process::geteuid().is_root() {
        &[]
    } else {
        &["--rootless"]
    };
    space.run(
        "umoci",
        &[
            &["unpack"],
            rootless,
            &["--image", &format!("{layout}:latest"), &bundle],
        ]
        .concat(),
    );

    let facts = |path: &str| std::fs::symlink_metadata(format!("{bundle}/rootfs/data/{path}"));
    assert_eq!(facts("setuid").unwrap().mode() & 0o7777, 0o4750);
    assert_eq!(facts("hard").unwrap().ino(), facts("one").unwrap().ino());
    assert!(facts("soft").unwrap().is_symlink());
    assert!(facts("two").is_err() && facts("sub/three").is_err() && facts("sub/four").is_ok());
    if rootless.is_empty() {
        assert_eq!(
            (
                facts("setuid").unwrap().uid(),
                facts("setuid").unwrap().gid()
            ),
            (7, 8)
        );
    }
}

#[test]
fn docker_loads_and_runs_it() {
    let space = Space::new(DOCKERFILE);
    let Some(docker) = Dockerd::start(&space) else {
        return;
    };
    for format in ["docker", "oci"] {
        // Docker of Debian 12 loads its own format only; the store of newer ones loads both.
        let archive = space.path(&format!("{format}.tar"));
        space.build(&[
            "-t",
            "interop:latest",
            "--output",
            &format!("type={format},dest={archive}"),
        ]);
        if format == "docker" || docker.major() >= 25 {
            docker.run(&["load", "-q", "-i", &archive]);
            assert_eq!(
                docker.run(&["run", "--rm", "--network=none", "interop:latest"]),
                GREETING
            );
        }
    }
    let seen: Value = serde_json::from_str(&docker.run(&["inspect", "interop:latest"])).unwrap();
    assert_eq!(seen[0]["Config"]["User"], "7:8");
    assert_eq!(seen[0]["Config"]["WorkingDir"], "/data");
    assert!(seen[0]["Config"]["ExposedPorts"]["8080/tcp"].is_object());
}

#[test]
fn docker_pulls_it_from_a_registry() {
    let space = Space::new(DOCKERFILE);
    let registry = Registry::start(&space, None);
    let Some(docker) = Dockerd::start(&space) else {
        return;
    };
    let name = format!("{}/interop/image:1", registry.host);
    space.build(&["--push", "-t", &name]);
    let pulled = docker.run(&["pull", "-q", &name]);
    assert_eq!(pulled, name);
    assert_eq!(
        docker.run(&["run", "--rm", "--network=none", &name]),
        GREETING
    );
    let digests = docker.run(&["inspect", "--format", "{{json .RepoDigests}}", &name]);
    assert!(
        digests.contains(&registry.digest(&space, "interop/image:1", &[])),
        "{digests}"
    );
}

#[test]
fn a_registry_keeps_it_byte_by_byte() {
    let space = Space::new(DOCKERFILE);
    let registry = Registry::start(&space, None);
    let (first, second) = (
        format!("{}/interop/image:1", registry.host),
        format!("{}/other:2", registry.host),
    );
    let facts = space.path("facts.json");
    space.build(&[
        "--push",
        "-t",
        &first,
        "-t",
        &second,
        "--metadata-file",
        &facts,
    ]);
    let facts: Value = serde_json::from_slice(&std::fs::read(facts).unwrap()).unwrap();
    let digest = facts["containerimage.digest"].as_str().unwrap();
    assert_eq!(registry.digest(&space, "interop/image:1", &[]), digest);
    assert_eq!(registry.digest(&space, "other:2", &[]), digest);

    // Everything that the manifest names is there, and is what it says.
    let copy = space.path("copy");
    space.run(
        "skopeo",
        &[
            "copy",
            "-q",
            "--preserve-digests",
            "--src-tls-verify=false",
            &format!("docker://{first}"),
            &format!("dir:{copy}"),
        ],
    );
    // A base image that was pulled from there gives a build on top of it the same layers.
    let config: Value = space.json(
        "skopeo",
        &[
            "inspect",
            "--config",
            "--tls-verify=false",
            &format!("docker://{first}"),
        ],
    );
    let below = config["rootfs"]["diff_ids"].as_array().unwrap();
    let child = Space::new(&format!(
        "FROM {first}\nUSER root\nRUN echo child > /child\n"
    ));
    let archive = child.archive("oci", "");
    let above: Value = child.json(
        "skopeo",
        &["inspect", "--config", &format!("oci-archive:{archive}")],
    );
    let above = above["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(above[..below.len()], below[..]);
    assert_eq!(above.len(), below.len() + 1);
}

#[test]
fn a_registry_with_a_password() {
    let space = Space::new(DOCKERFILE);
    let registry = Registry::start(&space, Some("sailor:pass:word"));
    let name = format!("{}/interop/image:1", registry.host);
    let refused = space.build_fails(&["--push", "-t", &name]);
    assert!(
        refused.contains("401") || refused.to_lowercase().contains("unauthorized"),
        "{refused}"
    );
    assert!(!refused.contains("panicked"), "{refused}");

    space.credentials(&registry.host, "sailor:wrong");
    let refused = space.build_fails(&["--push", "-t", &name]);
    assert!(
        !refused.contains("wrong"),
        "a password in the log: {refused}"
    );

    space.credentials(&registry.host, "sailor:pass:word");
    space.build(&["--push", "-t", &name]);
    let archive = space.archive("oci", "");
    assert_eq!(
        registry.digest(&space, "interop/image:1", &["--creds", "sailor:pass:word"]),
        space.digest(&archive)
    );

    let child = Space::new(&format!(
        "FROM {name}\nUSER root\nRUN echo child > /child\n"
    ));
    child.build_fails(&[]);
    child.credentials(&registry.host, "sailor:pass:word");
    child.build(&[]);
}

#[test]
fn it_builds_on_what_buildah_and_docker_push() {
    let space = Space::new(DOCKERFILE);
    let registry = Registry::start(&space, None);
    let context = space.path("context");
    for format in ["oci", "docker"] {
        let name = format!("{}/buildah:{format}", registry.host);
        let built = space.path("buildah.Dockerfile");
        std::fs::write(
            &built,
            "FROM scratch\nCOPY busybox /bin/sh\nENV BELOW=yes\n",
        )
        .unwrap();
        space.buildah(&[
            "build", "-q", "--format", format, "-t", &name, "-f", &built, &context,
        ]);
        space.buildah(&["push", "-q", "--tls-verify=false", &name]);
        check_base(&name);
    }
    if let Some(docker) = Dockerd::start(&space) {
        let name = format!("{}/docker:latest", registry.host);
        std::fs::write(
            format!("{context}/Dockerfile"),
            "FROM scratch\nCOPY busybox /bin/sh\nENV BELOW=yes\n",
        )
        .unwrap();
        docker.run(&["build", "-q", "-t", &name, &context]);
        docker.run(&["push", "-q", &name]);
        check_base(&name);
    }
}

/// Builds a step on a base image that sets `BELOW`.
fn check_base(name: &str) {
    let space = Space::new(&format!("FROM {name}\nRUN echo $BELOW > /above\n"));
    let out = space.path("files");
    space.build(&["--output", &out]);
    assert_eq!(
        std::fs::read_to_string(format!("{out}/above")).unwrap(),
        "yes\n",
        "on {name}"
    );
}
