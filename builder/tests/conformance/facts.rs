//! The comparable facts of an image: config, history pattern, and the paths that differ from the base image.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::Digest;
use serde_json::{Map, Value, json};
use tar::{Archive, Entry, EntryType};

use crate::case::FIXED_MTIME;

/// Path -> facts of a root file system.
pub(crate) type Tree = BTreeMap<String, Value>;

/// Reads every image of an OCI archive, by platform, checking each digest on the way.
pub(crate) fn read_image(archive: &Path, base: &Tree) -> Result<Value> {
    let blobs = read_archive(archive)?;
    let index: Value = serde_json::from_slice(
        blobs
            .get("index.json")
            .context("the archive has no index.json")?,
    )?;
    let mut todo: Vec<Value> = array(&index["manifests"]);
    let mut images = Map::new();
    while let Some(descriptor) = todo.pop() {
        let document: Value = serde_json::from_slice(blob(&blobs, &descriptor)?)?;
        if document.get("manifests").is_some() {
            todo.extend(array(&document["manifests"]));
        } else if descriptor["annotations"]["vnd.docker.reference.type"].is_null() {
            let (platform, facts) = image_facts(&blobs, &document, base)?;
            images.insert(platform, facts);
        }
    }
    Ok(Value::Object(images))
}

fn read_archive(path: &Path) -> Result<HashMap<String, Vec<u8>>> {
    let mut archive = Archive::new(File::open(path).context("open the image that was built")?);
    let mut blobs = HashMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = String::from_utf8(entry.path_bytes().into_owned())?;
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            blobs.insert(name.trim_start_matches("./").to_owned(), data);
        }
    }
    Ok(blobs)
}

fn blob<'a>(blobs: &'a HashMap<String, Vec<u8>>, descriptor: &Value) -> Result<&'a [u8]> {
    let digest = descriptor["digest"]
        .as_str()
        .context("a descriptor without a digest")?;
    let data = blobs
        .get(&format!("blobs/{}", digest.replace(':', "/")))
        .with_context(|| format!("blob {digest} is missing"))?;
    ensure!(
        Digest::of(data).to_string() == digest
            && descriptor["size"].as_u64() == Some(data.len() as u64),
        "blob {digest} does not match its descriptor"
    );
    Ok(data)
}

fn array(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn image_facts(
    blobs: &HashMap<String, Vec<u8>>,
    manifest: &Value,
    base: &Tree,
) -> Result<(String, Value)> {
    let config: Value = serde_json::from_slice(blob(blobs, &manifest["config"])?)?;
    let descriptors = array(&manifest["layers"]);
    let layers = descriptors
        .iter()
        .map(|layer| unpack(blob(blobs, layer)?))
        .collect::<Result<Vec<_>>>()?;
    let found: Vec<Value> = layers
        .iter()
        .map(|layer| Digest::of(layer).to_string().into())
        .collect();
    ensure!(
        found == array(&config["rootfs"]["diff_ids"]),
        "the diff ids do not match the layers"
    );

    let tree = flatten(&layers)?;
    let nothing = Tree::new();
    let has_base = tree.contains_key("/bin/busybox") || tree.contains_key("/bin/sh");
    let below = if has_base { base } else { &nothing };
    let changed: Map<String, Value> = tree
        .iter()
        .filter(|(path, facts)| below.get(*path) != Some(facts))
        .map(|(path, facts)| (path.clone(), facts.clone()))
        .collect();
    let removed: Vec<&String> = below
        .keys()
        .filter(|path| !tree.contains_key(*path))
        .collect();
    let history: String = array(&config["history"])
        .iter()
        .map(|entry| {
            if entry["empty_layer"] == true {
                'e'
            } else {
                'L'
            }
        })
        .collect();
    let set = config["config"].as_object().cloned().unwrap_or_default();
    let facts = json!({
        "config": set.into_iter().filter(|(_, value)| !is_empty(value)).collect::<Map<_, _>>(),
        "layers": layers.len(),
        "history": history,
        "rootfs": changed,
        "removed": removed});
    Ok((platform(&config), facts))
}

fn platform(config: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|field| config[field].as_str().unwrap_or(""));
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn unpack(blob: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    if blob.starts_with(b"\x1f\x8b") {
        flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut out)?;
    } else if blob.starts_with(b"\x28\xb5\x2f\xfd") {
        zstd::stream::copy_decode(blob, &mut out)?;
    } else {
        out.extend_from_slice(blob);
    }
    Ok(out)
}

/// Applies layer tars in order; gives the facts of every path of the root file system.
pub(crate) fn flatten(layers: &[Vec<u8>]) -> Result<Tree> {
    let mut tree = Tree::new();
    for layer in layers {
        let mut new = BTreeSet::new();
        for entry in Archive::new(layer.as_slice()).entries()? {
            apply(&mut entry?, &mut tree, &mut new)?;
        }
    }
    Ok(tree)
}

