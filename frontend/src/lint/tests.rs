#![allow(clippy::unwrap_used)]
use super::*;
use crate::parse;

fn found(source: &str) -> Vec<String> {
    let report = lint(&parse(source).unwrap(), Scope::All, Vec::new(), None).unwrap();
    let index = LineIndex::new(source);
    report
        .warnings
        .iter()
        .map(|warning| warning.summary(&index))
        .collect()
}

#[test]
fn what_comes_before_an_error_is_looked_at() {
    let before = |source: &str, check| {
        let errors = parse(source).unwrap_err();
        let found = lint_before(source, &errors, check).into_iter();
        found.map(|warning| warning.rule.name()).collect::<Vec<_>>()
    };
    let source = "FROM a AS B\nMAINTAINER me\nCMD x\nBADCMD\nMAINTAINER you\n";
    assert_eq!(
        before(source, None),
        ["StageNameCasing", "MaintainerDeprecated"]
    );
    assert_eq!(
        before(source, Some("skip=StageNameCasing")),
        ["MaintainerDeprecated"]
    );
    assert_eq!(before("BADCMD\n", None), [""; 0]);
}

#[test]
fn casing() {
    assert_eq!(
        found("from a as Build\nRun x\ncmd [\"a\"]\n"),
        [
            "StageNameCasing: Stage name 'Build' should be lowercase (line 1)",
            "ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (lowercase) (line 2)",
        ]
    );
    assert_eq!(
        found("FROM a as b\nrun x\n"),
        [
            "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)",
            "ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase) (line 2)",
        ]
    );
    assert_eq!(found("arg A\nFROM a\nRUN x\n"), Vec::<String>::new());
}

#[test]
fn stages() {
    assert_eq!(
        found("FROM a AS x\nFROM b AS x\nFROM c AS scratch\n"),
        [
            "DuplicateStageName: Duplicate stage name \"x\", stage names should be unique (line 2)",
            "ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\" (line 3)",
        ]
    );
}

#[test]
fn instructions() {
    assert_eq!(
        found("FROM a\nMAINTAINER me\nENV A b\nRUN a \\\n\n b\nCMD [\"a\"]\nCMD [\"b\"]\n"),
        [
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
            "LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 3)",
            "NoEmptyContinuation: Empty continuation line (line 6)",
            "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 7)",
        ]
    );
    assert_eq!(
        found("FROM a\nCMD [\"a\"]\nFROM b\nCMD [\"b\"]\n"),
        Vec::<String>::new()
    );
}

#[test]
fn secrets() {
    let secret = |name: &str| !found(&format!("FROM a\nARG {name}\n")).is_empty();
    for name in [
        "AUTH",
        "api_key",
        "DATABASE_PASSWORD",
        "secret_MESSAGE",
        "GITHUB_TOKEN",
        "apikey",
    ] {
        assert!(secret(name), "{name}");
    }
    for name in [
        "AUTHOR",
        "PUBLIC_KEY",
        "TOKEN_FILE",
        "KEYS",
        "SECRET_VERSION",
    ] {
        assert!(!secret(name), "{name}");
    }
    assert_eq!(found("ARG TOKEN\nFROM a\n"), Vec::<String>::new());
}

#[test]
fn checks() {
    let legacy = "FROM a\n# check=skip=LegacyKeyValueFormat because\nENV A b\nENV B c\n";
    assert_eq!(found(legacy).len(), 1);
    assert_eq!(
        found(&format!("# check=skip=LegacyKeyValueFormat\n{legacy}")).len(),
        0
    );
    assert_eq!(found("FROM a AS b\n# other\nARG x\n").len(), 0);
    assert_eq!(
        found(
            "# check=experimental=all\n# b is it\nFROM a AS b\n# other\nARG x\n# other\nARG y z\n"
        ),
        [
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# x <description>` (line 5)",
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 7)",
        ]
    );
    let failing = parse("# check=error=true\nFROM a\nMAINTAINER b\nENV A b\n").unwrap();
    let error = lint(&failing, Scope::All, Vec::new(), None)
        .unwrap()
        .error
        .unwrap();
    assert_eq!(
        error.message,
        "lint violation found for rules: LegacyKeyValueFormat, MaintainerDeprecated"
    );
    assert_eq!(
        lint(
            &failing,
            Scope::All,
            Vec::new(),
            Some("skip=all;error=true")
        )
        .unwrap(),
        Report::default()
    );
    assert!(lint(&failing, Scope::All, Vec::new(), Some("nonsense")).is_err());
}

#[test]
fn scope_leaves_unbuilt_stages_out() {
    let dockerfile = parse("FROM a\nENV A b\nFROM b\nENV A b\n").unwrap();
    let built = BTreeSet::from([1]);
    let report = lint(&dockerfile, Scope::Stages(&built), Vec::new(), None).unwrap();
    assert_eq!(report.warnings.len(), 1);
}

#[test]
fn every_rule_is_described() {
    assert_eq!(Rule::ALL.len(), 22);
    for rule in Rule::ALL {
        assert!(!rule.description().is_empty());
    }
    assert_eq!(Rule::JSONArgsRecommended.name(), "JSONArgsRecommended");
    let url = Rule::JSONArgsRecommended.url().unwrap();
    assert_eq!(
        url,
        "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    );
}
