//! `RUN --mount` and `RUN --device`: one CSV record of `key=value` fields.

use std::borrow::Cow;
use std::fmt;

use smol_str::SmolStr;

use crate::ast::Device;
use crate::diag::{Code, Diagnostic};
use crate::expand::ExpandError;
use crate::plan::Sharing;
use crate::span::Span;
use crate::{suggest, values};

/// `type=` of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const KINDS: [(MountKind, &str); 5] = [
    (MountKind::Bind, "bind"),
    (MountKind::Cache, "cache"),
    (MountKind::Tmpfs, "tmpfs"),
    (MountKind::Secret, "secret"),
    (MountKind::Ssh, "ssh"),
];

const SHARINGS: [(Sharing, &str); 3] = [
    (Sharing::Shared, "shared"),
    (Sharing::Private, "private"),
    (Sharing::Locked, "locked"),
];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl MountKind {
    /// As written after `type=`.
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    /// Whether `mode`, `uid` and `gid` make sense.
    fn has_owner(self) -> bool {
        matches!(self, Self::Cache | Self::Secret | Self::Ssh)
    }
}

/// A `--mount`, expanded and checked. An empty value counts as not given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountSpec {
    /// `type`.
    pub kind: MountKind,
    /// `from`: a stage, its index, an image or a named context.
    pub from: Option<String>,
    /// `source` or `src`.
    pub source: Option<String>,
    /// `target`, `dst` or `destination`.
    pub target: Option<String>,
    /// As asked for with `ro` or `rw`; by default true, but not for cache and tmpfs.
    pub readonly: bool,
    /// `size` of a tmpfs, in bytes.
    pub size: Option<u64>,
    /// `id`.
    pub id: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// `required` of a secret or ssh socket.
    pub required: bool,
    /// `env` of a secret; may be empty.
    pub env: Option<String>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
}

/// Why a `--mount` is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for MountError {}

impl MountError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    fn near<'a>(message: String, word: &str, options: impl IntoIterator<Item = &'a str>) -> Self {
        let hint = suggest::nearest(word, options).map(|near| format!("did you mean {near}?"));
        Self { message, hint }
    }

    /// The error as a finding; `span` is the mount's value.
    pub fn diagnostic(self, span: Span) -> Diagnostic {
        Diagnostic {
            hint: self.hint,
            ..Diagnostic::error(Code::Mount, span, self.message)
        }
    }
}

