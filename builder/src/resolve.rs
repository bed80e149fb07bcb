//! Sources pinned: from an image's name to one manifest, one config and the layers' descriptors. Nothing else is fetched.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::{Digest, Store};
use lapstrake_frontend::ast::Dockerfile;
use lapstrake_frontend::diag::Diagnostic;
use lapstrake_frontend::image::{ImageConfig, ImageRef, Platform};
use lapstrake_frontend::plan::{Answer, Inputs, Plan, Wanted};
use lapstrake_frontend::span::Span;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::belief::Beliefs;
use crate::events::Events;
use crate::fs::{Chain, ChainLayer, Origin, PulledLayer};
use crate::oci::manifest::{self, Document, MAX_DOCUMENT};
use crate::oci::{self, Descriptor, Index, Layout, Manifest, media};
use crate::registry::Client;

/// So many platforms of an index are named where none fits.
const OFFERED: usize = 20;

/// An image of one platform, pinned.
#[derive(Debug)]
pub(crate) struct Pin {
    /// Of the manifest.
    pub(crate) manifest: Digest,
    /// The config's bytes.
    pub(crate) config: Vec<u8>,
    /// The layers, none of which has been fetched for this.
    pub(crate) chain: Chain,
}

/// Why planning failed.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// The Dockerfile is wrong.
    Dockerfile(Vec<Diagnostic>),
    /// An image that a line of the Dockerfile names could not be pinned.
    Image {
        span: Option<Span>,
        error: anyhow::Error,
    },
}

/// Resolves images, each once in a build.
pub(crate) struct Resolver {
    store: Store,
    client: Client,
    events: Events,
    /// `--pull`: ask the registry even for images that the store has.
    pull: bool,
    /// OCI layouts by the registry name that stands for them in references.
    layouts: BTreeMap<String, PathBuf>,
    /// What is believed while registries are asked; nothing, unless somebody waits for their answers in the end.
    beliefs: Option<Beliefs>,
    /// The images that the Dockerfile asked for, with their places.
    asked: std::sync::Mutex<Vec<Wanted>>,
    pins: Mutex<HashMap<(ImageRef, Platform), Slot>>,
    /// What each name stands for, asked once in a build, so that all platforms come from one push.
    sources: Mutex<HashMap<ImageRef, Arc<tokio::sync::OnceCell<Arc<Source>>>>>,
}

/// The pin of one image; whoever comes first fills it while the others wait.
type Slot = Arc<tokio::sync::OnceCell<Arc<Pin>>>;

impl Resolver {
    /// A resolver that keeps what it reads in `store`.
    pub(crate) fn new(
        store: Store,
        client: Client,
        events: Events,
        pull: bool,
        layouts: BTreeMap<String, PathBuf>,
    ) -> Self {
        Self {
            store,
            client,
            events,
            pull,
            layouts,
            beliefs: None,
            asked: Default::default(),
            pins: Mutex::default(),
            sources: Mutex::default(),
        }
    }

    /// Believes until [`Resolver::conclude`] that names stand for what they stood for the last time.
    pub(crate) fn believing(self) -> Self {
        let beliefs = Beliefs::new(self.store.clone(), self.events.clone());
        Self {
            beliefs: Some(beliefs),
            ..self
        }
    }

    /// Whether all images that were believed to be what they were the last time are that: waits for the registries.
    pub(crate) async fn is_right(&self) -> bool {
        match &self.beliefs {
            Some(beliefs) => beliefs.are_right().await,
            None => true,
        }
    }

    /// Whether what came of the pinned images counts. If not, they are forgotten, for the build to begin again.
    pub(crate) async fn conclude(&self) -> Result<bool, PlanError> {
        let Some(beliefs) = &self.beliefs else {
            return Ok(true);
        };
        let is_right = beliefs.conclude().await.map_err(|(image, error)| {
            let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = asked.iter().find(|wanted| wanted.reference == image);
            failed(&image, wanted, error)
        })?;
        if !is_right {
            self.pins.lock().await.clear();
            self.sources.lock().await.clear();
        }
        Ok(is_right)
    }

    /// Lowers `dockerfile`, fetching the configs that it needs.
    pub(crate) async fn plan(
        self: &Arc<Self>,
        dockerfile: &Dockerfile,
        inputs: &mut Inputs,
    ) -> Result<Plan, PlanError> {
        let ask = |inputs: &Inputs| lapstrake_frontend::lower(dockerfile, inputs);
        self.answer(inputs, ask).await.map(|plan| *plan)
    }

    /// From here on no image is pinned by belief.
    pub(crate) fn end_of_planning(&self) {
        if let Some(beliefs) = &self.beliefs {
            beliefs.close();
        }
    }

