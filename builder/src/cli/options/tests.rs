//! Flags and what they mean.

#![allow(clippy::unwrap_used)]

mod refused;

use super::super::{Command, Environment, Ulimit, parse};
use super::*;

fn build_in(arguments: &[&str], env: &Environment) -> Result<BuildOptions, String> {
    let all = ["lapstrake", "build"]
        .iter()
        .chain(arguments)
        .map(|argument| argument.into());
    match parse(all, env) {
        Ok(invocation) => match invocation.command {
            Command::Build(options) => Ok(*options),
            other => panic!("{other:?}"),
        },
        Err(exit) => Err(exit.text),
    }
}

fn build(arguments: &[&str]) -> BuildOptions {
    let env = Environment::of_variables(&[("FROM_ENV", "env"), ("EMPTY", "")]);
    build_in(arguments, &env).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn refused(arguments: &[&str]) -> String {
    let env = Environment::of_variables(&[]);
    let error = build_in(arguments, &env).expect_err(&arguments.join(" "));
    assert_eq!(error.lines().count(), 1, "{error}");
    let error = error
        .strip_prefix("error: ")
        .unwrap_or_else(|| panic!("{error}"));
    error
        .strip_suffix(" (see lapstrake build --help)\n")
        .unwrap_or_else(|| panic!("{error}"))
        .to_owned()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_build_has_the_defaults() {
    let expected = BuildOptions {
        context: ContextArg::Dir(".".into()),
        file: DockerfileArg::Default,
        target: None,
        build_args: BTreeMap::new(),
        contexts: BTreeMap::new(),
        platforms: vec![],
        pull: false,
        tags: vec![],
        labels: vec![],
        attestations: vec![],
        outputs: vec![OutputSpec::image(false)],
        iid_file: None,
        metadata_file: None,
        no_cache: NoCache::Use,
        no_cache_steps: Vec::new(),
        rebuild_from: None,
        cache_ttl: None,
        context_modes: ContextModes::Exact,
        cache_from: vec![],
        cache_to: vec![],
        explain: false,
        secrets: vec![],
        ssh: vec![],
        network: Network::Default,
        add_hosts: vec![],
        allow: Allowed::default(),
        dns: Dns::default(),
        isolation: Isolation::Default,
        no_new_privileges: false,
        limits: Limits::default(),
        progress: ProgressMode::Plain,
        quiet: false,
        call: Call::Build,
    };
    assert_eq!(build(&["."]), expected);
}

#[test]
fn what_is_read() {
    let options = build(&[
        "-f",
        "docker/Dockerfile",
        "--target=test",
        "--pull",
        "--build-context",
        "src=../x",
        "app",
    ]);
    assert_eq!(options.context, ContextArg::Dir("app".into()));
    assert_eq!(
        options.file,
        DockerfileArg::Path("docker/Dockerfile".into())
    );
    assert_eq!(options.target.as_deref(), Some("test"));
    assert!(options.pull);
    assert_eq!(options.contexts["src"], ContextSource::Dir("../x".into()));
    assert_eq!(build(&["-"]).context, ContextArg::Stdin);
    assert_eq!(build(&["-f-", "."]).file, DockerfileArg::Stdin);
    assert_eq!(
        build(&["-f", "a", "-f", "b", "."]).file,
        DockerfileArg::Path("b".into()),
        "the last one counts"
    );
    assert!(!build(&["--pull=false", "."]).pull);
}

#[test]
fn build_arguments_come_from_the_flag_or_the_environment() {
    let arguments = [
        "--build-arg",
        "A=1",
        "--build-arg=B=x=y",
        "--build-arg",
        "FROM_ENV",
        "--build-arg=EMPTY",
    ];
    let more = [
        "--build-arg",
        "UNSET",
        "--build-arg=A=2",
        "--build-arg",
        "C=",
        ".",
    ];
    let options = build(&[&arguments[..], &more[..]].concat());
    let args: Vec<(&str, &str)> = options
        .build_args
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        args,
        [
            ("A", "2"),
            ("B", "x=y"),
            ("C", ""),
            ("EMPTY", ""),
            ("FROM_ENV", "env")
        ]
    );
    let env = Environment::of_variables(&[("SOURCE_DATE_EPOCH", "7")]);
    assert_eq!(
        build_in(&["."], &env).unwrap().build_args["SOURCE_DATE_EPOCH"],
        "7"
    );
    let given = build_in(&["--build-arg", "SOURCE_DATE_EPOCH=8", "."], &env).unwrap();
    assert_eq!(given.build_args["SOURCE_DATE_EPOCH"], "8");
}

#[test]
fn names_labels_and_annotations() {
    let options = build(&["-t", "app", "--tag=ghcr.io/me/app:1", "-tb", "-t", "", "."]);
    assert_eq!(
        texts(&options.tags),
        ["app:latest", "ghcr.io/me/app:1", "b:latest"]
    );
    let OutputSpec::Image(image) = &options.outputs[0] else {
        panic!("{:?}", options.outputs)
    };
    assert_eq!(image.names, options.tags);
    let options = build(&["--label", "b=1", "--label", "a", "--label=b=2=3", "."]);
    assert_eq!(
        options.labels,
        [("b".into(), "2=3".into()), ("a".to_owned(), String::new())]
    );
    let options = build(&[
        "--annotation",
        "index,manifest:k=v",
        "-o",
        "type=oci,dest=x,annotation.a=b",
        "-o",
        "out",
        ".",
    ]);
    let OutputSpec::Archive(archive) = &options.outputs[0] else {
        panic!("{:?}", options.outputs)
    };
    assert_eq!(archive.encoding.annotations.len(), 3);
}

#[test]
fn platforms() {
    let shown = |arguments: &[&str]| texts(&build(arguments).platforms);
    let flags = [
        "--platform",
        "linux/x86_64,linux/arm64/v8",
        "--platform=linux/amd64",
        ".",
    ];
    assert_eq!(shown(&flags), ["linux/amd64", "linux/arm64"]);
    assert_eq!(shown(&["--platform=local", "."]), ["linux/amd64"]);
    assert_eq!(shown(&["--platform=arm", "."]), ["linux/arm/v7"]);
    let env = Environment::of_variables(&[("DOCKER_DEFAULT_PLATFORM", "linux/s390x")]);
    assert_eq!(
        texts(&build_in(&["."], &env).unwrap().platforms),
        ["linux/s390x"]
    );
    assert_eq!(
        texts(
            &build_in(&["--platform=arm64", "."], &env)
                .unwrap()
                .platforms
        ),
        ["linux/arm64"]
    );
}

#[test]
fn outputs() {
    let of = |arguments: &[&str]| {
        let one = |output: &OutputSpec| match output {
            OutputSpec::Image(image) => format!("image{}", if image.push { "+push" } else { "" }),
            OutputSpec::Archive(archive) => format!("{:?} {:?}", archive.format, archive.dest),
            OutputSpec::Files(files) => format!("files {:?}", files.dest),
            OutputSpec::CacheOnly => "cacheonly".to_owned(),
        };
        build(arguments)
            .outputs
            .iter()
            .map(one)
            .collect::<Vec<_>>()
            .join(" | ")
    };
    let cases: &[(&[&str], &str)] = &[
        (&["."], "image"),
        (&["-t", "a", "--push", "."], "image+push"),
        (&["--push=false", "."], "image"),
        (&["--load", "."], "Docker Unset"),
        (&["--load", "-o", "type=docker", "."], "Docker Unset"),
        (
            &["-t", "a", "--push", "--load", "."],
            "image+push | Docker Unset",
        ),
        (
            &["-t", "a", "--push", "-o", "type=image", "-o", "out", "."],
            r#"image+push | files Directory("out")"#,
        ),
        (
            &["-t", "a", "--push", "-o", "out", "."],
            r#"files Directory("out") | image+push"#,
        ),
        (&["-o-", "."], "files Stdout"),
        (&["-o", "type=cacheonly", "."], "cacheonly"),
        (&["-o", "type=registry,name=a", "."], "image+push"),
    ];
    for (arguments, expected) in cases {
        assert_eq!(of(arguments), *expected, "{arguments:?}");
    }
    let env = Environment::of_variables(&[("BUILDX_NO_DEFAULT_LOAD", "true")]);
    assert_eq!(
        build_in(&["."], &env).unwrap().outputs,
        [OutputSpec::CacheOnly]
    );
}

#[test]
fn steps() {
    let options = build(&[
        "--secret",
        "id=FROM_ENV",
        "--secret",
        "id=x,src=a",
        "--secret",
        "id=x,src=b",
        ".",
    ]);
    let sources: Vec<String> = options
        .secrets
        .iter()
        .map(|s| format!("{} {:?}", s.id, s.source))
        .collect();
    assert_eq!(sources, [r#"FROM_ENV Env("FROM_ENV")"#, r#"x File("b")"#]);
    let options = build(&[
        "--ssh",
        "default",
        "--network=host",
        "--add-host",
        "a:1.2.3.4",
        "--add-host=b=::1",
        ".",
    ]);
    assert_eq!(
        (options.ssh.len(), options.network, options.add_hosts.len()),
        (1, Network::Host, 2)
    );
    assert!(options.allow.network_host, "--network=host allows itself");
    assert!(
        build(&["--allow", "security.insecure", "."])
            .allow
            .security_insecure
    );
    let flags = [
        "--ulimit",
        "nofile=5",
        "--ulimit=nofile=6:7",
        "--shm-size=64m",
        "--cgroup-parent",
        "/x",
    ];
    let limits = build(
        &[
            &flags[..],
            &[
                "-m",
                "1g",
                "--memory-swap",
                "-1",
                "--resource",
                "memory=2g",
                ".",
            ],
        ]
        .concat(),
    )
    .limits;
    assert_eq!(
        limits.ulimits,
        [Ulimit {
            name: "nofile".into(),
            soft: 6,
            hard: 7
        }]
    );
    assert_eq!(
        (limits.shm_size, limits.cgroup_parent.as_deref()),
        (Some(64 << 20), Some("/x"))
    );
    assert_eq!(
        (limits.resources.memory, limits.resources.memory_swap),
        (Some(2 << 30), Some(-1))
    );
}

#[test]
fn cache_and_reports() {
    assert_eq!(build(&["--no-cache", "."]).no_cache, NoCache::All);
    let filter = build(&["--no-cache-filter", "a,b", "--no-cache-filter=c", "."]).no_cache;
    assert_eq!(
        filter,
        NoCache::Stages(vec!["a".into(), "b".into(), "c".into()])
    );
    assert!(build(&["--explain", "."]).explain);
    let options = build(&["-q", "--iidfile", "id", "--metadata-file=m.json", "."]);
    assert_eq!(
        (options.quiet, options.progress),
        (true, ProgressMode::Quiet)
    );
    assert_eq!(
        (options.iid_file, options.metadata_file),
        (Some("id".into()), Some("m.json".into()))
    );
    assert_eq!(
        texts(&build(&["-qt", "app", "."]).tags),
        ["app:latest"],
        "short flags may be joined"
    );
}

#[test]
fn which_progress_is_shown() {
    let mut terminal = Environment::of_variables(&[("TERM", "xterm")]);
    terminal.stderr_is_terminal = true;
    let mut dumb = Environment::of_variables(&[("TERM", "dumb"), ("BUILDKIT_PROGRESS", "auto")]);
    dumb.stderr_is_terminal = true;
    let plain = Environment::of_variables(&[("BUILDKIT_PROGRESS", "rawjson")]);
    let cases: &[(&Environment, &[&str], ProgressMode)] = &[
        (&terminal, &["."], ProgressMode::Tty),
        (&terminal, &["--progress=plain", "."], ProgressMode::Plain),
        (&terminal, &["-D", "."], ProgressMode::Plain),
        (
            &terminal,
            &["-q", "--progress=plain", "."],
            ProgressMode::Quiet,
        ),
        (&terminal, &["--progress", "none", "."], ProgressMode::Quiet),
        (&dumb, &["."], ProgressMode::Plain),
        (&plain, &["."], ProgressMode::RawJson),
        (&plain, &["--progress=auto", "."], ProgressMode::Plain),
    ];
    for (env, arguments, expected) in cases {
        assert_eq!(
            build_in(arguments, env).unwrap().progress,
            *expected,
            "{arguments:?}"
        );
    }
    assert!(refused(&["--progress=tty", "."]).contains("no terminal"));
}
