//! The ops, for real: each is first turned into a key ([`Executor::prepare`]) and, when the store does not know that, worked.

mod agent;
mod copy;
mod git;
mod http;
mod image;
mod key;
mod make_dir;
mod owner;
mod run;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::{Content, Encoder, Explainer, Hasher, Key, Layer, Store};
use lapstrake_frontend::plan::{Mount, Network, Node, Op, OpId, Run, Sharing};
use lapstrake_runtime::{Cancel, Limits, RESOLVER};

pub(crate) use copy::copy_all;
pub(crate) use copy::tree::Tree;
pub(crate) use copy::unpack::unpack_if_archive;
pub(crate) use git::{Access as GitAccess, context as git_context, time as git_time};
pub(crate) use http::{Access as HttpAccess, time as http_time};
pub(crate) use image::materialise;
pub(crate) use key::Visible;
pub(crate) use run::identity;

use crate::belief::Mistaken;
use crate::cdi::Given;
use crate::cli::Isolation;
use crate::config::NetworkMode;
use crate::context::LocalContext;
use crate::engine::{Executor, Prepared, Ready, Task};
use crate::events::Events;
use crate::explain::{Note, Notes, Outcome};
use crate::fs::{Built, Chain, ChainLayer, Fs, Keys};
use crate::ids::Owners;
use crate::registry::Client;
use crate::resolve::Resolver;
use crate::secrets::Secrets;
use crate::travel::Elsewhere;
use crate::trees::Trees;

/// What ops need besides their inputs. One for each build.
pub(crate) struct Ops {
    pub(crate) store: Store,
    pub(crate) trees: Arc<Trees>,
    pub(crate) client: Client,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) elsewhere: Arc<Elsewhere>,
    pub(crate) events: Events,
    pub(crate) cancel: Cancel,
    /// The main context under `None`, named ones under their names.
    pub(crate) contexts: HashMap<Option<String>, Arc<LocalContext>>,
    pub(crate) secrets: Secrets,
    pub(crate) settings: Settings,
    /// Where asynchronous work of blocking threads runs.
    pub(crate) tokio: tokio::runtime::Handle,
    /// Cache mounts that `--no-cache` has emptied in this build.
    pub(crate) renewed: Mutex<HashSet<String>>,
    /// What steps get that ask for these devices.
    pub(crate) devices: HashMap<Vec<(String, bool)>, Given>,
    /// The network of steps that do not ask for one, once a step has needed it.
    pub(crate) default_network: Mutex<Option<lapstrake_runtime::Network>>,
    /// Whether what becomes of owners was said.
    pub(crate) told_of_owners: Once,
    /// What each step's key is made of.
    pub(crate) notes: Notes,
}

/// Settings of the build that steps see or are held to.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) visible: Visible,
    /// `--add-host`: name and address.
    pub(crate) hosts: Vec<(String, String)>,
    /// The host's /etc/resolv.conf.
    pub(crate) resolv_conf: String,
    pub(crate) limits: Limits,
    /// The config file's word on the network of steps that ask for none in particular.
    pub(crate) network_mode: NetworkMode,
    /// Whether steps have namespaces at all.
    pub(crate) isolation: Isolation,
    /// Whether files can have other owners than root.
    pub(crate) owners: Owners,
    /// What connects the networks of steps with the outside, where it is installed.
    pub(crate) pasta: Option<PathBuf>,
    /// Where specifications of devices are.
    pub(crate) cdi: Vec<PathBuf>,
    /// SOURCE_DATE_EPOCH, for files that the build itself makes.
    pub(crate) epoch: Option<i64>,
    /// `--cache-ttl`.
    pub(crate) cache_ttl: Option<Duration>,
}

