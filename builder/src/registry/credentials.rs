//! Who we are to a registry: the files of Docker and podman, and credential helpers.
//!
//! Nothing is read before a registry asks for credentials. No value is ever shown: an error names the file and
//! the line, not the text.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{Error, Result, words};
use crate::oci::manifest::nullable;

/// The largest file of credentials, and the largest answer of a helper.
const MAX_SIZE: u64 = 1 << 20;

/// How long a helper may take; it may have to ask the user to unlock a key ring.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// The name of Docker Hub in files and helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What proves who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: what everybody may do.
    Anonymous,
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, exchanged for access tokens.
    Identity(Secret),
    /// An access token, sent as it is.
    Registry(Secret),
}

/// Where to look, in this order: given credentials, the inline file, the files.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Credentials by registry (`host[:port]`).
    pub given: BTreeMap<String, Credential>,
    /// The text of a file in Docker's format (`DOCKER_AUTH_CONFIG`).
    pub inline: Option<Secret>,
    /// Files in Docker's or podman's format; those that do not exist are passed over.
    pub files: Vec<PathBuf>,
    /// Folders in which credential helpers are looked for (`PATH`).
    pub path: Option<OsString>,
}

impl Sources {
    pub(super) fn from_lookup(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| env(name).map(PathBuf::from);
        let home = path("HOME");
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let candidates = [
            path("REGISTRY_AUTH_FILE"),
            path("DOCKER_CONFIG")
                .or_else(|| Some(home?.join(".docker")))
                .map(|dir| dir.join("config.json")),
            path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            config.map(|dir| dir.join("containers/auth.json")),
        ];
        Self {
            given: BTreeMap::new(),
            inline: env("DOCKER_AUTH_CONFIG")
                .and_then(|text| text.into_string().ok())
                .map(Secret::new),
            files: candidates.into_iter().flatten().collect(),
            path: env("PATH"),
        }
    }

    /// The credential for a repository of a registry.
    pub(super) async fn find(&self, host: &str, repository: &str) -> Result<Credential> {
        if let Some(credential) = self.given.get(host) {
            return Ok(credential.clone());
        }
        if let Some(inline) = &self.inline {
            let file = parse(inline.expose().as_bytes(), "DOCKER_AUTH_CONFIG")?;
            if let Some(credential) = file.find(host, repository, self.path.as_deref()).await? {
                return Ok(credential);
            }
        }
        for path in &self.files {
            let Some(bytes) = read(path)? else { continue };
            let file = parse(&bytes, &path.display().to_string())?;
            if let Some(credential) = file.find(host, repository, self.path.as_deref()).await? {
                return Ok(credential);
            }
        }
        Ok(Credential::Anonymous)
    }
}

/// A file's content; what is not there, or not for us, is as good as empty.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed =
        |error: io::Error| Error::plain(format!("read credentials of {}: {error}", path.display()));
    let absent = [
        ErrorKind::NotFound,
        ErrorKind::NotADirectory,
        ErrorKind::PermissionDenied,
    ];
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if absent.contains(&error.kind()) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

/// Docker's `config.json` or podman's `auth.json`, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CredentialFile {
    #[serde(deserialize_with = "nullable")]
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    #[serde(deserialize_with = "nullable")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

fn parse(bytes: &[u8], name: &str) -> Result<CredentialFile> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(CredentialFile::default());
    }
    // The parser's own message may quote a value.
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Error::plain(format!(
            "parse credentials of {name}: malformed at line {line}, column {column}"
        ))
    })
}

impl CredentialFile {
    async fn find(
        &self,
        host: &str,
        repository: &str,
        path: Option<&OsStr>,
    ) -> Result<Option<Credential>> {
        let names = names(host);
        let own = names.iter().find_map(|name| self.cred_helpers.get(*name));
        if let Some(helper) = own.or(Some(&self.creds_store).filter(|name| !name.is_empty())) {
            for name in &names {
                match ask(helper, path, name).await {
                    // Configurations copied from a desktop name a store that was never installed here.
                    Err(Asking::Absent(_)) if own.is_none() => break,
                    Err(Asking::Absent(error) | Asking::Failed(error)) => return Err(error),
                    Ok(Some(credential)) => return Ok(Some(credential)),
                    Ok(None) => {}
                }
            }
        }
        let Some(entry) = self.entry(host, repository) else {
            return Ok(None);
        };
        entry.credential().map_err(|()| {
            Error::plain(format!(
                "decode credentials for {host}: malformed auth value"
            ))
        })
    }

