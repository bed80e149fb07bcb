//! Why a step was worked again: the parts of its key, compared with those of the last time.
//!
//! While a build runs, each step notes its key, the parts that the key was made of (written by the encoder that makes
//! the key), and what became of it. At the end the notes are compared ([`compare`]) with what the store keeps of the
//! last build of the same project, and take its place. What a copy selected is kept as a list of its own ([`listing`]),
//! once for each selection, and written only when the copy is worked: a build that changes nothing writes one small
//! file.

mod compare;
pub(crate) mod listing;
mod project;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use lapstrake_cache::{Content, Key, Part, Store};
use lapstrake_frontend::plan::{CopySource, Node, Op, OpId};
use serde::{Deserialize, Serialize};

pub(crate) use project::{last, project};

/// More steps of a project are not remembered.
const MOST: usize = 2000;

/// Of so many earlier selections of a copy or a mount the lists are kept.
const LISTS: usize = 3;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Its result was in the store.
    Hit,
    /// It was worked.
    Miss,
    /// It was worked and yielded what it had yielded before.
    Same,
}

/// A step of a build, as it is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// `[build 2/4] RUN make`.
    pub(crate) name: String,
    pub(crate) stage: String,
    /// The target of the build and the platform: with the last build of the same it is compared first.
    #[serde(default)]
    pub(crate) build: String,
    /// Its place in the stage.
    pub(crate) place: usize,
    /// `None` if the build ended before.
    pub(crate) outcome: Option<Outcome>,
    /// The whole key; none for sources.
    pub(crate) key: Option<Key>,
    /// The key of the definition alone.
    pub(crate) definition: Option<Key>,
    /// What a copy selected.
    pub(crate) selection: Option<Content>,
    /// The targets of the bind mounts of a command, and what they read.
    #[serde(default)]
    pub(crate) mounts: Vec<(String, Content)>,
    /// What it selected and read before that, latest first.
    #[serde(default)]
    pub(crate) selections: Vec<Content>,
    /// What the key was made of.
    pub(crate) parts: Vec<Part>,
    /// Why it was worked.
    pub(crate) reasons: Vec<String>,
}

impl Step {
    /// `RUN make`, without the number in front.
    pub(crate) fn instruction(&self) -> &str {
        self.name
            .split_once("] ")
            .map_or(self.name.as_str(), |(_, rest)| rest)
    }

    /// Whether it was worked in this build.
    pub(crate) fn was_worked(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Miss | Outcome::Same))
    }

    /// What there may be lists of.
    fn listed(&self) -> impl Iterator<Item = Content> + '_ {
        let mounts = self.mounts.iter().map(|(_, content)| *content);
        self.selection.into_iter().chain(mounts)
    }

    /// `RUN`.
    fn kind(&self) -> &str {
        self.instruction().split(' ').next().unwrap_or_default()
    }
}

/// What a step knows of its key.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) key: Key,
    pub(crate) definition: Key,
    pub(crate) selection: Option<Content>,
    pub(crate) mounts: Vec<(String, Content)>,
    pub(crate) parts: Vec<Part>,
    pub(crate) outcome: Option<Outcome>,
    /// Whether a result was there but too old.
    pub(crate) expired: bool,
}

impl Note {
    pub(crate) fn new(key: Key, definition: Key, parts: Vec<Part>) -> Self {
        Self {
            key,
            definition,
            selection: None,
            mounts: Vec::new(),
            parts,
            outcome: None,
            expired: false,
        }
    }
}

/// The notes of a build that runs.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<HashMap<OpId, Note>>);

impl Notes {
    /// A step knows its key.
    pub(crate) fn keyed(&self, id: OpId, note: Note) {
        self.lock().insert(id, note);
    }

    /// A step's result is older than it may be.
    pub(crate) fn expired(&self, id: OpId) {
        if let Some(note) = self.lock().get_mut(&id) {
            note.expired = true;
        }
    }

    /// A step is done.
    pub(crate) fn settled(&self, id: OpId, outcome: Outcome) {
        if let Some(note) = self.lock().get_mut(&id) {
            note.outcome = Some(outcome);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OpId, Note>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is built, as far as builds of it are compared.
pub(crate) struct Asked {
    pub(crate) project: Key,
    /// The stage that was asked for; empty for the last one.
    pub(crate) target: String,
    /// The platform, if there is one.
    pub(crate) platform: String,
}

/// What ends a build's notes.
pub(crate) struct Build<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) nodes: &'a [Node],
    pub(crate) notes: &'a Notes,
    /// The digests of the images that were used.
    pub(crate) images: HashMap<OpId, String>,
}

impl Build<'_> {
    /// Compares this build with the last one of the same project, if possible of the same target and platform, and
    /// remembers it instead.
    pub(crate) fn explain(&self, store: &Store) -> Result<Vec<Step>> {
        let project = &self.asked.project;
        let earlier = project::load(store, project)?;
        let (places, mut steps) = self.steps();
        let known: Vec<&Step> = earlier.all().collect();
        let pairs = compare::pair(&known, &steps);
        let expired = self.expired();
        for at in 0..steps.len() {
            let context = compare::Context {
                store,
                nodes: self.nodes,
                places: &places,
                steps: &steps,
                expired: &expired,
                known: &known,
                pairs: &pairs,
            };
            let reasons = context.reasons(at);
            steps[at].reasons = reasons;
            if let Some(old) = pairs[at].map(|old| known[old]) {
                forget_old_lists(store, old, &mut steps[at])?;
            }
        }
        let is_replaced = |old: usize| {
            let new = pairs.iter().position(|pair| *pair == Some(old));
            new.is_some_and(|new| steps[new].build == known[old].build)
        };
        let others = (0..known.len()).filter(|old| !is_replaced(*old));
        let others: Vec<Step> = others.map(|old| known[old].clone()).collect();
        project::save(store, project, &steps, others)?;
        Ok(steps)
    }

