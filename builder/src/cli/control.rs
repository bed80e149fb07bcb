//! The flags that say what of the cache may be used.

use lapstrake_frontend::plan::NoCache;

use super::args::BuildArgs;
use super::values::Invalid;

/// Which mode bits of files of a local context count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContextModes {
    /// All of them, as for BuildKit.
    #[default]
    Exact,
    /// Not the write bits of group and others, by which checkouts with different umasks differ.
    Normalized,
    /// Group and others may do what the owner may, but for writing: of a git checkout, whose modes depend on the umask.
    Checkout,
}

/// `--no-cache`, and the stages of `--no-cache-filter`.
pub(super) fn no_cache(args: &BuildArgs) -> Result<NoCache, Invalid> {
    let stages = args
        .cache
        .no_cache_filter
        .iter()
        .flat_map(|text| text.split(','));
    let stages: Vec<String> = stages
        .filter(|stage| !stage.is_empty() && !stage.contains(':'))
        .map(str::to_owned)
        .collect();
    let any = args
        .cache
        .no_cache_filter
        .iter()
        .any(|text| !text.is_empty());
    match (args.cache.no_cache == Some(true), stages.is_empty()) {
        (true, _) if any => Err("--no-cache and --no-cache-filter: give one of them".to_owned()),
        (true, _) => Ok(NoCache::All),
        (false, true) => Ok(NoCache::Use),
        (false, false) => Ok(NoCache::Stages(stages)),
    }
}

/// The values of `--no-cache-filter` that name steps. No stage has a colon in its name.
pub(super) fn no_cache_steps(args: &BuildArgs) -> Result<Vec<(String, u32)>, Invalid> {
    let texts = args.cache.no_cache_filter.iter();
    let steps = texts
        .flat_map(|text| text.split(','))
        .filter_map(|text| text.split_once(':'));
    let step = |(stage, number): (&str, &str)| {
        let number = number.parse().map_err(|_| {
            format!("--no-cache-filter: {number:?} is not the number of a step, as in build:3")
        })?;
        Ok((stage.to_owned(), number))
    };
    steps.map(step).collect()
}

/// The line of `--rebuild-from`, counted from 1.
pub(super) fn rebuild_from(args: &BuildArgs) -> Result<Option<u32>, Invalid> {
    let text = args.cache.rebuild_from.as_deref();
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(line) if line > 0 => Ok(Some(line)),
        _ => Err(format!(
            "--rebuild-from: {text:?} is not the number of a line"
        )),
    }
}

/// `--context-modes`.
pub(super) fn context_modes(args: &BuildArgs) -> Result<ContextModes, Invalid> {
    match args.cache.context_modes.as_deref() {
        None | Some("" | "exact") => Ok(ContextModes::Exact),
        Some("normalized") => Ok(ContextModes::Normalized),
        Some(other) => Err(format!(
            "--context-modes: unknown mode {other:?}: use exact or normalized"
        )),
    }
}
