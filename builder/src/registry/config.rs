//! Where registries are and how they may be spoken to.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::credentials::Sources;
use super::error::{Error, Result};

/// Called when a request must wait before it is tried again, with the reason and the pause.
pub type OnWait = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// How the client behaves. The default knows no mirror, no credentials and the system's certificates.
#[derive(Clone)]
pub struct Config {
    /// Other places to pull from, asked before the registry itself.
    pub mirrors: Vec<Mirror>,
    /// Registries (`host[:port]`) that may be spoken to without verified TLS, or without TLS.
    pub insecure: Vec<String>,
    /// Where to look for credentials.
    pub credentials: Sources,
    /// Files with the certificates of trusted authorities; the first that exists is used.
    pub roots: Vec<PathBuf>,
    /// Folders with `<host[:port]>/*.crt` (authorities) and `*.cert` and `*.key` (client certificates).
    pub certs: Vec<PathBuf>,
    /// Host names of the proxies of the environment, which may be inside our network.
    pub proxies: Vec<String>,
    /// How long to wait.
    pub patience: Patience,
    /// Told about each pause.
    pub on_wait: Option<OnWait>,
}

/// Other places that hold what a registry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry as references name it: `docker.io`.
    pub registry: String,
    /// `https://host[:port][/path]`, or `host[:port]`; tried in this order.
    pub endpoints: Vec<String>,
    /// Whether TLS may be unverified or missing.
    pub insecure: bool,
}

/// How long to wait for what, and how often to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the headers of an answer.
    pub headers: Duration,
    /// For progress of a body that is sent or received.
    pub stall: Duration,
    /// The first pause before another try; it doubles each time.
    pub pause: Duration,
    /// How often a request is sent at most, as long as nothing moves.
    pub tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            headers: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            pause: Duration::from_millis(250),
            tries: 6,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            credentials: Sources::default(),
            roots: ROOTS.iter().map(PathBuf::from).collect(),
            certs: Vec::new(),
            proxies: Vec::new(),
            patience: Patience::default(),
            on_wait: None,
        }
    }
}

/// Where distributions keep the bundle of trusted authorities.
const ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where the environment names proxies.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The host of `[scheme://][user@]host[:port]`.
fn proxy_host(proxy: &str) -> Option<String> {
    let url = if proxy.contains("://") {
        proxy.to_owned()
    } else {
        format!("http://{proxy}")
    };
    Url::parse(&url).ok()?.host_str().map(str::to_owned)
}

impl Config {
    /// The user's and the system's settings: credentials and certificates where Docker and podman keep them.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_lookup(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_lookup(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| env(name).map(PathBuf::from);
        let home = path("HOME");
        let mut certs: Vec<PathBuf> = ["/etc/docker/certs.d", "/etc/containers/certs.d"]
            .map(PathBuf::from)
            .into();
        certs.extend(
            home.as_ref()
                .map(|home| home.join(".config/containers/certs.d")),
        );
        certs.extend(
            path("DOCKER_CONFIG")
                .or_else(|| Some(home?.join(".docker")))
                .map(|dir| dir.join("certs.d")),
        );
        let roots = path("SSL_CERT_FILE").map(|file| vec![file]);
        Self {
            credentials: Sources::from_lookup(env),
            roots: roots.unwrap_or_else(|| Self::default().roots),
            certs,
            proxies: PROXIES
                .iter()
                .filter_map(|name| proxy_host(&env(name)?.into_string().ok()?))
                .collect(),
            ..Self::default()
        }
    }

    /// Where to pull from: mirrors first, the registry itself last.
    pub(super) fn pull_endpoints(&self, registry: &str) -> Result<Vec<Endpoint>> {
        let mirrors = self
            .mirrors
            .iter()
            .filter(|mirror| mirror.registry == registry);
        let places = mirrors.flat_map(|mirror| {
            mirror
                .endpoints
                .iter()
                .map(|place| (place, mirror.insecure))
        });
        let mut endpoints = places
            .map(|(place, insecure)| self.mirror(place, insecure))
            .collect::<Result<Vec<_>>>()?;
        endpoints.push(self.endpoint(registry)?);
        Ok(endpoints)
    }

    /// The registry itself.
    pub(super) fn endpoint(&self, registry: &str) -> Result<Endpoint> {
        let host = match registry {
            "docker.io" | "index.docker.io" => "registry-1.docker.io",
            other => other,
        };
        self.host(
            host,
            String::new(),
            self.insecure
                .iter()
                .any(|name| name == registry || name == host),
        )
    }

    fn mirror(&self, place: &str, insecure: bool) -> Result<Endpoint> {
        let Some((scheme, rest)) = place.split_once("://") else {
            return self.host(
                place.trim_end_matches('/'),
                String::new(),
                insecure || self.insecure.iter().any(|n| n == place),
            );
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let path = path
            .strip_suffix("v2")
            .map_or(path, |path| path.trim_end_matches('/'));
        let path = if path.is_empty() {
            String::new()
        } else {
            format!("/{path}")
        };
        let mut endpoint = self.host(host, path, insecure)?;
        // Whoever writes https:// wants its proof, on this machine too.
        endpoint.verify = !insecure;
        endpoint.schemes = match scheme {
            "http" => vec![Scheme::Http],
            "https" => vec![Scheme::Https],
            _ => {
                return Err(Error::plain(format!(
                    "registry mirror {place:?} must begin with https:// or http://"
                )));
            }
        };
        Ok(endpoint)
    }

    fn host(&self, host: &str, path: String, insecure: bool) -> Result<Endpoint> {
        let url = Url::parse(&format!("https://{host}{path}/v2/")).ok();
        let plain = url.filter(|url| {
            url.path() == format!("{path}/v2/")
                && url.username().is_empty()
                && url.query().is_none()
        });
        let Some(url) = plain.filter(|url| url.password().is_none() && url.fragment().is_none())
        else {
            return Err(Error::plain(format!(
                "registry {host:?} is not a host name with an optional port"
            )));
        };
        let loopback = is_loopback(&url);
        let schemes = match (loopback, insecure) {
            (true, _) => vec![Scheme::Http, Scheme::Https],
            (false, true) => vec![Scheme::Https, Scheme::Http],
            (false, false) => vec![Scheme::Https],
        };
        Ok(Endpoint {
            host: host.to_owned(),
            path,
            schemes,
            verify: !(loopback || insecure),
        })
    }
}

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// One server that speaks the registry protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `host[:port]`; also the name under which credentials are looked up.
    pub(super) host: String,
    /// What precedes `/v2/`.
    path: String,
    /// What to try, in this order. Never `Http` unless the registry is marked insecure or is this machine.
    pub(super) schemes: Vec<Scheme>,
    /// Whether certificates are verified.
    pub(super) verify: bool,
}

