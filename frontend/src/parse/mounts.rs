//! `RUN --mount` and `RUN --device`: one CSV record of `key=value` fields.

use std::borrow::Cow;
use std::fmt;

use smol_str::SmolStr;

use crate::ast::Device;
use crate::diag::{Code, Diagnostic};
use crate::expand::ExpandError;
use crate::plan::Sharing;
use crate::span::Span;
use crate::suggest;

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
    for field in csv(value)
        .map_err(|error| MountError::new(format!("failed to parse csv mounts: {error}")))?
    {
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
            let bytes = size(&value)
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
    let fields = csv(value)
        .map_err(|error| MountError::new(format!("failed to parse csv mounts: {error}")))?;
    for (key, value) in fields.iter().filter_map(|field| field.split_once('=')) {
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
    let fields = csv(value).ok()?;
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
    for field in csv(value)
        .map_err(|error| MountError::new(format!("failed to parse csv devices: {error}")))?
    {
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
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(MountError::new(format!("invalid value for {key}: {value}"))),
    }
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    let digits = value.chars().all(|ch| ch.is_digit(radix));
    let parsed = u32::from_str_radix(value, radix).ok().filter(|_| digits);
    parsed.ok_or_else(|| MountError::new(format!("invalid value {value} for {key}")))
}

/// Bytes with a binary unit: `10`, `1.5g`, `64 MiB`.
fn size(text: &str) -> Option<u64> {
    let last = text.rfind(|ch: char| ch.is_ascii_digit() || matches!(ch, '.' | ' '))?;
    let (number, unit) = (
        text[..=last].strip_suffix(' ').unwrap_or(&text[..=last]),
        &text[last + 1..],
    );
    let number: f64 = number.parse().ok().filter(|number: &f64| *number >= 0.0)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let bytes = number * (1_u64 << shift) as f64;
    Some(bytes as u64)
}

/// The fields of one CSV record.
fn csv(line: &str) -> Result<Vec<Cow<'_, str>>, String> {
    let line = line
        .strip_suffix('\n')
        .map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err("the value is empty".to_owned());
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = if rest.starts_with('"') {
            quoted(rest)?
        } else {
            bare_field(rest)?
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

fn bare_field(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let (field, after) = text.split_at(text.find(',').unwrap_or(text.len()));
    if field.contains('"') {
        return Err(format!("bare \" in non-quoted field {field}"));
    }
    Ok((field.into(), after))
}

/// `text` begins with a quote; two of them inside are one.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let mut field = String::new();
    let mut rest = &text[1..];
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            return Err("a quote is not closed".to_owned());
        };
        field.push_str(part);
        rest = after;
        if let Some(after) = rest.strip_prefix('"') {
            field.push('"');
            rest = after;
        } else if rest.is_empty() || rest.starts_with(',') {
            return Ok((field.into(), rest));
        } else {
            return Err("extraneous or missing \" in quoted field".to_owned());
        }
    }
}
