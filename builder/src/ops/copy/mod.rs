//! COPY and ADD: what is taken ([`select`]), where it lands ([`place`]), and the tree that it lands on ([`canvas`]).

pub(crate) mod canvas;
mod earlier;
mod mounted;
mod parents;
mod place;
mod select;
pub(crate) mod tree;
pub(crate) mod unpack;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lapstrake_cache::{Content, Encoder, Key, Layer, Time};
use lapstrake_frontend::chmod::Changes;
use lapstrake_frontend::ignore::Ignore;
use lapstrake_frontend::plan::{Chmod, Copy, CopySource, OpId};

use self::canvas::Canvas;
use self::earlier::{Earlier, Ground, Placed};
pub(crate) use self::mounted::{Found, MountSource, mount_source};
use self::place::{Metadata, ModeChange};
use self::select::{How, Item, Pattern};
use self::tree::Tree;
use super::{Job, NOTHING, Ops, describe, hasher, key, key_of};
use crate::context::LocalContext;
use crate::engine::{Prepared, Task};
use crate::explain::Note;
use crate::explain::listing::{self, Listing};
use crate::fs::{Built, Chain, ChainLayer, Fs};

/// A copy whose key is known.
pub(crate) struct CopyJob {
    base: Chain,
    /// The digest of all that is selected.
    selection: Content,
    /// For each source what it selects, where that had to be found out for the key.
    selected: Vec<Option<Selected>>,
}

/// The items of one source and the tree that they are in.
struct Selected {
    tree: Tree,
    items: Vec<Item>,
}

/// The digest of what a source selects.
pub(super) struct Known {
    pub(super) content: Content,
    /// A cache elsewhere says so, nobody has looked.
    pub(super) claimed: bool,
}

impl Known {
    fn proved(content: Content) -> Self {
        Self {
            content,
            claimed: false,
        }
    }
}

/// Computes the key of a copy: the digest of what its sources select is in it, the rest of their trees is not.
pub(super) fn prepare(ops: &Ops, task: &Task, op: &Copy) -> Result<Prepared<Job>> {
    let base = ops.chain(task, op.base)?;
    let excludes = excludes(op)?;
    let mut all = hasher("selections");
    let mut selected = Vec::with_capacity(op.sources.len());
    let mut claimed = false;
    for source in &op.sources {
        match source {
            CopySource::Inline { .. } => selected.push(None),
            CopySource::Path { from, pattern, .. } => {
                let pattern = pattern_of(op, pattern, excludes.as_ref());
                let (known, found) = digest_source(ops, task, *from, &pattern)?;
                all.field("source", &known.content.0);
                claimed |= known.claimed;
                selected.push(found);
            }
        }
    }
    let selection = Content(all.finish().0);
    let reads = (base.content(), selection);
    let note = describe("copy", &reads, &(NOTHING, NOTHING), |encoder, reads| {
        key::owners(encoder, ops.settings.owners);
        key::copy(encoder, op, (!op.link).then_some(reads.0), reads.1);
        let is_inline = |source: &CopySource| matches!(source, CopySource::Inline { .. });
        if op.sources.iter().any(is_inline) {
            key::epoch(encoder, ops.settings.epoch);
        }
    });
    let note = Note {
        selection: Some(selection),
        ..note
    };
    let job = CopyJob {
        base: base.clone(),
        selection,
        selected,
    };
    let ready = ops.ready(task, note, base, Job::Copy(job));
    Ok(Prepared::Layer { ready, claimed })
}

fn pattern_of<'a>(op: &Copy, text: &'a str, excludes: Option<&'a Ignore>) -> Pattern<'a> {
    Pattern {
        text,
        how: if op.parents {
            How::Parents
        } else {
            How::Wildcards
        },
        excludes,
    }
}

fn excludes(op: &Copy) -> Result<Option<Ignore>> {
    if op.excludes.is_empty() {
        return Ok(None);
    }
    let excludes = Ignore::from_patterns(&op.excludes);
    excludes
        .map(Some)
        .map_err(|error| anyhow::anyhow!("read --exclude: {error}"))
}

