//! `--call`: what a build is asked for instead of an image.

use super::values::{self, Invalid};

/// What a build is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Call {
    /// An image.
    #[default]
    Build,
    /// Something about the Dockerfile.
    Describe {
        /// `check`, `outline`, `targets` or `subrequests.describe`.
        method: Method,
        /// `format=json`.
        json: bool,
    },
}

/// See [`Call::Describe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The lint rules' findings; any is a failure.
    Check,
    /// Arguments, secrets and mounts of the target.
    Outline,
    /// The stages that can be targets.
    Targets,
    /// The methods there are.
    Methods,
}

impl Call {
    /// Reads `METHOD[,format=json|text]`.
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let (mut method, mut json) = (None, false);
        for field in values::fields(text)? {
            match field.as_str() {
                "" | "format=text" | "build" => {}
                "format=json" => json = true,
                "check" | "lint" => method = Some(Method::Check),
                "outline" => method = Some(Method::Outline),
                "targets" => method = Some(Method::Targets),
                "subrequests.describe" => method = Some(Method::Methods),
                _ => {
                    return Err(format!(
                        "{field:?}: use build, check, outline, targets or subrequests.describe, with format=json or text"
                    ));
                }
            }
        }
        Ok(method.map_or(Self::Build, |method| Self::Describe { method, json }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let describe = |method, json| Some(Call::Describe { method, json });
        let cases = [
            ("build", Some(Call::Build)),
            ("", Some(Call::Build)),
            ("check", describe(Method::Check, false)),
            ("lint,format=json", describe(Method::Check, true)),
            ("outline", describe(Method::Outline, false)),
            ("targets,format=text", describe(Method::Targets, false)),
            (
                "subrequests.describe,format=json",
                describe(Method::Methods, true),
            ),
            ("check,format=yaml", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Call::parse(text).ok(), expected, "{text}");
        }
    }
}
