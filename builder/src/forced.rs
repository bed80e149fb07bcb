//! Steps that are worked whatever the store has: single ones of `--no-cache-filter`, and `--rebuild-from` a line.

use std::collections::HashSet;

use lapstrake_frontend::plan::{Node, OpId, Plan};
use lapstrake_frontend::span::Span;

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forced {
    /// Stage and number, as progress shows them.
    pub(crate) steps: Vec<(String, u32)>,
    /// The line of `--rebuild-from`, and where it is in the Dockerfile.
    pub(crate) from: Option<(u32, Span)>,
}

/// Marks the steps in `plans`. The error is what matches no step.
pub(crate) fn apply(forced: &Forced, plans: &mut [Plan]) -> Result<(), String> {
    let Forced { steps, from } = forced;
    for (stage, number) in steps {
        let mut found = false;
        for node in plans.iter_mut().flat_map(|plan| &mut plan.nodes) {
            if is_step(node, stage, *number) {
                node.ignore_cache = true;
                found = true;
            }
        }
        if !found {
            return Err(format!(
                "--no-cache-filter {stage}:{number}: the build has no such step"
            ));
        }
    }
    if let Some((line, place)) = from {
        let mut found = false;
        for plan in plans.iter_mut() {
            found |= mark_from(plan, *place);
        }
        if !found {
            return Err(format!(
                "--rebuild-from {line}: the build has no step on this line of the Dockerfile"
            ));
        }
    }
    Ok(())
}

/// Whether `[stage 3/7]` or `[linux/amd64 stage 3/7]` is what a step is called. Where there is one stage only, its steps
/// have just a number.
fn is_step(node: &Node, stage: &str, number: u32) -> bool {
    let Some((head, _)) = node.name.split_once(']') else {
        return false;
    };
    let mut words = head.trim_start_matches('[').rsplit(' ');
    let place = words.next().and_then(|place| place.split('/').next());
    let named = words.next().unwrap_or_default();
    let is_stage = [named, node.stage.as_str()]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(stage));
    is_stage && place.and_then(|place| place.parse().ok()) == Some(number)
}

/// Marks the steps on a line, and all that depend on them; whether there are any.
fn mark_from(plan: &mut Plan, place: Span) -> bool {
    let mut marked: HashSet<OpId> = HashSet::new();
    for at in 0..plan.nodes.len() {
        let node = &plan.nodes[at];
        let on_line = node
            .span
            .is_some_and(|span| span.start < place.end && place.start < span.end);
        // Inputs come before their users.
        let depends = || node.op.inputs().iter().any(|input| marked.contains(input));
        if on_line || depends() {
            marked.insert(OpId::at(at));
            plan.nodes[at].ignore_cache = true;
        }
    }
    !marked.is_empty()
}