impl Settings {
    /// What a step on `network` finds in /etc/resolv.conf. Resolvers on the host's loopback are out of reach of a
    /// network of its own, but for the address where pasta forwards queries.
    fn resolv_conf(&self, network: &lapstrake_runtime::Network) -> String {
        let text = &self.resolv_conf;
        let servers = || {
            text.lines()
                .filter_map(|line| line.trim().strip_prefix("nameserver"))
        };
        let is_loopback = |server: &str| {
            server
                .trim()
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback())
        };
        let isolated = matches!(network, lapstrake_runtime::Network::Isolated { .. });
        if !isolated || servers().next().is_none() || !servers().all(is_loopback) {
            return text.clone();
        }
        let others = text
            .lines()
            .filter(|line| !line.trim().starts_with("nameserver"));
        let resolver = format!("nameserver {RESOLVER}");
        others
            .chain([resolver.as_str()])
            .flat_map(|line| [line, "\n"])
            .collect()
    }

    /// What a step named `hostname` finds in /etc/hosts.
    fn hosts_file(&self, hostname: &str) -> String {
        let mut text =
            format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for (name, address) in &self.hosts {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        text
    }
}

/// Stands for what an op reads where only its definition counts.
const NOTHING: Content = Content([0; 32]);

/// What `prepare` found out and `run` needs again.
pub(crate) enum Job {
    Run(Chain, run::RunJob),
    Copy(copy::CopyJob),
    MakeDir(Chain),
    Http(http::Known),
    Git(git::Checkout),
}

impl Executor for Ops {
    type Job = Job;

    fn prepare(&self, task: &Task) -> Result<Prepared<Job>> {
        match &task.node.op {
            Op::Scratch => Ok(Prepared::Source(Fs::Layers(Chain::default()))),
            Op::Image(image) => {
                let pin = self
                    .tokio
                    .block_on(self.resolver.pin(&image.reference, &image.platform))?;
                Ok(Prepared::Source(Fs::Layers(pin.chain.clone())))
            }
            Op::Context(context) => {
                let found = self.contexts.get(&context.name);
                let found = found.with_context(|| match &context.name {
                    Some(name) => format!("the build context {name:?} was not given"),
                    None => "the build has no context: give a directory".to_owned(),
                })?;
                Ok(Prepared::Source(Fs::Local(Arc::clone(found))))
            }
            Op::Http(op) => http::prepare(self, task, op),
            Op::Git(op) => git::prepare(self, task, op),
            Op::MakeDir(op) => {
                let base = self.chain(task, op.base)?;
                let note = describe("workdir", &base.content(), &NOTHING, |encoder, base| {
                    key::owners(encoder, self.settings.owners);
                    key::make_dir(encoder, op, *base);
                    key::epoch(encoder, self.settings.epoch);
                });
                let ready = self.ready(task, note, base.clone(), Job::MakeDir(base));
                Ok(Prepared::proved(ready))
            }
            Op::Copy(op) => copy::prepare(self, task, op),
            Op::Run(op) => self.prepare_run(task, op),
        }
    }

    /// An image is pinned before a stage begins with it; a `COPY --from` may be the first to want another one.
    fn is_at_hand(&self, node: &Node) -> bool {
        match &node.op {
            Op::Scratch | Op::Context(_) => true,
            Op::Image(image) => self.resolver.has_pinned(&image.reference, &image.platform),
            _ => false,
        }
    }

    fn is_right(&self) -> bool {
        self.tokio.block_on(self.resolver.is_right())
    }

    fn run(&self, task: &Task, job: Job) -> Result<Layer> {
        ensure!(self.is_right(), Mistaken);
        self.tell_of_owners(&task.node.op);
        match (&task.node.op, job) {
            (Op::Run(op), Job::Run(base, job)) => run::run(self, task, op, &base, &job),
            (Op::Copy(op), Job::Copy(job)) => copy::run(self, task, op, job),
            (Op::MakeDir(op), Job::MakeDir(base)) => make_dir::run(self, task, op, &base),
            (Op::Http(op), Job::Http(job)) => http::run(self, task, op, job),
            (Op::Git(op), Job::Git(job)) => git::run(self, op, &job),
            _ => bail!("the step's job does not fit its op"),
        }
    }

