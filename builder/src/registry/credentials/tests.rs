#![allow(clippy::unwrap_used)]
use super::*;

fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic {
        username: username.into(),
        password: Secret::new(password),
    }
}

fn inline(text: &str) -> Sources {
    Sources {
        inline: Some(Secret::new(text)),
        ..Sources::default()
    }
}

async fn find(text: &str, host: &str, repository: &str) -> Credential {
    inline(text).find(host, repository).await.unwrap()
}

// base64 of "user:pa:ss"
const AUTH: &str = "dXNlcjpwYTpzcw==";

#[tokio::test]
async fn entries_are_found_by_every_spelling() {
    for (key, host) in [
        ("r.example", "r.example"),
        ("https://r.example", "r.example"),
        ("https://r.example/v2/", "r.example"),
        ("http://r.example:5000/v1/", "r.example:5000"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
        ("docker.io", "registry-1.docker.io"),
    ] {
        let text = format!(r#"{{"auths":{{"{key}":{{"auth":"{AUTH}"}}}}}}"#);
        assert_eq!(
            find(&text, host, "a/b").await,
            basic("user", "pa:ss"),
            "{key}"
        );
        assert_eq!(
            find(&text, "other.example", "a/b").await,
            Credential::Anonymous,
            "{key}"
        );
    }
}

#[tokio::test]
async fn the_most_specific_entry_wins() {
    let text = r#"{"auths":{"q.io/org/app":{"username":"app"},"q.io/org":{"username":"org"},"q.io":{"username":"all"}}}"#;
    for (repository, user) in [
        ("org/app", "app"),
        ("org/app/x", "app"),
        ("org/other", "org"),
        ("x", "all"),
    ] {
        assert_eq!(
            find(text, "q.io", repository).await,
            basic(user, ""),
            "{repository}"
        );
    }
}

#[tokio::test]
async fn forms_of_an_entry() {
    let entry = |entry: &str| format!(r#"{{"auths":{{"h":{entry}}}}}"#);
    let identity = entry(r#"{"auth":"dXNlcjo=","identitytoken":"I"}"#);
    assert_eq!(
        find(&identity, "h", "x").await,
        Credential::Identity(Secret::new("I"))
    );
    let token = entry(r#"{"registrytoken":"R"}"#);
    assert_eq!(
        find(&token, "h", "x").await,
        Credential::Registry(Secret::new("R"))
    );
    assert_eq!(find(&entry("{}"), "h", "x").await, Credential::Anonymous);
    assert_eq!(
        find(&entry(r#"{"auth":"dXNlcjpwdw"}"#), "h", "x").await,
        basic("user", "pw")
    );
    assert_eq!(find("", "h", "x").await, Credential::Anonymous);
}

#[tokio::test]
async fn no_error_shows_a_value() {
    for bad in [
        r#"{"auths":{"h":{"auth":"SECRET!"}}}"#,
        r#"{"auths":{"h":"SECRET"}}"#,
        r#"{"auths":SECRET"#,
        r#"{"auths":{"h":{"auth":"c2VjcmV0"}}}"#,
    ] {
        let error = inline(bad).find("h", "x").await.unwrap_err().to_string();
        assert!(!error.to_lowercase().contains("secret"), "{error}");
    }
    assert!(!format!("{:?}", basic("u", "SECRET")).contains("SECRET"));
}

#[tokio::test]
async fn missing_files_are_passed_over() {
    let space = tempfile::tempdir().unwrap();
    let file = space.path().join("auth.json");
    std::fs::write(&file, format!(r#"{{"auths":{{"h":{{"auth":"{AUTH}"}}}}}}"#)).unwrap();
    let sources = Sources {
        files: vec![space.path().join("none"), file.join("x"), file],
        ..Sources::default()
    };
    assert_eq!(
        sources.find("h", "x").await.unwrap(),
        basic("user", "pa:ss")
    );
}

#[tokio::test]
async fn a_helper_must_be_a_program_name() {
    for name in ["../evil", "a b", "x/y", "$(x)"] {
        let text = format!(r#"{{"credsStore":"{name}"}}"#);
        let error = inline(&text).find("h", "x").await.unwrap_err().to_string();
        assert!(error.contains("not the name of a program"), "{error}");
    }
    let text = r#"{"credHelpers":{"h":"lapstrake-does-not-exist"}}"#;
    assert!(
        inline(text)
            .find("h", "x")
            .await
            .unwrap_err()
            .to_string()
            .contains("docker-credential-lapstrake")
    );
    assert_eq!(find(text, "other", "x").await, Credential::Anonymous);
    let text = r#"{"credsStore":"lapstrake-does-not-exist","auths":{"h":{"username":"u"}},"credHelpers":null}"#;
    assert_eq!(find(text, "h", "x").await, basic("u", ""));
}

const HELPER: &str = r#"#!/bin/sh
read host
case $1:$host in
get:basic) echo '{"ServerURL":"x","Username":"u","Secret":"p"}' ;;
get:identity) echo '{"Username":"<token>","Secret":"i"}' ;;
get:broken) echo '{"Username":"SECRET' ;;
get:error) echo 'the key ring is locked'; exit 1 ;;
get:https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"p"}' ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"#;

#[tokio::test]
async fn a_helper_is_asked() {
    use std::os::unix::fs::PermissionsExt;
    let space = tempfile::tempdir().unwrap();
    let script = space.path().join("docker-credential-lapstrake-test");
    std::fs::write(&script, HELPER).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let text = r#"{"credsStore":"lapstrake-test","auths":{"file":{"username":"f"}}}"#;
    let sources = Sources {
        path: Some(space.path().into()),
        ..inline(text)
    };
    let find = |host: &'static str| sources.find(host, "x");
    assert_eq!(find("basic").await.unwrap(), basic("u", "p"));
    assert_eq!(
        find("identity").await.unwrap(),
        Credential::Identity(Secret::new("i"))
    );
    assert_eq!(
        find("registry-1.docker.io").await.unwrap(),
        basic("hub", "p")
    );
    assert_eq!(find("file").await.unwrap(), basic("f", ""));
    assert_eq!(find("nothing").await.unwrap(), Credential::Anonymous);
    let broken = find("broken").await.unwrap_err().to_string();
    assert!(
        broken.contains("malformed answer") && !broken.contains("SECRET"),
        "{broken}"
    );
    assert!(
        find("error")
            .await
            .unwrap_err()
            .to_string()
            .contains("key ring is locked")
    );
}

#[test]
fn files_of_the_environment() {
    let env = |name: &str| match name {
        "HOME" => Some(OsString::from("/home/u")),
        "XDG_RUNTIME_DIR" => Some("/run/u".into()),
        "DOCKER_CONFIG" => Some("/cfg".into()),
        _ => None,
    };
    let expected = [
        "/cfg/config.json",
        "/run/u/containers/auth.json",
        "/home/u/.config/containers/auth.json",
    ];
    assert_eq!(
        Sources::from_lookup(&env).files,
        expected.map(PathBuf::from)
    );
    assert_eq!(Sources::from_lookup(&|_| None).files, Vec::<PathBuf>::new());
}
