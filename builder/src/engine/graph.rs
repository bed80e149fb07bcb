//! The build graph and the state of each op. All changes of state go through [`Graph::set`].

use std::collections::{HashSet, VecDeque};

use lapstrake_frontend::plan::{Node, Op, OpId};

use super::Task;
use crate::fs::Fs;

/// Where an op stands.
#[derive(Debug)]
enum State {
    /// Nothing that was asked for needs it.
    Unwanted,
    /// That many of its inputs are not done.
    Waiting(usize),
    /// All inputs are done.
    Ready,
    /// A worker has it.
    Running,
    /// It yielded this.
    Done(Fs),
    /// It failed.
    Failed,
}

/// Ops, who needs whom, and how far each one is.
pub(crate) struct Graph {
    nodes: Vec<Node>,
    users: Vec<Vec<OpId>>,
    states: Vec<State>,
    /// Ready ops by rank, lowest id first, so that runs with the same timing give the same log.
    ready: std::collections::BTreeSet<(u8, OpId)>,
}

impl Graph {
    /// A graph of `nodes`, of which `wanted` and what they need will be worked.
    pub(crate) fn new(nodes: Vec<Node>, wanted: &[OpId]) -> Self {
        let mut graph = Self {
            users: vec![Vec::new(); nodes.len()],
            states: nodes.iter().map(|_| State::Unwanted).collect(),
            ready: std::collections::BTreeSet::new(),
            nodes,
        };
        let mut todo: VecDeque<OpId> = wanted.iter().copied().collect();
        while let Some(id) = todo.pop_front() {
            if matches!(graph.states[id.index()], State::Unwanted) {
                let mut inputs = graph.nodes[id.index()].op.inputs();
                inputs.sort_unstable();
                inputs.dedup();
                graph.set(id, State::Waiting(inputs.len()));
                for input in inputs {
                    graph.users[input.index()].push(id);
                    todo.push_back(input);
                }
            }
        }
        graph
    }

    /// The only place where an op changes its state.
    fn set(&mut self, id: OpId, state: State) {
        let state = if let State::Waiting(0) = state {
            State::Ready
        } else {
            state
        };
        if let State::Ready = state {
            self.ready.insert((self.rank(id), id));
        }
        self.states[id.index()] = state;
    }

    /// Sources come first: what is at hand takes no time, and what is not takes the longest.
    fn rank(&self, id: OpId) -> u8 {
        let op = &self.nodes[id.index()].op;
        u8::from(!matches!(op, Op::Scratch | Op::Image(_) | Op::Context(_)))
    }

    /// Takes the next ready op; its task owns all that a worker needs.
    pub(crate) fn start_next(&mut self) -> Option<Task> {
        let (_, id) = self.ready.pop_first()?;
        self.set(id, State::Running);
        let node = self.nodes[id.index()].clone();
        let inputs = node
            .op
            .inputs()
            .into_iter()
            .filter_map(|id| Some((id, self.result(id)?.clone())))
            .collect();
        Some(Task {
            id,
            node,
            inputs,
            believes: true,
        })
    }

    /// Whether another op could be started now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Notes what a running op yielded and makes those ready that waited for it.
    pub(crate) fn done(&mut self, id: OpId, fs: Fs) {
        self.set(id, State::Done(fs));
        for user in self.users[id.index()].clone() {
            if let State::Waiting(missing) = self.states[user.index()] {
                self.set(user, State::Waiting(missing - 1));
            }
        }
    }

    /// Notes that a running op failed; what needs it is never started.
    pub(crate) fn failed(&mut self, id: OpId) {
        self.set(id, State::Failed);
    }

    /// Makes those ops wanted again that failed or whose results are `lost`, and all that read them.
    pub(crate) fn redo(&mut self, lost: &dyn Fn(&Fs) -> bool) {
        let mut again: HashSet<OpId> = HashSet::new();
        // Inputs come before their users.
        for at in 0..self.nodes.len() {
            let id = OpId::at(at);
            let keep = match &self.states[at] {
                State::Unwanted => true,
                State::Done(fs) => !lost(fs),
                _ => false,
            };
            let mut inputs = self.nodes[at].op.inputs();
            inputs.retain(|input| again.contains(input));
            inputs.sort_unstable();
            inputs.dedup();
            if !keep || (!inputs.is_empty() && !matches!(self.states[at], State::Unwanted)) {
                again.insert(id);
                let rank = self.rank(id);
                self.ready.remove(&(rank, id));
                self.set(id, State::Waiting(inputs.len()));
            }
        }
    }

    /// What `id` yielded, once it is done.
    pub(crate) fn result(&self, id: OpId) -> Option<&Fs> {
        match &self.states[id.index()] {
            State::Done(fs) => Some(fs),
            _ => None,
        }
    }

    /// What all ops yielded that are done, in their order.
    pub(crate) fn results(&self) -> Vec<&Fs> {
        let ids = (0..self.nodes.len()).map(OpId::at);
        ids.filter_map(|id| self.result(id)).collect()
    }

    /// All ops that are done.
    pub(crate) fn ops(&self) -> impl Iterator<Item = &Op> {
        let states = self.nodes.iter().zip(&self.states);
        let done = states.filter(|(_, state)| matches!(state, State::Done(_)));
        done.map(|(node, _)| &node.op)
    }

    /// The ops that `results` are stacked on, themselves included.
    pub(crate) fn layers_of(&self, results: &[OpId]) -> HashSet<OpId> {
        let mut found = HashSet::new();
        for result in results {
            let mut next = Some(*result);
            while let Some(id) = next.filter(|id| found.insert(*id)) {
                next = self.node(id).op.base();
            }
        }
        found
    }

    /// The node of an op.
    pub(crate) fn node(&self, id: OpId) -> &Node {
        &self.nodes[id.index()]
    }
}
