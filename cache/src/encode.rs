//! One description of a step, two readers: the hash that names its result, and the text that
//! explains the hash.
//!
//! Rules of the encoding: every name and every value is preceded by its length, so that no byte can
//! move across a border; a list says how many elements follow; what has no order is sorted by the
//! caller; an enum writes a number that never changes its meaning.

use serde::{Deserialize, Serialize};

use crate::Key;

/// Longer values are explained by their digest.
const LONGEST: usize = 120;

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

    /// A named list of names with values, in the order given.
    fn pairs(&mut self, name: &'static str, pairs: &[(&str, &str)]) {
        self.list(name, pairs.len());
        for (key, value) in pairs {
            self.text("name", key);
            self.text("value", value);
        }
    }

    /// Says what the following parts belong to, for people; an empty name ends that. It is no part of the encoding.
    fn group(&mut self, _name: &str) {}

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

/// One part of a step's definition, for people and for comparing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is; several parts may have the same name, such as the words of a command.
    pub name: String,
    /// Its value, or a digest of one that is long or that nobody but the step should see.
    pub value: String,
}

/// Notes the parts that it is told.
#[derive(Default)]
pub struct Explainer {
    parts: Vec<Part>,
    group: String,
}

impl Explainer {
    /// Starts with no parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The parts, in order.
    pub fn finish(self) -> Vec<Part> {
        self.parts
    }

    fn part(&mut self, name: &str, value: String) {
        let name = match self.group.as_str() {
            "" => name.to_owned(),
            group => format!("{group} {name}"),
        };
        self.parts.push(Part { name, value });
    }
}

impl Encoder for Explainer {
    fn field(&mut self, name: &'static str, value: &[u8]) {
        let value = match std::str::from_utf8(value) {
            Ok(text) if text.len() <= LONGEST => text.escape_debug().to_string(),
            Ok(_) => digest_of(value),
            Err(_) if value.len() <= LONGEST => crate::digest::to_hex(value),
            Err(_) => digest_of(value),
        };
        self.part(name, value);
    }

    /// The elements say it all: they follow.
    fn list(&mut self, _name: &'static str, _len: usize) {}

    /// Values of variables may be tokens: only their digests are noted.
    fn pairs(&mut self, name: &'static str, pairs: &[(&str, &str)]) {
        for (key, value) in pairs {
            self.part(&format!("{name} {key}"), digest_of(value.as_bytes()));
        }
    }

    fn group(&mut self, name: &str) {
        name.clone_into(&mut self.group);
    }
}

/// The first digits of a digest: enough to see that something changed.
fn digest_of(value: &[u8]) -> String {
    let hex = blake3::hash(value).to_hex();
    format!("blake3:{}", &hex[..16])
}