/// The digest of what `pattern` selects. For layers it is remembered by their content, so that a cached build neither
/// mounts nor fetches them.
fn digest_source(
    ops: &Ops,
    task: &Task,
    from: OpId,
    pattern: &Pattern,
) -> Result<(Known, Option<Selected>)> {
    match task.input(from)? {
        Fs::Local(context) => {
            let selected = select_in(context.tree()?, pattern)?;
            let content = select::digest(&selected.tree, &selected.items, pattern.how)?;
            Ok((Known::proved(content), Some(selected)))
        }
        Fs::Layers(chain) => {
            let excludes = pattern
                .excludes
                .map(|excludes| format!("{excludes:?}"))
                .unwrap_or_default();
            let parts: [&[u8]; 4] = [
                &chain.content().0,
                pattern.text.as_bytes(),
                &[pattern.how as u8],
                excludes.as_bytes(),
            ];
            let memo = key_of("selection", &parts);
            if let Some(content) = ops.store.record::<Content>(&memo)? {
                ops.elsewhere.note_selection(memo, content);
                return Ok((Known::proved(content), None));
            }
            if task.believes
                && let Some(content) = ops.elsewhere.selection(&memo)
            {
                ops.elsewhere.note_selection(memo, content);
                let claimed = true;
                return Ok((Known { content, claimed }, None));
            }
            let selected = select_in(Tree::of_layers(&ops.materialise(task, chain)?)?, pattern)?;
            let content = select::digest(&selected.tree, &selected.items, pattern.how)?;
            ops.store.put_record(&memo, &content)?;
            ops.elsewhere.note_selection(memo, content);
            Ok((Known::proved(content), Some(selected)))
        }
    }
}

fn select_in(tree: Tree, pattern: &Pattern) -> Result<Selected> {
    let items = select::select(&tree, pattern)?;
    Ok(Selected { tree, items })
}

/// Copies onto the base and commits what is new.
pub(super) fn run(ops: &Ops, task: &Task, op: &Copy, job: CopyJob) -> Result<Layer> {
    list(ops, &job)?;
    let lowers = if op.link {
        Vec::new()
    } else {
        ops.materialise(task, &job.base)?
    };
    let selected = select_all(ops, task, op, job.selected)?;
    let ground = Ground::new((!op.link).then_some(&job.base), is_alone(op, &selected));
    let Some(lineage) = lineage(task, op) else {
        return Ok(make(ops, op, &selected, &lowers, None)?.0);
    };
    let find = || Earlier::find(ops, &lineage, ground);
    let (layer, placed) = match make(ops, op, &selected, &lowers, find()?) {
        Err(error) if is_unamendable(&error) => make(
            ops,
            op,
            &selected,
            &lowers,
            find()?.map(Earlier::without_amending),
        ),
        made => made,
    }?;
    placed.remember(ops, &lineage, ground, layer.diff_id)?;
    Ok(layer)
}

fn is_unamendable(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(lapstrake_cache::Error::Unamendable(_))
    )
}

/// Makes the layer of a copy, from what it made last time as far as that can be.
fn make(
    ops: &Ops,
    op: &Copy,
    selected: &[Option<Selected>],
    lowers: &[PathBuf],
    earlier: Option<Earlier>,
) -> Result<(Layer, Placed)> {
    let mut active = ops.store.snapshot(lowers)?;
    let mut canvas = if op.link {
        Canvas::alone(active.upper())?
    } else {
        Canvas::over(lowers, &active)?
    };
    canvas.use_earlier(earlier);
    let meta = metadata(op, canvas.base())?;
    place_all(&mut canvas, ops, op, selected, &meta)?;
    let placed = canvas.finish()?;
    active.amends = placed.amends;
    Ok((ops.store.commit(active)?, placed))
}