/// Applies one entry of a layer; `new` holds the paths that this layer has set.
fn apply(entry: &mut Entry<'_, &[u8]>, tree: &mut Tree, new: &mut BTreeSet<String>) -> Result<()> {
    let path = absolute(&entry.path_bytes())?;
    if path == "/" || path == "/." {
        return Ok(());
    }
    let (folder, base) = path.rsplit_once('/').context("a path without a folder")?;
    if base == ".wh..wh..opq" {
        remove_below(folder, tree, new);
        return Ok(());
    }
    if let Some(gone) = base.strip_prefix(".wh.") {
        let gone = format!("{folder}/{gone}");
        if !new.contains(&gone) {
            tree.remove(&gone);
        }
        remove_below(&gone, tree, new);
        return Ok(());
    }
    let facts = entry_facts(entry, tree)?;
    let was_dir = tree.get(&path).is_some_and(|old| old["type"] == "dir");
    if was_dir && facts["type"] != "dir" {
        remove_below(&path, tree, &BTreeSet::new());
    }
    new.insert(path.clone());
    tree.insert(path, facts);
    Ok(())
}

fn absolute(name: &[u8]) -> Result<String> {
    let name = std::str::from_utf8(name)?.trim_matches('/');
    Ok(format!("/{}", name.strip_prefix("./").unwrap_or(name)))
}

/// Removes everything below `folder`, but for what `keep` names.
fn remove_below(folder: &str, tree: &mut Tree, keep: &BTreeSet<String>) {
    let prefix = format!("{folder}/");
    tree.retain(|path, _| !path.starts_with(&prefix) || keep.contains(path));
}

fn entry_facts(entry: &mut Entry<'_, &[u8]>, tree: &Tree) -> Result<Value> {
    let pax = pax(entry)?;
    let header = entry.header().clone();
    if header.entry_type() == EntryType::Link {
        let target = absolute(
            &entry
                .link_name_bytes()
                .context("a hard link without a target")?,
        )?;
        return Ok(tree
            .get(&target)
            .cloned()
            .unwrap_or_else(|| json!({"type": "dangling hard link"})));
    }
    let number = |name: &str, plain: u64| pax.get(name).map_or(Ok(plain), |text| text.parse());
    let mut facts = json!({
        "mode": format!("{:04o}", header.mode()? & 0o7777),
        "owner": format!("{}:{}", number("uid", header.uid()?)?, number("gid", header.gid()?)?),
        "type": kind(header.entry_type())?});
    match header.entry_type() {
        EntryType::Symlink => {
            let target = entry
                .link_name_bytes()
                .context("a symbolic link without a target")?;
            facts["target"] = std::str::from_utf8(&target)?.into();
            facts
                .as_object_mut()
                .map(|facts| facts.shift_remove("mode"));
        }
        EntryType::Regular => file_facts(entry, &mut facts, mtime(&header, &pax)?)?,
        _ => {}
    }
    let xattrs: Map<_, _> = pax
        .iter()
        .filter_map(|(key, value)| {
            Some((
                key.strip_prefix("SCHILY.xattr.")?.to_owned(),
                value.as_str().into(),
            ))
        })
        .collect();
    if !xattrs.is_empty() {
        facts["xattrs"] = Value::Object(xattrs);
    }
    Ok(facts)
}

fn file_facts(entry: &mut Entry<'_, &[u8]>, facts: &mut Value, mtime: i64) -> Result<()> {
    let mut body = Vec::new();
    entry.read_to_end(&mut body)?;
    facts["size"] = body.len().into();
    facts["sha256"] = Digest::of(&body).hex()[..16].into();
    if mtime == FIXED_MTIME {
        facts["mtime"] = "of the context".into();
    } else if (0..FIXED_MTIME).contains(&mtime) {
        facts["mtime"] = mtime.to_string().into();
    }
    Ok(())
}

fn kind(kind: EntryType) -> Result<&'static str> {
    Ok(match kind {
        EntryType::Regular => "file",
        EntryType::Directory => "dir",
        EntryType::Symlink => "symlink",
        EntryType::Char => "char",
        EntryType::Block => "block",
        EntryType::Fifo => "fifo",
        other => bail!("an entry of type {other:?} in a layer"),
    })
}

fn pax(entry: &mut Entry<'_, &[u8]>) -> Result<HashMap<String, String>> {
    let mut all = HashMap::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            all.insert(
                extension.key()?.to_owned(),
                String::from_utf8_lossy(extension.value_bytes()).into_owned(),
            );
        }
    }
    Ok(all)
}

/// Whole seconds, rounded towards zero.
fn mtime(header: &tar::Header, pax: &HashMap<String, String>) -> Result<i64> {
    match pax.get("mtime") {
        Some(text) => Ok(text.split('.').next().unwrap_or("").parse()?),
        None => Ok(i64::try_from(header.mtime()?)?),
    }
}
