//! What differs between a step and the same step of the last time.

use std::collections::{HashMap, HashSet};

use lapstrake_cache::{Content, Part, Store};
use lapstrake_frontend::plan::{Node, OpId};

use super::listing::{self, Difference};
use super::{Outcome, Step, patterns};

/// So many changed files are named.
const NAMED: usize = 8;

/// Whether an old step fits a new one.
type Test = dyn Fn(&Step, &Step) -> bool;

/// Finds for each new step the one of the last time that it is compared with: first those with the same definition,
/// then with the same text, then those of the same kind, at the same place if possible. Those of a build of the same target
/// and platform come before all others. Each old step serves once.
pub(super) fn pair(known: &[&Step], steps: &[Step]) -> Vec<Option<usize>> {
    let mut pairs = vec![None; steps.len()];
    let mut taken = vec![false; known.len()];
    let tests: [&Test; 4] = [
        &|old, new| old.definition == new.definition && old.instruction() == new.instruction(),
        &|old, new| old.instruction() == new.instruction(),
        &|old, new| old.kind() == new.kind() && old.place == new.place,
        &|old, new| old.kind() == new.kind(),
    ];
    let of_same_build = tests.iter().map(|test| (true, *test));
    for (same_build, test) in of_same_build.chain(tests.iter().map(|test| (false, *test))) {
        for (at, new) in steps.iter().enumerate() {
            if pairs[at].is_some() {
                continue;
            }
            let fits = |old: usize| {
                let (is_taken, old) = (taken[old], known[old]);
                let fits_build = !same_build || old.build == new.build;
                !is_taken && fits_build && old.stage == new.stage && test(old, new)
            };
            if let Some(old) = (0..known.len()).find(|old| fits(*old)) {
                taken[old] = true;
                pairs[at] = Some(old);
            }
        }
    }
    pairs
}

fn value<'a>(parts: &'a [Part], name: &str) -> Option<&'a str> {
    let part = parts.iter().find(|part| part.name == name)?;
    Some(&part.value)
}

/// All that reasons are found in.
pub(super) struct Context<'a> {
    pub(super) store: &'a Store,
    pub(super) nodes: &'a [Node],
    /// The node of each step.
    pub(super) places: &'a [OpId],
    pub(super) steps: &'a [Step],
    /// Nodes whose results were too old.
    pub(super) expired: &'a HashSet<OpId>,
    pub(super) known: &'a [&'a Step],
    pub(super) pairs: &'a [Option<usize>],
}