    fn prove(&self, task: &Task) -> Result<Ready<Job>> {
        let task = Task {
            believes: false,
            ..task.clone()
        };
        match self.prepare(&task)? {
            Prepared::Layer {
                ready,
                claimed: false,
            } => Ok(ready),
            _ => bail!("the step's key cannot be proved"),
        }
    }

    fn elsewhere(&self, key: &Key) -> Option<ChainLayer> {
        self.elsewhere.step(key).map(ChainLayer::Imported)
    }

    fn same_elsewhere(&self, built: &Built, keys: &Keys) -> Option<ChainLayer> {
        self.elsewhere.same(built, keys).map(ChainLayer::Imported)
    }

    fn is_lost(&self, fs: &Fs) -> bool {
        matches!(fs, Fs::Layers(chain) if self.elsewhere.has_lost(chain))
    }

    /// Only commands grow old: what they fetch may have changed. Copies are always as fresh as their sources.
    fn is_expired(&self, task: &Task, made: i64) -> bool {
        let (Some(ttl), Op::Run(_)) = (self.settings.cache_ttl, &task.node.op) else {
            return false;
        };
        let age = crate::time::present().secs.saturating_sub(made);
        // Of what was made in the future, by a clock that was wrong, nobody knows how old it is.
        let is_expired = age.unsigned_abs() >= ttl.as_secs();
        if is_expired {
            self.notes.expired(task.id);
        }
        is_expired
    }

    fn settled(&self, task: &Task, outcome: Outcome) {
        self.notes.settled(task.id, outcome);
    }
}

impl Ops {
    /// A layer that is known by what `note` says.
    fn ready(&self, task: &Task, note: Note, base: Chain, job: Job) -> Ready<Job> {
        let (key, step) = (note.key, note.definition);
        self.notes.keyed(task.id, note);
        Ready {
            key,
            step,
            base,
            job,
        }
    }

    /// The layers that the input `id` yielded. A local context that is used as a base becomes a layer first.
    fn chain(&self, task: &Task, id: OpId) -> Result<Chain> {
        match task.input(id)? {
            Fs::Layers(chain) => Ok(chain.clone()),
            Fs::Local(context) => copy::whole_context(self, context),
        }
    }

    /// Says what owners become of when the first step is worked that may want another one than root.
    fn tell_of_owners(&self, op: &Op) {
        if let (Op::Run(_) | Op::Copy(_) | Op::MakeDir(_), Some(notice)) =
            (op, self.settings.owners.notice())
        {
            self.told_of_owners
                .call_once(|| self.events.message(notice));
        }
    }

    /// Empties a cache mount, once a build: steps of a `--no-cache` build share what they put there.
    fn renew_cache_mount(&self, id: &str) -> Result<()> {
        let mut renewed = self
            .renewed
            .lock()
            .map_err(|_| anyhow::anyhow!("another step failed"))?;
        if renewed.insert(id.to_owned()) {
            self.store.reset_cache_mount(id)?;
        }
        Ok(())
    }

    /// The runtime's network for what the Dockerfile asks for. By default a step has a network of its own with a way
    /// out through pasta; where that cannot be had it shares the host's, as with BuildKit.
    fn network(&self, asked: Network) -> Result<lapstrake_runtime::Network> {
        match asked {
            Network::None => Ok(lapstrake_runtime::Network::None),
            Network::Host => Ok(lapstrake_runtime::Network::Host),
            Network::Default => {
                // Steps that want it at the same time wait for who looks first, and say nothing twice.
                let mut known = self
                    .default_network
                    .lock()
                    .map_err(|_| anyhow::anyhow!("another step failed"))?;
                let found = match known.take() {
                    Some(found) => found,
                    None => self.find_network()?,
                };
                Ok(known.insert(found).clone())
            }
        }
    }

