//! OCI layouts, as a directory or as an archive, and archives for `docker load`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lapstrake_frontend::image::ImageRef;

use super::tarball::Tarball;
use super::{Format, Outlet, Target, bring, pack_all, top, write_whole};
use crate::assemble::Image;
use crate::events::Step;
use crate::oci::layout::{
    CONTAINERD_NAME, DockerImage, OCI_LAYOUT, REF_NAME, blob_path, docker_json,
};
use crate::oci::{Descriptor, Index, media};
use crate::pack::{Blob, Packed, Packing, open};
use crate::time;

/// Everything that an archive holds, in order.
struct Contents<'a> {
    files: Vec<(&'static str, Vec<u8>)>,
    blobs: Vec<&'a Blob>,
}

/// Writes one archive with all images.
pub(super) fn emit(
    outlet: &Outlet,
    step: &Step,
    images: &[Image],
    format: Format,
    target: &Target,
    names: &[ImageRef],
    packing: &Packing,
) -> Result<Descriptor> {
    if format == Format::Docker {
        ensure!(
            images.len() == 1,
            "the docker archive format holds one platform: use type=oci for several"
        );
    }
    let (packed, index) = pack_all(outlet, step, images, packing)?;
    let descriptor = top(&packed, index.as_ref())?;
    let mut blobs: Vec<&Blob> = packed
        .iter()
        .flat_map(Packed::blobs)
        .chain(index.as_ref())
        .collect();
    let mut seen = BTreeSet::new();
    blobs.retain(|blob| seen.insert(blob.descriptor.digest));
    for blob in &blobs {
        bring(outlet, step, blob)?;
    }
    let mut files = vec![
        ("oci-layout", OCI_LAYOUT.to_vec()),
        (
            "index.json",
            top_index(&descriptor, names, images).to_bytes(),
        ),
    ];
    if format == Format::Docker {
        files.push(("manifest.json", docker_manifest(&packed, names)?));
    }
    let contents = Contents { files, blobs };
    match target {
        Target::File(path) => write_whole(path, |out| write_tar(outlet, out, &contents))?,
        Target::Directory(path) => write_directory(outlet, step, path, &contents)?,
        Target::Stdout => write_tar(outlet, &mut std::io::stdout().lock(), &contents)
            .context("write to standard output")?,
        Target::Docker => docker_load(outlet, &contents)?,
    }
    Ok(descriptor)
}

/// The `index.json` of a layout: one entry for each name, as OCI and containerd's importer read it.
fn top_index(descriptor: &Descriptor, names: &[ImageRef], images: &[Image]) -> Index {
    let mut descriptor = descriptor.clone();
    // Without it the present would stand there, and no archive would be like another.
    if let Some(epoch) = images.first().and_then(|image| image.epoch) {
        let created = time::rfc3339(epoch, 0);
        descriptor
            .annotations
            .insert("org.opencontainers.image.created".into(), created);
    }
    let mut entries = Vec::new();
    for name in names {
        let mut entry = descriptor.clone();
        entry
            .annotations
            .insert(CONTAINERD_NAME.into(), name.canonical());
        let tag = name.tag.clone().unwrap_or_else(|| "latest".into());
        entry.annotations.insert(REF_NAME.into(), tag);
        entries.push(entry);
    }
    if entries.is_empty() {
        entries.push(descriptor);
    }
    Index::new(media::OCI_INDEX, entries)
}

/// What `docker load` reads.
fn docker_manifest(packed: &[Packed], names: &[ImageRef]) -> Result<Vec<u8>> {
    let image = packed.first().context("there is no image to export")?;
    let place = |blob: &Blob| blob_path(&blob.descriptor.digest);
    let image = DockerImage {
        config: place(&image.config),
        repo_tags: names.iter().map(ToString::to_string).collect(),
        layers: image.layers.iter().map(place).collect(),
    };
    Ok(docker_json(&[image]))
}

/// Hands the archive to `docker load`.
fn docker_load(outlet: &Outlet, contents: &Contents) -> Result<()> {
    let mut docker = Command::new("docker")
        .arg("load")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run docker load: install docker, or give --output type=docker,dest=FILE")?;
    let stdin = docker.stdin.take().context("open a pipe to docker load")?;
    let written = write_tar(
        outlet,
        &mut std::io::BufWriter::with_capacity(1 << 20, stdin),
        contents,
    );
    let output = docker.wait_with_output().context("wait for docker load")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker load: {}", said.trim());
    written.context("write to docker load")
}

fn write_tar(outlet: &Outlet, out: &mut dyn Write, contents: &Contents) -> Result<()> {
    let mut tar = Tarball::new(out);
    tar.directory("blobs/")?;
    tar.directory("blobs/sha256/")?;
    for blob in &contents.blobs {
        let mut content = open(&outlet.store, blob)?;
        tar.file(
            &blob_path(&blob.descriptor.digest),
            blob.descriptor.size,
            &mut content,
        )?;
    }
    for (name, bytes) in &contents.files {
        tar.file(name, bytes.len() as u64, &mut &bytes[..])?;
    }
    tar.finish()?;
    Ok(())
}

/// Writes into a directory that may hold a layout already; `index.json` comes last, so that a broken run is not seen.
fn write_directory(outlet: &Outlet, step: &Step, path: &Path, contents: &Contents) -> Result<()> {
    for blob in &contents.blobs {
        write_blob(outlet, step, path, blob)?;
    }
    for (name, bytes) in &contents.files {
        write_whole(&path.join(name), |out| Ok(out.write_all(bytes)?))?;
    }
    Ok(())
}

/// Writes a blob into the layout directory `path`, unless it is there.
pub(crate) fn write_blob(outlet: &Outlet, step: &Step, path: &Path, blob: &Blob) -> Result<()> {
    let target = path.join(blob_path(&blob.descriptor.digest));
    let blobs = target.parent().unwrap_or(path);
    std::fs::create_dir_all(blobs).with_context(|| format!("create {}", blobs.display()))?;
    if std::fs::metadata(&target).is_ok_and(|found| found.len() == blob.descriptor.size) {
        return Ok(());
    }
    bring(outlet, step, blob)?;
    let mut content = open(&outlet.store, blob)?;
    write_whole(&target, |out| {
        let copied = std::io::copy(&mut content, out)?;
        ensure!(
            copied == blob.descriptor.size,
            "blob {} ended after {copied} bytes",
            blob.descriptor.digest
        );
        Ok(())
    })
}
