//! A registry in this process, for tests: complete enough for real clients, and as faulty as a test wants it.
//!
//! It keeps everything in memory and writes down each request. A test bends single answers with [`Registry::hook`]:
//! the hook sees each request first, and what it returns is the answer.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lapstrake_cache::Digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Who may use the registry.
#[derive(Clone, Default)]
pub enum Auth {
    /// Everybody.
    #[default]
    Open,
    /// `user` with the password `pass:word`.
    Basic,
    /// Whoever has a token for the scope; `user` with `pass:word` gets tokens for all but `private`, others to pull.
    Token {
        /// Where tokens are; `None` is the registry itself.
        realm: Option<String>,
    },
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, …
    pub method: String,
    /// The path, as it was sent.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// The headers, by lower-case names.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header, by its lower-case name.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `METHOD path`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The values of a field of the query.
    pub fn fields(&self, name: &str) -> Vec<String> {
        let base = reqwest::Url::parse(&format!("http://x/?{}", self.query)).unwrap();
        base.query_pairs()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .collect()
    }

    /// The last value of a field of the query.
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields(name).pop()
    }
}

/// An answer.
#[derive(Clone, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    cut: Option<usize>,
    /// Nothing is sent for so long, before the body.
    stall: Duration,
    /// The body comes in pieces of so many bytes, with a pause after each.
    pace: Option<(usize, Duration)>,
    /// The answer does not say how long it is.
    is_chunked: bool,
}

impl Reply {
    /// An answer without a body. The status 0 closes the connection instead.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.into(), format!("{value}")));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Broken off after so many bytes of the body, although all are announced.
    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    /// With a pause before the body, or before everything if there is no body.
    pub fn stall(mut self, time: Duration) -> Self {
        self.stall = time;
        self
    }

    /// In pieces of so many bytes, with a pause after each.
    pub fn slowly(mut self, bytes: usize, pause: Duration) -> Self {
        self.pace = Some((bytes, pause));
        self
    }

    /// Without saying how long it is.
    pub fn chunked(mut self) -> Self {
        self.is_chunked = true;
        self
    }

    fn error(status: u16, code: &str) -> Self {
        Self::new(status).body(format!(
            r#"{{"errors":[{{"code":"{code}","message":"as the test wants"}}]}}"#
        ))
    }
}

type Hook = Box<dyn FnMut(&Request) -> Option<Reply> + Send>;

#[derive(Default)]
struct State {
    auth: Auth,
    blobs: HashMap<(String, String), Vec<u8>>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    log: Vec<Request>,
    hooks: Vec<Hook>,
    count: usize,
}

/// A running registry. It ends with the test process.
#[derive(Clone)]
pub struct Registry {
    host: String,
    state: Arc<Mutex<State>>,
}

impl Registry {
    /// Starts a registry on a free port of this machine.
    pub fn start(auth: Auth) -> Self {
        Self::listen(auth, Ok)
    }

    /// Starts a registry that speaks TLS with the certificate in `tls/`, which is for `localhost`.
    pub fn start_tls() -> Self {
        let chain = vec![CertificateDer::from_pem_slice(include_bytes!("tls/server.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
        Self::listen(Auth::Open, move |stream| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config));
            Ok(rustls::StreamOwned::new(
                connection.map_err(std::io::Error::other)?,
                stream,
            ))
        })
    }