    /// Asks until there is an answer, fetching the configs that are wanted for it, in parallel, each time.
    pub(crate) async fn answer<T>(
        self: &Arc<Self>,
        inputs: &mut Inputs,
        ask: impl Fn(&Inputs) -> Result<Answer<T>, Vec<Diagnostic>>,
    ) -> Result<T, PlanError> {
        loop {
            match ask(inputs).map_err(PlanError::Dockerfile)? {
                Answer::Ready(answer) => return Ok(answer),
                Answer::Need(wanted) => {
                    for (wanted, pin) in self.pin_all(wanted).await? {
                        inputs
                            .images
                            .insert((wanted.reference, wanted.platform), pin.config.clone());
                    }
                }
            }
        }
    }

    async fn pin_all(
        self: &Arc<Self>,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<(Wanted, Arc<Pin>)>, PlanError> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(wanted.iter().cloned());
        let mut running = JoinSet::new();
        for wanted in wanted {
            let resolver = Arc::clone(self);
            running.spawn(async move {
                let pin = resolver.pin(&wanted.reference, &wanted.platform).await;
                (wanted, pin)
            });
        }
        let mut pins = Vec::new();
        for (wanted, pin) in running.join_all().await {
            match pin {
                Ok(pin) => pins.push((wanted, pin)),
                Err(error) => return Err(failed(&wanted.reference, Some(&wanted), error)),
            }
        }
        Ok(pins)
    }

    /// Pins `image` for `platform`; the second call for the same image costs nothing.
    pub(crate) async fn pin(&self, image: &ImageRef, platform: &Platform) -> Result<Arc<Pin>> {
        let slot = {
            let mut pins = self.pins.lock().await;
            Arc::clone(pins.entry((image.clone(), platform.clone())).or_default())
        };
        let pin = slot.get_or_try_init(|| async {
            let step = self
                .events
                .begin_aside(&format!("[internal] load metadata for {image}"));
            let fetched = self.fetch(image, platform).await.map(Arc::new);
            let step = match &self.beliefs {
                Some(beliefs) => beliefs.defer(image, step, &fetched).await,
                None => Some(step),
            };
            match step {
                Some(step) => step.end(fetched),
                None => fetched,
            }
        });
        pin.await.cloned()
    }

    /// The pin of an image that this build has asked for.
    pub(crate) async fn pinned(&self, image: &ImageRef, platform: &Platform) -> Option<Arc<Pin>> {
        let pins = self.pins.lock().await;
        pins.get(&(image.clone(), platform.clone()))?.get().cloned()
    }

