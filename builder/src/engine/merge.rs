//! Several plans, one per platform, as one graph: an op that two platforms share is worked once.

use std::collections::HashMap;

use lapstrake_frontend::plan::{Node, Op, OpId, Plan};

/// The nodes of all plans, and for each plan where its ops went.
pub(crate) struct Merged {
    pub(crate) nodes: Vec<Node>,
    pub(crate) places: Vec<Vec<OpId>>,
}

/// Merges `plans`; equal ops on equal inputs become one node.
pub(crate) fn merge(plans: &[Plan]) -> Merged {
    let mut known: HashMap<(Op, bool), OpId> = HashMap::new();
    let mut merged = Merged {
        nodes: Vec::new(),
        places: Vec::new(),
    };
    for plan in plans {
        let mut places: Vec<OpId> = Vec::with_capacity(plan.nodes.len());
        for node in &plan.nodes {
            let mut node = node.clone();
            // Inputs come before users, so every input has its place already.
            node.op.each_input(|id| *id = places[id.index()]);
            let next = OpId::at(merged.nodes.len());
            let place = *known
                .entry((node.op.clone(), node.ignore_cache))
                .or_insert(next);
            if place == next {
                merged.nodes.push(node);
            }
            places.push(place);
        }
        merged.places.push(places);
    }
    merged
}
