//! Who we are, and who may see it.

use super::*;

#[tokio::test]
async fn a_token_is_fetched_once_for_a_scope() {
    let registry = Registry::start(Auth::Token { realm: None });
    let (digest, bytes) = put_image(&registry, "a/b");
    registry.put_blob("a/b", b"one");
    let client = Client::new(config());
    let image = image(registry.host(), "a/b");
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
    assert_eq!(client.manifest(&image, &digest).await.unwrap().1, bytes);
    assert_eq!(pull(&client, &image, &layer(b"one")).await.unwrap(), b"one");
    let expected = [
        "GET /v2/a/b/manifests/v1",
        "GET /token",
        "GET /v2/a/b/manifests/v1",
        &format!("GET /v2/a/b/manifests/{digest}"),
        &format!("GET /v2/a/b/blobs/{}", Digest::of(b"one")),
    ];
    let log = registry.log();
    assert_eq!(lines(&log), expected);
    assert_eq!(
        log[1].query,
        "service=test+registry&scope=repository%3Aa%2Fb%3Apull"
    );

    // Many at once ask for one token.
    let client = Client::new(config());
    let _ = client.has_blob(&image, &digest).await;
    registry.log();
    let other = ImageRef {
        repository: "c".into(),
        ..image.clone()
    };
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (client, other) = (client.clone(), other.clone());
            tokio::spawn(async move { client.has_blob(&other, &digest).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert!(!task.await.unwrap());
    }
    let log = registry.log();
    assert_eq!(
        log.iter()
            .filter(|request| request.path == "/token")
            .count(),
        1
    );
}

#[tokio::test]
async fn pushing_needs_to_be_somebody() {
    let registry = Registry::start(Auth::Token { realm: None });
    let image = image(registry.host(), "a/b");
    let anonymous = Client::new(config());
    let error = push(&anonymous, &image, b"one", None).await.unwrap_err();
    assert!(
        error.contains("401 unauthorized: no credentials for"),
        "{error}"
    );
    let client = Client::new(with_user(registry.host()));
    assert_eq!(
        push(&client, &image, b"one", None).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(registry.blob("a/b", &Digest::of(b"one")).unwrap(), b"one");
}

#[tokio::test]
async fn a_wrong_password_is_reported_by_the_token_service() {
    let registry = Registry::start(Auth::Token { realm: None });
    let mut config = with_user(registry.host());
    let wrong = Credential::Basic {
        username: "user".into(),
        password: Secret::new("SECRET"),
    };
    config
        .credentials
        .given
        .insert(registry.host().into(), wrong);
    let error = Client::new(config)
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("/token: 401 unauthorized: incorrect username or password"),
        "{text}"
    );
    assert!(!text.contains("SECRET"), "{text}");
}

#[tokio::test]
async fn basic_is_remembered() {
    let registry = Registry::start(Auth::Basic);
    put_image(&registry, "a");
    let image = image(registry.host(), "a");
    let client = Client::new(with_user(registry.host()));
    client.resolve(&image).await.unwrap();
    client.resolve(&image).await.unwrap();
    assert_eq!(registry.log().len(), 3);
    let error = Client::new(config()).resolve(&image).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
}

#[tokio::test]
async fn credentials_come_from_files_and_helpers() {
    let registry = Registry::start(Auth::Basic);
    put_image(&registry, "a");
    let space = tempfile::tempdir().unwrap();
    let file = space.path().join("config.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNzOndvcmQ="}}}}}}"#,
        registry.host()
    );
    std::fs::write(&file, text).unwrap();
    let credentials = Sources {
        files: vec![file],
        ..Sources::default()
    };
    let client = Client::new(Config {
        credentials,
        ..config()
    });
    client.resolve(&image(registry.host(), "a")).await.unwrap();
}

#[tokio::test]
async fn an_expired_token_is_replaced() {
    let registry = Registry::start(Auth::Token { realm: None });
    put_image(&registry, "a");
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    client.resolve(&image).await.unwrap();
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="s""#,
        registry.host()
    );
    registry.fail(
        1,
        "GET /v2/a/",
        Reply::new(401).header("www-authenticate", challenge),
    );
    registry.log();
    client.resolve(&image).await.unwrap();
    let expected = [
        "GET /v2/a/manifests/v1",
        "GET /token",
        "GET /v2/a/manifests/v1",
    ];
    assert_eq!(lines(&registry.log()), expected);
}

#[tokio::test]
async fn a_redirect_leads_away_without_credentials() {
    let elsewhere = Registry::start(Auth::Open);
    let blob = noise(100_000);
    elsewhere.put_blob("x", &blob);
    let registry = Registry::start(Auth::Basic);
    let digest = Digest::of(&blob);
    let to = format!("http://{}/v2/x/blobs/{digest}", elsewhere.host());
    registry.hook(move |request| {
        let is_known = request.method == "GET" && !request.header("authorization").is_empty();
        is_known.then(|| Reply::new(307).header("location", &to))
    });
    let client = Client::new(with_user(registry.host()));
    assert_eq!(
        pull(&client, &image(registry.host(), "a"), &layer(&blob))
            .await
            .unwrap(),
        blob
    );
    let log = elsewhere.log();
    assert_eq!((log.len(), log[0].header("authorization")), (1, ""));
}

#[tokio::test]
async fn redirects_without_end_are_given_up() {
    let registry = Registry::start(Auth::Open);
    registry.hook(|request| Some(Reply::new(302).header("location", format!("{}x", request.path))));
    let error = Client::new(config())
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("redirected more than 10 times"),
        "{error}"
    );
    assert_eq!(registry.log().len(), 11);
}

#[tokio::test]
async fn a_token_service_elsewhere_sees_no_credentials() {
    let thief = Registry::start(Auth::Open);
    let realm = Some(format!("http://{}/token", thief.host()));
    let registry = Registry::start(Auth::Token { realm });
    put_image(&registry, "a");
    let image = image(registry.host(), "a");
    let client = Client::new(with_user(registry.host()));
    client.resolve(&image).await.unwrap();
    let log = thief.log();
    assert_eq!((log.len(), log[0].header("authorization")), (1, ""));
    assert!(!log[0].query.contains("account"), "{}", log[0].query);
    thief.fail(1, "GET /token", Reply::new(401));
    let error = Client::new(with_user(registry.host()))
        .resolve(&image)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("only sent to the registry itself or over https"),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_service_may_not_send_us_on() {
    let registry = Registry::start(Auth::Token { realm: None });
    put_image(&registry, "a");
    registry.fail(
        1,
        "GET /token",
        Reply::new(302).header("location", "http://127.0.0.1:1/"),
    );
    let error = Client::new(config())
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("refuse redirect of the token service"),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_service_has_a_limit() {
    let registry = Registry::start(Auth::Token { realm: None });
    registry.fail(
        1,
        "GET /token",
        Reply::new(200).body(vec![b' '; 2 << 20]).chunked(),
    );
    let error = Client::new(config())
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("larger than 1048576 bytes"),
        "{error}"
    );
}
