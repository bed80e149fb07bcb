//! What the store takes, getting rid of it, and whether it is sound.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{TestSpace, shell};

fn root(space: &TestSpace) -> PathBuf {
    space.path("../store")
}

/// What `du` says of the disk, in bytes.
fn disk(root: &Path) -> u64 {
    let said = shell(root, "du -s -B1 . | cut -f1");
    said.trim().parse().unwrap()
}

fn items(space: &TestSpace) -> Vec<Value> {
    let printed = space.run(&["du", "--format=json"]).text();
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn total(space: &TestSpace) -> u64 {
    let sizes = items(space);
    sizes
        .iter()
        .map(|item| item["Size"].as_u64().unwrap())
        .sum()
}

/// A store with everything in it: a pulled base, steps, cache mounts, a large copy made twice, names.
fn full() -> TestSpace {
    let space = TestSpace::with(
        "FROM busybox\nCOPY src /src\nRUN --mount=type=cache,target=/c echo x > /c/x && cat /src/f1 > /y\n",
    );
    for n in 0..600 {
        space.write(&format!("src/f{n}"), format!("content {n}"));
    }
    space.build(&["-t", "app:1", "."]);
    // Of 600 files 599 are linked to those of the first layer.
    space.write("src/f1", "changed");
    space.build(&["-t", "app:2", "."]);
    space
}

#[test]
fn the_total_is_what_the_disk_says() {
    let space = full();
    assert_eq!(total(&space), disk(&root(&space)));
    let layers: Vec<Value> = items(&space)
        .into_iter()
        .filter(|item| item["Type"] == "layer")
        .collect();
    let shared = layers.iter().filter(|item| item["Shared"] == true).count();
    assert_eq!(shared, 2, "{layers:?}");
    let images: Vec<&str> = layers
        .iter()
        .flat_map(|item| item["Images"].as_array().unwrap())
        .filter_map(Value::as_str)
        .collect();
    assert!(images.contains(&"app:1"), "{images:?}");
    space.run(&["rmi", "app:1"]);
    let table = space.run(&["du", "--verbose"]).text();
    for word in ["KEPT FOR", "RECLAIMABLE", "app:2", "cache-mount", "other"] {
        assert!(table.contains(word), "{word} in {table}");
    }
}

#[test]
fn a_prune_frees_what_it_says_and_keeps_what_images_need() {
    let space = full();
    space.run(&["rmi", "app:1"]);
    let before = total(&space);
    let dry = space.run(&["prune", "-af", "--dry-run"]).text();
    assert_eq!(total(&space), before);
    let wet = space.run(&["prune", "-af"]).text();
    assert_eq!(dry.replace("would be reclaimed", "reclaimed"), wet);
    let after = total(&space);
    assert!(after < before, "{after} of {before}");
    assert_eq!(after, disk(&root(&space)));
    assert!(
        items(&space)
            .iter()
            .all(|item| item["Type"] == "other" || !item["Images"].as_array().unwrap().is_empty())
    );
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
    // The image is whole.
    space.write("Dockerfile", "FROM app:2\nRUN test -e /y\n");
    space.build(&["."]);
}

#[test]
fn filters_select() {
    let space = full();
    let kinds = |space: &TestSpace| {
        let mut kinds: Vec<String> = items(space)
            .iter()
            .map(|item| item["Type"].as_str().unwrap().to_owned())
            // Files that were written just now are not remembered.
            .filter(|kind| kind != "context")
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds.join(" ")
    };
    assert_eq!(kinds(&space), "blob cache-mount layer other record");
    space.run(&["prune", "-f", "--filter", "until=1h"]);
    assert_eq!(kinds(&space), "blob cache-mount layer other record");
    space.run(&["prune", "-f", "--filter", "type=exec.cachemount"]);
    assert_eq!(kinds(&space), "blob layer other record");
    let records = |space: &TestSpace| {
        let all = items(space).into_iter();
        let records = all.filter(|item| item["Type"] == "record");
        records
            .map(|item| item["ID"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let one = records(&space)[0].clone();
    space.run(&["prune", "-f", "--filter", &format!("id={one}")]);
    assert!(!records(&space).contains(&one) && !records(&space).is_empty());
    // Room for all but one byte: one thing goes, and it is what was used least recently.
    let room = total(&space) - 1;
    space.run(&[
        "prune",
        "-f",
        "--filter=type=record",
        &format!("--max-used={room}"),
    ]);
    assert_eq!(
        items(&space)
            .iter()
            .filter(|item| item["Type"] == "record")
            .count(),
        records(&space).len()
    );
    assert!(total(&space) <= room);
    space.run(&["prune", "-f", "--min-free=1"]);
    assert!(!records(&space).is_empty());
    space.run(&["prune", "-f", "--filter=type=record", "--min-free=1000000g"]);
    assert_eq!(records(&space), [""; 0]);
    let wrong = space.run(&["prune", "--filter=type=x"]);
    assert!(
        wrong.stderr.contains("unknown type \"x\""),
        "{}",
        wrong.stderr
    );
}

#[test]
fn a_policy_of_the_config_file_is_applied_after_builds() {
    let space = full();
    space.run(&["rmi", "app:1", "app:2"]);
    space.write("../config.toml", "[gc]\nmax-used = 1\n");
    let config = space.path("../config.toml").display().to_string();
    // A build that makes nothing collects nothing.
    let before = total(&space);
    let cached = space.build(&["--config", &config, "."]);
    assert!(!cached.stderr.contains("[gc]"), "{}", cached.stderr);
    space.write("Dockerfile", "FROM busybox\nRUN echo new > /new\n");
    let built = space.build(&["--config", &config, "."]);
    assert!(
        built.stderr.contains("as [gc] of the config file says"),
        "{}",
        built.stderr
    );
    assert!(total(&space) < before);
    // What it used itself is there.
    assert!(space.build(&["."]).stderr.contains("CACHED"));
    space.write("../config.toml", "[gc]\nmax-usde = 1\n");
    let wrong = space.run(&["images", "--config", &config]);
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong
            .stderr
            .contains("config.toml: line 2: unknown field `max-usde`"),
        "{}",
        wrong.stderr
    );
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let found = shell(folder, "find . -type f");
    let mut found: Vec<PathBuf> = found.lines().map(|line| folder.join(line)).collect();
    found.sort();
    found
}

#[test]
fn damage_is_found_and_repaired_by_building_again() {
    let space = TestSpace::with("FROM busybox\nCOPY a /\nRUN cat /a > /b\n");
    space.write("a", "1");
    space.build(&["-t", "app", "."]);
    let id = space.build(&["-q", "."]).text();
    let store = root(&space);
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let layer_file = |name: &str| {
        let all = files(&store.join("layers-v1"));
        all.into_iter().find(|path| path.ends_with(name)).unwrap()
    };
    type Harm<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let harms: Vec<Harm> = vec![
        (
            "a flipped bit in a blob",
            Box::new(|| flip(&files(&store.join("blobs"))[0])),
        ),
        (
            "a blob of no length",
            Box::new(|| std::fs::write(&files(&store.join("blobs"))[1], "").unwrap()),
        ),
        (
            "a flipped bit in a layer",
            Box::new(|| flip(&layer_file("fs/b"))),
        ),
        (
            "a flipped bit in a layer of the base",
            Box::new(|| flip(&layer_file("fs/etc/passwd"))),
        ),
        (
            "a layer that is missing",
            Box::new(|| {
                let image = &space.run(&["inspect", "app"]).json()[0];
                let layer = image["RootFS"]["Layers"]
                    .as_array()
                    .unwrap()
                    .last()
                    .unwrap();
                let hex = layer.as_str().unwrap().strip_prefix("sha256:").unwrap();
                std::fs::remove_dir_all(store.join("layers-v1").join(hex)).unwrap();
            }),
        ),
        (
            "facts that are missing",
            Box::new(|| std::fs::remove_file(layer_file("facts")).unwrap()),
        ),
        (
            "a record that is cut off",
            Box::new(|| {
                let record = &files(&store.join("keys-v1"))[0];
                let text = std::fs::read(record).unwrap();
                std::fs::write(record, &text[..text.len() / 2]).unwrap();
            }),
        ),
        (
            "a name that is cut off",
            Box::new(|| std::fs::write(&files(&store.join("refs-v1"))[0], "{").unwrap()),
        ),
    ];
    for (what, harm) in harms {
        harm();
        let found = space.run(&["fsck"]);
        assert_eq!(found.code, Some(1), "{what}: {}", found.text());
        assert!(
            found.text().contains("damaged: "),
            "{what}: {}",
            found.text()
        );
        let repaired = space.run(&["fsck", "--repair"]);
        assert_eq!(repaired.code, Some(0), "{what}: {}", repaired.stderr);
        assert_eq!(
            space.run(&["fsck"]).text(),
            "the store is sound\n",
            "{what}"
        );
        space.build(&["-t", "app", "."]);
        assert_eq!(
            space.run(&["fsck"]).text(),
            "the store is sound\n",
            "{what}"
        );
        assert_eq!(space.build(&["-q", "."]).text().len(), id.len(), "{what}");
        let files = space.files(&["."]);
        assert_eq!(files["b"], "1", "{what}");
    }
}

#[test]
fn what_does_not_belong_to_cache_mounts_is_found() {
    let space = TestSpace::with(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c echo >> /c/log; wc -l < /c/log > /lines\n",
    );
    space.build(&["."]);
    let mounts = root(&space).join("mounts-v1");
    let mount = std::fs::read_dir(&mounts).unwrap().next().unwrap().unwrap();
    let harms = [
        mounts.join("nonsense"),
        mounts.join("0".repeat(64)),
        mount.path().join("other"),
        mount.path().join("1.lock"),
        mount.path().join("1"),
    ];
    for harm in &harms {
        match harm.ends_with("1.lock") || harm.ends_with("nonsense") {
            true => std::fs::create_dir(harm).unwrap(),
            false => std::fs::write(harm, "").unwrap(),
        }
    }
    std::fs::write(root(&space).join("locks").join("0".repeat(64)), "").unwrap();
    let found = space.run(&["fsck"]);
    assert_eq!(found.code, Some(1), "{}", found.text());
    let text = found.text();
    assert_eq!(text.matches("damaged: mounts-v1/").count(), 5, "{text}");
    assert!(text.contains("left over: 1 locks of builds"), "{text}");
    assert_eq!(space.run(&["fsck", "--repair"]).code, Some(0));
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
    assert!(harms.iter().all(|harm| !harm.exists()));
    // What it held is still there.
    assert_eq!(space.files(&["--build-arg=N=2", "."])["lines"], "2\n");
}

#[test]
fn a_layer_that_cannot_be_checked_is_told_of() {
    let space = TestSpace::with("FROM busybox\nRUN echo > /a\n");
    space.build(&["."]);
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
    let blobs = files(&root(&space).join("blobs"));
    let largest = |path: &&PathBuf| path.metadata().unwrap().len();
    std::fs::remove_file(blobs.iter().max_by_key(largest).unwrap()).unwrap();
    let found = space.run(&["fsck"]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    let text = found.text();
    assert!(
        text.starts_with("cannot be checked: layer sha256:"),
        "{text}"
    );
    assert!(
        text.contains("the store is sound as far as it can be checked"),
        "{text}"
    );
    let repaired = space.run(&["fsck", "--repair"]).text();
    assert!(repaired.starts_with("removed: layer sha256:"), "{repaired}");
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
    space.build(&["--no-cache", "."]);
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
}
