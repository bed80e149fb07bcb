//! Cache mounts on their way to other machines.

use super::*;

const COUNTING: &str = "FROM busybox\nARG n\nRUN --mount=type=cache,id=counter,target=/cache,mode=0750 \
    --mount=type=cache,id=other,target=/other echo \"run $n\" >> /cache/log && echo other > /other/file && \
    mkdir -p /cache/d && ln -sf log /cache/link && cat /cache/log > /log && ls /other > /others\n";

#[test]
fn cache_mounts_travel_where_they_are_asked_to() {
    let registry = Registry::start(Auth::Open);
    let first = TestSpace::with(COUNTING);
    first.build(&[
        &to(&registry, ",mode=max,mounts=counter"),
        "--build-arg=n=1",
        ".",
    ]);
    // A machine that has nothing to run downloads none of it.
    let second = TestSpace::with(COUNTING);
    registry.log();
    second.build(&[&from(&registry), "--build-arg=n=1", "."]);
    assert_eq!(downloads(&registry.log()).len(), 1);
    // One that has goes on with it; it leaves both mounts for the next.
    let all = to(&registry, ",mounts=all");
    second.build(&[
        &from(&registry),
        &all,
        "--build-arg=n=2",
        "-o",
        "../out",
        ".",
    ]);
    assert_eq!(second.read("../out/log"), "run 1\nrun 2\n");
    // A build that ran nothing passes on what it found.
    let third = TestSpace::with(COUNTING);
    third.build(&[&from(&registry), &all, "--build-arg=n=2", "."]);
    let (_, index) = index(&registry, "cache");
    assert_eq!(index["mounts"].as_array().unwrap().len(), 2);
    third.build(&[&from(&registry), "--build-arg=n=3", "-o", "../out", "."]);
    assert_eq!(third.read("../out/log"), "run 1\nrun 2\nrun 3\n");
    // A mount that is there is not touched.
    third.build(&[&from(&registry), "--build-arg=n=4", "-o", "../out", "."]);
    assert_eq!(third.read("../out/log"), "run 1\nrun 2\nrun 3\nrun 4\n");
    // --no-cache starts with nothing.
    let fourth = TestSpace::with(COUNTING);
    fourth.build(&[
        &from(&registry),
        "--no-cache",
        "--build-arg=n=9",
        "-o",
        "../out",
        ".",
    ]);
    assert_eq!(fourth.read("../out/log"), "run 9\n");
}

#[test]
fn the_namespace_of_cache_mounts_need_not_be_written() {
    let space = TestSpace::with(COUNTING);
    for (ids, expected) in [("counter", 1), ("ns/counter", 1), ("ns", 0)] {
        let registry = Registry::start(Auth::Open);
        space.build(&[
            &to(&registry, &format!(",mounts={ids}")),
            "--build-arg=n=1",
            "--build-arg=BUILDKIT_CACHE_MOUNT_NS=ns",
            ".",
        ]);
        let (_, index) = index(&registry, "cache");
        let mounts = index["mounts"].as_array().map_or(0, Vec::len);
        assert_eq!(mounts, expected, "{ids}");
    }
}

#[test]
fn a_cache_mount_that_is_gone_or_lies_starts_empty() {
    let registry = Registry::start(Auth::Open);
    let first = TestSpace::with(COUNTING);
    first.build(&[
        &to(&registry, ",mounts=counter,other"),
        "--build-arg=n=1",
        ".",
    ]);
    let (manifest, mut index) = index(&registry, "cache");
    let one = index["mounts"][0]["blob"].clone();
    index["mounts"][0]["blob"] = index["mounts"][1]["blob"].clone();
    index["mounts"][1]["blob"] = one;
    replace(&registry, manifest, &index);
    let second = TestSpace::with(COUNTING);
    let ended = second.build(&[&from(&registry), "--build-arg=n=2", "-o", "../out", "."]);
    assert_eq!(second.read("../out/log"), "run 2\n", "{}", ended.stderr);
    assert!(ended.stderr.contains("starts empty"), "{}", ended.stderr);
}
