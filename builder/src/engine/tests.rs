//! The engine with a scripted executor and a real store.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, bail};
use lapstrake_cache::{Encoder, Hasher, Layer, Store};
use lapstrake_frontend::plan::{MakeDir, Node, Op, OpId};
use lapstrake_runtime::Cancel;

use super::{Executor, Graph, Prepared, Ready, Task, solve};
use crate::events::Events;
use crate::fs::{Chain, Fs};
use crate::progress::{Display, Event, LogLimit, Recorder};

/// Every op is a `MakeDir`; its path says what it writes, its base what it needs.
#[derive(Default)]
struct Script {
    store: Option<Store>,
    /// What an op writes, by its path; the path itself where nothing is said.
    writes: BTreeMap<String, String>,
    /// Ops that fail.
    fails: Vec<String>,
    /// Ops in the order in which they were worked.
    worked: Mutex<Vec<String>>,
}

impl Executor for Script {
    type Job = ();

    fn prepare(&self, task: &Task) -> Result<Prepared<()>> {
        let Op::MakeDir(op) = &task.node.op else {
            return Ok(Prepared::Source(Fs::Layers(Chain::default())));
        };
        let Fs::Layers(base) = task.input(op.base)?.clone() else {
            bail!("not layers")
        };
        let mut hasher = Hasher::new();
        hasher.field("base", &base.content().0);
        hasher.text("path", &op.path);
        let mut step = Hasher::new();
        step.text("user", &op.user);
        Ok(Prepared::Layer {
            ready: Ready {
                key: hasher.finish(),
                step: step.finish(),
                base,
                job: (),
            },
            claimed: false,
        })
    }

    fn prove(&self, _: &Task) -> Result<Ready<()>> {
        bail!("there is nothing to prove")
    }

    fn run(&self, task: &Task, (): ()) -> Result<Layer> {
        let Op::MakeDir(op) = &task.node.op else {
            bail!("a source was run")
        };
        self.worked.lock().unwrap().push(op.path.clone());
        if self.fails.contains(&op.path) {
            bail!("{} fails", op.path);
        }
        let store = self.store.as_ref().unwrap();
        let active = store.snapshot(&[])?;
        let content = self.writes.get(&op.path).unwrap_or(&op.path);
        std::fs::write(active.upper().join("file"), content)?;
        Ok(store.commit(active)?)
    }

    fn is_expired(&self, _task: &Task, _made: i64) -> bool {
        false
    }

    fn settled(&self, _task: &Task, _outcome: crate::explain::Outcome) {}
}

/// A chain of steps on scratch, or a fan of them when `base` is always 0.
fn graph(steps: &[(u32, &str)]) -> Graph {
    let node = |op, name: &str| Node {
        op,
        name: name.into(),
        span: None,
        stage: "".into(),
        ignore_cache: false,
    };
    let mut nodes = vec![node(Op::Scratch, "scratch")];
    for (base, path) in steps {
        let op = MakeDir {
            base: OpId(*base),
            path: (*path).into(),
            user: "".into(),
        };
        nodes.push(node(Op::MakeDir(op), path));
    }
    let wanted: Vec<OpId> = (0..nodes.len() as u32).map(OpId).collect();
    Graph::new(nodes, &wanted)
}

struct Outcome {
    worked: Vec<String>,
    error: Option<String>,
    cached: usize,
}

fn build(store: &Store, graph: Graph, script: Script) -> Outcome {
    let recorder = Recorder::default();
    let display = Display::start(
        Box::new(recorder.clone()),
        LogLimit::parse(None),
        Instant::now(),
    )
    .unwrap();
    let events = Events::new(display.feed());
    let script = Arc::new(Script {
        store: Some(store.clone()),
        ..script
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let solved = solve(
        graph,
        &script,
        store,
        &events,
        &Cancel::new().unwrap(),
        runtime.handle(),
        &|_, _| (),
    );
    drop(events);
    display.finish();
    let cached = recorder
        .events()
        .iter()
        .filter(|event| matches!(event, Event::Cached { .. }))
        .count();
    let mut worked = script.worked.lock().unwrap().clone();
    worked.sort();
    Outcome {
        worked,
        error: solved.err().map(|failure| failure.error.to_string()),
        cached,
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

#[test]
fn a_second_build_is_all_hits() {
    let (_folder, store) = store();
    let steps = [(0, "a"), (1, "b"), (2, "c")];
    assert_eq!(
        build(&store, graph(&steps), Script::default()).worked,
        ["a", "b", "c"]
    );
    let again = build(&store, graph(&steps), Script::default());
    assert_eq!((again.worked.len(), again.cached), (0, 3));
}

#[test]
fn equal_content_ends_a_rebuild() {
    let (_folder, store) = store();
    build(&store, graph(&[(0, "a"), (1, "b")]), Script::default());
    // Another step, so another key, but it writes what `a` wrote: `b` stays a hit.
    let writes = BTreeMap::from([("a2".to_owned(), "a".to_owned())]);
    let again = build(
        &store,
        graph(&[(0, "a2"), (1, "b")]),
        Script {
            writes,
            ..Script::default()
        },
    );
    assert_eq!((again.worked, again.cached), (vec!["a2".to_owned()], 1));
}

#[test]
fn after_a_failure_nothing_more_is_started() {
    let (_folder, store) = store();
    let script = Script {
        fails: vec!["a".into()],
        ..Script::default()
    };
    let outcome = build(&store, graph(&[(0, "a"), (1, "b")]), script);
    assert_eq!(outcome.worked, ["a"]);
    assert_eq!(outcome.error.as_deref(), Some("a fails"));
}

#[test]
fn two_builds_at_once_work_each_step_once() {
    let (_folder, store) = store();
    let steps = [(0, "a"), (1, "b"), (0, "c")];
    let builds: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || build(&store, graph(&steps), Script::default()).worked)
        })
        .collect();
    let mut worked: Vec<String> = builds
        .into_iter()
        .flat_map(|build| build.join().unwrap())
        .collect();
    worked.sort();
    assert_eq!(worked, ["a", "b", "c"]);
}
