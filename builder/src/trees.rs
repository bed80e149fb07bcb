//! How the layers of a store become trees here: found out once, when the first of them must be seen as one.

use std::sync::Mutex;

use anyhow::{Result, anyhow, bail};
use lapstrake_cache::{Marks, Scratch, Store};
use lapstrake_runtime::{Layers, can_overlay, show_layers};

use crate::cli::Isolation;
use crate::events::Events;

/// A store whose layers can be seen as trees. One for each build.
pub(crate) struct Trees {
    pub(crate) store: Store,
    events: Events,
    isolation: Isolation,
    /// Where trees that are copies lie, once it is known that they are.
    known: Mutex<Option<Scratch>>,
}

impl Trees {
    pub(crate) fn new(store: Store, events: Events, isolation: Isolation) -> Self {
        Self {
            store,
            events,
            isolation,
            known: Mutex::new(None),
        }
    }

    /// To be called before layers are shown as a tree: overlays if they can be had, otherwise copies, and a notice of that.
    pub(crate) fn prepare(&self) -> Result<()> {
        let mut known = self
            .known
            .lock()
            .map_err(|_| anyhow!("another step failed"))?;
        if known.is_some() {
            return Ok(());
        }
        let store = &self.store;
        if !store.sees_marks()? {
            bail!(
                "the store {} was made with rights that this process lacks: choose another one with --root",
                store.root().display()
            );
        }
        let why_not = match self.isolation {
            Isolation::None => Some(String::new()),
            Isolation::Default => why_no_overlays(store)?,
        };
        let views = store.scratch()?;
        show_layers(match &why_not {
            None => Layers::Overlays {
                user_xattrs: store.marks() == Marks::User,
            },
            Some(_) => Layers::Copies {
                views: views.path().to_path_buf(),
                marks: match store.marks() {
                    Marks::Trusted => lapstrake_runtime::Marks::Trusted,
                    Marks::User => lapstrake_runtime::Marks::User,
                    Marks::Own => lapstrake_runtime::Marks::Own,
                },
            },
        });
        if let Some(why) = why_not.filter(|why| !why.is_empty()) {
            self.events.message(format!("{COPIES}: {why}"));
        }
        *known = Some(views);
        Ok(())
    }
}

/// What it means that there are no overlays.
pub(crate) const COPIES: &str =
    "steps run on copies of their layers, which takes time and room for each of them";

/// Why overlays cannot be had of the layers of this store, if so.
pub(crate) fn why_no_overlays(store: &Store) -> Result<Option<String>> {
    let scratch = store.scratch()?;
    Ok(
        match can_overlay(scratch.path(), store.marks() == Marks::User) {
            Err(why) => Some(why.to_string()),
            Ok(()) if store.marks() == Marks::Own => {
                Some("the store was made where no overlay could be mounted".to_owned())
            }
            Ok(()) => None,
        },
    )
}
