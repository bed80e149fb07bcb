//! `FROM`: what a stage begins with.

use smol_str::format_smolstr;

use super::Lowering;
use super::name::Steps;
use super::origin::Origin;
use super::state::{State, empty_image};
use crate::ast::Kind;
use crate::image::{Config, ImageConfig, Platform};
use crate::lint::Warning;
use crate::plan::NoCache;
use crate::span::Span;
use crate::stage::{Base, Stage, StageId};

impl Lowering<'_> {
    /// The state after the `FROM`.
    pub(super) fn begin(&mut self, id: StageId, stage: &Stage<'_>) -> State {
        let platform = stage
            .platform
            .as_ref()
            .unwrap_or(&self.inputs.target_platform);
        let label = match &stage.name {
            Some(name) => name.into(),
            None => format_smolstr!("{}", id.0),
        };
        let mut state = State::new(id, platform, self.steps(id, stage), label, stage.span);
        state.ignore_cache = self.ignores_cache(stage);
        match (stage.context, &stage.base) {
            (Some((name, context)), _) => {
                state.config.config = Config::default();
                self.begin_with(&mut state, stage, Origin::of_context(name, context));
                if !state.config.os.is_empty() && !state.config.architecture.is_empty() {
                    state.platform = state.config.platform();
                }
            }
            (None, Base::Image(reference)) => {
                self.begin_with(
                    &mut state,
                    stage,
                    Origin::of_image(self.stages, reference, platform),
                );
            }
            (None, Base::Scratch) => {
                state.platform = self.inputs.target_platform.clone();
                state.config = empty_image(&state.platform);
                state.fs = self.graph.scratch();
            }
            (None, Base::Stage(base)) => {
                if let Some(base) = self.take_base(*base, stage.span) {
                    let new = std::mem::replace(&mut state, base);
                    (state.id, state.at, state.has_cmd) = (id, new.at, false);
                    (state.steps, state.stage) = (new.steps, new.stage);
                    state.ignore_cache = new.ignore_cache;
                    state.config.config.on_build.clear();
                }
            }
        }
        state
    }

    /// The state that a stage goes on with. The last stage on a base takes the base's own, so that a chain of stages copies
    /// nothing.
    fn take_base(&mut self, base: StageId, span: Span) -> Option<State> {
        let built = self.built.get_mut(base.0)?.as_mut()?;
        self.children[base.0] = self.children[base.0].saturating_sub(1);
        if self.children[base.0] == 0
            && let Some(state) = built.state.take()
        {
            return Some(state);
        }
        let state = built.state.as_ref()?;
        if let Err(error) = self.budget.take(state.weight(), span) {
            self.stop(error);
            return None;
        }
        Some(state.clone())
    }

    /// Begins with an image or a `--build-context`.
    fn begin_with(&mut self, state: &mut State, stage: &Stage<'_>, origin: Origin<'_>) {
        let config = origin
            .image()
            .and_then(|image| self.known.config(image, &state.platform));
        if let Some(config) = config {
            if stage.platform.is_none() && self.inputs.implicit_platform {
                state.platform = self.detect(config);
            }
            if !origin.is_context() {
                let expected = state.platform.clone();
                state.warn_of_platform(&stage.image, &expected, config);
            }
            state.config = ImageConfig {
                created: None,
                ..config.clone()
            };
            state.config.config.on_build.clear();
        }
        let (steps, env, platform) = (&mut state.steps, &state.env, &state.platform);
        let name = |text: &str| steps.next(text, platform, env);
        let wanted = stage
            .platform
            .as_ref()
            .unwrap_or(&self.inputs.target_platform);
        state.fs = origin.node(
            &mut self.graph,
            wanted,
            config,
            (stage.span, &state.stage),
            name,
        );
    }

    /// Without `--platform`, an image that is for this machine too keeps its own platform.
    fn detect(&self, config: &ImageConfig) -> Platform {
        let target = &self.inputs.target_platform;
        let build = &self.inputs.build_platform;
        let same = |p: &Platform| p.os == config.os && p.architecture == config.architecture;
        if !same(target) && same(build) {
            build.clone()
        } else {
            target.clone()
        }
    }

    fn steps(&self, id: StageId, stage: &Stage<'_>) -> Steps {
        let own = stage.instructions.iter().filter(|i| {
            matches!(
                i.kind,
                Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
            )
        });
        let triggers = self.known.triggers(id).len();
        let from = usize::from(matches!(stage.base, Base::Image(_)));
        Steps {
            label: if self.labelled {
                self.stages.label(id)
            } else {
                String::new()
            },
            total: from + own.count() + triggers,
            with_platform: self.inputs.multi_platform,
            ..Steps::default()
        }
    }

    fn ignores_cache(&self, stage: &Stage<'_>) -> bool {
        match &self.inputs.no_cache {
            NoCache::Use => false,
            NoCache::All => true,
            NoCache::Stages(names) => {
                let own = stage.name.as_deref().unwrap_or_default();
                names.iter().any(|name| name.eq_ignore_ascii_case(own))
            }
        }
    }
}

impl State {
    /// Warns where an image is for another platform than the one that was asked for.
    pub(super) fn warn_of_platform(
        &mut self,
        image: &str,
        expected: &Platform,
        config: &ImageConfig,
    ) {
        let (expected, actual) = (expected.normalized(), config.platform().normalized());
        let fits = expected.os == actual.os && expected.architecture == actual.architecture;
        if !fits && !config.is_empty() {
            let (expected, actual) = (expected.to_string(), actual.to_string());
            self.warnings.push(Warning::invalid_base_image_platform(
                self.at, image, &expected, &actual,
            ));
        }
    }
}
