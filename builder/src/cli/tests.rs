//! Whole command lines.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;

fn parsed(line: &str, env: &Environment) -> Result<Invocation, Exit> {
    parse(line.split_whitespace().map(OsString::from), env)
}

fn run(line: &str) -> Invocation {
    parsed(line, &Environment::of_variables(&[]))
        .unwrap_or_else(|exit| panic!("{line}: {}", exit.text))
}

fn refused(line: &str) -> String {
    let exit = parsed(line, &Environment::of_variables(&[])).expect_err(line);
    assert_eq!(exit.code, 1, "{line}");
    assert_eq!(exit.text.lines().count(), 1, "{}", exit.text);
    exit.text
}

#[test]
fn the_definition_holds_together() {
    use clap::CommandFactory as _;
    let definition = args::Cli::command();
    definition.clone().debug_assert();
    for command in definition.get_subcommands() {
        let names = [command.get_name()]
            .into_iter()
            .chain(command.get_all_aliases());
        for name in names {
            assert_eq!(
                command_name(name),
                Some(command.get_name()),
                "{name} is not in COMMANDS"
            );
        }
    }
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in [
        "lapstrake --root /x -D images",
        "lapstrake images --root=/x --debug",
    ] {
        let invocation = run(line);
        assert_eq!(
            (invocation.root, invocation.debug),
            (Some("/x".into()), true),
            "{line}"
        );
    }
    let env = Environment::of_variables(&[("LAPSTRAKE_ROOT", "/env")]);
    assert_eq!(
        parsed("lapstrake images", &env).unwrap().root,
        Some("/env".into())
    );
    assert_eq!(
        parsed("lapstrake --root=/x images", &env).unwrap().root,
        Some("/x".into())
    );
    assert_eq!(run("lapstrake images").root, None);
}

#[test]
fn build_goes_by_dockers_names_too() {
    for line in [
        "buildx build .",
        "buildx b .",
        "builder build .",
        "image build .",
        "b .",
    ] {
        assert!(
            matches!(run(&format!("lapstrake {line}")).command, Command::Build(_)),
            "{line}"
        );
    }
    assert!(matches!(
        run("lapstrake image ls").command,
        Command::Images(_)
    ));
    assert!(refused("lapstrake builder info").contains("unknown command \"builder\""));
}

