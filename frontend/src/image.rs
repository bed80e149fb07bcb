//! Image references, platforms and the image config.

mod config;
mod platform;
mod reference;

pub use config::{Config, HealthConfig, HistoryEntry, ImageConfig, RootFs};
pub use platform::{InvalidPlatform, Platform};
pub(crate) use reference::check_digest;
pub use reference::{ImageRef, InvalidReference, normalize_context_name};