/// Places what all sources give, one after the other.
fn place_all(
    canvas: &mut Canvas,
    ops: &Ops,
    op: &Copy,
    selected: &[Option<Selected>],
    meta: &Metadata,
) -> Result<()> {
    for (source, selected) in op.sources.iter().zip(selected) {
        match source {
            CopySource::Inline { name, text } => {
                let time = ops
                    .settings
                    .epoch
                    .map_or_else(crate::time::present, Time::from_secs);
                place::place_text(canvas, name, text, &op.destination, meta, time)?;
            }
            CopySource::Path { unpack, .. } => {
                if let Some(selected) = selected {
                    place_source(canvas, selected, op, *unpack, meta)?;
                }
            }
        }
    }
    Ok(())
}

/// What each source of files selects, found out now where it was not for the key.
fn select_all(
    ops: &Ops,
    task: &Task,
    op: &Copy,
    selected: Vec<Option<Selected>>,
) -> Result<Vec<Option<Selected>>> {
    let excludes = excludes(op)?;
    let find = |(source, selected): (&CopySource, Option<Selected>)| match (source, selected) {
        (CopySource::Path { from, pattern, .. }, None) => {
            let pattern = pattern_of(op, pattern, excludes.as_ref());
            select_again(ops, task, *from, &pattern).map(Some)
        }
        (_, selected) => Ok(selected),
    };
    op.sources.iter().zip(selected).map(find).collect()
}

/// Whether what is in one directory is all that the copy places.
fn is_alone(op: &Copy, selected: &[Option<Selected>]) -> bool {
    match selected {
        [Some(Selected { items, .. })] if !op.parents => {
            matches!(items.as_slice(), [item] if item.is_dir())
        }
        _ => false,
    }
}

/// Keeps the names of the selected files, for the explanation of the next miss. Not where the digest of the selection
/// was remembered: then the list was made with it.
fn list(ops: &Ops, job: &CopyJob) -> Result<()> {
    let selected: Option<Vec<&Selected>> = job.selected.iter().map(Option::as_ref).collect();
    match selected.filter(|selected| !selected.is_empty()) {
        Some(selected) => list_all(ops, &job.selection, &selected),
        None => Ok(()),
    }
}

fn list_all(ops: &Ops, selection: &Content, selected: &[&Selected]) -> Result<()> {
    if listing::is_known(&ops.store, selection)? {
        return Ok(());
    }
    let mut listing = Listing::default();
    for Selected { tree, items } in selected {
        for item in items {
            select::list(tree, item, &mut listing);
        }
    }
    listing::save(&ops.store, selection, &listing)
}

/// Names the copy for [`earlier`], if it copies from a local context.
fn lineage(task: &Task, op: &Copy) -> Option<Key> {
    let context = op.sources.iter().find_map(|source| match source {
        CopySource::Path { from, .. } => match task.input(*from) {
            Ok(Fs::Local(context)) => Some(context.id()),
            _ => None,
        },
        CopySource::Inline { .. } => None,
    });
    context.map(|context| earlier::lineage(op, &context))
}

fn select_again(ops: &Ops, task: &Task, from: OpId, pattern: &Pattern) -> Result<Selected> {
    match task.input(from)? {
        Fs::Local(context) => select_in(context.tree()?, pattern),
        Fs::Layers(chain) => select_in(Tree::of_layers(&ops.materialise(task, chain)?)?, pattern),
    }
}

fn place_source(
    canvas: &mut Canvas,
    selected: &Selected,
    op: &Copy,
    unpack: bool,
    meta: &Metadata,
) -> Result<()> {
    let Selected { tree, items } = selected;
    for item in items {
        if unpack && unpack::unpack(canvas, tree, item, &op.destination, meta)? {
            continue;
        }
        place::place(
            canvas,
            tree,
            std::slice::from_ref(item),
            &op.destination,
            meta,
        )?;
    }
    Ok(())
}

