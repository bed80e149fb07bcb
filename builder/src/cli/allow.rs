//! `--allow`: what a Dockerfile may ask for beyond the ordinary.

use std::collections::BTreeMap;

use lapstrake_frontend::plan::Entitlement;

use super::values::{Invalid, fields};

/// What the user allowed. Nothing, unless said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// `network.host`.
    pub network_host: bool,
    /// `security.insecure`.
    pub security_insecure: bool,
    /// `buildx.local.delete`: `type=local,mode=delete` outside the working directory.
    pub local_delete: bool,
    /// `device`: all of them.
    pub all_devices: bool,
    /// `device=NAME`; with `,alias=OTHER` by that other name, which then stands for this one.
    pub devices: BTreeMap<String, Option<String>>,
}

impl Allowed {
    /// Adds what one `--allow` says.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), Invalid> {
        match text {
            "network.host" => self.network_host = true,
            "security.insecure" => self.security_insecure = true,
            "buildx.local.delete" => self.local_delete = true,
            "device" | "device=" => self.all_devices = true,
            _ => match text.strip_prefix("device=") {
                Some(device) => {
                    let (name, target) = self::device(device)?;
                    self.devices.insert(name, target);
                }
                None => {
                    return Err(format!(
                        "unknown entitlement {text:?}: use network.host, security.insecure, device[=NAME] or \
                         buildx.local.delete"
                    ));
                }
            },
        }
        Ok(())
    }

    /// True where the user gave the permission. Whether a device is allowed depends on what its name stands for here.
    pub fn permits(&self, entitlement: &Entitlement) -> bool {
        match entitlement {
            Entitlement::NetworkHost => self.network_host,
            Entitlement::SecurityInsecure => self.security_insecure,
            Entitlement::Device(name) => self.all_devices || self.devices.contains_key(name),
        }
    }
}

/// Reads `NAME[,alias=OTHER]`: the name that a Dockerfile may use, and what it stands for if it is an alias.
fn device(text: &str) -> Result<(String, Option<String>), Invalid> {
    let fields = fields(text)?;
    let (name, options) = fields.split_first().ok_or("a device has a name")?;
    let mut alias = None;
    for option in options {
        match option.split_once('=') {
            Some(("alias", value)) if !value.is_empty() => alias = Some(value.to_owned()),
            _ => return Err(format!("{option:?} in {text:?} is not alias=NAME")),
        }
    }
    Ok(match alias {
        Some(alias) => (alias, Some(name.clone())),
        None => (name.clone(), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_unless_said() {
        let device = |name: &str| Entitlement::Device(name.to_owned());
        let all = [
            Entitlement::NetworkHost,
            Entitlement::SecurityInsecure,
            device("a"),
            device("b"),
        ];
        let cases: &[(&[&str], &[bool; 4])] = &[
            (&[], &[false; 4]),
            (&["network.host"], &[true, false, false, false]),
            (
                &["security.insecure", "device=a"],
                &[false, true, true, false],
            ),
            (&["device"], &[false, false, true, true]),
            (&["buildx.local.delete"], &[false; 4]),
        ];
        for (texts, expected) in cases {
            let mut allowed = Allowed::default();
            for text in *texts {
                assert_eq!(allowed.add(text), Ok(()), "{text}");
            }
            assert_eq!(
                all.iter().map(|e| allowed.permits(e)).collect::<Vec<_>>(),
                *expected,
                "{texts:?}"
            );
        }
        for text in ["network", "network.host=1", "device=a,other=b", ""] {
            assert!(Allowed::default().add(text).is_err(), "{text}");
        }
    }
}