    /// Whether [`Resolver::pin`] answers at once.
    pub(crate) fn has_pinned(&self, image: &ImageRef, platform: &Platform) -> bool {
        let is_filled = |pins: tokio::sync::MutexGuard<'_, HashMap<_, Slot>>| {
            pins.get(&(image.clone(), platform.clone()))
                .is_some_and(|slot| slot.initialized())
        };
        self.pins.try_lock().is_ok_and(is_filled)
    }

    async fn fetch(&self, image: &ImageRef, platform: &Platform) -> Result<Pin> {
        if let Some(pin) = self.stored(image, platform).await? {
            return Ok(pin);
        }
        let slot = {
            let mut sources = self.sources.lock().await;
            Arc::clone(sources.entry(image.clone()).or_default())
        };
        let source = slot.get_or_try_init(|| async { self.source(image).await.map(Arc::new) });
        self.pin_source(image, platform, source.await?).await
    }

    /// The store's own image of that name comes first, as with `docker build`, unless it is for another platform or
    /// `--pull` asks the registry.
    async fn stored(&self, image: &ImageRef, platform: &Platform) -> Result<Option<Pin>> {
        if self.pull || image.digest.is_some() {
            return Ok(None);
        }
        let Some(digest) = self.store.ref_(&image.canonical())? else {
            return Ok(None);
        };
        let bytes = self.store.read_blob(&digest, MAX_DOCUMENT)?;
        let bytes = bytes.with_context(|| {
            format!("the store lost the manifest {digest}: build the image again")
        })?;
        if let Document::Index(index) = manifest::parse(&bytes, None)?
            && oci::platform::select(&index, platform).is_none()
        {
            return Ok(None);
        }
        let source = Source {
            media_type: None,
            bytes,
            origin: Origin::Store,
        };
        let pin = self.pin_source(image, platform, &source).await?;
        let fits = ImageConfig::from_json(&pin.config)
            .is_ok_and(|config| platform.matches(&config.platform()));
        Ok(fits.then_some(pin))
    }

    async fn pin_source(
        &self,
        image: &ImageRef,
        platform: &Platform,
        source: &Source,
    ) -> Result<Pin> {
        let (digest, manifest) = match manifest::parse(&source.bytes, source.media_type.as_deref())?
        {
            Document::Manifest(manifest) => (Digest::of(&source.bytes), *manifest),
            Document::Index(index) => self.choose(&source.origin, image, &index, platform).await?,
        };
        let config = self
            .document(&source.origin, &manifest.config)
            .await
            .context("fetch the image's config")?;
        let chain = chain(&config, &manifest, &source.origin)?;
        Ok(Pin {
            manifest: digest,
            config,
            chain,
        })
    }

    /// The manifest or index that `image` names now.
    async fn source(&self, image: &ImageRef) -> Result<Source> {
        if let Some(layout) = self.layouts.get(&image.registry) {
            return layout_source(layout, image);
        }
        let origin = Origin::Registry(image.clone());
        if let Some(digest) = &image.digest {
            let digest: Digest = digest.parse().context("read the image's digest")?;
            if let Some(bytes) = self.store.read_blob(&digest, MAX_DOCUMENT)? {
                return Ok(Source {
                    media_type: None,
                    bytes,
                    origin,
                });
            }
        }
        let head = match &self.beliefs {
            Some(beliefs) => beliefs.head(&self.client, image).await?,
            None => self.client.head(image).await?,
        };
        let (bytes, media_type) = match head {
            Some(head) => (self.document(&origin, &head).await?, head.media_type),
            None => {
                let (descriptor, bytes) = self.client.resolve(image).await?;
                self.store.put_blob(&bytes)?;
                (bytes.to_vec(), descriptor.media_type)
            }
        };
        Ok(Source {
            media_type: Some(media_type),
            bytes,
            origin,
        })
    }

    /// The manifest of an index that fits `platform` best.
    async fn choose(
        &self,
        origin: &Origin,
        image: &ImageRef,
        index: &Index,
        platform: &Platform,
    ) -> Result<(Digest, Manifest)> {
        let Some(descriptor) = oci::platform::select(index, platform) else {
            let offered: Vec<String> = index
                .manifests
                .iter()
                .filter_map(|d| Some(d.platform.as_ref()?.to_platform().to_string()))
                .take(OFFERED)
                .collect();
            bail!(
                "{image} has no image for {platform}: it has {}",
                offered.join(", ")
            );
        };
        let bytes = self.document(origin, descriptor).await?;
        match manifest::parse(&bytes, Some(&descriptor.media_type))? {
            Document::Manifest(manifest) => Ok((descriptor.digest, *manifest)),
            Document::Index(_) => bail!("the index of {image} names another index for {platform}"),
        }
    }

    /// A manifest or config by its descriptor: from the store, or fetched, verified and kept there.
    async fn document(&self, origin: &Origin, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Some(bytes) = self.store.read_blob(&descriptor.digest, MAX_DOCUMENT)? {
            return Ok(bytes);
        }
        let bytes = match origin {
            Origin::Registry(image) if is_document(&descriptor.media_type) => self
                .client
                .manifest(image, &descriptor.digest)
                .await?
                .1
                .to_vec(),
            Origin::Registry(image) => self.client.blob_small(image, descriptor).await?.to_vec(),
            Origin::Layout(path) => Layout::open(path)?.document(descriptor)?,
            // No image comes from there.
            Origin::Store | Origin::Objects(_) => bail!(
                "the store lost the blob {}: build or pull the image again",
                descriptor.digest
            ),
        };
        self.store.put_blob(&bytes)?;
        Ok(bytes)
    }
}

fn failed(image: &ImageRef, wanted: Option<&Wanted>, error: anyhow::Error) -> PlanError {
    let near = wanted.and_then(|wanted| wanted.near.as_ref());
    let near = near.map(|near| format!(" (did you mean {near}?)"));
    let near = near.unwrap_or_default();
    PlanError::Image {
        span: wanted.map(|wanted| wanted.span),
        error: error.context(format!("load metadata for {image}{near}")),
    }
}

struct Source {
    bytes: Vec<u8>,
    media_type: Option<String>,
    origin: Origin,
}

fn layout_source(layout: &std::path::Path, image: &ImageRef) -> Result<Source> {
    let opened = Layout::open(layout)?;
    let index = opened.index()?;
    let descriptor =
        oci::layout::find(&index, image.digest.as_deref().or(image.tag.as_deref()))?.clone();
    let bytes = opened.document(&descriptor)?;
    Ok(Source {
        bytes,
        media_type: Some(descriptor.media_type),
        origin: Origin::Layout(layout.to_path_buf()),
    })
}

fn is_document(media_type: &str) -> bool {
    media::is_manifest(media_type) || media::is_index(media_type)
}

/// The config's diff ids with the manifest's layers.
fn chain(config: &[u8], manifest: &Manifest, origin: &Origin) -> Result<Chain> {
    let parsed = ImageConfig::from_json(config).context("read the image's config")?;
    let diff_ids = &parsed.rootfs.diff_ids;
    ensure!(
        diff_ids.len() == manifest.layers.len(),
        "the image's config names {} layers, its manifest {}",
        diff_ids.len(),
        manifest.layers.len()
    );
    let mut chain = Chain::default();
    for (diff_id, descriptor) in diff_ids.iter().zip(&manifest.layers) {
        ensure!(
            media::compression(&descriptor.media_type).is_some(),
            "the image has a layer of type {:?}, which is not a file system layer",
            descriptor.media_type
        );
        let pulled = PulledLayer::new(diff_id, descriptor, origin)?;
        chain.layers.push(ChainLayer::Pulled(Arc::new(pulled)));
    }
    Ok(chain)
}
