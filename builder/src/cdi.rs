//! Devices of this machine, by the names that CDI (Container Device Interface) specifications give them.
//!
//! Vendors leave a specification, JSON or YAML, in `/etc/cdi` or `/var/run/cdi`; it says which nodes, mounts and variables
//! make up a device `vendor.com/class=name`. A Dockerfile asks for devices (`RUN --device`), the user allows them
//! (`--allow device`); names are found as BuildKit finds them. Specifications are the administrator's, hence trusted, and yet
//! nothing in them is executed: a device that needs a hook is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lapstrake_runtime::{Device as Node, DeviceKind, Mount, MountKind};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::Allowed;

/// Where specifications are, the stronger last.
pub(crate) const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Marks a device that needs no `--allow`.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";
/// Gives several devices a name in common.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// No specification is larger.
const LIMIT: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<BindMount>,
    additional_gids: Vec<u32>,
    /// Whatever else there is; what changes the container is refused.
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    host_path: Option<PathBuf>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindMount {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

/// One device with all that its specification adds.
#[derive(Debug)]
struct Known {
    annotations: BTreeMap<String, String>,
    edits: Vec<Edits>,
}

/// What a step gets for the devices that it asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) nodes: Vec<Node>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) groups: Vec<u32>,
}

/// The devices that this machine has specifications for, by their full names.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    known: BTreeMap<String, Known>,
}

impl Devices {
    /// Reads the specifications in `folders`; a folder that is not there has none.
    pub(crate) fn read(folders: &[PathBuf]) -> Result<Devices> {
        let mut devices = Devices::default();
        for folder in folders {
            let mut here = BTreeMap::new();
            for path in specifications(folder)? {
                let spec = parse(&path).with_context(|| format!("read {}", path.display()))?;
                for (name, known) in expand(spec) {
                    let twice = here.insert(name.clone(), known).is_some();
                    ensure!(
                        !twice,
                        "{} defines the device {name} a second time",
                        path.display()
                    );
                }
            }
            devices.known.append(&mut here);
        }
        Ok(devices)
    }

    /// What a step gets that asks for these devices, each with whether it is required.
    pub(crate) fn give(&self, asked: &[(String, bool)], allowed: &Allowed) -> Result<Given> {
        let mut names = BTreeSet::new();
        for (name, required) in asked {
            let alias = allowed.devices.get(name).and_then(Option::as_ref);
            let found = self.find(alias.unwrap_or(name));
            if found.is_empty() && *required {
                bail!(
                    "required device {name:?} is not known here: no CDI specification in {} defines it",
                    FOLDERS.join(" or ")
                );
            }
            for found in found {
                if alias.is_none() && !self.is_allowed(found, allowed) {
                    bail!(
                        "device {found} is not allowed: give --allow device={found} if you trust this Dockerfile"
                    );
                }
                names.insert(found);
            }
        }
        let mut given = Given::default();
        for name in names {
            for edits in self.known.get(name).iter().flat_map(|known| &known.edits) {
                apply(&mut given, edits).with_context(|| format!("give the device {name}"))?;
            }
        }
        Ok(given)
    }

    fn is_allowed(&self, name: &str, allowed: &Allowed) -> bool {
        let marked = self.annotation(name, AUTO_ALLOW);
        if allowed.all_devices || marked.is_some_and(|text| crate::cli::boolean(text) == Ok(true)) {
            return true;
        }
        let mut named = allowed.devices.iter().filter(|(_, alias)| alias.is_none());
        named.any(|(allowed, _)| self.find(allowed).contains(&name))
    }

    fn annotation(&self, name: &str, key: &str) -> Option<&str> {
        Some(self.known.get(name)?.annotations.get(key)?.as_str())
    }

    /// The devices that `vendor.com/class[=NAME]` stands for: without a name the first of its kind, with `*` all of them.
    /// What stands for none, and any other name, may be that which annotations give to devices, of whatever kind.
    fn find(&self, asked: &str) -> Vec<&str> {
        let found = self.find_qualified(asked);
        if !found.is_empty() {
            return found;
        }
        let names = self.known.keys().map(String::as_str);
        names
            .filter(|known| self.annotation(known, CLASS) == Some(asked))
            .collect()
    }

