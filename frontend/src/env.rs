//! Variables in scope, in the order in which they were last set.

use std::collections::BTreeMap;

/// Names and values. Setting a name again moves it to the end, as in BuildKit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Env {
    values: BTreeMap<String, (usize, String)>,
    next: usize,
}

impl Env {
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.values
            .insert(name.to_owned(), (self.next, value.to_owned()));
        self.next += 1;
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(_, value)| value.as_str())
    }

    /// For the functions of [`crate::expand`].
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// All variables, in order.
    pub(crate) fn list(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = self.values.iter().collect();
        all.sort_by_key(|(_, (order, _))| *order);
        all.into_iter()
            .map(|(name, (_, value))| (name.clone(), value.clone()))
            .collect()
    }
}
