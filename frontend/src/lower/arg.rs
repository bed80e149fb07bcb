//! `ARG`.

use smol_str::SmolStr;

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
        // Most of it stands there too.
        let mut declared = String::with_capacity(instruction.text.len());
        declared.push_str("ARG");
        for arg in args {
            let name = &arg.name.value;
            // A default that cannot be expanded does no harm where it is not used.
            let given = self.inputs.build_args.get(name.as_str());
            let value = match (given, &arg.default) {
                (Some(given), _) => Some(SmolStr::new(given)),
                (None, Some(default)) => Some(self.expand(state, default)?),
                (None, None) => self.stages.globals.get(name).map(SmolStr::new),
            };
            if let Some(value) = value.as_ref().filter(|_| !NOT_IN_ENV.contains(&&**name)) {
                state.env.set(name.clone(), value.clone());
            }
            let from_global = given.is_none() && arg.default.is_none() && value.is_some();
            state.note_arg(instruction, name, value.as_ref(), from_global);
            declared.extend([" ", name]);
            if let Some(value) = &value {
                declared.extend(["=", value]);
            }
            state.declare(name, value);
        }
        state.record(declared);
        Ok(())
    }
}