    fn find_qualified(&self, asked: &str) -> Vec<&str> {
        let (kind, name) = asked.split_once('=').unwrap_or((asked, ""));
        let valid = |part: &str, more: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        match kind.split_once('/') {
            Some((vendor, class)) if valid(vendor, "_-.") && valid(class, "_-") => {}
            _ => return Vec::new(),
        }
        let prefix = format!("{kind}=");
        let of_kind = || {
            let names = self.known.keys().map(String::as_str);
            names.filter(|known| known.starts_with(&prefix))
        };
        match name {
            "" => of_kind().take(1).collect(),
            "*" => of_kind().collect(),
            _ => of_kind().filter(|known| *known == asked).collect(),
        }
    }
}

fn specifications(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("json" | "yaml" | "yml")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn parse(path: &Path) -> Result<Spec> {
    let size = std::fs::metadata(path)?.len();
    ensure!(size <= LIMIT, "it has {size} bytes, the limit is {LIMIT}");
    let text = std::fs::read_to_string(path)?;
    // YAML is nearly a superset of JSON, but not of all strings.
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        Ok(serde_json::from_str(&text)?)
    } else {
        Ok(serde_yaml_ng::from_str(&text)?)
    }
}

fn expand(spec: Spec) -> impl Iterator<Item = (String, Known)> {
    let Spec {
        kind,
        annotations,
        devices,
        container_edits: common,
    } = spec;
    devices.into_iter().map(move |device| {
        let mut annotations = annotations.clone();
        annotations.extend(device.annotations);
        let known = Known {
            annotations,
            edits: vec![common.clone(), device.container_edits],
        };
        (format!("{kind}={}", device.name), known)
    })
}

fn apply(given: &mut Given, edits: &Edits) -> Result<()> {
    for (name, value) in &edits.other {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        match name.as_str() {
            _ if empty => {}
            "hooks" => bail!(
                "its CDI specification wants hooks, which are programs run on the host, and those are not run here"
            ),
            _ => bail!("its CDI specification wants {name}, which is not supported"),
        }
    }
    for text in &edits.env {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        given.env.push((name.to_owned(), value.to_owned()));
    }
    for node in &edits.device_nodes {
        given.nodes.push(self::node(node)?);
    }
    for mount in &edits.mounts {
        given.mounts.push(bind(mount)?);
    }
    given.groups.extend(&edits.additional_gids);
    Ok(())
}

/// Kind and numbers are those of the host's node: what a specification says of them is a copy, and may be an old one.
fn node(node: &DeviceNode) -> Result<Node> {
    let source = node
        .host_path
        .clone()
        .unwrap_or_else(|| node.path.clone().into());
    let found = std::fs::metadata(&source)
        .with_context(|| format!("find the device node {}", source.display()))?;
    let kind = match found.file_type() {
        kind if kind.is_char_device() => DeviceKind::Character,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => bail!("{} is no device node", source.display()),
    };
    let access = node.permissions.clone().unwrap_or_else(|| "rwm".to_owned());
    ensure!(
        access.chars().all(|letter| "rwm".contains(letter)),
        "permissions {access:?} are not of r, w and m"
    );
    Ok(Node {
        target: node.path.clone(),
        major: rustix::fs::major(found.rdev()),
        minor: rustix::fs::minor(found.rdev()),
        source,
        kind,
        access,
        mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    })
}

