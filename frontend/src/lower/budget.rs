//! How much text a plan may hold.
//!
//! Every step carries the whole environment, and a value may be built from others: a short Dockerfile can ask for a plan
//! of any size. What is copied is counted, and where it is out of all proportion to the source the Dockerfile is refused.

use smol_str::SmolStr;

use super::State;
use crate::diag::{Code, Diagnostic};
use crate::plan::{Copy, CopySource, Mount, Node, Op, Run};
use crate::span::Span;

/// More than any image needs, less than harms the machine.
const FREE: usize = 256 << 20;

/// What each byte of the source adds to that: it may stand in a name, in the history and in an argument vector.
const PER_BYTE: usize = 16;

/// What a string costs besides its bytes.
pub(super) const ENTRY: usize = 64;

/// Counts what goes into a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    /// Of a Dockerfile of this many bytes.
    pub(super) fn new(source: usize) -> Self {
        let left = FREE + source * PER_BYTE;
        Self { left }
    }

    /// Takes what was used since the last time.
    pub(super) fn take(&mut self, used: usize, span: Span) -> Result<(), Diagnostic> {
        match self.left.checked_sub(used) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Diagnostic::error(
                Code::PlanTooLarge,
                span,
                format!(
                    "variables and history take more than {} MiB here",
                    FREE >> 20
                ),
            )
            .hint("use fewer or shorter variables, or set them where they are needed")),
        }
    }
}

impl State {
    /// What a stage that begins with this state copies.
    pub(super) fn weight(&self) -> usize {
        let config = &self.config.config;
        let args = self.args.iter().map(|(name, value)| {
            let value = value.as_ref().map_or(0, SmolStr::len);
            ENTRY + name.len() + value
        });
        let labels = config
            .labels
            .iter()
            .map(|(name, value)| 2 * ENTRY + name.len() + value.len());
        let ports = config.exposed_ports.keys();
        let keys = ports
            .chain(config.volumes.keys())
            .map(|key| 2 * ENTRY + key.len());
        let lists = [&config.cmd, &config.entrypoint, &config.shell];
        let words = lists.into_iter().flatten().map(|list| strings(list));
        let env = 2 * pairs(self.env.iter());
        env + args.chain(labels).chain(keys).chain(words).sum::<usize>()
    }
}

/// What a node takes.
pub(super) fn node(node: &Node) -> usize {
    let op = match &node.op {
        Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => 0,
        Op::Run(run) => run_op(run),
        Op::Copy(copy) => copy_op(copy),
        // The path is put together and cleaned a few times over.
        Op::MakeDir(dir) => 32 * dir.path.len() + dir.user.len(),
    };
    op + node.name.len() + node.stage.len()
}

fn run_op(run: &Run) -> usize {
    let own = run.cwd.len() + run.user.len() + strings(&run.argv);
    own + pairs(run.env.iter())
        + pairs(run.script.iter())
        + run.mounts.iter().map(mount).sum::<usize>()
}

fn copy_op(copy: &Copy) -> usize {
    let sources = copy.sources.iter().map(|source| match source {
        CopySource::Path { pattern, .. } => pattern.len(),
        CopySource::Inline { name, text } => name.len() + text.len(),
    });
    copy.destination.len() + sources.sum::<usize>() + strings(&copy.excludes)
}

fn mount(mount: &Mount) -> usize {
    match mount {
        Mount::Bind { target, source, .. } => target.len() + source.len(),
        Mount::Cache {
            target, id, source, ..
        } => target.len() + id.len() + source.len(),
        Mount::Tmpfs { target, .. } => target.len(),
        Mount::Secret {
            target, id, env, ..
        } => {
            let optional = [target, env].into_iter().flatten();
            id.len() + optional.map(String::len).sum::<usize>()
        }
        Mount::Ssh { target, id, .. } => target.len() + id.len(),
    }
}

fn strings(all: &[impl AsRef<str>]) -> usize {
    all.iter().map(|text| text.as_ref().len() + ENTRY / 2).sum()
}

fn pairs<'a, N, V>(all: impl Iterator<Item = &'a (N, V)>) -> usize
where
    N: AsRef<str> + 'a,
    V: AsRef<str> + 'a,
{
    all.map(|(name, value)| ENTRY + name.as_ref().len() + value.as_ref().len())
        .sum()
}
