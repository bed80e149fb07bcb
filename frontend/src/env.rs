//! Variables in scope, in the order in which they were last set.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use crate::expand::{self, ExpandError, Expansion};
use crate::plan::Variable;

/// Names and values. Setting a name again moves it to the end, as in BuildKit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Env {
    /// By name: the place in `order`.
    places: BTreeMap<SmolStr, usize>,
    order: BTreeMap<usize, Variable>,
    next: usize,
}

impl Env {
    pub(crate) fn set(&mut self, name: SmolStr, value: SmolStr) {
        if let Some(old) = self.places.insert(name.clone(), self.next) {
            self.order.remove(&old);
        }
        self.order.insert(self.next, (name, value));
        self.next += 1;
    }

    pub(crate) fn unset(&mut self, name: &str) {
        if let Some(place) = self.places.remove(name) {
            self.order.remove(&place);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.order.get(self.places.get(name)?)?;
        Some(value)
    }

    /// For the functions of [`crate::expand`].
    pub(crate) fn lookup(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(Cow::Borrowed)
    }

    /// Expands a word, and notes which variables it took.
    pub(crate) fn expand<'a>(
        &self,
        raw: &'a str,
        escape: char,
        used: &mut BTreeSet<SmolStr>,
    ) -> Result<Expansion<'a>, ExpandError> {
        let used = RefCell::new(used);
        expand::word(raw, escape, &|name| {
            let value = self.lookup(name)?;
            used.borrow_mut().insert(name.into());
            Some(value)
        })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(SmolStr::as_str)
    }

    /// All variables, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Variable> {
        self.order.values()
    }
}
