//! `--secret` and `--ssh`: where a build finds what must not be kept. Nothing is read here.

use std::path::PathBuf;

use super::values::{self, Invalid};

/// One secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSpec {
    /// The id that `RUN --mount=type=secret,id=…` names.
    pub id: String,
    /// Where its value is.
    pub source: SecretSource,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

impl SecretSpec {
    /// Reads `id=NAME[,src=FILE|,env=VARIABLE][,type=file|env]`. Without a source it is the variable of that name if
    /// `is_set` knows one, otherwise the file of that name.
    pub(super) fn parse(text: &str, is_set: &dyn Fn(&str) -> bool) -> Result<Self, Invalid> {
        let (mut id, mut src, mut env, mut kind) = (None, None, None, None);
        for (key, value) in values::pairs(text)? {
            match key.as_str() {
                "id" => id = Some(value),
                "src" | "source" => src = Some(value),
                "env" => env = Some(value),
                "type" if value == "file" || value == "env" => kind = Some(value),
                "type" => return Err(format!("type={value}: a secret's type is file or env")),
                _ => {
                    return Err(format!(
                        "a secret has no option {key:?}: use id, src, env or type"
                    ));
                }
            }
        }
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        let (id, mut src, mut env) = (given(id), given(src), given(env));
        let Some(id) = id else {
            return Err(format!("{text:?} lacks id=NAME"));
        };
        if kind.as_deref() == Some("env") && env.is_none() {
            env = src.take();
        }
        let source = match (env, src) {
            (Some(_), Some(_)) => return Err(format!("{text:?} has both src and env: give one")),
            (Some(env), None) => SecretSource::Env(env),
            (None, Some(src)) => SecretSource::File(src.into()),
            (None, None) if kind.as_deref() != Some("file") && is_set(&id) => {
                SecretSource::Env(id.clone())
            }
            (None, None) if kind.as_deref() == Some("env") => SecretSource::Env(id.clone()),
            (None, None) => SecretSource::File(id.clone().into()),
        };
        Ok(Self { id, source })
    }
}

/// One SSH agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSpec {
    /// The id that `RUN --mount=type=ssh,id=…` names; `default` if it names none.
    pub id: String,
    /// A socket, or key files; none is the agent of the environment (`SSH_AUTH_SOCK`).
    pub paths: Vec<PathBuf>,
}

impl SshSpec {
    /// Reads `default|ID[=SOCKET|KEY,KEY…]`.
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let (id, paths) = values::key_value(text)?;
        let paths = paths
            .unwrap_or_default()
            .split(',')
            .filter(|path| !path.is_empty());
        Ok(Self {
            id: id.to_owned(),
            paths: paths.map(PathBuf::from).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        let cases = [
            ("id=a,src=f", "a File(\"f\")"),
            ("ID=a,source=f", "a File(\"f\")"),
            ("id=a,env=E", "a Env(\"E\")"),
            ("id=a,type=env,src=E", "a Env(\"E\")"),
            ("id=a,type=file,src=f", "a File(\"f\")"),
            ("id=SET", "SET Env(\"SET\")"),
            ("id=SET,type=file", "SET File(\"SET\")"),
            ("id=a,type=env", "a Env(\"a\")"),
            ("id=a", "a File(\"a\")"),
            (r#"id=a,"src=x,y""#, "a File(\"x,y\")"),
            ("src=f", "error"),
            ("id=", "error"),
            ("a", "error"),
            ("id=a,src=f,env=E", "error"),
            ("id=a,type=raw", "error"),
            ("id=a,mode=0400", "error"),
        ];
        for (text, expected) in cases {
            let spec = SecretSpec::parse(text, &|name| name == "SET");
            let shown = spec.map_or("error".into(), |s| format!("{} {:?}", s.id, s.source));
            assert_eq!(shown, expected, "{text}");
        }
    }

    #[test]
    fn ssh() {
        let cases = [
            ("default", "default []"),
            ("default=", "default []"),
            ("default=/run/agent", "default [\"/run/agent\"]"),
            ("id=k1,k2", "id [\"k1\", \"k2\"]"),
            ("=k", "error"),
        ];
        for (text, expected) in cases {
            let shown =
                SshSpec::parse(text).map_or("error".into(), |s| format!("{} {:?}", s.id, s.paths));
            assert_eq!(shown, expected, "{text}");
        }
    }
}
