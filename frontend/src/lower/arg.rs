//! `ARG`.

use std::borrow::Cow;

use super::{Lowering, State};
use crate::ast::{ArgDefault, Instruction};
use crate::diag::Diagnostic;

/// Arguments for the builder itself: declared like any other, but not seen by steps.
pub(super) const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Lowering<'_> {
    /// Each value is in scope for the next, unlike those of `ENV`.
    pub(super) fn arg(
        &self,
        state: &mut State,
        instruction: &Instruction,
        args: &[ArgDefault],
    ) -> Result<(), Diagnostic> {
        let mut declared = "ARG".to_owned();
        for arg in args {
            let name = arg.name.value.as_str();
            // A default that cannot be expanded does no harm where it is not used.
            let value = match (self.inputs.build_args.get(name), &arg.default) {
                (Some(given), _) => Some(Cow::from(given)),
                (None, Some(default)) => Some(self.expand(state, default)?),
                (None, None) => self.stages.globals.lookup(name),
            };
            if let Some(value) = value.as_ref().filter(|_| !NOT_IN_ENV.contains(&name)) {
                state.env.set(name, value);
            }
            let given = self.inputs.build_args.contains_key(name);
            let from_global = !given && arg.default.is_none() && value.is_some();
            state.note_arg(instruction, name, value.as_deref(), from_global);
            declared.extend([" ", name]);
            if let Some(value) = &value {
                declared.extend(["=", value]);
            }
            state.declare(name, value.map(Cow::into_owned));
        }
        state.record(declared);
        Ok(())
    }
}
