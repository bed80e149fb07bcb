//! The nodes of a plan while it grows.

use std::collections::HashMap;

use crate::plan::{Context, History, Node, Op, OpId};
use crate::span::Span;

/// Nodes in the order of their making, so that inputs come before their users.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Those that depend on nothing.
    sources: HashMap<Op, OpId>,
}

impl Graph {
    pub(super) fn add(&mut self, node: Node) -> OpId {
        let id = OpId::at(self.nodes.len());
        self.nodes.push(node);
        id
    }

    /// The node with this op, which is made where there is none. For ops that depend on nothing.
    pub(super) fn source(
        &mut self,
        op: Op,
        name: impl FnOnce() -> String,
        span: Option<Span>,
        stage: &str,
    ) -> OpId {
        if let Some(id) = self.sources.get(&op) {
            return *id;
        }
        let id = self.add(Node {
            op: op.clone(),
            name: name(),
            span,
            stage: stage.into(),
            ignore_cache: false,
        });
        self.sources.insert(op, id);
        id
    }

    /// True for the empty file system.
    pub(super) fn is_scratch(&self, id: OpId) -> bool {
        matches!(self.nodes.get(id.index()), Some(node) if node.op == Op::Scratch)
    }

    pub(super) fn scratch(&mut self) -> OpId {
        self.source(Op::Scratch, || "scratch".to_owned(), None, "")
    }

    /// A local context; the main one has no name.
    pub(super) fn context(&mut self, name: Option<&str>) -> OpId {
        let op = Op::Context(Context {
            name: name.map(str::to_owned),
        });
        let shown = || match name {
            Some(name) => format!("[context {name}] load from client"),
            None => "[internal] load build context".to_owned(),
        };
        self.source(op, shown, None, "")
    }

    /// Keeps what `result` needs, and renumbers. History entries follow.
    pub(super) fn prune(mut self, result: OpId, history: &mut [History]) -> (Vec<Node>, OpId) {
        let mut wanted = vec![false; self.nodes.len()];
        wanted[result.index()] = true;
        for at in (0..=result.index()).rev() {
            if wanted[at] {
                let op = &mut self.nodes[at].op;
                op.each_input(|input| wanted[input.index()] = true);
            }
        }
        let mut next = 0;
        let renumbered: Vec<OpId> = wanted
            .iter()
            .map(|wanted| {
                let id = OpId(next);
                next += u32::from(*wanted);
                id
            })
            .collect();
        let kept = self
            .nodes
            .into_iter()
            .zip(&wanted)
            .filter(|(_, wanted)| **wanted);
        let nodes = kept
            .map(|(mut node, _)| {
                node.op
                    .each_input(|input| *input = renumbered[input.index()]);
                node
            })
            .collect();
        for layer in history.iter_mut().filter_map(|entry| entry.layer.as_mut()) {
            *layer = renumbered[layer.index()];
        }
        (nodes, renumbered[result.index()])
    }
}
