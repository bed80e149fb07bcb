//! The edges of the graph: which ops an op reads.

use super::{CopySource, Mount, Op, OpId};

impl OpId {
    /// The id of the op at this place of [`super::Plan::nodes`]. A plan is never so long that ids run out.
    pub fn at(place: usize) -> Self {
        Self(u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// The place of the op in [`super::Plan::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Op {
    /// What the op changes; `None` for one that begins a file system.
    pub fn base(&self) -> Option<OpId> {
        match self {
            Self::Run(run) => Some(run.base),
            Self::Copy(copy) => Some(copy.base),
            Self::MakeDir(make) => Some(make.base),
            Self::Scratch | Self::Image(_) | Self::Context(_) | Self::Http(_) | Self::Git(_) => {
                None
            }
        }
    }

    /// The ops whose results the op reads, in order of mention.
    pub fn inputs(&self) -> Vec<OpId> {
        let mut inputs = Vec::new();
        self.clone().each_input(|input| inputs.push(*input));
        inputs
    }

    /// Shows every input of the op to `visit`, which may rename it.
    pub fn each_input(&mut self, mut visit: impl FnMut(&mut OpId)) {
        match self {
            Self::Scratch | Self::Image(_) | Self::Context(_) | Self::Http(_) | Self::Git(_) => {}
            Self::MakeDir(make) => visit(&mut make.base),
            Self::Run(run) => {
                visit(&mut run.base);
                for mount in &mut run.mounts {
                    match mount {
                        Mount::Bind { from, .. } => visit(from),
                        Mount::Cache { from, .. } => from.iter_mut().for_each(&mut visit),
                        Mount::Tmpfs { .. } | Mount::Secret { .. } | Mount::Ssh { .. } => {}
                    }
                }
            }
            Self::Copy(copy) => {
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
}