impl Context<'_> {
    /// Why the step was worked; nothing for a hit.
    pub(super) fn reasons(&self, at: usize) -> Vec<String> {
        let new = &self.steps[at];
        let old = self.pairs[at].map(|old| self.known[old]);
        if new.key.is_none() {
            return old
                .and_then(|old| image_change(old, new))
                .into_iter()
                .collect();
        }
        if matches!(new.outcome, Some(Outcome::Hit)) {
            return Vec::new();
        }
        if self.nodes[self.places[at].index()].ignore_cache {
            return vec!["the cache was not to be used".to_owned()];
        }
        if self.expired.contains(&self.places[at]) {
            return vec!["its result is older than --cache-ttl allows".to_owned()];
        }
        let Some(old) = old else {
            return vec!["it was not worked before".to_owned()];
        };
        if old.key == new.key {
            return vec!["its result is no longer in the store".to_owned()];
        }
        let changes = self.changes(at, old, new);
        if changes.is_empty() {
            return vec!["it was not worked before".to_owned()];
        }
        changes
    }

    fn changes(&self, at: usize, old: &Step, new: &Step) -> Vec<String> {
        let mut reasons = Vec::new();
        for name in names(&old.parts, &new.parts) {
            let (before, after) = (values(&old.parts, name), values(&new.parts, name));
            if before == after {
                continue;
            }
            let reason = match name {
                "base" => self.base_change(at),
                "selection" => self.files(at, old, new),
                "argv" => "the command changed".to_owned(),
                "sources" | "inline" | "text" => "its sources changed".to_owned(),
                _ if mounted(name, new).is_some() => self.mounted_files(name, old, new),
                _ => change(name, &before, &after),
            };
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        reasons
    }

    /// What the step stands on is another thing: the first step or image below it that changed says why.
    fn base_change(&self, at: usize) -> String {
        let mut id = self.nodes[self.places[at].index()].op.base();
        while let Some(base) = id {
            if let Some(step) = self.places.iter().position(|place| *place == base) {
                let new = &self.steps[step];
                let old = self.pairs[step].map(|old| self.known[old]);
                if let Some(change) = old.and_then(|old| image_change(old, new)) {
                    return change;
                }
                let same = |old: &Step| old.key == new.key && old.parts == new.parts;
                if !old.is_some_and(same) || matches!(new.outcome, Some(Outcome::Miss)) {
                    return format!("it stands on {}, which changed", new.name);
                }
            }
            id = self.nodes[base.index()].op.base();
        }
        "what it stands on changed".to_owned()
    }

    fn files(&self, at: usize, old: &Step, new: &Step) -> String {
        let what = patterns(&self.nodes[self.places[at].index()].op).join(" ");
        match self.differences(old.selection, new.selection) {
            Some(differences) => describe(&differences),
            None => format!("what {what} selects changed"),
        }
    }

    fn mounted_files(&self, name: &str, old: &Step, new: &Step) -> String {
        let content = |step| mounted(name, step).map(|(_, content)| *content);
        let differences = self.differences(content(old), content(new));
        let target = mounted(name, new).map_or("", |(target, _)| target);
        match differences.filter(|differences| !differences.is_empty()) {
            Some(differences) => format!("bind mount {target}: {}", describe(&differences)),
            None => format!("bind mount {target}: what it reads changed"),
        }
    }

    /// `None` where there are no lists to compare.
    fn differences(&self, old: Option<Content>, new: Option<Content>) -> Option<Vec<Difference>> {
        let listing = |content| listing::load(self.store, &content).ok()?;
        Some(listing::compare(&listing(old?)?, &listing(new?)?))
    }
}

/// What the bind mount reads whose content the part `name` is, and the mount's target.
fn mounted<'a>(name: &str, step: &'a Step) -> Option<&'a (String, Content)> {
    let target = name.strip_prefix("mount ")?.strip_suffix(" content")?;
    step.mounts.iter().find(|(mount, _)| mount == target)
}

/// `2 files changed: src/a.py (content), src/b.py (new)`.
fn describe(differences: &[Difference]) -> String {
    let count = match differences.len() {
        0 => return "the names of the files changed".to_owned(),
        1 => "1 file changed".to_owned(),
        count => format!("{count} files changed"),
    };
    let named: Vec<String> = differences
        .iter()
        .take(NAMED)
        .map(|Difference { path, what }| format!("{path} ({what})"))
        .collect();
    let more = match differences.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{count}: {}{more}", named.join(", "))
}

fn image_change(old: &Step, new: &Step) -> Option<String> {
    let (before, after) = (value(&old.parts, "digest")?, value(&new.parts, "digest")?);
    let (from, to) = (value(&old.parts, "image")?, value(&new.parts, "image")?);
    if from != to {
        return Some(format!("base image: {to} instead of {from}"));
    }
    (before != after).then(|| format!("base image: new digest {after} (was {before})"))
}

/// `env NODE_ENV changed`, `user changed from a to b`.
fn change(name: &str, before: &[&str], after: &[&str]) -> String {
    match (before, after) {
        ([], [_, ..]) => format!("{name} is new"),
        ([_, ..], []) => format!("{name} is gone"),
        ([from], [to]) if is_plain(from) && is_plain(to) => {
            format!("{name} changed from {from} to {to}")
        }
        _ => format!("{name} changed"),
    }
}

/// Whether a value tells people something: digests do not.
fn is_plain(value: &str) -> bool {
    let is_digest = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    !value.is_empty() && !is_digest && !value.starts_with("blake3:")
}

/// The names of all parts, each once, in the order of the new step.
fn names<'a>(old: &'a [Part], new: &'a [Part]) -> Vec<&'a str> {
    let mut seen = HashMap::new();
    let all = new.iter().chain(old).map(|part| part.name.as_str());
    all.filter(|name| seen.insert(*name, ()).is_none())
        .collect()
}

fn values<'a>(parts: &'a [Part], name: &str) -> Vec<&'a str> {
    let named = parts.iter().filter(|part| part.name == name);
    named.map(|part| part.value.as_str()).collect()
}
