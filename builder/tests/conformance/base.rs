//! Three small base images, made in memory from the machine's static busybox.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use lapstrake_cache::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::case::FIXED_MTIME;
use crate::facts::{Tree, flatten};
use crate::registry::{Auth, Registry};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\napp:x:1000:1000::/home/app:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\ndaemon:x:1:\nstaff:x:50:\napp:x:1000:\n";

/// `busybox`, `onbuild` (the same with triggers) and `configured` (its config sets every field), all of one layer.
pub(crate) struct BaseImages {
    /// Where they are.
    pub(crate) registry: Registry,
    /// The root file system of all three.
    pub(crate) paths: Tree,
}

impl BaseImages {
    pub(crate) fn serve() -> Result<Self> {
        let layer = base_layer(&find_busybox()?)?;
        let images = Self {
            registry: Registry::start(Auth::Open),
            paths: flatten(std::slice::from_ref(&layer))?,
        };
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        images.add("busybox", &layer, &json!({"Env": [path], "Cmd": ["sh"]}))?;
        images.add(
            "onbuild",
            &layer,
            &json!({"Env": [path], "Cmd": ["sh"], "OnBuild": [
                "COPY trigger.txt /trigger.txt", "RUN echo triggered > /triggered", "ENV TRIGGERED=yes"]}),
        )?;
        images.add(
            "configured",
            &layer,
            &json!({
                "Env": [path, "BASE=one", "KEEP=two words"], "Cmd": ["base-cmd"],
                "Entrypoint": ["/bin/base-entry"], "WorkingDir": "/srv/base", "User": "app",
                "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"base": "label"},
                "StopSignal": "SIGQUIT", "Shell": ["/bin/sh", "-ec"],
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000_u64}}),
        )?;
        Ok(images)
    }

    fn add(&self, name: &str, layer: &[u8], config: &Value) -> Result<()> {
        let mut packed = GzBuilder::new()
            .mtime(0)
            .write(Vec::new(), Compression::fast());
        packed.write_all(layer)?;
        let packed = packed.finish()?;
        let body = json!({
            "architecture": machine(), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer)]},
            "created": "2020-01-01T00:00:00Z",
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}]})
        .to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": self.registry.put_blob(name, body.as_bytes()), "size": body.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        "digest": self.registry.put_blob(name, &packed), "size": packed.len()}]});
        self.registry
            .put_manifest(name, "latest", MANIFEST, manifest.to_string().as_bytes());
        Ok(())
    }
}

fn machine() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

fn find_busybox() -> Result<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .context("no static busybox on this machine: apt-get install busybox-static")
}

fn base_layer(busybox: &Path) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for folder in [
        "bin", "dev", "etc", "home", "proc", "root", "srv", "sys", "usr", "usr/bin", "var",
    ] {
        append(&mut tar, folder, EntryType::Directory, 0o755, 0, &[])?;
    }
    append(&mut tar, "tmp", EntryType::Directory, 0o1777, 0, &[])?;
    append(&mut tar, "home/app", EntryType::Directory, 0o755, 1000, &[])?;
    append(
        &mut tar,
        "bin/busybox",
        EntryType::Regular,
        0o755,
        0,
        &std::fs::read(busybox)?,
    )?;
    let applets = Command::new(busybox)
        .arg("--list")
        .output()
        .context("run busybox --list")?;
    ensure!(applets.status.success(), "busybox --list failed");
    for applet in String::from_utf8(applets.stdout)?
        .split_whitespace()
        .filter(|applet| *applet != "busybox")
    {
        let mut header = header(EntryType::Symlink, 0o777, 0, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    append(&mut tar, "etc/passwd", EntryType::Regular, 0o644, 0, PASSWD)?;
    append(&mut tar, "etc/group", EntryType::Regular, 0o644, 0, GROUP)?;
    Ok(tar.into_inner()?)
}

fn append(
    tar: &mut Builder<Vec<u8>>,
    name: &str,
    kind: EntryType,
    mode: u32,
    owner: u64,
    data: &[u8],
) -> Result<()> {
    Ok(tar.append_data(
        &mut header(kind, mode, owner, data.len() as u64),
        name,
        data,
    )?)
}

fn header(kind: EntryType, mode: u32, owner: u64, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime((FIXED_MTIME - 86_400).unsigned_abs());
    header.set_size(size);
    header
}
