//! Events kept in a list, for tests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Event, Progress};

/// Keeps every event. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    /// What came so far.
    pub fn events(&self) -> Vec<Event> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Progress for Recorder {
    fn event(&mut self, event: &Event) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event.clone());
    }

    fn finish(&mut self, _now: Duration) {}
}
