//! A read-only registry on a loopback port, for the base images of the cases.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::Result;
use sha2::{Digest, Sha256};

/// What the registry holds.
#[derive(Default, Clone)]
pub(crate) struct Documents {
    /// Name of an image -> digest of its manifest; the only tag is `latest`.
    pub(crate) tags: HashMap<String, String>,
    /// Digest -> bytes, manifests and configs too.
    pub(crate) blobs: HashMap<String, Vec<u8>>,
}

/// A running registry; its threads end with the process.
pub(crate) struct Registry {
    host: String,
}

impl Registry {
    pub(crate) fn serve(documents: Documents) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = format!("localhost:{}", listener.local_addr()?.port());
        let documents = Arc::new(documents);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let documents = Arc::clone(&documents);
                // A client that goes away mid-answer is no failure of the registry.
                std::thread::spawn(move || drop(talk(&stream, &documents)));
            }
        });
        Ok(Self { host })
    }

    /// `localhost:PORT`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

pub(crate) fn digest_of(data: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(data) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Answers the requests of one connection until the client closes it.
fn talk(stream: &TcpStream, documents: &Documents) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(request) = lines.next().transpose()? else {
            return Ok(());
        };
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        answer(stream, method, path, documents)?;
    }
}

fn answer(
    mut stream: &TcpStream,
    method: &str,
    path: &str,
    documents: &Documents,
) -> std::io::Result<()> {
    let (status, kind, digest, data) = find(path, documents);
    let mut head = format!(
        "HTTP/1.1 {status}\r\nDocker-Distribution-API-Version: registry/2.0\r\nContent-Type: {kind}\r\n"
    );
    if let Some(digest) = digest {
        head.push_str(&format!("Docker-Content-Digest: {digest}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", data.len()));
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(data)?;
    }
    stream.flush()
}

/// Status, content type, digest and body for a path.
fn find<'a>(
    path: &'a str,
    documents: &'a Documents,
) -> (&'static str, &'static str, Option<&'a str>, &'a [u8]) {
    if path == "/v2/" {
        return ("200 OK", "application/json", None, b"{}");
    }
    let path = path.split('?').next().unwrap_or("");
    let parts: Vec<&str> = path.trim_start_matches("/v2/").rsplitn(3, '/').collect();
    if let [reference, kind @ ("manifests" | "blobs"), name] = parts[..] {
        let tag = documents
            .tags
            .get(name)
            .filter(|_| kind == "manifests" && reference == "latest");
        let digest = tag.map_or(reference, String::as_str);
        if let Some(data) = documents.blobs.get(digest) {
            let kind = if kind == "manifests" {
                "application/vnd.oci.image.manifest.v1+json"
            } else {
                "application/octet-stream"
            };
            return ("200 OK", kind, Some(digest), data);
        }
    }
    (
        "404 Not Found",
        "application/json",
        None,
        br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
    )
}
