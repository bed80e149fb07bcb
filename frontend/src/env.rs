//! Variables in scope, in the order in which they were last set.

use std::collections::BTreeMap;

/// Names and values. Setting a name again moves it to the end, as in BuildKit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Env {
    /// By name: the place in `order`.
    places: BTreeMap<String, usize>,
    order: BTreeMap<usize, (String, String)>,
    next: usize,
}

impl Env {
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        if let Some(old) = self.places.insert(name.to_owned(), self.next) {
            self.order.remove(&old);
        }
        let entry = (name.to_owned(), value.to_owned());
        self.order.insert(self.next, entry);
        self.next += 1;
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.order.get(self.places.get(name)?)?;
        Some(value)
    }

    /// For the functions of [`crate::expand`].
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// All variables, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.order.values()
    }

    /// [`Env::iter`], copied.
    pub(crate) fn list(&self) -> Vec<(String, String)> {
        self.iter().cloned().collect()
    }
}
