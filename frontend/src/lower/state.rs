//! What a stage is while its instructions are walked.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::arg::NOT_IN_ENV;
use super::budget;
use super::graph::Graph;
use super::name::Steps;
use super::outline::Facts;
use crate::env::Env;
use crate::image::{ImageConfig, Platform};
use crate::lint::Warning;
use crate::paths;
use crate::plan::{History, Node, Op, OpId};
use crate::span::Span;
use crate::stage::StageId;
use crate::suggest;

/// Where commands are looked for when an image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// After so many warnings in a stage no more names are compared.
const MAX_SUGGESTIONS: usize = 100;

/// What the instructions of a stage have made so far.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) id: StageId,
    pub(super) fs: OpId,
    pub(super) platform: Platform,
    pub(super) config: ImageConfig,
    pub(super) history: Vec<History>,
    /// ENV and ARG, as steps see them.
    pub(super) env: Env,
    /// Where the variables stand in the config.
    places: BTreeMap<SmolStr, usize>,
    /// The `ARG`s in scope with the value each had where it was declared last.
    pub(super) args: Vec<(SmolStr, Option<SmolStr>)>,
    /// By name: the place in `args`.
    declared: BTreeMap<SmolStr, usize>,
    /// Absolute and clean.
    pub(super) cwd: SmolStr,
    /// A `CMD` stood in this stage.
    pub(super) has_cmd: bool,
    pub(super) steps: Steps,
    /// As [`Node::stage`].
    pub(super) stage: SmolStr,
    pub(super) ignore_cache: bool,
    /// A `WORKDIR` stood in this stage or one that it stands on.
    pub(super) workdir_set: bool,
    pub(super) warnings: Vec<Warning>,
    pub(super) facts: Facts,
    /// The bytes that went into the plan since they were last counted.
    pub(super) used: usize,
    /// The instruction that is being looked at.
    pub(super) at: Span,
}

impl State {
    /// The beginning of a stage, before anything is known of its base.
    pub(super) fn new(
        id: StageId,
        platform: &Platform,
        steps: Steps,
        stage: SmolStr,
        at: Span,
    ) -> Self {
        Self {
            id,
            fs: OpId(0),
            platform: platform.clone(),
            config: empty_image(platform),
            history: Vec::new(),
            env: Env::default(),
            places: BTreeMap::new(),
            args: Vec::new(),
            declared: BTreeMap::new(),
            cwd: "/".into(),
            has_cmd: false,
            steps,
            stage,
            ignore_cache: false,
            workdir_set: false,
            warnings: Vec::new(),
            facts: Facts::default(),
            used: 0,
            at,
        }
    }

    /// Adds an `ARG` to those in scope.
    pub(super) fn declare(&mut self, name: &SmolStr, value: Option<SmolStr>) {
        let place = self.declared.get(name);
        match place.and_then(|place| self.args.get_mut(*place)) {
            Some((_, old)) => *old = value,
            None => {
                self.declared.insert(name.clone(), self.args.len());
                self.args.push((name.clone(), value));
            }
        }
    }

    /// Sets a variable of the image.
    pub(super) fn set_env(&mut self, name: SmolStr, value: SmolStr) {
        let entry = [&name, "=", &value].concat();
        let env = &mut self.config.config.env;
        match self.places.get(&name).and_then(|place| env.get_mut(*place)) {
            Some(old) => *old = entry,
            None => {
                self.places.insert(name.clone(), env.len());
                env.push(entry);
            }
        }
        self.env.set(name, value);
    }

    /// Variables that neither `ENV` nor `ARG` has made known. An `ARG` without a value counts as known.
    pub(super) fn warn_of_unset(&mut self, unset: &BTreeSet<&str>) {
        for name in unset {
            let declared = self.declared.contains_key(*name);
            if !declared && !NOT_IN_ENV.contains(name) {
                let near = match self.warnings.len() {
                    ..MAX_SUGGESTIONS => suggest::nearest(name, self.env.names()),
                    _ => None,
                };
                self.warnings
                    .push(Warning::undefined_var(self.at, name, near));
            }
        }
    }

    /// Adds an entry without a layer.
    pub(super) fn record(&mut self, created_by: String) {
        self.used += created_by.len();
        self.history.push(History {
            created_by,
            layer: None,
        });
    }

    /// The name of the next step.
    pub(super) fn next_step(&mut self, text: &str) -> String {
        self.steps.next(text, &self.platform, &self.env)
    }

    /// Puts an op on top of the stage and adds its history entry.
    pub(super) fn commit(&mut self, graph: &mut Graph, node: Node, created_by: String) {
        self.used += budget::node(&node) + created_by.len();
        self.fs = graph.add(node);
        self.history.push(History {
            created_by,
            layer: Some(self.fs),
        });
    }

    pub(super) fn node(&self, op: Op, name: String, span: Span) -> Node {
        Node {
            op,
            name,
            span: Some(span),
            stage: self.stage.clone(),
            ignore_cache: false,
        }
    }

    /// What the base's config says holds from here on, also over an `ARG` of a parent stage.
    pub(super) fn take_over_config(&mut self) {
        let has_path = self
            .config
            .config
            .env
            .iter()
            .any(|entry| entry.split('=').next() == Some("PATH"));
        if !has_path && self.platform.os != "windows" {
            self.config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        self.places.clear();
        for (place, entry) in self.config.config.env.iter().enumerate() {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            let name = SmolStr::new(name);
            self.env.set(name.clone(), value.into());
            self.places.entry(name).or_insert(place);
        }
        let dir = self.config.config.working_dir.clone();
        if !dir.is_empty() {
            self.change_dir(&dir);
        }
    }

    /// An absolute path stays as it is written in the config, where Docker keeps it so too.
    pub(super) fn change_dir(&mut self, path: &str) {
        let current = &self.config.config.working_dir;
        let dir = if path.starts_with('/') {
            path.into()
        } else {
            let current = if current.starts_with('/') {
                current.clone()
            } else {
                paths::join("/", current).into()
            };
            if path.is_empty() {
                current
            } else {
                paths::join(&current, path).into()
            }
        };
        self.cwd = paths::clean(&dir).into();
        self.config.config.working_dir = dir;
    }
}

/// The config of `scratch`.
pub(super) fn empty_image(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig::default();
    set_platform(&mut config, platform);
    config.config.working_dir = SmolStr::new_static("/");
    if platform.os != "windows" {
        config.config.env.push(format!("PATH={DEFAULT_PATH}"));
    }
    config
}

/// Makes the config say that the image is for this platform. What only the base knows stays where the rest agrees.
pub(super) fn set_platform(config: &mut ImageConfig, platform: &Platform) {
    let same = config.os == platform.os && config.architecture == platform.architecture;
    config.os.clone_from(&platform.os);
    config.architecture.clone_from(&platform.architecture);
    if platform.variant.is_some() || !same {
        config.variant.clone_from(&platform.variant);
    }
    if platform.os_version.is_some() || !same {
        config.os_version.clone_from(&platform.os_version);
    }
}