    fn listen<S: Read + Write>(
        auth: Auth,
        wrap: impl Fn(TcpStream) -> std::io::Result<S> + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let registry = Self {
            host,
            state: Arc::new(Mutex::new(State {
                auth,
                ..State::default()
            })),
        };
        let server = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, wrap) = (server.clone(), wrap.clone());
                // A client that goes away in the middle is nothing special here.
                thread::spawn(move || drop(wrap(stream).and_then(|stream| server.serve(stream))));
            }
        });
        registry
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Answers requests until the stream ends.
    fn serve(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read_request(&mut stream)? {
            let is_head = request.method == "HEAD";
            let reply = self.answer(&request);
            thread::sleep(if reply.body.is_empty() {
                reply.stall
            } else {
                Duration::ZERO
            });
            if !write_reply(stream.get_mut(), &reply, is_head)? {
                break;
            }
        }
        Ok(())
    }

    /// Bends answers; hooks are asked in order, the first answer counts.
    pub fn hook(&self, hook: impl FnMut(&Request) -> Option<Reply> + Send + 'static) {
        self.state.lock().unwrap().hooks.push(Box::new(hook));
    }

    /// Answers the next `times` requests whose line starts so with this.
    pub fn fail(&self, times: usize, line: &str, reply: Reply) {
        let line = line.to_owned();
        let mut left = times;
        self.hook(move |request| {
            let applies = left > 0 && request.line().starts_with(&line);
            left -= usize::from(applies);
            applies.then(|| reply.clone())
        });
    }

    /// Answers are straight again.
    pub fn mend(&self) {
        self.state.lock().unwrap().hooks.clear();
    }

    /// Puts a blob there.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.state
            .lock()
            .unwrap()
            .blobs
            .insert((repository.into(), digest.to_string()), bytes.into());
        digest
    }

    /// Puts a manifest there, under its digest and a tag.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let digest = Digest::of(bytes);
        for name in [tag.to_owned(), digest.to_string()] {
            let value = (media_type.to_owned(), bytes.to_vec());
            self.state
                .lock()
                .unwrap()
                .manifests
                .insert((repository.into(), name), value);
        }
        digest
    }

    /// A blob that was put there.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        self.state
            .lock()
            .unwrap()
            .blobs
            .get(&(repository.into(), digest.to_string()))
            .cloned()
    }

    /// A manifest that was put there, with its media type.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<(String, Vec<u8>)> {
        self.state
            .lock()
            .unwrap()
            .manifests
            .get(&(repository.into(), name.into()))
            .cloned()
    }

    /// The requests since the last call.
    pub fn log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// The requests since the last [`Registry::log`], which stay.
    pub fn seen(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    fn answer(&self, request: &Request) -> Reply {
        let mut state = self.state.lock().unwrap();
        state.log.push(request.clone());
        let mut hooks = std::mem::take(&mut state.hooks);
        let bent = hooks.iter_mut().find_map(|hook| hook(request));
        state.hooks = hooks;
        if let Some(reply) = bent {
            return reply;
        }
        if request.path == "/token" {
            return token(request);
        }
        match refused(&state.auth, &self.host, request) {
            Some(reply) => reply,
            None => state
                .answer(request)
                .header("docker-distribution-api-version", "registry/2.0"),
        }
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        let Some((repository, kind, name)) = route(&request.path) else {
            return if request.path == "/v2/" {
                Reply::new(200).body("{}")
            } else {
                Reply::error(404, "UNSUPPORTED")
            };
        };
        let key = (repository.to_owned(), name.to_owned());
        match (request.method.as_str(), kind) {
            ("GET" | "HEAD", "manifests") => match self.manifests.get(&key) {
                Some((media_type, bytes)) => found(bytes).header("content-type", media_type),
                None => Reply::error(404, "MANIFEST_UNKNOWN"),
            },
            ("PUT", "manifests") => {
                let digest = Digest::of(&request.body).to_string();
                let value = (
                    request.header("content-type").to_owned(),
                    request.body.clone(),
                );
                self.manifests
                    .insert((repository.into(), digest.clone()), value.clone());
                self.manifests.insert(key, value);
                Reply::new(201).header("docker-content-digest", digest)
            }
            ("GET" | "HEAD", "blobs") => match self.blobs.get(&key) {
                Some(bytes) => ranged(bytes, request.header("range")),
                None => Reply::error(404, "BLOB_UNKNOWN"),
            },
            ("POST", "uploads") => self.start_upload(repository, request),
            (_, "uploads") => self.upload(repository, name, request),
            _ => Reply::error(405, "UNSUPPORTED"),
        }
    }

    fn start_upload(&mut self, repository: &str, request: &Request) -> Reply {
        if let (Some(digest), Some(from)) = (request.field("mount"), request.field("from"))
            && let Some(bytes) = self.blobs.get(&(from, digest.clone())).cloned()
        {
            self.blobs
                .insert((repository.into(), digest.clone()), bytes);
            return Reply::new(201).header("docker-content-digest", digest);
        }
        self.count += 1;
        let id = format!("{}-{}", repository.replace('/', "-"), self.count);
        self.uploads.insert(id.clone(), Vec::new());
        Reply::new(202).header(
            "location",
            format!("/v2/{repository}/blobs/uploads/{id}?state=s"),
        )
    }

    fn upload(&mut self, repository: &str, id: &str, request: &Request) -> Reply {
        let Some(bytes) = self.uploads.get_mut(id) else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        if request.query.is_empty() {
            return Reply::error(400, "BLOB_UPLOAD_INVALID");
        }
        let start = request
            .header("content-range")
            .split('-')
            .next()
            .unwrap_or_default();
        if !start.is_empty() && start.parse() != Ok(bytes.len()) {
            return Reply::error(416, "BLOB_UPLOAD_INVALID");
        }
        bytes.extend_from_slice(&request.body);
        let location = format!("/v2/{repository}/blobs/uploads/{id}?state=s{}", bytes.len());
        let range = format!("0-{}", bytes.len().saturating_sub(1));
        match request.method.as_str() {
            "GET" => Reply::new(204)
                .header("location", location)
                .header("range", range),
            "PATCH" => Reply::new(202)
                .header("location", location)
                .header("range", range),
            "PUT" => {
                let bytes = self.uploads.remove(id).unwrap_or_default();
                let digest = Digest::of(&bytes).to_string();
                if request.field("digest").as_ref() != Some(&digest) {
                    return Reply::error(400, "DIGEST_INVALID");
                }
                self.blobs
                    .insert((repository.into(), digest.clone()), bytes);
                Reply::new(201).header("docker-content-digest", digest)
            }
            _ => Reply::error(405, "UNSUPPORTED"),
        }
    }

    /// Keeps what arrived of an upload that broke off.
    fn keep(&mut self, request: &Request) {
        let id = request.path.rsplit('/').next().unwrap_or_default();
        if let Some(bytes) = self.uploads.get_mut(id) {
            bytes.extend_from_slice(&request.body);
        }
    }
}

