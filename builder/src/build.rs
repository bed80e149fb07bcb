//! One build from its inputs to its images: parse, plan, solve, assemble, emit.
//!
//! Everything arrives as a value (contexts, secrets, the client, where progress goes), so that another front door than the
//! command line can use it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Once};

use anyhow::{Result, anyhow};
use lapstrake_cache::Store;
use lapstrake_frontend::ast::Dockerfile;
use lapstrake_frontend::diag::Diagnostic;
use lapstrake_frontend::lint::{Scope, Warning, lint};
use lapstrake_frontend::plan::{Entitlement, Inputs, Node, Op, OpId, Plan};
use lapstrake_frontend::span::Span;
use lapstrake_runtime::Cancel;
use tokio::sync::oneshot;

use crate::ahead::Ahead;
use crate::assemble::{Image, assemble};
use crate::belief::Mistaken;
use crate::cdi::{Devices, Given};
use crate::cli::Allowed;
use crate::context::LocalContext;
use crate::engine::{self, Executor, Graph, merge};
use crate::epoch;
use crate::events::Events;
use crate::explain::{self, Asked, Notes};
use crate::forced::{self, Forced};
use crate::fs::{Chain, Fs};
use crate::ops::{Ops, Settings};
use crate::registry::Client;
use crate::resolve::{PlanError, Resolver};
use crate::secrets::Secrets;
use crate::sink::{Emitted, Outlet, Output};
use crate::threads;
use crate::travel::{self, Elsewhere, Export, Lost, Place};
use crate::trees::Trees;

/// All that a build is made of.
pub(crate) struct Request {
    pub(crate) dockerfile: Dockerfile,
    /// One for each platform; they differ in the target platform only.
    pub(crate) inputs: Vec<Inputs>,
    /// The main context under `None`.
    pub(crate) contexts: HashMap<Option<String>, Arc<LocalContext>>,
    /// OCI layouts by the registry name that stands for them.
    pub(crate) layouts: BTreeMap<String, PathBuf>,
    pub(crate) secrets: Secrets,
    pub(crate) settings: Settings,
    /// What `--allow` allows.
    pub(crate) allowed: Allowed,
    pub(crate) pull: bool,
    /// Steps that are worked in any case.
    pub(crate) forced: Forced,
    pub(crate) outputs: Vec<Output>,
    pub(crate) travel: Travel,
    /// Names what is built, to compare this build with the one before.
    pub(crate) asked: Asked,
    /// Shown the findings of the build checks.
    pub(crate) warn: Box<dyn Fn(&Warning) + Send + Sync>,
}

/// Caches outside the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Travel {
    pub(crate) from: Vec<Place>,
    pub(crate) to: Vec<Export>,
    /// The image itself holds its cache.
    pub(crate) inline: bool,
    /// Said of those that are left out.
    pub(crate) notes: Vec<String>,
}

/// Where and with what a build works.
pub(crate) struct Site {
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) events: Events,
    pub(crate) cancel: Cancel,
}

/// What a build made.
pub(crate) struct Built {
    pub(crate) images: Vec<Image>,
    pub(crate) emitted: Vec<Emitted>,
}

/// Why a build failed.
#[derive(Debug)]
pub(crate) enum BuildError {
    /// The Dockerfile is wrong.
    Dockerfile(Vec<Diagnostic>),
    /// A step failed, or something that a line of the Dockerfile asks for.
    Step {
        span: Option<Span>,
        error: anyhow::Error,
    },
    /// The user stopped it.
    Cancelled,
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for BuildError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<PlanError> for BuildError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Dockerfile(diagnostics) => Self::Dockerfile(diagnostics),
            PlanError::Image { span, error } => Self::Step { span, error },
        }
    }
}

/// The build argument that replaces the `# check=` directive.
pub(crate) const CHECK: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What is given in place of that directive.
pub(crate) fn check_override(inputs: &Inputs) -> Option<&str> {
    let given = inputs.build_args.get(CHECK);
    given.map(String::as_str)
}

/// How a build ended.
pub(crate) struct Ended {
    pub(crate) result: Result<Built, BuildError>,
    /// What became of the steps that were reached, and why.
    pub(crate) steps: Vec<explain::Step>,
}

/// Builds.
pub(crate) async fn build(request: Request, site: Site) -> Ended {
    let mut steps = Vec::new();
    let result = attempt(request, site, &mut steps).await;
    Ended { result, steps }
}

