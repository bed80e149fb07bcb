//! Where the files of a `--from`, an image name or a `--build-context` come from.

use super::graph::Graph;
use super::{Lowering, State};
use crate::ast::Word;
use crate::diag::{Code, Diagnostic};
use crate::image::{ImageConfig, ImageRef, Platform};
use crate::plan::{Http, Image, NamedContext, Op, OpId};
use crate::span::Span;
use crate::stage::{Named, SCRATCH, StageId, Stages};

/// What a name leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    /// The `--build-context` that has the name.
    context: Option<&'a str>,
    kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Scratch,
    Image(&'a ImageRef),
    Other(&'a NamedContext),
}

impl<'a> Origin<'a> {
    /// An image reference: the `--build-context` of that name, or else the image itself.
    pub(super) fn of_image(
        stages: &Stages<'a>,
        reference: &'a ImageRef,
        platform: &Platform,
    ) -> Self {
        match stages.context(&reference.canonical(), platform) {
            Some((name, context)) => Self::of_context(name, context),
            None => Self {
                context: None,
                kind: Kind::Image(reference),
            },
        }
    }

    /// A `--build-context`.
    pub(super) fn of_context(name: &'a str, context: &'a NamedContext) -> Self {
        let kind = match context {
            NamedContext::Image(reference) if reference.familiar_name() == SCRATCH => Kind::Scratch,
            NamedContext::Image(reference) => Kind::Image(reference),
            NamedContext::Local | NamedContext::Git(_) | NamedContext::Http(_) => {
                Kind::Other(context)
            }
        };
        Self {
            context: Some(name),
            kind,
        }
    }

    /// True for a `--build-context`.
    pub(super) fn is_context(self) -> bool {
        self.context.is_some()
    }

    /// The image whose config says more.
    pub(super) fn image(self) -> Option<&'a ImageRef> {
        match self.kind {
            Kind::Image(reference) => Some(reference),
            Kind::Scratch | Kind::Other(_) => None,
        }
    }

    /// The node that yields the files. `name` makes the name of an image's step from its `FROM …`.
    pub(super) fn node(
        self,
        graph: &mut Graph,
        platform: &Platform,
        config: Option<&ImageConfig>,
        (span, stage): (Span, &str),
        name: impl FnOnce(&str) -> String,
    ) -> OpId {
        let reference = match self.kind {
            Kind::Scratch => return graph.scratch(),
            Kind::Image(_) if config.is_some_and(ImageConfig::is_empty) => return graph.scratch(),
            Kind::Image(reference) => reference,
            Kind::Other(other) => return self.other(graph, other),
        };
        let op = Op::Image(Image {
            reference: reference.clone(),
            platform: platform.clone(),
        });
        let text = reference.canonical();
        match self.context {
            Some(context) => graph.source(op, || format!("[context {context}] {text}"), None, ""),
            None => {
                // Stages on the same image share a node, but each counts its `FROM`.
                let name = name(&format!("FROM {text}"));
                graph.source(op, || name, Some(span), stage)
            }
        }
    }

    fn other(self, graph: &mut Graph, context: &NamedContext) -> OpId {
        let name = self.context.unwrap_or_default();
        match context {
            NamedContext::Local | NamedContext::Image(_) => graph.context(Some(name)),
            NamedContext::Git(git) => graph.source(
                Op::Git(git.clone()),
                || format!("[context {name}] {}", git.remote),
                None,
                "",
            ),
            NamedContext::Http(url) => {
                let op = Op::Http(Http::named_context(url));
                graph.source(op, || format!("[context {name}] {url}"), None, "")
            }
        }
    }
}

/// Who takes from what a `--from` names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Taker<'a> {
    Copy,
    /// With its target.
    Mount(&'a str),
}

impl Lowering<'_> {
    /// The file system that a `--from` names.
    pub(super) fn source(
        &mut self,
        state: &mut State,
        from: &Word,
        taker: Taker<'_>,
        span: Span,
    ) -> Result<OpId, Diagnostic> {
        let named = match taker {
            Taker::Copy => self.stages.resolve(from)?,
            Taker::Mount(_) => self.stages.resolve_mount(from)?,
        };
        match named {
            Named::Scratch => Ok(self.graph.scratch()),
            Named::Image(reference) => {
                let platform = &self.inputs.target_platform;
                let origin = Origin::of_image(self.stages, &reference, platform);
                let config = origin
                    .image()
                    .and_then(|image| self.known.config(image, platform));
                if let Some(config) = config.filter(|_| !origin.is_context()) {
                    state.warn_of_platform(&from.value, platform, config);
                }
                Ok(origin.node(
                    &mut self.graph,
                    platform,
                    config,
                    (span, &state.stage),
                    str::to_owned,
                ))
            }
            Named::Stage(id) => match &self.built[id.0] {
                Some(built) => Ok(built.fs),
                None => Err(self.too_early(from, taker, id, state.id)),
            },
        }
    }

    /// A stage that is taken from before it is there.
    fn too_early(
        &self,
        from: &Word,
        taker: Taker<'_>,
        source: StageId,
        taking: StageId,
    ) -> Diagnostic {
        let name = &from.value;
        let message = match taker {
            Taker::Copy => format!(
                "cannot copy from stage {name:?}, it needs to be defined before current stage {:?}",
                self.stages.label(taking)
            ),
            Taker::Mount(target) => format!(
                "cannot mount from stage {name:?} to {target:?}, stage needs to be defined before current command"
            ),
        };
        let source = self.stages.label(source);
        Diagnostic::error(Code::StageReference, from.span, message)
            .hint(format!("move the stage {source} before this one"))
    }
}
