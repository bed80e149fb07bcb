//! A plan as text, for tests and for people.

use std::fmt::{self, Display, Formatter, Write};

use super::{Chmod, Copy, CopySource, Git, Mount, Network, Op, OpId, Plan, Run, Security, Sharing};

impl Display for OpId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "platform {}", self.platform)?;
        if let Some(epoch) = &self.source_date_epoch {
            writeln!(f, "source date epoch {epoch}")?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            writeln!(f, "\n#{index} {}", node.name.escape_debug())?;
            if let Some(span) = node.span {
                writeln!(
                    f,
                    "  at {}..{} in stage {:?}",
                    span.start, span.end, node.stage
                )?;
            }
            if node.ignore_cache {
                writeln!(f, "  ignore cache")?;
            }
            op(f, &node.op)?;
        }
        writeln!(f, "\nresult {}\nhistory", self.result)?;
        for entry in &self.history {
            match entry.layer {
                Some(layer) => write!(f, "  {layer} ")?,
                None => f.write_str("  - ")?,
            }
            writeln!(f, "{}", entry.created_by.escape_debug())?;
        }
        for warning in &self.warnings {
            let (span, rule) = (warning.span, warning.rule.name());
            writeln!(
                f,
                "warning {rule} at {}..{}: {}",
                span.start, span.end, warning.message
            )?;
        }
        let config = serde_json::to_string_pretty(&self.config).map_err(|_| fmt::Error)?;
        writeln!(f, "config {config}")
    }
}

fn op(f: &mut Formatter<'_>, op: &Op) -> fmt::Result {
    match op {
        Op::Scratch => writeln!(f, "  scratch"),
        Op::Image(image) => writeln!(
            f,
            "  image {} for {}",
            image.reference.canonical(),
            image.platform
        ),
        Op::Context(context) => writeln!(
            f,
            "  context {:?}",
            context.name.as_deref().unwrap_or_default()
        ),
        Op::Http(http) => {
            write!(f, "  http {:?} as {:?}", http.url, http.filename)?;
            optional(f, "checksum", http.checksum.as_deref())?;
            f.write_char('\n')
        }
        Op::Git(it) => git(f, it),
        Op::Run(it) => run(f, it),
        Op::Copy(it) => copy(f, it),
        Op::MakeDir(dir) => {
            write!(f, "  make directory {:?} on {}", dir.path, dir.base)?;
            optional(f, "user", given(&dir.user))?;
            f.write_char('\n')
        }
    }
}

/// What is not empty.
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn optional(f: &mut Formatter<'_>, name: &str, value: Option<&str>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {name} {value:?}"))
}

fn when(f: &mut Formatter<'_>, condition: bool, text: &str) -> fmt::Result {
    if condition {
        write!(f, " {text}")
    } else {
        Ok(())
    }
}

fn git(f: &mut Formatter<'_>, git: &Git) -> fmt::Result {
    write!(f, "  git {:?}", git.remote)?;
    optional(f, "ref", git.reference.as_deref())?;
    optional(f, "subdir", git.subdir.as_deref())?;
    optional(f, "checksum", git.checksum.as_deref())?;
    when(f, git.keep_git_dir, "keep .git")?;
    when(f, !git.submodules, "without submodules")?;
    when(f, git.commit_time, "time of the commit")?;
    f.write_char('\n')
}

fn variables<S: AsRef<str>>(f: &mut Formatter<'_>, what: &str, all: &[(S, S)]) -> fmt::Result {
    for (name, value) in all {
        let (name, value) = (name.as_ref(), value.as_ref());
        writeln!(f, "    {what} {name}={}", value.escape_debug())?;
    }
    Ok(())
}

fn run(f: &mut Formatter<'_>, run: &Run) -> fmt::Result {
    writeln!(f, "  run on {} {:?}", run.base, run.argv)?;
    for (name, text) in &run.script {
        writeln!(f, "    script {name:?} {text:?}")?;
    }
    variables(f, "env", &run.env)?;
    variables(f, "proxy", &run.proxy)?;
    write!(
        f,
        "    in {:?} on {:?} for {}",
        run.cwd, run.hostname, run.platform
    )?;
    optional(f, "user", given(&run.user))?;
    f.write_str(match run.network {
        Network::Default => "",
        Network::None => " network none",
        Network::Host => " network host",
    })?;
    when(f, run.security == Security::Insecure, "insecure")?;
    f.write_char('\n')?;
    for (name, required) in &run.devices {
        write!(f, "    device {name:?}")?;
        when(f, *required, "required")?;
        f.write_char('\n')?;
    }
    run.mounts.iter().try_for_each(|it| mount(f, it))
}

fn mount(f: &mut Formatter<'_>, mount: &Mount) -> fmt::Result {
    match mount {
        Mount::Bind {
            target,
            from,
            source,
            writable,
        } => {
            write!(f, "    bind {target:?} from {from} {source:?}")?;
            when(f, *writable, "writable")?;
        }
        Mount::Cache {
            target,
            id,
            sharing,
            readonly,
            from,
            source,
            mode,
            uid,
            gid,
        } => {
            write!(
                f,
                "    cache {target:?} id {id:?} mode {mode:04o} owner {uid}:{gid}"
            )?;
            f.write_str(match sharing {
                Sharing::Shared => "",
                Sharing::Private => " private",
                Sharing::Locked => " locked",
            })?;
            when(f, *readonly, "read-only")?;
            if let Some(from) = from {
                write!(f, " from {from}")?;
            }
            when(f, source != "/", &format!("source {source:?}"))?;
        }
        Mount::Tmpfs { target, size } => {
            write!(f, "    tmpfs {target:?}")?;
            if let Some(size) = size {
                write!(f, " size {size}")?;
            }
        }
        Mount::Secret {
            target,
            id,
            env,
            required,
            mode,
            uid,
            gid,
        } => {
            write!(f, "    secret {id:?}")?;
            optional(f, "at", target.as_deref())?;
            optional(f, "env", env.as_deref())?;
            write!(f, " mode {mode:04o} owner {uid}:{gid}")?;
            when(f, *required, "required")?;
        }
        Mount::Ssh {
            target,
            id,
            required,
            mode,
            uid,
            gid,
        } => {
            write!(
                f,
                "    ssh {id:?} at {target:?} mode {mode:04o} owner {uid}:{gid}"
            )?;
            when(f, *required, "required")?;
        }
    }
    f.write_char('\n')
}

fn copy(f: &mut Formatter<'_>, copy: &Copy) -> fmt::Result {
    write!(f, "  copy onto {} to {:?}", copy.base, copy.destination)?;
    optional(f, "chown", copy.chown.as_deref())?;
    match &copy.chmod {
        None => {}
        Some(Chmod::Octal(mode)) => write!(f, " chmod {mode:04o}")?,
        Some(Chmod::Symbolic(mode)) => write!(f, " chmod {mode}")?,
    }
    when(f, copy.link, "link")?;
    when(f, copy.parents, "parents")?;
    f.write_char('\n')?;
    for source in &copy.sources {
        match source {
            CopySource::Path {
                from,
                pattern,
                unpack,
            } => {
                write!(f, "    {from} {pattern:?}")?;
                when(f, *unpack, "unpack")?;
            }
            CopySource::Inline { name, text } => write!(f, "    inline {name:?} {text:?}")?,
        }
        f.write_char('\n')?;
    }
    copy.excludes
        .iter()
        .try_for_each(|pattern| writeln!(f, "    exclude {pattern:?}"))
}
