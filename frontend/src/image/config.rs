//! The image config: what a container of an image runs, its layers and its history.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use super::platform::Platform;

/// The OCI image config with Docker's extensions. Fields that we do not know survive in `other`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct ImageConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: SmolStr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<SmolStr>,
    #[serde(default, deserialize_with = "nullable")]
    pub os: SmolStr,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<SmolStr>,
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub os_features: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub config: Config,
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub history: Vec<HistoryEntry>,
    /// Unknown members, kept as they came.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl ImageConfig {
    /// Reads a config as a registry gives it; the error says what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Writes the config. Equal configs give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        // Every map has string keys and no value fails to serialise, so that nothing can go wrong here.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// True for an image without layers. Very old configs do not list them, but have a history.
    pub fn is_empty(&self) -> bool {
        self.rootfs.diff_ids.is_empty() && self.history.iter().all(|entry| entry.empty_layer)
    }

    /// The platform that the config says the image is for.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|v| !v.is_empty()),
            os_version: self.os_version.clone().filter(|v| !v.is_empty()),
        }
    }
}

/// The `config` member: how a container of the image runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Config {
    #[serde(
        default,
        skip_serializing_if = "SmolStr::is_empty",
        deserialize_with = "nullable"
    )]
    pub user: SmolStr,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub exposed_ports: BTreeMap<SmolStr, serde_json::Value>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub env: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<SmolStr>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<SmolStr>>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub volumes: BTreeMap<SmolStr, serde_json::Value>,
    #[serde(
        default,
        skip_serializing_if = "SmolStr::is_empty",
        deserialize_with = "nullable"
    )]
    pub working_dir: SmolStr,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub labels: BTreeMap<SmolStr, SmolStr>,
    #[serde(
        default,
        skip_serializing_if = "SmolStr::is_empty",
        deserialize_with = "nullable"
    )]
    pub stop_signal: SmolStr,
    #[serde(
        default,
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "nullable"
    )]
    pub args_escaped: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub on_build: Vec<SmolStr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<SmolStr>>,
    /// Unknown members, kept as they came.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Docker's `Healthcheck`; durations in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct HealthConfig {
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub test: Vec<SmolStr>,
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "nullable"
    )]
    pub interval: u64,
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "nullable"
    )]
    pub timeout: u64,
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "nullable"
    )]
    pub start_period: u64,
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "nullable"
    )]
    pub start_interval: u64,
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "nullable"
    )]
    pub retries: u64,
}

/// The layers of the image, by diff id, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct RootFs {
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".into(),
            diff_ids: Vec::new(),
        }
    }
}

/// One line of `docker history`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct HistoryEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "nullable"
    )]
    pub created_by: String,
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "nullable"
    )]
    pub author: String,
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "nullable"
    )]
    pub comment: String,
    #[serde(
        default,
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "nullable"
    )]
    pub empty_layer: bool,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Go writes empty maps and slices as `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_known_survives() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=1"],"OpenStdin":true},
            "rootfs":{"type":"layers","diff_ids":["sha256:00"]},"moby.buildkit.buildinfo.v1":"e30=","docker_version":"1"}"#;
        let config = ImageConfig::from_json(text.as_bytes()).unwrap();
        let again = String::from_utf8(config.to_json()).unwrap();
        assert!(again.contains(r#""OpenStdin":true"#), "{again}");
        assert!(
            again.contains(r#""docker_version":"1","moby.buildkit.buildinfo.v1":"e30=""#),
            "{again}"
        );
        assert_eq!(ImageConfig::from_json(again.as_bytes()).unwrap(), config);
    }

    #[test]
    fn nulls_are_absences() {
        let text = r#"{"created":null,"architecture":null,"os":"linux","os.features":null,"config":null,"rootfs":null,"history":null}"#;
        let config = ImageConfig::from_json(text.as_bytes()).unwrap();
        assert_eq!(
            config,
            ImageConfig {
                os: "linux".into(),
                ..ImageConfig::default()
            }
        );
        let text = r#"{"config":{"Env":null,"Cmd":null,"Labels":null,"User":null,"ArgsEscaped":null,"Volumes":null,
            "Healthcheck":{"Test":null,"Interval":null}},"history":[{"created_by":null,"empty_layer":null}]}"#;
        let config = ImageConfig::from_json(text.as_bytes()).unwrap();
        assert_eq!(config.config.healthcheck, Some(HealthConfig::default()));
        assert_eq!(config.history, [HistoryEntry::default()]);
    }

    #[test]
    fn hostile_json_is_refused_or_read() {
        let read = |text: &str| ImageConfig::from_json(text.as_bytes());
        for refused in [
            r#"{"os":"linux","os":"windows"}"#,
            r#"{"config":{},"config":{}}"#,
            r#"{"config":{"User":"a","User":"root"}}"#,
            r#"{"config":{"Healthcheck":{"Interval":1e999}}}"#,
            r#"{"config":{"Healthcheck":{"Retries":-1}}}"#,
            r#"{"config":{"Healthcheck":{"Interval":18446744073709551616}}}"#,
            r#"{"unknown":1e999}"#,
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert!(read(&format!(r#"{{"unknown":{deep}}}"#)).is_err());
        // Of members that mean nothing here the last counts, and no number is too long.
        let digits = "9".repeat(300);
        let config = read(&format!(r#"{{"unknown":1,"unknown":{digits}}}"#)).unwrap();
        assert!(config.other["unknown"].is_number());
    }
}
