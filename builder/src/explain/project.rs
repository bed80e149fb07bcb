//! What the store keeps of the last build of a project: one record, replaced by each build.

use anyhow::{Context, Result};
use lapstrake_cache::{Encoder, Hasher, Key, Store};
use serde::{Deserialize, Serialize};

use super::{MOST, Step};

/// The record of a project.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Project {
    /// Of the last build.
    steps: Vec<Step>,
    /// Of builds before that, of other targets for example.
    others: Vec<Step>,
}

impl Project {
    pub(super) fn all(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.others)
    }
}

/// The key of a project's record: builds of one Dockerfile on one context are compared with each other.
pub(crate) fn project(context: &[u8], dockerfile: &str) -> Key {
    let mut hasher = Hasher::new();
    hasher.text("kind", "project");
    hasher.field("context", context);
    hasher.text("dockerfile", dockerfile);
    hasher.finish()
}

/// Where it is written which project was built last.
fn pointer() -> Key {
    let mut hasher = Hasher::new();
    hasher.text("kind", "last project");
    hasher.finish()
}

pub(super) fn load(store: &Store, project: &Key) -> Result<Project> {
    Ok(store.record(project)?.unwrap_or_default())
}

pub(super) fn save(
    store: &Store,
    project: &Key,
    steps: &[Step],
    mut others: Vec<Step>,
) -> Result<()> {
    others.truncate(MOST.saturating_sub(steps.len()));
    let steps = steps.to_vec();
    store.put_record(project, &Project { steps, others })?;
    store.put_record(&pointer(), project)?;
    Ok(())
}

/// The steps of the last build on this store.
pub(crate) fn last(store: &Store) -> Result<Vec<Step>> {
    let project = store
        .record::<Key>(&pointer())?
        .context("there was no build yet: nothing to explain")?;
    Ok(load(store, &project)?.steps)
}
