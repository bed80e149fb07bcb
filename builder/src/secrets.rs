//! Secrets and SSH agents that steps may mount. Values are read when a step needs them and are never kept, logged or hashed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::key_agent::KeyAgent;

/// BuildKit's limit of one secret.
const LIMIT: u64 = 500 << 10;

/// Where a secret's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretSource {
    /// A file's content.
    File(PathBuf),
    /// The value of an environment variable, read at the start.
    Value(String),
}

/// An SSH agent.
#[derive(Clone)]
pub(crate) enum SshAgent {
    /// One that runs already, by its socket.
    Socket(PathBuf),
    /// One of the build's own.
    Own(Arc<KeyAgent>),
}

/// `--secret` and `--ssh` of a build.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    secrets: BTreeMap<String, SecretSource>,
    agents: BTreeMap<String, SshAgent>,
}

impl Secrets {
    /// Secrets by id, and agents by id.
    pub(crate) fn new(
        secrets: BTreeMap<String, SecretSource>,
        agents: BTreeMap<String, SshAgent>,
    ) -> Self {
        Self { secrets, agents }
    }

    /// The value of `id`; `None` when it was not given and is not `required`.
    pub(crate) fn get(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>> {
        match self.secrets.get(id) {
            Some(SecretSource::Value(value)) => Ok(Some(value.clone().into_bytes())),
            Some(SecretSource::File(path)) => {
                let value = read(path)
                    .with_context(|| format!("read secret {id} from {}", path.display()))?;
                Ok(Some(value))
            }
            None if required => {
                bail!("secret {id}: not found: give it with --secret id={id},src=FILE or env=NAME")
            }
            None => Ok(None),
        }
    }

    /// The socket of the agent `id`; `None` when it was not given and is not `required`.
    pub(crate) fn ssh_socket(&self, id: &str, required: bool) -> Result<Option<PathBuf>> {
        match self.agents.get(id) {
            Some(SshAgent::Socket(path)) => Ok(Some(path.clone())),
            Some(SshAgent::Own(agent)) => Ok(Some(agent.socket())),
            None if required => bail!("ssh agent {id}: not found: give it with --ssh {id}"),
            None => Ok(None),
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ids, agents) = (self.secrets.keys(), self.agents.keys());
        f.debug_struct("Secrets")
            .field("ids", &ids)
            .field("agents", &agents)
            .finish()
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    // A pipe has no size beforehand.
    let mut value = Vec::new();
    std::fs::File::open(path)?
        .take(LIMIT + 1)
        .read_to_end(&mut value)?;
    if value.len() as u64 > LIMIT {
        bail!("it is larger than {LIMIT} bytes");
    }
    Ok(value)
}
