//! One description of a step, two readers: the hash that names its result, and the text that
//! explains the hash.
//!
//! Rules of the encoding: every name and every value is preceded by its length, so that no byte can
//! move across a border; a list says how many elements follow; what has no order is sorted by the
//! caller; an enum writes a number that never changes its meaning.

use crate::Key;
use crate::error::shown;

/// Receives the parts of a step's definition, in order.
pub trait Encoder {
    /// A named value.
    fn field(&mut self, name: &'static str, value: &[u8]);

    /// A named list of `len` elements, which follow as fields (or as lists).
    fn list(&mut self, name: &'static str, len: usize);

    /// A named text.
    fn text(&mut self, name: &'static str, value: &str) {
        self.field(name, value.as_bytes());
    }

    /// A named number.
    fn number(&mut self, name: &'static str, value: u64) {
        self.field(name, value.to_string().as_bytes());
    }

    /// A named yes or no.
    fn flag(&mut self, name: &'static str, value: bool) {
        self.field(name, if value { b"yes" } else { b"no" });
    }

    /// A named value that may be absent; absent is not the same as empty.
    fn optional(&mut self, name: &'static str, value: Option<&[u8]>) {
        self.list(name, usize::from(value.is_some()));
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    /// A named list of texts, in the order given.
    fn texts(&mut self, name: &'static str, values: &[String]) {
        self.list(name, values.len());
        for value in values {
            self.text(name, value);
        }
    }
}

/// Hashes what it is told.
#[derive(Default)]
pub struct Hasher(blake3::Hasher);

const FIELD: u8 = 1;
const LIST: u8 = 2;

impl Hasher {
    /// Starts with nothing hashed.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key of all that was encoded.
    pub fn finish(self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }

    fn head(&mut self, kind: u8, name: &str) {
        self.0.update(&[kind]);
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
    }
}

impl Encoder for Hasher {
    fn field(&mut self, name: &'static str, value: &[u8]) {
        self.head(FIELD, name);
        self.0.update(&(value.len() as u64).to_le_bytes());
        self.0.update(value);
    }

    fn list(&mut self, name: &'static str, len: usize) {
        self.head(LIST, name);
        self.0.update(&(len as u64).to_le_bytes());
    }
}

/// Writes what it is told as lines of `name: value`.
#[derive(Default)]
pub struct Explainer(String);

impl Explainer {
    /// Starts with no lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// The lines.
    pub fn finish(self) -> String {
        self.0
    }
}

impl Encoder for Explainer {
    fn field(&mut self, name: &'static str, value: &[u8]) {
        let value = match std::str::from_utf8(value) {
            Ok(text) => text.escape_debug().to_string(),
            Err(_) => shown(crate::digest::to_hex(value).as_bytes()),
        };
        self.0.push_str(&format!("{name}: {value}\n"));
    }

    fn list(&mut self, name: &'static str, len: usize) {
        self.0.push_str(&format!("{name}: [{len}]\n"));
    }
}
