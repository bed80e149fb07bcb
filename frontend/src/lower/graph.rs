//! The nodes of a plan while it grows.

use std::collections::HashMap;

use crate::plan::{Context, CopySource, History, Mount, Node, Op, OpId};
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
        let id = OpId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
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
        matches!(self.nodes.get(index(id)), Some(node) if node.op == Op::Scratch)
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
        wanted[index(result)] = true;
        for at in (0..=index(result)).rev() {
            if wanted[at] {
                let op = &mut self.nodes[at].op;
                each_input(op, |input| wanted[index(*input)] = true);
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
                each_input(&mut node.op, |input| *input = renumbered[index(*input)]);
                node
            })
            .collect();
        for layer in history.iter_mut().filter_map(|entry| entry.layer.as_mut()) {
            *layer = renumbered[index(*layer)];
        }
        (nodes, renumbered[index(result)])
    }
}

fn index(id: OpId) -> usize {
    id.0 as usize
}

/// The nodes that an op reads.
fn each_input(op: &mut Op, mut visit: impl FnMut(&mut OpId)) {
    match op {
        Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => {}
        Op::MakeDir(dir) => visit(&mut dir.base),
        Op::Run(run) => {
            visit(&mut run.base);
            for mount in &mut run.mounts {
                match mount {
                    Mount::Bind { from, .. } => visit(from),
                    Mount::Cache { from, .. } => from.iter_mut().for_each(&mut visit),
                    Mount::Tmpfs { .. } | Mount::Secret { .. } | Mount::Ssh { .. } => {}
                }
            }
        }
        Op::Copy(copy) => {
            visit(&mut copy.base);
            for source in &mut copy.sources {
                match source {
                    CopySource::Path { from, .. } => visit(from),
                    CopySource::Inline { .. } => {}
                }
            }
        }
    }
}