impl Endpoint {
    /// The URL of something below `/v2/`. `path` holds only characters that need no escaping.
    pub(super) fn url(&self, scheme: Scheme, path: &str) -> Result<Url> {
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let text = format!("{scheme}://{}{}/v2/{path}", self.host, self.path);
        Url::parse(&text)
            .map_err(|error| Error::plain(format!("registry address {text:?}: {error}")))
    }
}

/// Whether the host is this machine. `localhost` counts without a look-up, as it does for Docker.
pub(super) fn is_loopback(url: &Url) -> bool {
    match literal(url) {
        Some(address) => address.to_canonical().is_loopback(),
        None => url.host_str() == Some("localhost"),
    }
}

/// The host, where it is an address and no name.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn places(config: &Config, registry: &str) -> String {
        let endpoints = config.pull_endpoints(registry).unwrap();
        let urls = endpoints.iter().map(|endpoint| {
            let urls: Vec<String> = endpoint
                .schemes
                .iter()
                .map(|s| endpoint.url(*s, "x").unwrap().to_string())
                .collect();
            format!(
                "{}{}",
                urls.join(" or "),
                if endpoint.verify { "" } else { " unverified" }
            )
        });
        urls.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn where_a_registry_is() {
        let mut config = Config {
            insecure: vec!["lan:5000".into()],
            ..Config::default()
        };
        let table = [
            ("docker.io", "https://registry-1.docker.io/v2/x"),
            ("ghcr.io", "https://ghcr.io/v2/x"),
            (
                "lan:5000",
                "https://lan:5000/v2/x or http://lan:5000/v2/x unverified",
            ),
            ("lan:5001", "https://lan:5001/v2/x"),
            (
                "localhost:5000",
                "http://localhost:5000/v2/x or https://localhost:5000/v2/x unverified",
            ),
            (
                "127.0.0.9",
                "http://127.0.0.9/v2/x or https://127.0.0.9/v2/x unverified",
            ),
            (
                "[::1]:80",
                "http://[::1]/v2/x or https://[::1]:80/v2/x unverified",
            ),
            ("localhost.example", "https://localhost.example/v2/x"),
        ];
        for (registry, expected) in table {
            assert_eq!(places(&config, registry), expected, "{registry}");
        }
        for bad in [
            "user@host",
            "ho st",
            "host/path",
            "host?x",
            "host#x",
            "u:p@host",
            "",
            "host:99999",
        ] {
            assert!(config.endpoint(bad).is_err(), "{bad}");
        }
        let endpoints = [
            "https://m.example/a/v2/",
            "http://plain.example",
            "m2.example:444",
        ]
        .map(String::from);
        config.mirrors = vec![Mirror {
            registry: "docker.io".into(),
            endpoints: endpoints.into(),
            insecure: false,
        }];
        let expected = "https://m.example/a/v2/x, http://plain.example/v2/x, https://m2.example:444/v2/x, \
            https://registry-1.docker.io/v2/x";
        assert_eq!(places(&config, "docker.io"), expected);
        assert_eq!(places(&config, "ghcr.io"), "https://ghcr.io/v2/x");
        config.mirrors[0].endpoints = vec!["ftp://x".into()];
        assert!(config.pull_endpoints("docker.io").is_err());
    }

    #[test]
    fn settings_of_the_environment() {
        let env = |name: &str| match name {
            "HOME" => Some("/home/u".into()),
            "SSL_CERT_FILE" => Some("/ca.pem".into()),
            "https_proxy" => Some("http://u:p@proxy.corp:3128".into()),
            "HTTP_PROXY" => Some("10.0.0.1:80".into()),
            _ => None,
        };
        let config = Config::from_lookup(&env);
        assert_eq!(config.proxies, ["10.0.0.1", "proxy.corp"]);
        assert_eq!(config.roots, [PathBuf::from("/ca.pem")]);
        assert!(config.certs.contains(&"/home/u/.docker/certs.d".into()));
    }
}
