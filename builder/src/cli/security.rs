//! `--isolation`, and `--security-opt`, of which steps can do without one thing: new privileges.

use super::values::{Invalid, boolean};

/// How steps are kept apart from this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// By namespaces.
    #[default]
    Default,
    /// Not at all.
    None,
}

/// Reads `--isolation`.
pub(super) fn isolation(text: Option<&str>) -> Result<Isolation, Invalid> {
    match text {
        None | Some("" | "default") => Ok(Isolation::Default),
        Some("none") => Ok(Isolation::None),
        Some(other) => Err(format!("unknown isolation {other:?}: use default or none")),
    }
}

/// Whether `no-new-privileges` is among the options. Those that would confine steps less are refused: that is for
/// `RUN --security=insecure` with `--allow`.
pub(super) fn no_new_privileges(texts: &[String]) -> Result<bool, Invalid> {
    let mut wanted = false;
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let (name, value) = text
            .split_once(['=', ':'])
            .map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("no-new-privileges", value) => wanted = boolean(value.unwrap_or("true"))?,
            ("seccomp", Some("default" | "builtin")) => {}
            _ => {
                return Err(format!(
                    "{text:?} is not supported: use no-new-privileges; a step that needs more rights is one with \
                     RUN --security=insecure and --allow security.insecure"
                ));
            }
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        for (texts, expected) in [
            (&[][..], Some(false)),
            (&["no-new-privileges"], Some(true)),
            (&["no-new-privileges=true"], Some(true)),
            (&["no-new-privileges:true", "seccomp=default"], Some(true)),
            (
                &["no-new-privileges", "no-new-privileges=false"],
                Some(false),
            ),
            (&["seccomp=unconfined"], None),
            (&["apparmor=x"], None),
            (&["label=disable"], None),
        ] {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            assert_eq!(no_new_privileges(&texts).ok(), expected, "{texts:?}");
        }
    }
}
