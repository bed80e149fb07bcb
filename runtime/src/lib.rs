//! Running steps.