    fn find_network(&self) -> Result<lapstrake_runtime::Network> {
        let required = match (self.settings.isolation, self.settings.network_mode) {
            (_, NetworkMode::None) => return Ok(lapstrake_runtime::Network::None),
            (Isolation::None, _) | (_, NetworkMode::Host) => {
                return Ok(lapstrake_runtime::Network::Host);
            }
            (_, mode) => mode == NetworkMode::Pasta,
        };
        let why = match self.settings.pasta.clone() {
            None => "pasta is not installed (install passt)".to_owned(),
            Some(pasta) => match lapstrake_runtime::prepare_network(&pasta) {
                Ok(()) => return Ok(lapstrake_runtime::Network::Isolated { pasta }),
                Err(error) => error.to_string(),
            },
        };
        if required {
            bail!(
                "give the step a network of its own, as network-mode of the config file asks: {why}"
            );
        }
        let notice = format!("{why}: steps share the host's network");
        self.events.message(notice);
        Ok(lapstrake_runtime::Network::Host)
    }

    fn prepare_run(&self, task: &Task, op: &Run) -> Result<Prepared<Job>> {
        let base = self.chain(task, op.base)?;
        // Both in the order of the mounts, which is the order in which key and step take them.
        let mut sources = Vec::new();
        let mut contents = Vec::new();
        let (mut read, mut found) = (Vec::new(), Vec::new());
        let mut claimed = false;
        for mount in &op.mounts {
            let (Mount::Bind { from, source, .. }
            | Mount::Cache {
                from: Some(from),
                source,
                ..
            }) = mount
            else {
                continue;
            };
            let mounted = copy::mount_source(self, task, *from, source)?;
            if let Mount::Bind { target, .. } = mount {
                read.push((target.clone(), mounted.known.content));
            }
            sources.push(mounted.source);
            found.push((mounted.known.content, mounted.found));
            contents.push(mounted.known.content);
            claimed |= mounted.known.claimed;
        }
        let nothing = (NOTHING, vec![NOTHING; contents.len()]);
        let reads = (base.content(), contents);
        let note = describe("run", &reads, &nothing, |encoder, (base, contents)| {
            key::owners(encoder, self.settings.owners);
            key::run(encoder, op, &self.settings.visible, *base, contents);
        });
        let note = Note {
            mounts: read,
            ..note
        };
        let job = Job::Run(base.clone(), run::RunJob { sources, found });
        let ready = self.ready(task, note, base, job);
        Ok(Prepared::Layer { ready, claimed })
    }
}

/// The keys of an op of this kind, and what they are made of: `encode` describes it once as it is, with what it
/// `reads`, and once as if that were `nothing`.
fn describe<T>(kind: &str, reads: &T, nothing: &T, encode: impl Fn(&mut dyn Encoder, &T)) -> Note {
    let key = |reads: &T| {
        let mut hasher = hasher(kind);
        encode(&mut hasher, reads);
        hasher.finish()
    };
    let mut explainer = Explainer::new();
    encode(&mut explainer, reads);
    Note::new(key(reads), key(nothing), explainer.finish())
}

/// A hasher for the keys of one kind of op.
fn hasher(kind: &str) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.text("op", kind);
    hasher
}

/// A key of a few texts, for records that are no steps.
pub(crate) fn key_of(kind: &str, parts: &[&[u8]]) -> Key {
    let mut hasher = hasher(kind);
    hasher.list("parts", parts.len());
    for part in parts {
        hasher.field("part", part);
    }
    hasher.finish()
}

/// The store's word for how a cache mount is shared.
fn sharing(sharing: Sharing) -> lapstrake_cache::Sharing {
    match sharing {
        Sharing::Shared => lapstrake_cache::Sharing::Shared,
        Sharing::Private => lapstrake_cache::Sharing::Private,
        Sharing::Locked => lapstrake_cache::Sharing::Locked,
    }
}
