//! What steps may be shown without keeping it: secrets and ssh agents, from the options and the environment.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lapstrake_cache::Store;

use super::Surroundings;
use crate::cli::{BuildOptions, SecretSource as NamedSecret, SshSpec};
use crate::key_agent::KeyAgent;
use crate::secrets::{SecretSource, Secrets, SshAgent};

/// What `--secret` and `--ssh` name.
pub(super) fn secrets(
    surroundings: &Surroundings,
    options: &BuildOptions,
    store: &Store,
) -> Result<Secrets> {
    let mut secrets = BTreeMap::new();
    for spec in &options.secrets {
        let source = match &spec.source {
            NamedSecret::File(path) => {
                // Now rather than in the middle of the build.
                std::fs::metadata(path)
                    .with_context(|| format!("--secret {}: find {}", spec.id, path.display()))?;
                SecretSource::File(path.clone())
            }
            NamedSecret::Env(name) => {
                let value = surroundings.env.variable(name);
                SecretSource::Value(
                    value
                        .with_context(|| format!("--secret {}: {name} is not set", spec.id))?
                        .to_owned(),
                )
            }
        };
        secrets.insert(spec.id.clone(), source);
    }
    let agents = options
        .ssh
        .iter()
        .map(|spec| Ok((spec.id.clone(), agent(surroundings, spec, store)?)));
    Ok(Secrets::new(secrets, agents.collect::<Result<_>>()?))
}

/// The agent of `--ssh`: a socket, the environment's, or one of our own for key files.
fn agent(surroundings: &Surroundings, spec: &SshSpec, store: &Store) -> Result<SshAgent> {
    let SshSpec { id, paths } = spec;
    let is_socket = |path: &Path| -> Result<bool> {
        let found = std::fs::metadata(path)
            .with_context(|| format!("--ssh {id}: find {}", path.display()))?;
        Ok(found.file_type().is_socket())
    };
    let paths = match paths.as_slice() {
        [] => {
            let socket = surroundings.env.nonempty("SSH_AUTH_SOCK");
            let socket = socket.with_context(|| {
                format!("--ssh {id}: no agent is running: SSH_AUTH_SOCK is not set")
            })?;
            &[socket.into()]
        }
        paths => paths,
    };
    match paths {
        [path] if is_socket(path)? => return Ok(SshAgent::Socket(path.clone())),
        _ => {}
    }
    for path in paths {
        if is_socket(path)? {
            bail!(
                "--ssh {id}: {} is a socket: give it alone, or key files",
                path.display()
            );
        }
    }
    let agent = KeyAgent::start(store.scratch()?, paths).with_context(|| format!("--ssh {id}"))?;
    Ok(SshAgent::Own(Arc::new(agent)))
}