fn check(cases: Vec<(&str, Command)>) {
    for (line, expected) in cases {
        let found = run(&format!("lapstrake {line}")).command;
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn commands_about_images() {
    let table = Format::Table;
    let images = ImagesOptions {
        repository: None,
        format: table,
        digests: false,
        no_trunc: false,
        quiet: false,
    };
    let history = HistoryOptions {
        image: "a".into(),
        format: table,
        human: true,
        no_trunc: false,
        quiet: false,
    };
    check(vec![
        ("images", Command::Images(images)),
        (
            "images a:1 --format json --digests --no-trunc -q",
            Command::Images(ImagesOptions {
                repository: Some("a:1".into()),
                format: Format::Json,
                digests: true,
                no_trunc: true,
                quiet: true,
            }),
        ),
        (
            "inspect a b",
            Command::Inspect(InspectOptions {
                images: vec!["a".into(), "b".into()],
            }),
        ),
        ("history a", Command::History(history.clone())),
        (
            "history a -H=false --no-trunc",
            Command::History(HistoryOptions {
                human: false,
                no_trunc: true,
                ..history
            }),
        ),
    ]);
}

#[test]
fn commands_that_name_and_move_images() {
    let image = |name: &str| name.parse().unwrap();
    check(vec![
        (
            "tag a b:2",
            Command::Tag(TagOptions {
                source: "a".into(),
                target: image("b:2"),
            }),
        ),
        (
            "rmi -f a b",
            Command::Remove(RemoveOptions {
                images: vec!["a".into(), "b".into()],
                force: true,
            }),
        ),
        (
            "push -q a:1",
            Command::Push(PushOptions {
                image: image("a:1"),
                quiet: true,
                progress: ProgressMode::Quiet,
            }),
        ),
        (
            "pull --platform arm64 a",
            Command::Pull(PullOptions {
                image: image("a"),
                platform: Some(lapstrake_frontend::image::Platform::new(
                    "linux", "arm64", None,
                )),
                quiet: false,
                progress: ProgressMode::Plain,
            }),
        ),
    ]);
}

#[test]
fn commands_about_the_store_and_the_program() {
    let table = Format::Table;
    let prune = PruneOptions {
        all: false,
        force: false,
        until: None,
        kinds: Vec::new(),
        ids: Vec::new(),
        keep: None,
        max_used: None,
        min_free: None,
        dry_run: false,
        verbose: false,
    };
    check(vec![
        (
            "du -v",
            Command::DiskUsage(UsageOptions {
                verbose: true,
                format: table,
            }),
        ),
        ("prune", Command::Prune(prune)),
        (
            "prune -af --filter until=24h --keep-storage 10gb --dry-run",
            Command::Prune(PruneOptions {
                all: true,
                force: true,
                until: Some(Duration::from_secs(86_400)),
                kinds: Vec::new(),
                ids: Vec::new(),
                max_used: None,
                min_free: None,
                keep: Some(10 << 30),
                dry_run: true,
                verbose: false,
            }),
        ),
        ("info", Command::Info(table)),
        ("version --format json", Command::Version(Format::Json)),
    ]);
}

#[test]
fn mistakes() {
    let cases = [
        (
            "lapstrake biuld .",
            "error: unknown command \"biuld\"; did you mean build? (see lapstrake --help)\n",
        ),
        (
            "lapstrake images --format={{.ID}}",
            "error: --format: Go templates are not supported; use table or json (see lapstrake images --help)\n",
        ),
        (
            "lapstrake tag a",
            "error: missing argument <TARGET[:TAG]> (see lapstrake tag --help)\n",
        ),
        (
            "lapstrake tag a A",
            "error: \"A\": invalid reference format: repository name (library/A) must be lowercase (see lapstrake tag --help)\n",
        ),
        (
            "lapstrake rmi",
            "error: missing argument <IMAGE>... (see lapstrake rmi --help)\n",
        ),
        (
            "lapstrake push a b",
            "error: unexpected argument \"b\" (see lapstrake push --help)\n",
        ),
        (
            "lapstrake prune --filter label=x",
            "error: --filter: unknown filter \"label=x\": use until=AGE, type=TYPE or id=ID, for example until=24h (see lapstrake prune --help)\n",
        ),
        (
            "lapstrake prune --keep-storage lots",
            "error: --keep-storage: \"lots\" is not a size such as 512m or 2g (see lapstrake prune --help)\n",
        ),
        (
            "lapstrake inspect --format table a",
            "error: --format: inspect prints json only (see lapstrake inspect --help)\n",
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(refused(line), expected);
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    for line in [
        "lapstrake",
        "lapstrake --help",
        "lapstrake build --help",
        "lapstrake prune -h",
        "lapstrake --version",
    ] {
        let exit = parsed(line, &Environment::of_variables(&[])).expect_err(line);
        assert_eq!(exit.code, 0, "{line}: {}", exit.text);
        assert!(!exit.text.contains('\x1b'), "{line}");
    }
    let help = parsed("lapstrake build -h", &Environment::of_variables(&[]))
        .unwrap_err()
        .text;
    let headings = [
        "What to build:",
        "Image:",
        "Result:",
        "Cache:",
        "Steps:",
        "Progress and checks:",
        "Global:",
    ];
    for heading in headings {
        assert!(
            help.contains(&format!("\n{heading}\n")),
            "{heading} in {help}"
        );
    }
    for hidden in ["--squash", "--force-rm"] {
        assert!(!help.contains(hidden), "{hidden} in {help}");
    }
}

#[cfg(unix)]
#[test]
fn a_context_need_not_be_utf_8() {
    use std::os::unix::ffi::OsStringExt as _;
    let path = OsString::from_vec(b"caf\xe9".to_vec());
    let arguments = ["lapstrake".into(), "build".into(), path.clone()];
    let invocation = parse(arguments, &Environment::of_variables(&[])).unwrap();
    let Command::Build(options) = invocation.command else {
        panic!()
    };
    assert_eq!(options.context, ContextArg::Dir(path.into()));
}

/// Numbers that look random and are the same in every run.
fn numbers() -> impl FnMut(usize) -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    }
}

#[test]
fn no_value_of_any_flag_panics() {
    let flags = "--tag --build-arg --build-context --platform --label --annotation --attest --provenance --sbom --output \
                 --no-cache-filter --secret --ssh --network --add-host --allow --resource --ulimit --shm-size --progress \
                 --call --pull --file --memory --memory-swap";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let pieces = [
        "type=",
        "oci",
        "local",
        "image",
        "dest=",
        "id=",
        "src=",
        "env=",
        "=",
        ",",
        ":",
        "-",
        "\"",
        "\"\"",
        "a",
        "B",
        "1",
        "9999999999999999999999",
        "/",
        "[",
        "]",
        "@",
        "sha256:",
        "linux",
        "arm64",
        "memory",
        "nofile",
        "é",
        " ",
        "\n",
        "annotation.",
        "index:",
        "compression=",
        "docker-image://",
        "oci-layout://",
        "0.5",
        "g",
        "~",
        "*",
    ];
    let env = Environment::of_variables(&[("a", "b")]);
    let mut number = numbers();
    for _ in 0..4_000 {
        let value: String = (0..number(8))
            .map(|_| pieces[number(pieces.len())])
            .collect();
        let flag = flags[number(flags.len())];
        let line = ["lapstrake", "build", &format!("{flag}={value}"), "."].map(OsString::from);
        if let Err(exit) = parse(line, &env) {
            assert_eq!(
                (exit.code, exit.text.lines().count()),
                (1, 1),
                "{flag}={value:?}: {}",
                exit.text
            );
        }
    }
}
