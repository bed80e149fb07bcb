//! What `--check` and `--call` say.

use serde_json::json;

use super::support::TestSpace;

const SMELLS: &str = "\
# the base of all
ARG BASE=busybox
FROM $BASE AS Build
# MODE how fast
ARG MODE=slow
RUN --mount=type=secret,id=token,required --mount=type=ssh true

# last ships it
FROM scratch AS last
COPY --from=build /bin/sh /sh
CMD /sh $NONE
";

#[test]
fn a_check_finds_and_fails() {
    let space = TestSpace::with(SMELLS);
    let ended = space.run(&["build", "--check", "."]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let expected = "\
Check complete, 2 warnings have been found!

WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
Stage name 'Build' should be lowercase
Dockerfile:3
--------------------
   1 |     # the base of all
   2 |     ARG BASE=busybox
   3 | >>> FROM $BASE AS Build
   4 |     # MODE how fast
   5 |     ARG MODE=slow
--------------------
";
    assert!(ended.text().starts_with(expected), "{}", ended.text());
    assert!(
        ended
            .text()
            .contains("\nWARNING: JSONArgsRecommended - https://")
    );
    let ended = space.run(&[
        "build",
        "--check",
        "--target=last",
        "--call=check,format=json",
        ".",
    ]);
    assert_eq!(ended.code, Some(1));
    let found = ended.json();
    assert_eq!(found["sources"][0]["filename"], "Dockerfile");
    let first = &found["warnings"][0];
    assert_eq!(first["ruleName"], "StageNameCasing");
    let here = json!({ "ranges": [{ "start": { "line": 3 }, "end": { "line": 3 } }] });
    assert_eq!(first["location"], here);
    assert!(found.get("buildError").is_none());
}

#[test]
fn a_clean_file_passes_and_a_wrong_one_says_where() {
    let space = TestSpace::with("FROM scratch\nCOPY a /\n");
    let ended = space.run(&["build", "--check", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.text(), "Check complete, no warnings found.\n");
    space.write("Dockerfile", "FROM scratch AS A\nCOPPY a /\n");
    let ended = space.run(&["build", "--call=check,format=json", "."]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("Dockerfile:2:1"), "{}", ended.stderr);
    let error = &ended.json()["buildError"];
    assert_eq!(error["location"]["ranges"][0]["start"]["line"], 2);
    // Warnings come even where an error keeps the build from being planned.
    space.write("Dockerfile", "FROM scratch AS A\nEXPOSE x\n");
    let ended = space.run(&["build", "--check", "."]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.text().contains("StageNameCasing"), "{ended:?}");
    assert!(ended.stderr.contains("Dockerfile:2"), "{}", ended.stderr);
    space.write("Dockerfile", "FROM nowhere:1\nCOPY a /\n");
    let ended = space.run(&["build", "--check", "."]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("Dockerfile:1\n"), "{}", ended.stderr);
}

#[test]
fn directives_choose_the_rules() {
    let skip = "# check=skip=StageNameCasing\nFROM scratch AS A\nCOPY a /\n";
    let space = TestSpace::with(skip);
    assert_eq!(space.run(&["build", "--check", "."]).code, Some(0));
    let replaced = "--build-arg=BUILDKIT_DOCKERFILE_CHECK=error=true";
    space.write("a", "");
    let ended = space.run(&["build", replaced, "."]);
    assert_eq!(ended.code, Some(1));
    let message = "lint violation found for rules: StageNameCasing";
    assert!(ended.stderr.contains(message), "{}", ended.stderr);
    let ended = space.run(&["build", "--check", replaced, "."]);
    assert!(ended.text().contains("StageNameCasing") && ended.stderr.contains(message));
}

#[test]
fn a_build_warns_once() {
    let space = TestSpace::with("FROM scratch AS A\nCOPY a /\n");
    space.write("a", "");
    let ended = space.build(&["."]);
    assert_eq!(
        ended.stderr.matches("StageNameCasing").count(),
        1,
        "{}",
        ended.stderr
    );
}

#[test]
fn targets() {
    let space = TestSpace::with(SMELLS);
    let ended = space.run(&["build", "--call=targets", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(
        ended.text(),
        "TARGET         DESCRIPTION\nbuild\nlast (default) ships it\n"
    );
    let found = space
        .run(&["build", "--call=targets,format=json", "."])
        .json();
    let last = &found["targets"][1];
    assert_eq!(last["name"], "last");
    assert_eq!(last["default"], true);
    assert_eq!(last["description"], "ships it");
    assert_eq!(last["base"], "scratch");
    assert_eq!(found["targets"].as_array().unwrap().len(), 2);
}

#[test]
fn methods_are_listed_as_buildkit_does() {
    let space = TestSpace::with("FROM scratch\n");
    let ended = space.run(&["build", "--call=subrequests.describe", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let text = "NAME                 VERSION DESCRIPTION\n\
        outline              1.0.0   List all parameters current build target supports\n\
        targets              1.0.0   List all targets current build supports\n\
        subrequests.describe 1.0.0   List available subrequest types\n";
    assert_eq!(ended.text(), text);
    let found = space
        .run(&["build", "--call=subrequests.describe,format=json", "."])
        .json();
    assert_eq!(found[0]["name"], "frontend.outline");
    assert_eq!(found[0]["opts"][0]["name"], "target");
    assert_eq!(found[1]["opts"].as_array().unwrap().len(), 0);
    assert!(found[2]["opts"].is_null() && found[2]["refs"].is_null());
    assert_eq!(found[2]["metadata"][1]["name"], "result.txt");
}

#[test]
fn an_outline() {
    let space = TestSpace::with(SMELLS);
    let ended = space.run(&["build", "--call=outline", "."]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let expected = "\
TARGET:      last
DESCRIPTION: ships it

BUILD ARG   VALUE     DESCRIPTION
BASE        busybox
MODE        slow      how fast

SECRET   REQUIRED
token    true

SSH       REQUIRED
default

";
    assert_eq!(ended.text(), expected);
    let arguments = [
        "build",
        "--call=outline,format=json",
        "--build-arg=MODE=fast",
        ".",
    ];
    let found = space.run(&arguments).json();
    assert_eq!(found["args"][1]["value"], "fast");
    assert_eq!(found["secrets"][0]["required"], true);
    assert_eq!(found["ssh"][0]["name"], "default");
    let ended = space.run(&["build", "--call=outline", "--target=nope", "."]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("\"nope\" could not be found"),
        "{}",
        ended.stderr
    );
}

#[test]
fn another_frontend_is_named_in_a_note() {
    let space = TestSpace::with("# syntax=example.com/other:1\nFROM scratch\nLABEL a=b\n");
    let ended = space.build(&["."]);
    assert!(
        ended.stderr.contains("example.com/other:1 is not run"),
        "{}",
        ended.stderr
    );
    space.write(
        "Dockerfile",
        "# syntax=docker/dockerfile:1\nFROM scratch\nLABEL a=b\n",
    );
    assert!(!space.build(&["."]).stderr.contains("is not run"));
}

#[test]
fn an_image_that_is_not_there_may_be_a_stage_misspelt() {
    let space =
        TestSpace::with("FROM scratch AS builder\nFROM scratch\nCOPY --from=buidler /a /\n");
    let error = space.fails(&["."]);
    assert!(error.contains("Dockerfile:3"), "{error}");
    assert!(
        error.contains("load metadata for buidler:latest (did you mean builder?)"),
        "{error}"
    );
}

/// As with BuildKit, whether it is a check or a build.
#[test]
fn findings_before_an_error_are_shown() {
    let space = TestSpace::with("FROM scratch AS Bad\nMAINTAINER me\nBADCMD\n");
    let ended = space.run(&["build", "--call=check,format=json", "."]);
    assert_eq!(ended.code, Some(1));
    let found = ended.json();
    let rules = [0, 1].map(|at| found["warnings"][at]["ruleName"].clone());
    assert_eq!(rules, ["StageNameCasing", "MaintainerDeprecated"]);
    let error = space.fails(&["."]);
    assert!(error.contains("BADCMD"), "{error}");
    assert!(
        error.contains("MaintainerDeprecated: Maintainer instruction is deprecated"),
        "{error}"
    );
}