    /// The entry for the repository, for one of its parents, or for the whole registry.
    fn entry(&self, host: &str, repository: &str) -> Option<&Entry> {
        let auths: BTreeMap<&str, &Entry> = self
            .auths
            .iter()
            .map(|(key, entry)| (bare(key), entry))
            .collect();
        let mut path = repository;
        while !path.is_empty() {
            if let Some(entry) = names(host)
                .iter()
                .find_map(|name| auths.get(format!("{name}/{path}").as_str()))
            {
                return Some(entry);
            }
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        names(host)
            .iter()
            .find_map(|name| auths.get(bare(name)).copied())
    }
}

impl Entry {
    fn credential(&self) -> std::result::Result<Option<Credential>, ()> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::Registry(Secret::new(&self.registrytoken))));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::Identity(Secret::new(&self.identitytoken))));
        }
        if !self.auth.is_empty() {
            return decode(&self.auth).map(Some).ok_or(());
        }
        let (username, password) = (self.username.clone(), Secret::new(&self.password));
        Ok((!username.is_empty()).then_some(Credential::Basic { username, password }))
    }
}

/// base64 of `name:password`; Docker pads with NUL bytes in places.
fn decode(auth: &str) -> Option<Credential> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, lenient)
        .decode(auth.trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = Secret::new(password.trim_matches('\0'));
    Some(Credential::Basic {
        username: username.to_owned(),
        password,
    })
}

/// The names under which the credentials of a host may be filed.
fn names(host: &str) -> Vec<&str> {
    match host {
        "registry-1.docker.io" | "docker.io" | "index.docker.io" => {
            vec![
                DOCKER_HUB,
                "docker.io",
                "index.docker.io",
                "registry-1.docker.io",
            ]
        }
        other => vec![other],
    }
}

/// A key without its scheme and the `/v1/` or `/v2/` that Docker appends.
fn bare(key: &str) -> &str {
    let key = key
        .split_once("://")
        .map_or(key, |(_, rest)| rest)
        .trim_end_matches('/');
    key.strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key)
}

/// Why a helper gave no answer.
enum Asking {
    /// There is no such program.
    Absent(Error),
    /// It did not do what it should.
    Failed(Error),
}

/// Runs `docker-credential-<helper> get`. `None` when it has nothing for this name.
async fn ask(
    helper: &str,
    path: Option<&OsStr>,
    name: &str,
) -> std::result::Result<Option<Credential>, Asking> {
    let what = |what: String| {
        Error::plain(format!(
            "run credential helper docker-credential-{helper}: {what}"
        ))
    };
    let failed = |text: String| Asking::Failed(what(text));
    if !helper
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        return Err(Asking::Failed(Error::plain(format!(
            "credential helper {helper:?} is not the name of a program"
        ))));
    }
    let (success, output) =
        match tokio::time::timeout(HELPER_TIMEOUT, run(helper, path, name)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
                return Err(Asking::Absent(what(error.to_string())));
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => {
                return Err(failed(format!(
                    "no answer within {} s",
                    HELPER_TIMEOUT.as_secs()
                )));
            }
        };
    if !success {
        let text = words(&String::from_utf8_lossy(&output));
        return match text.contains("credentials not found") || text.contains("no credentials") {
            true => Ok(None),
            false => Err(failed(text)),
        };
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| failed("malformed answer".into()))?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", secret) if secret.is_empty() => None,
        ("<token>", secret) => Some(Credential::Identity(Secret(secret))),
        (username, secret) => Some(Credential::Basic {
            username: username.to_owned(),
            password: Secret(secret),
        }),
    })
}

async fn run(helper: &str, path: Option<&OsStr>, name: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .envs(path.map(|path| ("PATH", path)))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading.
        let _ = stdin.write_all(name.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_SIZE).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}

#[cfg(test)]
mod tests;
