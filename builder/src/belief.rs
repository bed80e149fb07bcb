//! What names of images stood for the last time, believed while their registries are asked again.
//!
//! A cached build takes less time than a registry's answer. So it begins with the digest that the registry gave the last
//! time, if the store still has that manifest, and does nothing that lasts before the answer is there: no step is worked,
//! no output written, and what it tells of its progress is held back. Where a name stands for something else by now, the
//! build begins again with that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use lapstrake_cache::Store;
use lapstrake_frontend::image::ImageRef;
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinHandle};

use crate::events::{Events, Step};
use crate::oci::Descriptor;
use crate::ops::key_of;
use crate::progress::text;
use crate::registry::{self, Client};

/// So many turns of the runtime take a request to a server that is near: it connects, and writes.
const TURNS: usize = 4;

/// What is believed in one build.
pub(crate) struct Beliefs {
    store: Store,
    events: Events,
    /// Whether more may be believed.
    open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    doubts: Vec<Doubt>,
    /// What registries answered.
    answers: HashMap<ImageRef, Option<Descriptor>>,
    wrong: Option<Wrong>,
}

/// A name whose registry has not answered yet.
struct Doubt {
    image: ImageRef,
    believed: Descriptor,
    answer: JoinHandle<registry::Result<Option<Descriptor>>>,
    /// The steps that end with the answer, and why what they wanted of the believed image could not be had.
    steps: Vec<(Step, Option<String>)>,
}

/// What became of a question: an answer, unless its task died.
type Answer = Result<registry::Result<Option<Descriptor>>, JoinError>;

/// What was believed was not right.
enum Wrong {
    Moved,
    Failed(ImageRef, anyhow::Error),
}

/// A step was not begun because a name of an image does not stand for what was believed. Never shown: the build begins
/// again, or ends with the registry's own error.
#[derive(Debug, thiserror::Error)]
#[error("a base image is not what it was the last time")]
pub(crate) struct Mistaken;

impl Beliefs {
    pub(crate) fn new(store: Store, events: Events) -> Self {
        Self {
            store,
            events,
            open: AtomicBool::new(true),
            state: Mutex::default(),
        }
    }

    /// What `image` stands for, as its registry says or as it said the last time. `None` where only the manifest itself
    /// can tell.
    pub(crate) async fn head(
        &self,
        client: &Client,
        image: &ImageRef,
    ) -> Result<Option<Descriptor>> {
        let mut state = self.state.lock().await;
        if let Some(answer) = state.answers.get(image) {
            return Ok(answer.clone());
        }
        if self.open.load(Ordering::Relaxed)
            && let Some(believed) = self.remembered(image)?
        {
            if state.doubts.is_empty() {
                self.events.hold();
            }
            let (asked, client) = (image.clone(), client.clone());
            state.doubts.push(Doubt {
                image: image.clone(),
                believed: believed.clone(),
                answer: tokio::spawn(async move { client.head(&asked).await }),
                steps: Vec::new(),
            });
            drop(state);
            // The question is on its way before the build goes on.
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            return Ok(Some(believed));
        }
        drop(state);
        let answer = client.head(image).await?;
        self.remember(image, answer.as_ref())?;
        Ok(answer)
    }

    fn remembered(&self, image: &ImageRef) -> Result<Option<Descriptor>> {
        let known: Option<Descriptor> = self.store.record(&key(image))?;
        Ok(known.filter(|known| self.store.has_blob(&known.digest).is_some()))
    }

    fn remember(&self, image: &ImageRef, answer: Option<&Descriptor>) -> Result<()> {
        if let Some(answer) = answer {
            self.store.put_record(&key(image), answer)?;
        }
        Ok(())
    }

    /// From here on nothing more is believed.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    /// Leaves the end of `step`, which came to `result`, to the answer about `image`, if one is waited for.
    pub(crate) async fn defer<T>(
        &self,
        image: &ImageRef,
        step: Step,
        result: &Result<T>,
    ) -> Option<Step> {
        let mut state = self.state.lock().await;
        match state.doubts.iter_mut().find(|doubt| doubt.image == *image) {
            Some(doubt) => doubt
                .steps
                .push((step, result.as_ref().err().map(text::causes))),
            None => return Some(step),
        }
        None
    }

    /// Waits for all answers; whether they are what was believed.
    pub(crate) async fn are_right(&self) -> bool {
        let mut state = self.state.lock().await;
        let had_doubts = !state.doubts.is_empty();
        // One that is waited for stays where it is: whoever waits may give up.
        while let Some(doubt) = state.doubts.first_mut() {
            let answer = (&mut doubt.answer).await;
            let doubt = state.doubts.remove(0);
            self.settle(&mut state, doubt, answer);
        }
        let are_right = state.wrong.is_none();
        if had_doubts && are_right {
            self.events.resolve(true);
        }
        are_right
    }

    fn settle(&self, state: &mut State, doubt: Doubt, answer: Answer) {
        let Doubt {
            image,
            believed,
            answer: _,
            steps,
        } = doubt;
        let answer = answer.map_err(|error| anyhow!(error));
        let answer = answer.and_then(|answer| Ok(answer?));
        let answer = answer.and_then(|answer| {
            self.remember(&image, answer.as_ref().filter(|new| **new != believed))?;
            Ok(answer)
        });
        let digest = |answer: &Option<Descriptor>| answer.as_ref().map(|answer| answer.digest);
        for (step, failed) in steps {
            let told = match (&answer, failed) {
                (Err(error), _) => Err(anyhow!(text::causes(error))),
                (Ok(answer), Some(failed)) if digest(answer) == Some(believed.digest) => {
                    Err(anyhow!(failed))
                }
                (Ok(_), _) => Ok(()),
            };
            // That it failed is told here, and why once more at the end of the build.
            let _ = step.end(told);
        }
        match answer {
            Ok(answer) => {
                if digest(&answer) != Some(believed.digest) {
                    state.wrong.get_or_insert(Wrong::Moved);
                }
                state.answers.insert(image, answer);
            }
            Err(error) => state.wrong = Some(Wrong::Failed(image, error)),
        }
    }

    /// Waits for all answers at the end of a build: whether what it came to counts, or else it is to begin again.
    ///
    /// # Errors
    /// With the image about which no answer was to be had.
    pub(crate) async fn conclude(&self) -> Result<bool, (ImageRef, anyhow::Error)> {
        if self.are_right().await {
            return Ok(true);
        }
        self.events.resolve(false);
        match self.state.lock().await.wrong.take() {
            Some(Wrong::Failed(image, error)) => Err((image, error)),
            Some(Wrong::Moved) | None => Ok(false),
        }
    }
}

fn key(image: &ImageRef) -> lapstrake_cache::Key {
    key_of("name", &[image.canonical().as_bytes()])
}