impl Registry {
    /// The next upload breaks off after so many bytes, which the registry keeps.
    pub fn break_upload(&self, after: usize) {
        let state = Arc::clone(&self.state);
        let mut is_done = false;
        self.hook(move |request| {
            if is_done || request.method != "PUT" || !request.path.contains("/uploads/") {
                return None;
            }
            is_done = true;
            let (state, mut kept) = (Arc::clone(&state), request.clone());
            kept.body.truncate(after);
            // The state is locked while a hook runs.
            thread::spawn(move || state.lock().unwrap().keep(&kept));
            Some(Reply::new(0).cut(0))
        });
    }
}

/// `/v2/REPOSITORY/KIND/NAME`; an upload without an id has an empty name.
fn route(path: &str) -> Option<(&str, &str, &str)> {
    let rest = path.strip_prefix("/v2/")?;
    let (rest, name) = rest.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    Some((
        repository.strip_suffix("/blobs").unwrap_or(repository),
        kind,
        name,
    ))
}

fn found(bytes: &[u8]) -> Reply {
    Reply::new(200)
        .header("docker-content-digest", Digest::of(bytes))
        .body(bytes)
}

fn ranged(bytes: &[u8], range: &str) -> Reply {
    let start = range
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        Some(start) if start < bytes.len() => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206)
                .header("content-range", range)
                .body(&bytes[start..])
        }
        _ => found(bytes),
    }
}

/// The base64 of `user:pass:word`.
const BASIC: &str = "Basic dXNlcjpwYXNzOndvcmQ=";

fn token(request: &Request) -> Reply {
    let is_known = request.header("authorization") == BASIC;
    if !is_known && !request.header("authorization").is_empty() {
        return Reply::new(401).body(r#"{"details":"incorrect username or password"}"#);
    }
    let may = |scope: &String| !scope.contains("private") && (is_known || scope.ends_with(":pull"));
    let scopes: Vec<String> = request.fields("scope").into_iter().filter(may).collect();
    Reply::new(200).body(format!(
        r#"{{"token":"granted {}","expires_in":300}}"#,
        scopes.join(" ")
    ))
}

/// The answer to a request that is not allowed.
fn refused(auth: &Auth, host: &str, request: &Request) -> Option<Reply> {
    let proof = request.header("authorization");
    let challenge = match auth {
        Auth::Open => return None,
        Auth::Basic if proof == BASIC => return None,
        Auth::Basic => r#"Basic realm="test""#.to_owned(),
        Auth::Token { realm } => {
            let own = format!("http://{host}/token");
            let realm = realm.as_ref().unwrap_or(&own);
            let repository = route(&request.path).map_or("", |(repository, ..)| repository);
            let actions = if matches!(request.method.as_str(), "GET" | "HEAD") {
                "pull"
            } else {
                "pull,push"
            };
            let granted: Vec<&str> = proof
                .strip_prefix("Bearer ")
                .unwrap_or_default()
                .split(' ')
                .collect();
            let may = |repository: &str, actions: &str| {
                granted
                    .iter()
                    .any(|scope| scope.starts_with(&format!("repository:{repository}:{actions}")))
            };
            let from = request.field("from").filter(|_| request.method == "POST");
            if may(repository, actions) && from.is_none_or(|from| may(&from, "pull")) {
                return None;
            }
            format!(
                r#"Bearer realm="{realm}",service="test registry",scope="repository:{repository}:{actions}""#
            )
        }
    };
    Some(Reply::error(401, "UNAUTHORIZED").header("www-authenticate", challenge))
}

fn read_request(input: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |value| value.parse().unwrap_or(0));
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Ok(Some(Request {
        method,
        path: path.into(),
        query: query.into(),
        headers,
        body,
    }))
}

/// Writes an answer. False when the connection must not be used again.
fn write_reply(output: &mut impl Write, reply: &Reply, is_head: bool) -> std::io::Result<bool> {
    if reply.status == 0 {
        return Ok(false);
    }
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = &reply.body[..reply.cut.unwrap_or(usize::MAX).min(reply.body.len())];
    if reply.is_chunked {
        output.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes())?;
        for chunk in body.chunks(64 << 10) {
            output.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
            output.write_all(chunk)?;
            output.write_all(b"\r\n")?;
        }
        output.write_all(b"0\r\n\r\n")?;
        output.flush()?;
        return Ok(reply.cut.is_none());
    }
    if reply.status != 204 {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    output.write_all(format!("{head}\r\n").as_bytes())?;
    output.flush()?;
    if !is_head {
        thread::sleep(if body.is_empty() {
            Duration::ZERO
        } else {
            reply.stall
        });
        let (size, pause) = reply.pace.unwrap_or((usize::MAX, Duration::ZERO));
        for piece in body.chunks(size) {
            output.write_all(piece)?;
            output.flush()?;
            thread::sleep(pause);
        }
    }
    Ok(reply.cut.is_none())
}
