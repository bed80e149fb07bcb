//! Where the files of an image name or of a `--build-context` come from.

use super::graph::Graph;
use crate::image::{ImageConfig, ImageRef, Platform};
use crate::plan::{Http, Image, NamedContext, Op, OpId};
use crate::span::Span;
use crate::stage::{SCRATCH, Stages};

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
                let http = Http {
                    url: url.clone(),
                    checksum: None,
                    filename: "context".to_owned(),
                };
                graph.source(
                    Op::Http(http),
                    || format!("[context {name}] {url}"),
                    None,
                    "",
                )
            }
        }
    }
}