async fn attempt(
    mut request: Request,
    site: Site,
    steps: &mut Vec<explain::Step>,
) -> Result<Built, BuildError> {
    epoch::resolve(&mut request, &site).await?;
    let Site {
        store,
        client,
        events,
        ..
    } = &site;
    let Request {
        pull,
        layouts,
        travel,
        ..
    } = &request;
    let resolver = Resolver::new(
        store.clone(),
        client.clone(),
        events.clone(),
        *pull,
        layouts.clone(),
    );
    // With caches elsewhere there is more to wait for, and layers go there as soon as they are known.
    let resolver = match travel.from.is_empty() && travel.to.is_empty() {
        true => resolver.believing(),
        false => resolver,
    };
    let resolver = Arc::new(resolver);
    let trees = Trees::new(store.clone(), events.clone(), request.settings.isolation);
    let outlet = Outlet {
        store: store.clone(),
        trees: Arc::new(trees),
        client: client.clone(),
        events: events.clone(),
        tokio: tokio::runtime::Handle::current(),
        elsewhere: Arc::new(Elsewhere::new(events.clone(), Vec::new())),
    };
    travel
        .notes
        .iter()
        .for_each(|note| events.message(note.clone()));
    let (plans, outlet) = tokio::join!(
        plan_all(&resolver, &request),
        travel::import(outlet, &travel.from)
    );
    let mut plans = plans;
    loop {
        let result = match plans {
            Ok(plans) => carry_out(&request, &site, &resolver, &outlet, plans, steps).await,
            Err(error) => Err(error),
        };
        if resolver.conclude().await? {
            return result;
        }
        plans = plan_all(&resolver, &request).await;
    }
}

/// Works the plans.
async fn carry_out(
    request: &Request,
    site: &Site,
    resolver: &Arc<Resolver>,
    outlet: &Outlet,
    mut plans: Vec<Plan>,
    steps: &mut Vec<explain::Step>,
) -> Result<Built, BuildError> {
    let Site {
        store,
        client,
        events,
        cancel,
    } = site;
    let Request {
        dockerfile,
        inputs,
        contexts,
        settings,
        travel,
        ..
    } = request;
    forced::apply(&request.forced, &mut plans).map_err(|why| anyhow!(why))?;
    let checks = inputs.first().and_then(check_override);
    check(dockerfile, &plans, checks, &request.warn)?;
    plans
        .iter()
        .try_for_each(|plan| check_entitlements(plan, &request.allowed))?;
    let devices = devices(&plans, &request.allowed, &settings.cdi)?;
    let epoch = plans.first().and_then(|plan| plan.source_date_epoch);
    let ops = Ops {
        store: store.clone(),
        trees: Arc::clone(&outlet.trees),
        client: client.clone(),
        resolver: Arc::clone(resolver),
        elsewhere: Arc::clone(&outlet.elsewhere),
        events: events.clone(),
        cancel: cancel.clone(),
        contexts: contexts.clone(),
        secrets: request.secrets.clone(),
        settings: Settings {
            epoch,
            ..settings.clone()
        },
        tokio: outlet.tokio.clone(),
        renewed: Default::default(),
        devices,
        default_network: Default::default(),
        told_of_owners: Once::new(),
        notes: Default::default(),
    };
    let merged = merge(&plans);
    let wanted: Vec<OpId> = plans
        .iter()
        .zip(&merged.places)
        .map(|(plan, places)| places[plan.result.index()])
        .collect();
    let graph = Graph::new(merged.nodes.clone(), &wanted);
    let in_image = graph.layers_of(&wanted);
    let ahead = Ahead::new(outlet, &request.outputs, epoch, &travel.to, in_image);
    let finishing = Finishing {
        outlet: outlet.clone(),
        plans,
        places: merged.places,
        contexts: contexts.clone(),
        outputs: request.outputs.clone(),
        travel: travel.clone(),
        epoch,
        ahead,
    };
    let ops = Arc::new(ops);
    let working = Arc::clone(&ops);
    let (sender, built) = oneshot::channel();
    threads::start("engine", &ops.tokio, move || {
        // The build was stopped if nobody waits any more.
        let _ = sender.send(work(graph, &working, &finishing));
    })?;
    let built = built.await;
    if resolver.is_right().await {
        *steps = explained(store, &merged.nodes, &ops.notes, resolver, &request.asked).await;
    }
    built.map_err(|_| anyhow!("the engine ended: internal error"))?
}

/// Works all steps and emits what they made. To be called on a thread that may block.
fn work(mut graph: Graph, ops: &Arc<Ops>, finishing: &Finishing) -> Result<Built, BuildError> {
    let Ops {
        store,
        events,
        cancel,
        tokio,
        ..
    } = ops.as_ref();
    loop {
        let finished = |id, fs: &Fs| finishing.ahead.start(id, fs);
        graph = match engine::solve(graph, ops, store, events, cancel, tokio, &finished) {
            Ok(graph) if !cancel.is_cancelled() => graph,
            Ok(_) => return Err(BuildError::Cancelled),
            Err(failure) => {
                return Err(BuildError::Step {
                    span: failure.node.span,
                    error: failure.error,
                });
            }
        };
        if !ops.is_right() {
            return Err(BuildError::Other(Mistaken.into()));
        }
        match finishing.finish(&graph) {
            _ if cancel.is_cancelled() => return Err(BuildError::Cancelled),
            // An output needs a layer that a cache elsewhere does not have after all.
            Err(error) if Lost::is(&error) => graph.redo(&|fs| ops.is_lost(fs)),
            built => return Ok(built?),
        }
    }
}

