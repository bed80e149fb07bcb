//! `explain`: why the steps of the last build were, or were not, worked.

use std::io::Write;

use anyhow::{Result, bail};
use lapstrake_cache::Store;

use crate::cli::{ExplainOptions, Format};
use crate::explain::{self, Step};
use crate::progress::text;

/// Prints the steps of the last build; of steps that were asked for, also what their keys are made of.
pub(super) fn explain(store: &Store, options: &ExplainOptions, out: &mut dyn Write) -> Result<()> {
    let ExplainOptions { step, format } = options;
    let mut steps = explain::last(store)?;
    if let Some(wanted) = step {
        steps.retain(|step| is_named(step, wanted));
        if steps.is_empty() {
            bail!("the last build has no step {wanted:?}: see lapstrake explain");
        }
    }
    if *format == Format::Json {
        return steps
            .iter()
            .try_for_each(|step| Ok(writeln!(out, "{}", serde_json::to_string(step)?)?));
    }
    for (line, found) in explain::report(&steps).iter().zip(&steps) {
        writeln!(out, "{}", text::name(line))?;
        if step.is_some() {
            for part in &found.parts {
                let line = format!("{}: {}", part.name, part.value);
                writeln!(out, "        {}", text::name(&line))?;
            }
        }
    }
    Ok(())
}

/// A step goes by its number as it is shown (`2/4`, `build 2/4`), or by a part of its text.
fn is_named(step: &Step, wanted: &str) -> bool {
    let number = step.name.split_once(']').map_or("", |(head, _)| head);
    let number = number.trim_start_matches('[');
    let last = number.rsplit(' ').next().unwrap_or_default();
    let place = last.split('/').next().unwrap_or_default();
    [number, last, place].contains(&wanted)
        || step
            .instruction()
            .to_lowercase()
            .contains(&wanted.to_lowercase())
}
