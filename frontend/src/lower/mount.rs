//! `RUN --mount`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Lowering, State, Taker};
use crate::ast::{Instruction, Run};
use crate::diag::{Code, Diagnostic};
use crate::plan::{Mount, OpId};
use crate::span::{Span, Spanned};
use crate::{MountError, MountKind, MountSpec, parse_mount, paths};

impl Lowering<'_> {
    /// The mounts of a step. Of several on one target the last is the one that is seen.
    pub(super) fn mounts(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<Vec<Mount>, Diagnostic> {
        let mut mounts: Vec<Mount> = Vec::with_capacity(run.mounts.len());
        let mut agents = 0;
        for raw in &run.mounts {
            let mut expand = |text: &str| self.expand_text(state, text).map(Cow::into_owned);
            let spec = parse_mount(&raw.value, &mut expand)
                .map_err(|error: MountError| error.diagnostic(raw.span))?;
            let mount = match spec.kind {
                MountKind::Bind => self.bind(state, &spec, raw.span, instruction.span)?,
                MountKind::Cache => self.cache(state, &spec, raw.span, instruction.span)?,
                MountKind::Tmpfs => Mount::Tmpfs {
                    target: target(state, spec.target.as_deref(), raw.span)?,
                    size: spec.size,
                },
                MountKind::Secret => secret(state, spec, raw.span)?,
                MountKind::Ssh => {
                    agents += 1;
                    ssh(state, spec, agents - 1, raw.span)?
                }
            };
            mounts.push(mount);
        }
        if mounts.len() > 1 {
            let mut seen = BTreeSet::new();
            let last = |mount| target_of(mount).is_none_or(|target| seen.insert(target));
            let mut last: Vec<bool> = mounts.iter().rev().map(last).collect();
            mounts.retain(|_| last.pop().unwrap_or_default());
        }
        Ok(mounts)
    }

    fn bind(
        &mut self,
        state: &mut State,
        spec: &MountSpec,
        raw: Span,
        step: Span,
    ) -> Result<Mount, Diagnostic> {
        let target = target(state, spec.target.as_deref(), raw)?;
        let from = self.mount_source(state, spec, raw, step)?;
        let from = from.unwrap_or_else(|| self.graph.context(None));
        let source = paths::join("/", spec.source.as_deref().unwrap_or_default());
        Ok(Mount::Bind {
            target,
            from,
            source,
            writable: !spec.readonly,
        })
    }

    /// Without an id the target as it is written is one, so that the same words name the same cache everywhere.
    fn cache(
        &mut self,
        state: &mut State,
        spec: &MountSpec,
        raw: Span,
        step: Span,
    ) -> Result<Mount, Diagnostic> {
        let target = target(state, spec.target.as_deref(), raw)?;
        let from = self.mount_source(state, spec, raw, step)?;
        let namespace = self
            .inputs
            .build_args
            .get("BUILDKIT_CACHE_MOUNT_NS")
            .map_or("", String::as_str);
        let id = match &spec.id {
            Some(id) => id.clone(),
            None => paths::clean(spec.target.as_deref().unwrap_or_default()),
        };
        Ok(Mount::Cache {
            target,
            id: format!("{namespace}/{id}"),
            sharing: spec.sharing.unwrap_or_default(),
            readonly: spec.readonly,
            from,
            source: paths::join("/", spec.source.as_deref().unwrap_or_default()),
            mode: spec.mode.unwrap_or(0o755),
            uid: spec.uid.unwrap_or_default(),
            gid: spec.gid.unwrap_or_default(),
        })
    }

    /// The file system that `from=` names.
    fn mount_source(
        &mut self,
        state: &mut State,
        spec: &MountSpec,
        raw: Span,
        step: Span,
    ) -> Result<Option<OpId>, Diagnostic> {
        let Some(from) = &spec.from else {
            return Ok(None);
        };
        let taker = Taker::Mount(spec.target.as_deref().unwrap_or_default());
        let from = Spanned::new(from.into(), raw);
        self.source(state, &from, taker, step).map(Some)
    }
}

fn secret(state: &State, spec: MountSpec, raw: Span) -> Result<Mount, Diagnostic> {
    let id = match (spec.source, spec.id, &spec.target) {
        (Some(id), _, _) | (None, Some(id), _) => id,
        (None, None, Some(target)) => paths::base(target).to_owned(),
        (None, None, None) => {
            return Err(Diagnostic::error(
                Code::Mount,
                raw,
                "one of source, target required",
            ));
        }
    };
    let wanted = match (&spec.target, &spec.env) {
        (Some(target), _) => Some(target.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(format!("/run/secrets/{}", paths::base(&id))),
    };
    Ok(Mount::Secret {
        target: wanted
            .map(|wanted| target(state, Some(&wanted), raw))
            .transpose()?,
        env: spec
            .env
            .map(|env| if env.is_empty() { id.clone() } else { env }),
        id,
        required: spec.required,
        mode: spec.mode.unwrap_or(0o400),
        uid: spec.uid.unwrap_or_default(),
        gid: spec.gid.unwrap_or_default(),
    })
}

fn ssh(state: &State, spec: MountSpec, index: usize, raw: Span) -> Result<Mount, Diagnostic> {
    if spec.source.is_some() {
        return Err(Diagnostic::error(
            Code::Mount,
            raw,
            "ssh does not support source",
        ));
    }
    let wanted = spec
        .target
        .unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{index}"));
    Ok(Mount::Ssh {
        target: target(state, Some(&wanted), raw)?,
        id: spec.id.unwrap_or_else(|| "default".to_owned()),
        required: spec.required,
        mode: spec.mode.unwrap_or(0o600),
        uid: spec.uid.unwrap_or_default(),
        gid: spec.gid.unwrap_or_default(),
    })
}

/// Absolute and clean; a relative target lies in the working directory.
fn target(state: &State, target: Option<&str>, raw: Span) -> Result<String, Diagnostic> {
    let target = target.unwrap_or_default();
    let absolute = if target.starts_with('/') {
        paths::clean(target)
    } else {
        paths::join(&state.cwd, target)
    };
    if absolute == "/" {
        let error = Diagnostic::error(Code::Mount, raw, "invalid mount target \"/\"");
        return Err(error.hint("give target= a directory or file below /"));
    }
    Ok(absolute)
}

fn target_of(mount: &Mount) -> Option<&str> {
    match mount {
        Mount::Bind { target, .. }
        | Mount::Cache { target, .. }
        | Mount::Tmpfs { target, .. }
        | Mount::Ssh { target, .. } => Some(target),
        Mount::Secret { target, .. } => target.as_deref(),
    }
}
