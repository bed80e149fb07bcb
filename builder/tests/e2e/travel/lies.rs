//! Caches that say what is not so.

use super::*;

/// The files `check` and `both` after a step that runs on everything.
fn both(space: &TestSpace, flags: &[&str]) -> (Ended, String) {
    space.write(
        "Dockerfile",
        format!("{APP}RUN cat /check /runtime > /both\n"),
    );
    let ended = space.build(&[flags, &["-o", "../both", "."]].concat());
    let text = space.read("../both/both");
    (ended, text)
}

/// The places in the index of the layers that some step of `other` came to, but not the same step of `one`.
fn layer_of(index: &Value, step: usize) -> usize {
    usize::try_from(index["steps"][step]["layer"].as_u64().unwrap()).unwrap()
}

/// A registry with a cache that does not lie, its manifest and its index.
fn honest() -> (Registry, Value, Value) {
    let registry = Registry::start(Auth::Open);
    machine().build(&[&to(&registry, ",mode=max"), "."]);
    let (manifest, index) = index(&registry, "cache");
    (registry, manifest, index)
}

#[test]
fn a_layer_with_other_content_than_claimed_is_found_out_before_a_step_runs_on_it() {
    let (registry, manifest, honest) = honest();
    let count = honest["layers"].as_array().unwrap().len();
    for lying in 0..count {
        let mut index = honest.clone();
        let other = honest["layers"][(lying + 1) % count].clone();
        // Another layer, verified as such, under the content of this one.
        index["layers"][lying]["diff_id"] = other["diff_id"].clone();
        index["layers"][lying]["blob"] = other["blob"].clone();
        replace(&registry, manifest.clone(), &index);
        let space = machine();
        let (ended, text) = both(&space, &[&from(&registry)]);
        assert_eq!(
            text, "int main;runtime\n",
            "layer {lying}: {}",
            ended.stderr
        );
        // Nor does anything of it stay.
        assert_eq!(both(&space, &[]).1, "int main;runtime\n", "layer {lying}");
    }
}

#[test]
fn a_layer_that_is_not_what_its_diff_id_says_is_not_used() {
    let (registry, manifest, honest) = honest();
    let count = honest["layers"].as_array().unwrap().len();
    for lying in 0..count {
        let mut index = honest.clone();
        index["layers"][lying]["blob"] = honest["layers"][(lying + 1) % count]["blob"].clone();
        replace(&registry, manifest.clone(), &index);
        let (ended, text) = both(&machine(), &[&from(&registry)]);
        assert_eq!(
            text, "int main;runtime\n",
            "layer {lying}: {}",
            ended.stderr
        );
    }
}

/// A cache decides what its keys lead to, but only for those who name it.
#[test]
fn a_lie_does_not_outlive_the_build_that_believed_it() {
    let (registry, manifest, mut index) = honest();
    // The key of `RUN echo runtime` leads to the layer of `WORKDIR /src`, honestly described.
    let is_runtime = |step: usize| {
        let blob = index["layers"][layer_of(&index, step)]["blob"]["digest"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let layer = crate::support::entries(&gunzip(&registry.blob("cache", &blob).unwrap()));
        layer.contains_key("runtime")
    };
    let runtime = (0..6).find(|step| is_runtime(*step)).unwrap();
    index["steps"][runtime]["layer"] = json!(layer_of(&index, (runtime + 1) % 6));
    replace(&registry, manifest, &index);
    let space = machine();
    let spoilt = space.build(&[&from(&registry), "-o", "../spoilt", "."]);
    assert!(
        !space.path("../spoilt/runtime").exists(),
        "{}",
        spoilt.stderr
    );
    space.build(&["-o", "../right", "."]);
    assert_eq!(space.read("../right/runtime"), "runtime\n");
    assert_eq!(both(&space, &[]).1, "int main;runtime\n");
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut plain = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(bytes);
    decoder.read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn a_wrong_selection_puts_nothing_under_a_wrong_key() {
    let registry = Registry::start(Auth::Open);
    let other = machine();
    other.write("main.c", "int other;");
    other.build(&[&to(&registry, ",mode=max"), "."]);
    let (_, others) = index(&registry, "cache");
    machine().build(&[&to(&registry, ",mode=max"), "."]);
    let (manifest, mut index) = index(&registry, "cache");
    // What this source selects is said to be what the other one selects, and the steps after it are left out.
    assert_eq!(index["selections"].as_array().unwrap().len(), 1);
    assert_ne!(index["selections"], others["selections"]);
    index["selections"][0][1] = others["selections"][0][1].clone();
    let steps = index["steps"].as_array().unwrap();
    let known: Vec<&Value> = steps
        .iter()
        .filter(|step| {
            others["steps"]
                .as_array()
                .unwrap()
                .iter()
                .all(|other| other["key"] != step["key"])
        })
        .collect();
    // COPY main.c, RUN cat main.c; COPY --from and RUN cat program.
    assert_eq!(known.len(), 4);
    let kept: Vec<Value> = steps
        .iter()
        .filter(|step| !known[2..].contains(step))
        .cloned()
        .collect();
    index["steps"] = Value::Array(kept);
    replace(&registry, manifest, &index);
    let space = machine();
    space.build(&[&from(&registry), "-o", "../one", "."]);
    assert_eq!(space.read("../one/check"), "int main;");
    space.write("main.c", "int other;");
    space.build(&["-o", "../two", "."]);
    assert_eq!(space.read("../two/check"), "int other;", "poisoned");
}
