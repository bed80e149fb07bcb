//! HTTP connections, made when they are needed and not before.
//!
//! One HTTP client serves all hosts that are treated alike. Its TLS settings are ours because building the library's own
//! default reads and parses every trusted certificate (3 ms and more), even if only a registry on this machine is asked: here that
//! happens at the first handshake.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::config::{Config, is_loopback};
use super::error::{Error, Result};

/// How much of one HTTP/2 answer may be under way: enough for 300 Mbit/s over 100 ms.
const STREAM_WINDOW: u32 = 4 << 20;

/// How much of all answers of one HTTP/2 connection may be under way.
const CONNECTION_WINDOW: u32 = 32 << 20;

/// What distinguishes the connections to one host from those to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Profile {
    trust: Trust,
    reach: Reach,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    /// The system's authorities.
    System,
    /// The system's, and what these folders hold for the host.
    Folders(Vec<PathBuf>),
    /// Any certificate.
    Anybody,
}

/// Where a connection may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// Anywhere, through the proxy that the environment names.
    Anywhere,
    /// This machine, never through a proxy.
    Loopback,
    /// Only public addresses: the place was named by somebody who may want us to call inside our network.
    Public,
}

/// The HTTP clients made so far.
#[derive(Default)]
pub(super) struct Connections(Mutex<HashMap<Profile, reqwest::Client>>);

impl Connections {
    /// The client for a URL. `verify` is whether its certificate matters, `public` whether it must not lead inside.
    pub(super) fn to(
        &self,
        url: &reqwest::Url,
        verify: bool,
        public: bool,
        config: &Config,
    ) -> Result<reqwest::Client> {
        let reach = match (is_loopback(url), public) {
            (_, true) => Reach::Public,
            (true, false) => Reach::Loopback,
            (false, false) => Reach::Anywhere,
        };
        let profile = Profile {
            trust: trust(url, verify, config),
            reach,
        };
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&profile) {
            return Ok(client.clone());
        }
        let client = build(&profile, config)?;
        clients.insert(profile, client.clone());
        Ok(client)
    }
}

fn trust(url: &reqwest::Url, verify: bool, config: &Config) -> Trust {
    if url.scheme() != "https" {
        return Trust::System;
    }
    let host = url.host_str().unwrap_or_default();
    let names = [
        url.port().map(|port| format!("{host}:{port}")),
        Some(host.to_owned()),
    ];
    let candidates = config
        .certs
        .iter()
        .flat_map(|dir| names.iter().flatten().map(move |name| dir.join(name)));
    let folders: Vec<PathBuf> = candidates.filter(|dir| dir.is_dir()).collect();
    match (verify, folders.is_empty()) {
        (false, _) => Trust::Anybody,
        (true, true) => Trust::System,
        (true, false) => Trust::Folders(folders),
    }
}

fn build(profile: &Profile, config: &Config) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(&profile.trust, config)?)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(config.patience.connect)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .user_agent(concat!("lapstrake/", env!("CARGO_PKG_VERSION")));
    let builder = match profile.reach {
        Reach::Anywhere => builder,
        Reach::Loopback => builder.no_proxy().dns_resolver(Arc::new(ThisMachine)),
        Reach::Public => builder.dns_resolver(Arc::new(PublicOnly {
            proxies: config.proxies.clone(),
        })),
    };
    builder
        .build()
        .map_err(|error| Error::plain(format!("set up HTTP: {error}")))
}

fn tls(trust: &Trust, config: &Config) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |error: rustls::Error| Error::plain(format!("set up TLS: {error}"));
    let folders: &[PathBuf] = match trust {
        Trust::Folders(folders) => folders,
        Trust::System | Trust::Anybody => &[],
    };
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anybody => Arc::new(Anybody(Arc::clone(&provider))),
        Trust::System | Trust::Folders(_) => Arc::new(Authorities {
            provider: Arc::clone(&provider),
            roots: config.roots.clone(),
            folders: folders.to_vec(),
            verifier: OnceLock::new(),
        }),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut tls = match client_certificate(folders)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(failed)?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The first `NAME.cert` with its `NAME.key`.
fn client_certificate(folders: &[PathBuf]) -> Result<Option<Identity>> {
    let Some(cert) = folders
        .iter()
        .flat_map(|folder| files(folder, "cert"))
        .next()
    else {
        return Ok(None);
    };
    let key = cert.with_extension("key");
    let failed = |error| {
        Error::plain(format!(
            "read client certificate {}: {error}",
            cert.display()
        ))
    };
    let chain = CertificateDer::pem_file_iter(&cert)
        .and_then(Iterator::collect)
        .map_err(failed)?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(failed)?;
    Ok(Some((chain, key)))
}

/// The files of a folder with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

/// Verifies against authorities that are read at the first handshake.
#[derive(Debug)]
struct Authorities {
    provider: Arc<CryptoProvider>,
    roots: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    verifier: OnceLock<std::result::Result<Arc<WebPkiServerVerifier>, String>>,
}

impl Authorities {
    fn verifier(&self) -> std::result::Result<&WebPkiServerVerifier, rustls::Error> {
        let verifier = self.verifier.get_or_init(|| self.load());
        verifier
            .as_deref()
            .map_err(|text| rustls::Error::General(text.clone()))
    }

