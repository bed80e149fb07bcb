//! What must be known before a stage can be lowered: image configs, and the triggers that they and parent stages hold.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::origin::Origin;
use crate::ast::{Instruction, Kind};
use crate::diag::{Code, Diagnostic};
use crate::image::{ImageConfig, ImageRef, Platform};
use crate::parse_trigger;
use crate::plan::{Answer, Wanted};
use crate::span::Span;
use crate::stage::{Base, Named, StageId, Stages};
use crate::suggest;

/// Images that people often mean.
const COMMON_IMAGES: [&str; 14] = [
    "alpine", "busybox", "centos", "debian", "fedora", "golang", "nginx", "node", "php",
    "postgres", "python", "redis", "rust", "ubuntu",
];

/// Everything that lowering reads besides the Dockerfile.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) reachable: BTreeSet<StageId>,
    /// The triggers that run first in a stage.
    triggers: BTreeMap<StageId, Vec<Instruction>>,
    configs: BTreeMap<(ImageRef, Platform), ImageConfig>,
    /// The stages that a stage's triggers take from.
    sources: BTreeMap<StageId, Vec<StageId>>,
    wanted: Vec<Wanted>,
    /// The images of `wanted`.
    asked: BTreeSet<(ImageRef, Platform)>,
    errors: Vec<Diagnostic>,
}

/// Which stages are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The target and what it needs.
    Target,
    All,
}

/// Finds out what is needed, or what is still missing.
pub(super) fn resolve(stages: &Stages<'_>, scope: Scope) -> Result<Answer<Known>, Vec<Diagnostic>> {
    let mut known = Known::default();
    loop {
        let reachable = match scope {
            Scope::Target => stages.reachable(|id| known.trigger_sources(id).to_vec()),
            Scope::All => (0..stages.stages.len()).map(StageId).collect(),
        };
        let new: Vec<_> = reachable.difference(&known.reachable).copied().collect();
        if new.is_empty() {
            break;
        }
        known.reachable = reachable;
        // A trigger may name stages that nothing else does.
        for id in new {
            let found = known.look_at(stages, id);
            known.sources.insert(id, found);
        }
    }
    match (known.errors.is_empty(), known.wanted.is_empty()) {
        (false, _) => Err(known.errors),
        (true, false) => Ok(Answer::Need(known.wanted)),
        (true, true) => Ok(Answer::Ready(known)),
    }
}

impl Known {
    /// What runs in a stage before its own instructions.
    pub(super) fn triggers(&self, id: StageId) -> &[Instruction] {
        self.triggers
            .get(&id)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The stages that its triggers take from.
    pub(super) fn trigger_sources(&self, id: StageId) -> &[StageId] {
        self.sources.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The config of an image.
    pub(super) fn config(&self, reference: &ImageRef, platform: &Platform) -> Option<&ImageConfig> {
        self.configs.get(&(reference.clone(), platform.clone()))
    }

    /// Notes the images and triggers of a stage; returns the stages that its triggers take from.
    fn look_at(&mut self, stages: &Stages<'_>, id: StageId) -> Vec<StageId> {
        let stage = stages.get(id);
        let platform = stage
            .platform
            .as_ref()
            .unwrap_or(&stages.inputs.target_platform);
        if let Some((name, context)) = stage.context {
            self.want(
                stages,
                Origin::of_context(name, context),
                platform,
                stage.span,
            );
            return Vec::new();
        }
        let texts = match &stage.base {
            Base::Scratch => Vec::new(),
            Base::Stage(base) => stages
                .get(*base)
                .instructions
                .iter()
                .filter_map(trigger)
                .collect(),
            Base::Image(reference) => {
                let origin = Origin::of_image(stages, reference, platform);
                self.want(stages, origin, platform, stage.span);
                let config = origin
                    .image()
                    .and_then(|image| self.config(image, platform));
                config
                    .map(|config| config.config.on_build.clone())
                    .unwrap_or_default()
            }
        };
        let triggers = self.parse(&texts, stage.span);
        let mut sources = Vec::new();
        for instruction in &triggers {
            match stages.sources(instruction) {
                Ok(found) => found.into_iter().for_each(|named| match named {
                    Named::Scratch => {}
                    Named::Stage(id) => sources.push(id),
                    Named::Image(reference) => self.want_source(stages, &reference, stage.span),
                }),
                Err(error) => self.errors.push(Diagnostic {
                    span: stage.span,
                    ..error
                }),
            }
        }
        for (reference, span) in &stage.images {
            self.want_source(stages, reference, *span);
        }
        self.triggers.insert(id, triggers);
        sources
    }

    /// Reads triggers. They have no place in the file: errors are shown at the `FROM`.
    fn parse(&mut self, texts: &[SmolStr], span: Span) -> Vec<Instruction> {
        let mut triggers = Vec::new();
        for text in texts {
            match parse_trigger(text) {
                Ok(Instruction {
                    kind: Kind::From(_) | Kind::Onbuild(_),
                    keyword,
                    ..
                }) => {
                    let message = format!(
                        "{} isn't allowed as an ONBUILD trigger",
                        keyword.value.to_uppercase()
                    );
                    self.errors
                        .push(Diagnostic::error(Code::Onbuild, span, message));
                }
                Ok(instruction) => triggers.push(Instruction {
                    span,
                    ..instruction
                }),
                Err(error) => self.errors.push(at_from(error, span, text)),
            }
        }
        triggers
    }

    /// Images that are only copied or mounted from are for the target platform.
    fn want_source(&mut self, stages: &Stages<'_>, reference: &ImageRef, span: Span) {
        let platform = &stages.inputs.target_platform;
        let origin = Origin::of_image(stages, reference, platform);
        self.want(stages, origin, platform, span);
    }

    /// Reads the config of an image, or notes that it is missing.
    fn want(&mut self, stages: &Stages<'_>, origin: Origin<'_>, platform: &Platform, span: Span) {
        let Some(reference) = origin.image() else {
            return;
        };
        let key = (reference.clone(), platform.clone());
        if self.configs.contains_key(&key) {
            return;
        }
        let Some(json) = stages.inputs.images.get(&key) else {
            if self.asked.insert(key.clone()) {
                let name = key.0.familiar_name();
                let names = stages.names().chain(COMMON_IMAGES);
                self.wanted.push(Wanted {
                    near: suggest::nearest(&name, names).map(str::to_owned),
                    reference: key.0,
                    platform: key.1,
                    span,
                });
            }
            return;
        };
        match ImageConfig::from_json(json) {
            Ok(config) => drop(self.configs.insert(key, config)),
            Err(reason) => {
                let message = format!("failed to parse image config of {reference}: {reason}");
                self.errors
                    .push(Diagnostic::error(Code::ImageConfig, span, message));
            }
        }
    }
}

/// An error in a trigger, which has no place in the file: shown at the `FROM`, with the trigger.
pub(super) fn at_from(error: Diagnostic, span: Span, trigger: &str) -> Diagnostic {
    let hint = error
        .hint
        .map(|hint| format!("{hint} "))
        .unwrap_or_default();
    Diagnostic {
        span,
        hint: Some(format!("{hint}(in the ONBUILD trigger {trigger:?})")),
        ..error
    }
}

/// The text of an `ONBUILD`.
fn trigger(instruction: &Instruction) -> Option<SmolStr> {
    match &instruction.kind {
        Kind::Onbuild(onbuild) => Some(onbuild.trigger.value.clone()),
        _ => None,
    }
}
