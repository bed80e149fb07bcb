//! Flags that are wrong, or not supported.

use super::{Environment, build, build_in, refused};

#[test]
fn mistakes_are_one_line_that_names_the_flag() {
    let cases: &[(&[&str], &str)] = &[
        (
            &[],
            "the build context is missing: give a directory, for example: lapstrake build .",
        ),
        (
            &[""],
            "the build context is empty: give a directory, for example .",
        ),
        (
            &[".", "extra"],
            "unexpected argument \"extra\": build takes one context; flags with blanks in their value need quotes",
        ),
        (
            &["--tags", "x", "."],
            "unknown flag --tags; did you mean --tag?",
        ),
        (&["-x", "."], "unknown flag -x"),
        (&[".", "-t"], "--tag lacks its value"),
        (
            &["-t", "UPPER", "."],
            "--tag: \"UPPER\": invalid reference format: repository name (library/UPPER) must be lowercase",
        ),
        (
            &["--pull=maybe", "."],
            "--pull: \"maybe\" is neither true nor false",
        ),
        (
            &["--network=bridge", "."],
            "--network: unknown network \"bridge\": use default, none or host",
        ),
        (
            &["--build-arg", "=x", "."],
            "--build-arg: \"=x\" has no name before the =",
        ),
        (
            &["--platform=x/y/z/w", "."],
            "--platform: \"x/y/z/w\": cannot parse platform specifier",
        ),
        (
            &["--push", "."],
            "an image needs a name to be pushed: give --tag REGISTRY/NAME",
        ),
        (
            &["--no-cache", "--no-cache-filter=a", "."],
            "--no-cache and --no-cache-filter: give one of them",
        ),
        (
            &["-f-", "-"],
            "both the context and --file are -: standard input can be only one of them",
        ),
        (
            &["-o-", "-o", "type=oci", "."],
            "several outputs go to standard output: give dest=FILE",
        ),
        (
            &["-o-", "-q", "."],
            "--quiet prints the image's id on standard output, where an output goes too: use --iidfile",
        ),
        (
            &["--iidfile=x", "-oout", "."],
            "--iidfile: outputs of type local and tar have no image id; add -o type=image",
        ),
        (
            &["--shm-size=big", "."],
            "--shm-size: \"big\" is not a size such as 512m or 2g",
        ),
        (
            &["--allow=all", "."],
            "--allow: unknown entitlement \"all\": use network.host, security.insecure, device[=NAME] or buildx.local.delete",
        ),
        (
            &["--progress=fancy", "."],
            "--progress: unknown progress \"fancy\": use auto, plain, tty, quiet, rawjson or none",
        ),
        (
            &["--secret=src=x", "."],
            "--secret: \"src=x\" lacks id=NAME",
        ),
    ];
    for (arguments, expected) in cases {
        assert_eq!(refused(arguments), *expected, "{arguments:?}");
    }
    let mut terminal = Environment::of_variables(&[]);
    terminal.stdout_is_terminal = true;
    assert!(
        build_in(&["-o-", "."], &terminal)
            .unwrap_err()
            .contains("refusing to write an archive to the terminal")
    );
}

#[test]
fn what_is_not_supported_is_refused_and_its_harmless_values_are_not() {
    let refusals: &[&[&str]] = &[
        &["--attest=type=sbom"],
        &["--sbom=true"],
        &["--provenance=mode=max"],
        &["--builder=remote"],
        &["--policy=filename=x"],
        &["--squash"],
    ];
    for flags in refusals {
        let error = refused(&[flags, &["."][..]].concat());
        let flag = flags[0].split('=').next().unwrap();
        assert!(
            error.starts_with(&format!("{flag} is not supported: ")),
            "{error}"
        );
    }
    let harmless: &[&[&str]] = &[
        &["--sbom=false"],
        &["--provenance=false"],
        &["--attest=type=provenance,disabled=true"],
        &["--builder=default"],
        &["--call=build"],
        &["--check=false"],
        &["--isolation=default"],
        &["--squash=false"],
        &["--rm", "--force-rm=true", "--compress"],
    ];
    for flags in harmless {
        build(&[flags, &["."][..]].concat());
    }
}