fn bind(mount: &BindMount) -> Result<Mount> {
    let mut readonly = false;
    for option in &mount.options {
        match option.as_str() {
            "ro" => readonly = true,
            "rw" | "bind" | "rbind" | "nosuid" | "nodev" | "noexec" => {}
            "private" | "rprivate" | "slave" | "rslave" => {}
            _ => bail!(
                "mount {}: the option {option:?} is not supported",
                mount.container_path
            ),
        }
    }
    Ok(Mount {
        target: mount.container_path.clone(),
        kind: MountKind::Bind {
            source: mount.host_path.clone(),
            readonly,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const YAML: &str = "\
cdiVersion: 0.6.0
kind: vendor.com/gpu
annotations: {org.mobyproject.buildkit.device.class: fast}
devices:
  - name: one
    containerEdits:
      deviceNodes: [{path: /dev/gpu1, hostPath: /dev/null, permissions: rw, fileMode: 432, gid: 5}]
      additionalGids: [44]
  - name: two
    annotations: {org.mobyproject.buildkit.device.class: my.org/slow, org.mobyproject.buildkit.device.autoallow: \"true\"}
    containerEdits:
      mounts: [{hostPath: /usr/lib, containerPath: /opt/lib, options: [ro, nosuid, rbind]}]
      hooks: []
  - name: hooked
    containerEdits: {hooks: [{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook}]}
containerEdits: {env: [GPU=yes]}
";

    fn devices(files: &[(&str, &str)]) -> Result<Devices> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let missing = folder.path().join("missing");
        Devices::read(&[missing, folder.path().to_owned()])
    }

    fn allowed(texts: &[&str]) -> Allowed {
        let mut allowed = Allowed::default();
        for text in texts {
            allowed.add(text).unwrap();
        }
        allowed
    }

    #[test]
    fn names_stand_for_devices() {
        let devices = devices(&[("a.yaml", YAML)]).unwrap();
        for (name, expected) in [
            ("vendor.com/gpu=one", "one"),
            ("vendor.com/gpu", "hooked"),
            ("vendor.com/gpu=*", "hooked one two"),
            ("fast", "hooked one"),
            ("my.org/slow", "two"),
            ("vendor.com/gpu=fast", ""),
            ("gpu", ""),
            ("/gpu", ""),
            ("", ""),
            ("vendor.com/gpu=three", ""),
            ("vendor.com/other", ""),
        ] {
            let found = devices.find(name);
            let short: Vec<&str> = found
                .iter()
                .map(|name| name.split_once('=').unwrap().1)
                .collect();
            assert_eq!(short.join(" "), expected, "{name}");
        }
    }

    #[test]
    fn only_what_is_allowed_is_given() {
        let devices = devices(&[("a.yaml", YAML)]).unwrap();
        let give = |name: &str, required: bool, allow: &[&str]| {
            devices
                .give(&[(name.to_owned(), required)], &allowed(allow))
                .map_or_else(
                    |e| format!("{e:#}"),
                    |given| format!("{} {}", given.nodes.len(), given.env.len()),
                )
        };
        assert!(
            give("vendor.com/gpu=one", true, &[]).contains("--allow device=vendor.com/gpu=one")
        );
        assert!(
            give("vendor.com/gpu=one", false, &["device=vendor.com/gpu=two"])
                .contains("not allowed")
        );
        for allow in [
            "device",
            "device=vendor.com/gpu=one",
            "device=fast",
            "device=vendor.com/gpu=*",
        ] {
            assert_eq!(give("vendor.com/gpu=one", true, &[allow]), "1 1", "{allow}");
        }
        // Marked as harmless by its specification.
        assert_eq!(give("vendor.com/gpu=two", true, &[]), "0 1");
        let alias = "device=vendor.com/gpu=one,alias=my.org/any";
        assert_eq!(give("my.org/any", true, &[alias]), "1 1");
        assert!(give("vendor.com/gpu=one", true, &[alias]).contains("not allowed"));
        assert_eq!(give("vendor.com/gpu=none", false, &[]), "0 0");
        assert!(give("vendor.com/gpu=none", true, &["device"]).contains("no CDI specification"));
        assert!(give("vendor.com/gpu=hooked", true, &["device"]).contains("hooks"));
    }

    #[test]
    fn edits_of_the_device_and_of_all() {
        let devices = devices(&[("a.yaml", YAML)]).unwrap();
        let asked = [
            ("vendor.com/gpu=one".to_owned(), true),
            ("vendor.com/gpu=two".to_owned(), true),
        ];
        let given = devices.give(&asked, &allowed(&["device"])).unwrap();
        let [node] = &given.nodes[..] else {
            panic!("{given:?}")
        };
        assert_eq!(
            (node.major, node.minor, node.mode, node.gid),
            (1, 3, Some(0o660), Some(5))
        );
        assert_eq!(
            (node.target.as_str(), node.access.as_str()),
            ("/dev/gpu1", "rw")
        );
        assert!(matches!(
            &given.mounts[0].kind,
            MountKind::Bind { readonly: true, .. }
        ));
        assert_eq!((given.groups, given.env[0].1.as_str()), (vec![44], "yes"));
    }

    #[test]
    fn specifications_that_are_wrong() {
        for (name, text) in [("a.json", "{"), ("a.yaml", "kind: [")] {
            let error = devices(&[(name, text)]).unwrap_err();
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        let twice = r#"{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","devices":[{"name":"one","containerEdits":{}}]}"#;
        let error = devices(&[("a.yaml", YAML), ("b.json", twice)]).unwrap_err();
        assert!(error.to_string().contains("a second time"), "{error}");
        assert!(devices(&[("a.txt", "{")]).unwrap().known.is_empty());
    }
}