    fn load(&self) -> std::result::Result<Arc<WebPkiServerVerifier>, String> {
        let mut store = RootCertStore::empty();
        let failed =
            |path: &Path, error| format!("read certificates of {}: {error}", path.display());
        if let Some(bundle) = self.roots.iter().find(|path| path.exists()) {
            // One malformed certificate among the system's must not take all others away.
            let found =
                CertificateDer::pem_file_iter(bundle).map_err(|error| failed(bundle, error))?;
            store.add_parsable_certificates(found.filter_map(std::result::Result::ok));
        }
        for path in self.folders.iter().flat_map(|folder| files(folder, "crt")) {
            let found = CertificateDer::pem_file_iter(&path)
                .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
            store.add_parsable_certificates(found.map_err(|error| failed(&path, error))?);
        }
        if store.is_empty() {
            return Err(
                "no trusted certificates found: install ca-certificates or set SSL_CERT_FILE"
                    .into(),
            );
        }
        let builder = WebPkiServerVerifier::builder_with_provider(
            Arc::new(store),
            Arc::clone(&self.provider),
        );
        builder.build().map_err(|error| error.to_string())
    }
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        self.verifier()?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Accepts every certificate: for registries that the user marked insecure.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `localhost` without asking anybody (RFC 6761, section 6.3): asking takes a thread, and longer than a registry here does.
struct ThisMachine;

impl Resolve for ThisMachine {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ];
        let addresses = addresses.map(|address| SocketAddr::new(address, 0));
        Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) })
    }
}

/// Resolves only names whose every address is public: checked where it is used, so that a second look-up cannot differ.
struct PublicOnly {
    /// The proxies are where the user says that they are.
    proxies: Vec<String>,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let is_proxy = self.proxies.iter().any(|proxy| proxy == name.as_str());
        Box::pin(async move {
            let name = name.as_str();
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
            let is_inside = addresses.iter().any(|address| is_private(address.ip()));
            if is_inside && !is_proxy {
                return Err(format!("{name} has a private address").into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Whether an address belongs to this machine or to a network that is not the internet.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let benchmark = a == 198 && b & 0xfe == 18;
    a == 0
        || shared
        || benchmark
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || a >= 240
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // The IPv4 address behind a translator (64:ff9b::/96) or 6to4 (2002::/16).
    let embedded = match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some((u32::from(high) << 16) | u32::from(low))
        }
        _ => None,
    };
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || segments[0] & 0xfe00 == 0xfc00
        || segments[0] & 0xffc0 == 0xfe80
        || segments[..6] == [0; 6]
        || embedded.is_some_and(|bits| is_private_v4(Ipv4Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn private_addresses() {
        let private = "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 198.18.0.1 224.0.0.1 \
            255.255.255.255 ::1 :: fe80::1 fd00::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:7f00:1:: ::127.0.0.1 ff02::1";
        for address in private.split_whitespace() {
            assert!(is_private(address.parse().unwrap()), "{address}");
        }
        for address in
            "1.1.1.1 172.32.0.1 100.128.0.1 2606:4700::1111 64:ff9b::101:101 ::ffff:8.8.8.8"
                .split(' ')
        {
            assert!(!is_private(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_guarded_name_must_be_public() {
        let guard = |proxies: &[&str]| PublicOnly {
            proxies: proxies.iter().map(|p| (*p).to_owned()).collect(),
        };
        let error = guard(&["proxy"])
            .resolve("localhost".parse().unwrap())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("private address"), "{error}");
        assert!(
            guard(&["localhost"])
                .resolve("localhost".parse().unwrap())
                .await
                .is_ok()
        );
    }

    fn load(
        roots: &[&Path],
        folders: &[&Path],
    ) -> std::result::Result<Arc<WebPkiServerVerifier>, String> {
        let owned = |paths: &[&Path]| paths.iter().map(|path| path.to_path_buf()).collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Authorities {
            provider,
            roots: owned(roots),
            folders: owned(folders),
            verifier: OnceLock::new(),
        }
        .load()
    }

    #[test]
    fn one_bad_certificate_of_the_system_does_no_harm() {
        let space = tempfile::tempdir().unwrap();
        let bundle = space.path().join("bundle.pem");
        let good = include_str!("../../tests/e2e/tls/ca.crt");
        let bad = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        fs::write(&bundle, format!("# x\n{bad}{good}")).unwrap();
        let missing = space.path().join("missing");
        assert!(load(&[&missing, &bundle], &[]).is_ok());
        assert!(
            load(&[&missing], &[])
                .unwrap_err()
                .contains("install ca-certificates")
        );
        // What the user put there is meant.
        fs::write(space.path().join("ca.crt"), bad).unwrap();
        assert!(
            load(&[&bundle], &[space.path()])
                .unwrap_err()
                .contains("ca.crt")
        );
    }

    #[test]
    fn folders_of_a_host() {
        let space = tempfile::tempdir().unwrap();
        fs::create_dir_all(space.path().join("h.example:5000")).unwrap();
        let config = Config {
            certs: vec![space.path().to_owned()],
            ..Config::default()
        };
        let of = |url: &str, verify| trust(&url.parse().unwrap(), verify, &config);
        assert_eq!(
            of("https://h.example:5000/", true),
            Trust::Folders(vec![space.path().join("h.example:5000")])
        );
        assert_eq!(of("https://h.example/", true), Trust::System);
        assert_eq!(of("https://h.example/", false), Trust::Anybody);
        assert_eq!(of("http://h.example:5000/", true), Trust::System);
    }
}