/// Reads a `--mount` value. `expand` is applied to every value.
pub fn parse_mount(
    value: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<MountSpec, MountError> {
    let mut spec = MountSpec::default();
    let mut readonly = None;
    for field in fields(value, "mounts")? {
        let (key, raw) = match field.split_once('=') {
            Some((key, raw)) => (key, Some(raw)),
            None => (&*field, None),
        };
        let key = key.to_lowercase();
        let value = match raw {
            Some(raw) => expand(raw)
                .map_err(|error| MountError::new(format!("failed to process {raw:?}: {error}")))?,
            None => bare(&key, &field)?,
        };
        match key.as_str() {
            "readonly" | "ro" => readonly = Some(boolean(&key, &value)?),
            "readwrite" | "rw" => readonly = Some(!boolean(&key, &value)?),
            _ => set(&mut spec, &key, value, &field)?,
        }
    }
    spec.readonly = readonly.unwrap_or(!matches!(spec.kind, MountKind::Cache | MountKind::Tmpfs));
    check_kind(&spec)?;
    Ok(spec)
}

/// The value of a key that needs none.
fn bare(key: &str, field: &str) -> Result<String, MountError> {
    match key {
        "readonly" | "ro" | "readwrite" | "rw" | "required" => Ok("true".to_owned()),
        _ => Err(MountError::new(format!(
            "invalid field '{field}' must be a key=value pair"
        ))),
    }
}

fn set(spec: &mut MountSpec, key: &str, value: String, field: &str) -> Result<(), MountError> {
    let some = |value: String| Some(value).filter(|value| !value.is_empty());
    match key {
        "type" => spec.kind = named(&KINDS, &value, "mount type")?,
        "sharing" => spec.sharing = Some(named(&SHARINGS, &value, "sharing value")?),
        "from" => spec.from = some(value),
        "source" | "src" => spec.source = some(value),
        "target" | "dst" | "destination" => spec.target = some(value),
        "id" => spec.id = some(value),
        "env" => spec.env = Some(value),
        "required" if matches!(spec.kind, MountKind::Secret | MountKind::Ssh) => {
            spec.required = boolean(key, &value)?;
        }
        "size" if spec.kind == MountKind::Tmpfs => {
            let bytes = values::size(&value)
                .ok_or_else(|| MountError::new(format!("invalid value for size: {value}")))?;
            spec.size = Some(bytes).filter(|bytes| *bytes > 0);
        }
        "required" | "size" => {
            let kind = spec.kind.name();
            let message = format!("unexpected key '{key}' for mount type '{kind}'");
            return Err(MountError {
                message,
                hint: Some("put the fitting type= first".to_owned()),
            });
        }
        "mode" => spec.mode = Some(number(key, &value, 8)?),
        "uid" => spec.uid = Some(number(key, &value, 10)?),
        "gid" => spec.gid = Some(number(key, &value, 10)?),
        _ => {
            return Err(MountError::near(
                format!("unexpected key '{key}' in '{field}'"),
                key,
                KEYS,
            ));
        }
    }
    Ok(())
}

fn check_kind(spec: &MountSpec) -> Result<(), MountError> {
    let kind = spec.kind.name();
    if !spec.kind.has_owner() {
        let given = [("mode", spec.mode), ("uid", spec.uid), ("gid", spec.gid)];
        if let Some((key, _)) = given.iter().find(|(_, value)| value.is_some()) {
            return Err(MountError::new(format!(
                "{key} not allowed for \"{kind}\" type mounts"
            )));
        }
    }
    if spec.kind == MountKind::Secret {
        if spec.from.is_some() {
            return Err(MountError::new("secret mount should not have a from"));
        }
        if spec.sharing.is_some() {
            return Err(MountError::new("secret mount should not define sharing"));
        }
        if spec.source.is_none() && spec.target.is_none() && spec.id.is_none() {
            return Err(MountError::new(
                "invalid secret mount, one of id, source, target required",
            ));
        }
        if spec.source.is_some() && spec.id.is_some() {
            return Err(MountError::new("both source and id can't be set"));
        }
    }
    if spec.sharing.is_some() && spec.kind != MountKind::Cache {
        return Err(MountError::new(format!(
            "invalid cache sharing set for {kind} mount"
        )));
    }
    Ok(())
}

/// What can be checked before variables are known: that it is CSV, and that `from` needs no variable.
pub(crate) fn check(value: &str) -> Result<(), MountError> {
    for (key, value) in fields(value, "mounts")?
        .iter()
        .filter_map(|field| field.split_once('='))
    {
        let variable = value.find('$').is_some_and(|at| at + 1 < value.len());
        if key.eq_ignore_ascii_case("from") && variable {
            let message =
                format!("'{key}' doesn't support variable expansion, define alias stage instead");
            let hint = "add a stage `FROM ${…} AS name` and write from=name";
            return Err(MountError {
                message,
                hint: Some(hint.to_owned()),
            });
        }
    }
    Ok(())
}

/// The `from` of a `--mount` value, which is known before anything is expanded.
pub fn mount_from(value: &str) -> Option<SmolStr> {
    let fields = fields(value, "mounts").ok()?;
    let mut from = fields
        .iter()
        .rev()
        .filter_map(|field| field.split_once('='));
    let (_, value) = from.find(|(key, _)| key.eq_ignore_ascii_case("from"))?;
    Some(value.into()).filter(|value: &SmolStr| !value.is_empty())
}

/// Reads a `--device` value.
pub(crate) fn device(value: &str) -> Result<Device, MountError> {
    let mut device = Device {
        name: SmolStr::default(),
        required: false,
    };
    for field in fields(value, "devices")? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", value) => device.required = boolean(&key, value.unwrap_or("true"))?,
            ("name", Some(name)) if device.name.is_empty() => device.name = name.into(),
            ("name", Some(_)) => {
                return Err(MountError::new(format!(
                    "device name already set to {}",
                    device.name
                )));
            }
            _ if device.name.is_empty() => device.name = field.into(),
            (_, None) => {
                return Err(MountError::new(format!(
                    "invalid field '{field}' must be a key=value pair"
                )));
            }
            (key, Some(_)) => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(MountError::near(message, key, ["name", "required"]));
            }
        }
    }
    Ok(device)
}

/// The fields of the value of a flag, the plural of whose name is `what`.
fn fields<'a>(value: &'a str, what: &str) -> Result<Vec<Cow<'a, str>>, MountError> {
    let record = value
        .strip_suffix('\n')
        .map_or(value, |line| line.strip_suffix('\r').unwrap_or(line));
    let fields = match record {
        "" => Err("the value is empty".to_owned()),
        record => values::fields(record).map_err(|error| error.to_string()),
    };
    fields.map_err(|error| MountError::new(format!("failed to parse csv {what}: {error}")))
}

fn named<T: Copy>(names: &[(T, &'static str)], value: &str, what: &str) -> Result<T, MountError> {
    let lower = value.to_lowercase();
    match names.iter().find(|(_, name)| *name == lower) {
        Some((named, _)) => Ok(*named),
        None => {
            let message = format!("unsupported {what} {value:?}");
            Err(MountError::near(
                message,
                value,
                names.iter().map(|(_, name)| *name),
            ))
        }
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, MountError> {
    values::boolean(value)
        .ok_or_else(|| MountError::new(format!("invalid value for {key}: {value}")))
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    let digits = value.chars().all(|ch| ch.is_digit(radix));
    let parsed = u32::from_str_radix(value, radix).ok().filter(|_| digits);
    parsed.ok_or_else(|| MountError::new(format!("invalid value {value} for {key}")))
}