    fn expired(&self) -> HashSet<OpId> {
        let notes = self.notes.lock();
        let expired = notes.iter().filter(|(_, note)| note.expired);
        expired.map(|(id, _)| *id).collect()
    }

    /// The steps, and which node each stands for.
    fn steps(&self) -> (Vec<OpId>, Vec<Step>) {
        let notes = self.notes.lock();
        let mut counts: HashMap<(String, String), usize> = HashMap::new();
        let (mut places, mut steps) = (Vec::new(), Vec::new());
        for (at, node) in self.nodes.iter().enumerate() {
            let id = OpId::at(at);
            let Some((note, mut parts)) = self.parts_of(id, node, &notes) else {
                continue;
            };
            parts.truncate(MOST);
            let build = format!(
                "{} {}",
                self.asked.target,
                platform_of(node).unwrap_or(&self.asked.platform)
            );
            let stage = node.stage.to_string();
            let place = counts.entry((stage.clone(), build.clone())).or_default();
            *place += 1;
            places.push(id);
            steps.push(Step {
                name: node.name.clone(),
                stage,
                build,
                place: *place,
                outcome: note.and_then(|note| note.outcome),
                key: note.map(|note| note.key),
                definition: note.map(|note| note.definition),
                selection: note.and_then(|note| note.selection),
                mounts: note.map(|note| note.mounts.clone()).unwrap_or_default(),
                selections: Vec::new(),
                parts,
                reasons: Vec::new(),
            });
        }
        (places, steps)
    }

    /// `None` for what people do not see as a step, and for what was not reached.
    fn parts_of<'a>(
        &self,
        id: OpId,
        node: &Node,
        notes: &'a HashMap<OpId, Note>,
    ) -> Option<(Option<&'a Note>, Vec<Part>)> {
        match &node.op {
            Op::Image(image) => {
                let part = |name: &str, value: String| Part {
                    name: name.to_owned(),
                    value,
                };
                let digest = self.images.get(&id)?.clone();
                let image = image.reference.to_string();
                Some((None, vec![part("image", image), part("digest", digest)]))
            }
            Op::Scratch | Op::Context(_) => None,
            Op::Http(_) | Op::Git(_) | Op::Run(_) | Op::Copy(_) | Op::MakeDir(_) => {
                let note = notes.get(&id)?;
                Some((Some(note), note.parts.clone()))
            }
        }
    }
}

/// Keeps the lists of what a step selected or read lately, and removes those from long ago.
fn forget_old_lists(store: &Store, old: &Step, new: &mut Step) -> Result<()> {
    let before = old.listed().chain(old.selections.iter().copied());
    let mut before: Vec<Content> = before.collect();
    before.retain(|content| !new.listed().any(|new| new == *content));
    let kept = LISTS * new.listed().count().max(1);
    for forgotten in before.drain(kept.min(before.len())..) {
        listing::remove(store, &forgotten)?;
    }
    new.selections = before;
    Ok(())
}

/// The platform, which the name of a step carries where there are several.
fn platform_of(node: &Node) -> Option<&str> {
    let (head, _) = node.name.strip_prefix('[')?.split_once(']')?;
    let (platform, _) = head.split_once(' ')?;
    (platform.contains('/') && !platform.starts_with(char::is_numeric)).then_some(platform)
}

/// The patterns of a copy, for people.
fn patterns(op: &Op) -> Vec<&str> {
    let Op::Copy(copy) = op else {
        return Vec::new();
    };
    let sources = copy.sources.iter();
    sources
        .map(|source| match source {
            CopySource::Path { pattern, .. } => pattern.as_str(),
            CopySource::Inline { name, .. } => name.as_str(),
        })
        .collect()
}

/// The lines of `--explain`.
pub(crate) fn report(steps: &[Step]) -> Vec<String> {
    let line = |step: &Step| {
        let word = match step.outcome {
            Some(Outcome::Hit) => "hit ",
            Some(Outcome::Miss | Outcome::Same) => "miss",
            None if step.key.is_some() => "fail",
            // A source is neither.
            None => "    ",
        };
        let mut line = format!("{word}  {}", step.name);
        if !step.reasons.is_empty() {
            line.push_str(": ");
            line.push_str(&step.reasons.join("; "));
        }
        if step.outcome == Some(Outcome::Same) {
            line.push_str("; it made what it had made before");
        }
        line
    };
    steps.iter().map(line).collect()
}