/// Compares the build with the one before and remembers it. A store that cannot take that in is met again elsewhere.
async fn explained(
    store: &Store,
    nodes: &[Node],
    notes: &Notes,
    resolver: &Resolver,
    asked: &Asked,
) -> Vec<explain::Step> {
    let mut images = HashMap::new();
    for (at, node) in nodes.iter().enumerate() {
        if let Op::Image(image) = &node.op
            && let Some(pin) = resolver.pinned(&image.reference, &image.platform).await
        {
            images.insert(OpId::at(at), pin.manifest.to_string());
        }
    }
    let build = explain::Build {
        asked,
        nodes,
        notes,
        images,
    };
    build.explain(store).unwrap_or_default()
}

async fn plan_all(resolver: &Arc<Resolver>, request: &Request) -> Result<Vec<Plan>, BuildError> {
    let mut plans = Vec::new();
    for mut inputs in request.inputs.iter().cloned() {
        plans.push(resolver.plan(&request.dockerfile, &mut inputs).await?);
    }
    resolver.end_of_planning();
    Ok(plans)
}

/// Applies the build checks; with `# check=error=true` a finding fails the build.
fn check(
    dockerfile: &Dockerfile,
    plans: &[Plan],
    replaced: Option<&str>,
    warn: &dyn Fn(&Warning),
) -> Result<(), BuildError> {
    let Some(plan) = plans.first() else {
        return Ok(());
    };
    let report = lint(
        dockerfile,
        Scope::Stages(&plan.stages),
        plan.warnings.clone(),
        replaced,
    )
    .map_err(|error| BuildError::Dockerfile(vec![error]))?;
    report.warnings.iter().for_each(warn);
    report
        .error
        .map_or(Ok(()), |error| Err(BuildError::Dockerfile(vec![error])))
}

fn check_entitlements(plan: &Plan, allowed: &Allowed) -> Result<(), BuildError> {
    for (asked, span) in plan.entitlements() {
        // What the name of a device stands for decides, see `devices`.
        if !matches!(asked, Entitlement::Device(_)) && !allowed.permits(&asked) {
            let error = anyhow!(
                "entitlement {asked} is not allowed: give --allow {asked} if you trust this Dockerfile"
            );
            return Err(BuildError::Step { span, error });
        }
    }
    Ok(())
}

/// What the steps get that ask for devices.
fn devices(
    plans: &[Plan],
    allowed: &Allowed,
    folders: &[PathBuf],
) -> Result<HashMap<Vec<(String, bool)>, Given>, BuildError> {
    let mut given = HashMap::new();
    let mut known = None;
    for node in plans.iter().flat_map(|plan| &plan.nodes) {
        let Op::Run(run) = &node.op else { continue };
        if run.devices.is_empty() || given.contains_key(&run.devices) {
            continue;
        }
        let known = match &known {
            Some(known) => known,
            None => known.insert(Devices::read(folders)?),
        };
        let devices = known.give(&run.devices, allowed).map_err(|error| {
            let span = node.span;
            BuildError::Step { span, error }
        })?;
        given.insert(run.devices.clone(), devices);
    }
    Ok(given)
}

/// What comes after the last step: images, outputs, caches for others.
struct Finishing {
    outlet: Outlet,
    plans: Vec<Plan>,
    /// For each plan where its ops are in the graph.
    places: Vec<Vec<OpId>>,
    contexts: HashMap<Option<String>, Arc<LocalContext>>,
    outputs: Vec<Output>,
    travel: Travel,
    epoch: Option<i64>,
    ahead: Ahead,
}

impl Finishing {
    fn finish(&self, graph: &Graph) -> Result<Built> {
        let outlet = &self.outlet;
        self.contexts
            .values()
            .try_for_each(|context| context.save_index(&outlet.store))?;
        let results = graph.results();
        let inline = self
            .travel
            .inline
            .then(|| travel::inline(&outlet.elsewhere, &results))
            .transpose()?;
        let mut images = Vec::new();
        for (plan, places) in self.plans.iter().zip(&self.places) {
            let place = |id: OpId| graph.result(places[id.index()]);
            images.push(assemble(
                &outlet.store,
                plan,
                &place,
                self.epoch,
                inline.as_ref(),
            )?);
        }
        let emitted = self
            .outputs
            .iter()
            .map(|output| output.emit(outlet, &images, self.epoch))
            .collect::<Result<_>>()?;
        self.ahead.wait();
        let chains: Vec<&Chain> = images.iter().map(|image| &image.layers).collect();
        let mounts = travel::mounts(graph.ops());
        for export in &self.travel.to {
            export.emit(outlet, &results, &chains, &mounts)?;
        }
        Ok(Built { images, emitted })
    }
}