fn metadata(op: &Copy, view: Option<&std::os::fd::OwnedFd>) -> Result<Metadata> {
    let owner = op
        .chown
        .as_deref()
        .map(|text| super::owner::of_chown(view, text))
        .transpose()?;
    let mode = match &op.chmod {
        None => None,
        // BuildKit drops a symbolic mode together with --link.
        Some(Chmod::Symbolic(_)) if op.link => None,
        Some(Chmod::Octal(mode)) => Some(ModeChange::Octal(*mode)),
        Some(Chmod::Symbolic(text)) => Some(ModeChange::Symbolic(Changes::parse(text)?)),
    };
    Ok(Metadata {
        owner,
        mode,
        time: None,
    })
}

/// Only used for paths of mounts, in which nothing is a wildcard.
fn literal(path: &str) -> Pattern<'_> {
    Pattern {
        text: path,
        how: How::Literal,
        excludes: None,
    }
}

/// A local context, whole, as a chain of one layer: for a stage that starts from it.
pub(super) fn whole_context(ops: &Ops, context: &LocalContext) -> Result<Chain> {
    let selected = select_in(context.tree()?, &literal(""))?;
    let content = select::digest(&selected.tree, &selected.items, How::Literal)?;
    let layer = context_layer(ops, context, "", &content)?;
    Ok(Chain::default().with(ChainLayer::Built(Built {
        layer,
        created: crate::time::now(),
        keys: None,
    })))
}

/// What the context shows at `path`, as a layer with the same path; kept by its content.
fn context_layer(
    ops: &Ops,
    context: &LocalContext,
    path: &str,
    content: &Content,
) -> Result<Layer> {
    let key = key_of("context layer", &[&content.0, path.as_bytes()]);
    let _lock = ops.store.lock_key(&key, &mut || ())?;
    let known = ops.store.record(&key)?;
    if let Some(layer) = known
        .map(|diff_id| ops.store.layer(&diff_id))
        .transpose()?
        .flatten()
    {
        return Ok(layer);
    }
    let active = ops.store.snapshot(&[])?;
    let mut canvas = Canvas::alone(active.upper())?;
    let Selected { tree, items } = select_in(context.tree()?, &literal(path))?;
    ensure!(
        select::digest(&tree, &items, How::Literal)? == *content,
        "the build context changed while the build read it: run the build again"
    );
    let mut destination = format!("/{path}");
    if items.iter().any(Item::is_dir) {
        destination.push('/');
    }
    place::place(
        &mut canvas,
        &tree,
        &items,
        &destination,
        &Metadata::default(),
    )?;
    canvas.finish()?;
    let layer = ops.store.commit(active)?;
    ops.store.put_record(&key, &layer.diff_id)?;
    Ok(layer)
}

/// Copies all of `tree` into the host directory `target`, below `prefix`; everything gets this owner and this time, if any.
pub(crate) fn copy_all(
    tree: &Tree,
    target: &Path,
    prefix: &Path,
    owner: Option<(u32, u32)>,
    time: Option<Time>,
) -> Result<()> {
    let mut canvas = Canvas::alone(target)?;
    let items = select::select(tree, &literal(""))?;
    let meta = Metadata {
        owner,
        mode: None,
        time,
    };
    place::place(
        &mut canvas,
        tree,
        &items,
        &format!("/{}/", prefix.display()),
        &meta,
    )?;
    canvas.finish()?;
    Ok(())
}

/// Copies the git checkout `source`, all of it, into `target`; what it holds belongs to root.
pub(super) fn copy_checkout(source: &Path, target: &Path) -> Result<()> {
    copy_all(
        &Tree::of_checkout(source)?,
        target,
        Path::new(""),
        None,
        None,
    )
}

/// Fills the new cache mount at `target` with `source` of a tree.
pub(super) fn seed(lowers: &[PathBuf], source: &str, target: &Path) -> Result<()> {
    let Selected { tree, items } = select_in(Tree::of_layers(lowers)?, &literal(source))?;
    let mut canvas = Canvas::alone(target)?;
    place::place(&mut canvas, &tree, &items, "/", &Metadata::default())
        .context("fill the cache mount")?;
    canvas.finish()?;
    Ok(())
}
