//! `build`: options to a request, the request to a result, the result to what the user sees.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use lapstrake_cache::Store;
use lapstrake_frontend::ast::Dockerfile;
use lapstrake_frontend::diag::{Color, Diagnostic};
use lapstrake_frontend::lint;
use lapstrake_frontend::plan::Inputs;
use lapstrake_frontend::redact;
use lapstrake_frontend::span::{LineIndex, Span};
use lapstrake_runtime::Cancel;

use super::input::{self, Input};
use super::stop::{self, Stopped};
use super::{Surroundings, caches, collect, output, secrets, settings};
use crate::build::{BuildError, Built, CHECK, Ended, Request, Site, Travel, build};
use crate::cli::{BuildOptions, Isolation, ProgressMode};
use crate::config::Gc;
use crate::events::Events;
use crate::explain::{self, Asked, Step};
use crate::forced::Forced;
use crate::ops::GitAccess;
use crate::progress::{Excerpt, Failure, Summary, Warning, render_failure, render_warnings, text};
use crate::registry::Client;
use crate::secrets::Secrets;
use crate::threads;

/// Builds, and reports.
pub(super) fn run(surroundings: &Surroundings, options: &BuildOptions) -> ExitCode {
    let gc = &surroundings.config.gc;
    let work = |prepared, events| whole(prepared, options, gc, events);
    match carry_out(surroundings, options, work) {
        Ok((outcome, summary)) => conclude(options, surroundings.debug, outcome, &summary),
        Err(error) => super::end(&error),
    }
}

/// Prepares, and does `work` while its progress is shown.
pub(super) fn carry_out<T, F: Future<Output = T>>(
    surroundings: &Surroundings,
    options: &BuildOptions,
    work: impl FnOnce(Prepared, Events) -> F,
) -> Result<(T, Summary)> {
    let prepared = Prepared::new(surroundings, options)?;
    let display = options
        .progress
        .start(surroundings.env, surroundings.start)
        .context("start to show progress")?;
    let runtime = stop::runtime()?;
    let (cancel, store) = (prepared.cancel.clone(), prepared.store.clone());
    let events = Events::new(display.feed());
    if options.isolation == Isolation::None {
        events.message(UNCONFINED.to_owned());
    }
    let working = work(prepared, events);
    let outcome = runtime.block_on(stop::unless_stopped(&cancel, working));
    let summary = display.finish();
    // Threads may still copy or compress for a build that failed or was stopped. They are not shown what comes of it.
    store.close();
    stop::leave_running(runtime);
    Ok((outcome.ok_or(Stopped("build"))?, summary))
}

/// The remedy is for containers: elsewhere root, or namespaces for ordinary users, are to be had.
const NAMESPACES: &str = "enter namespaces (in a container that allows none, --isolation=none builds without confining steps)";
const UNCONFINED: &str = "--isolation=none: steps are not confined: they have the rights, processes and network of this process";

/// What is made before any thread exists.
pub(super) struct Prepared {
    pub(super) store: Store,
    pub(super) client: Client,
    secrets: Secrets,
    settings: crate::ops::Settings,
    travel: Travel,
    cancel: Cancel,
}

impl Prepared {
    fn new(surroundings: &Surroundings, options: &BuildOptions) -> Result<Self> {
        // First of all: no thread may exist, and the store must be made by who owns it then.
        let identity = match options.isolation {
            Isolation::Default => lapstrake_runtime::enter().context(NAMESPACES)?,
            Isolation::None => {
                lapstrake_runtime::enter_bare().context("build with --isolation=none")?
            }
        };
        let store = surroundings.open(identity)?;
        let mut insecure = output::insecure(options);
        insecure.extend(caches::insecure(options));
        Ok(Self {
            client: surroundings.client(insecure)?,
            secrets: secrets::secrets(surroundings, options, &store)?,
            settings: settings::settings(surroundings, options, identity)?,
            travel: caches::travel(options, surroundings.env)?,
            cancel: Cancel::new().context("prepare to stop steps")?,
            store,
        })
    }

    /// Reads the Dockerfile and opens the contexts.
    pub(super) async fn read(&self, options: &BuildOptions, events: &Events) -> Result<Input> {
        let step = events.begin("[internal] load build definition");
        let (store, client, secrets, cancel, options) = (
            self.store.clone(),
            self.client.clone(),
            self.secrets.clone(),
            self.cancel.clone(),
            options.clone(),
        );
        let is_near = input::is_near(&options);
        let read = move || {
            let git = GitAccess {
                secrets: &secrets,
                cancel: &cancel,
                patience: client.time_limits().stall,
            };
            input::read(&store, &client, &git, &options)
        };
        // What lies here is read in less time than another thread takes to begin.
        let read = if is_near {
            read()
        } else {
            let read = threads::off(read).await;
            read.map_err(|error| anyhow!(error)).and_then(|read| read)
        };
        step.end(read)
    }
}

/// The Dockerfile, for excerpts.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// How a build ended, with what is needed to tell of it.
struct Outcome {
    source: Option<Source>,
    result: Result<Built, BuildError>,
    steps: Vec<Step>,
}

impl Outcome {
    /// A build that failed before it began.
    fn early(source: Option<Source>, error: BuildError) -> Self {
        Self {
            source,
            result: Err(error),
            steps: Vec::new(),
        }
    }
}

async fn whole(prepared: Prepared, options: &BuildOptions, gc: &Gc, events: Events) -> Outcome {
    let input = match prepared.read(options, &events).await {
        Ok(input) => input,
        Err(error) => {
            return Outcome::early(None, BuildError::Other(error));
        }
    };
    let Prepared {
        store,
        client,
        secrets,
        settings,
        travel,
        cancel,
    } = prepared;
    let (text, parsed) = lapstrake_frontend::parse_bytes(&input.dockerfile);
    let source = Some(Source {
        name: input.name.clone(),
        text,
    });
    let warn = warner(&events, source.as_ref());
    let text = source.as_ref().map_or("", |source| source.text.as_str());
    let dockerfile = match parsed {
        Ok(dockerfile) => dockerfile,
        Err(errors) => {
            let check = options.build_args.get(CHECK).map(String::as_str);
            let found = lint::lint_before(text, &errors, check);
            found.iter().for_each(warn);
            return Outcome::early(source, BuildError::Dockerfile(errors));
        }
    };
    note_syntax(&dockerfile, &events);
    let request = match request(options, text, dockerfile, input, secrets, settings, travel) {
        Ok(request) => Request { warn, ..request },
        Err(error) => {
            return Outcome::early(source, BuildError::Other(error));
        }
    };
    let site = Site {
        store: store.clone(),
        client,
        events: events.clone(),
        cancel,
    };
    let Ended { result, steps } = build(request, site).await;
    // What was cached takes no room that was not taken before.
    if result.is_ok() && steps.iter().any(Step::was_worked) {
        let gc = gc.clone();
        let collect = move || collect::after_build(&store, &gc, &events);
        // The image is made; what is not removed now is removed after the next build.
        let _ = threads::off(collect).await;
    }
    Outcome {
        source,
        result,
        steps,
    }
}

/// Says that a frontend which `# syntax=` names is not run, unless it is the one whose language is built in.
fn note_syntax(dockerfile: &Dockerfile, events: &Events) {
    let Some(syntax) = dockerfile
        .directives
        .syntax
        .as_ref()
        .map(|syntax| &syntax.value)
    else {
        return;
    };
    let name = syntax.strip_prefix("docker.io/").unwrap_or(syntax);
    if !name.starts_with("docker/dockerfile") {
        events.message(format!(
            "# syntax={syntax} is not run: the Dockerfile is read as docker/dockerfile would read it"
        ));
    }
}

/// Turns findings of the build checks into warnings of the build.
fn warner(events: &Events, source: Option<&Source>) -> Box<dyn Fn(&lint::Warning) + Send + Sync> {
    let events = events.clone();
    let (name, text) = source
        .map(|source| (source.name.clone(), source.text.clone()))
        .unwrap_or_default();
    Box::new(move |found| {
        let index = LineIndex::new(&text);
        events.warning(Warning {
            step: None,
            text: format!("{}: {}", found.rule.name(), found.message),
            detail: Vec::new(),
            url: found.rule.url(),
            place: Some((name.clone(), index.line(found.span.start))),
        });
    })
}

/// What each platform is planned with.
pub(super) fn inputs(options: &BuildOptions, input: &Input) -> Vec<Inputs> {
    let local = crate::machine::platform();
    let implicit = options.platforms.is_empty();
    let platforms = if implicit {
        vec![local.clone()]
    } else {
        options.platforms.clone()
    };
    let inputs = platforms.iter().map(|platform| Inputs {
        target: options.target.clone(),
        build_args: options.build_args.clone(),
        epoch: None,
        labels: options.labels.clone(),
        target_platform: platform.clone(),
        build_platform: local.clone(),
        network: options.network,
        contexts: input.named.clone(),
        no_cache: options.no_cache.clone(),
        images: BTreeMap::new(),
        multi_platform: platforms.len() > 1,
        implicit_platform: implicit,
        ignore: input.ignore.clone(),
    });
    inputs.collect()
}

/// Where a line is in a text; nowhere if there are not so many.
fn line_span(text: &str, line: u32) -> Span {
    let mut end = 0;
    for (number, line_text) in (1..).zip(text.split_inclusive('\n')) {
        let start = end;
        end += u32::try_from(line_text.len()).unwrap_or(0);
        if number == line {
            return Span::new(start, end);
        }
    }
    Span::new(end, end)
}

fn request(
    options: &BuildOptions,
    text: &str,
    dockerfile: Dockerfile,
    input: Input,
    secrets: Secrets,
    settings: crate::ops::Settings,
    travel: Travel,
) -> Result<Request> {
    let id = input.contexts.get(&None).map(|context| context.id());
    let project = match id.filter(|id| *id != [0; 32]) {
        Some(id) => explain::project(&id, &input.name),
        None => explain::project(format!("{:?}", options.context).as_bytes(), &input.name),
    };
    Ok(Request {
        dockerfile,
        inputs: inputs(options, &input),
        contexts: input.contexts,
        layouts: input.layouts,
        secrets,
        settings,
        allowed: options.allow.clone(),
        pull: options.pull,
        forced: Forced {
            steps: options.no_cache_steps.clone(),
            from: options
                .rebuild_from
                .map(|line| (line, line_span(text, line))),
        },
        outputs: output::outputs(options)?,
        travel,
        asked: Asked {
            project,
            target: options.target.clone().unwrap_or_default(),
            platform: match options.platforms.as_slice() {
                [] => crate::machine::platform().to_string(),
                [platform] => platform.to_string(),
                _ => String::new(),
            },
        },
        warn: Box::new(|_| ()),
    })
}

/// Tells the user how it ended, and the caller by the exit status.
fn conclude(options: &BuildOptions, debug: bool, outcome: Outcome, summary: &Summary) -> ExitCode {
    let Outcome {
        source,
        result,
        steps,
    } = outcome;
    if options.explain {
        let lines = explain::report(&steps);
        let lines = lines.iter().map(|line| text::name(line) + "\n");
        let _ = std::io::stderr().write_all(lines.collect::<String>().as_bytes());
    }
    if options.progress != ProgressMode::Quiet {
        let _ = std::io::stderr().write_all(render_warnings(&summary.warnings, debug).as_bytes());
    }
    let error = match result {
        Ok(built) => match report_success(options, &built) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => {
                super::report(&error);
                return ExitCode::FAILURE;
            }
        },
        Err(error) => error,
    };
    report_failure(source.as_ref(), summary, &error)
}

/// Tells the user why it failed; the exit status to end with.
pub(super) fn report_failure(
    source: Option<&Source>,
    summary: &Summary,
    error: &BuildError,
) -> ExitCode {
    let report = match error {
        BuildError::Cancelled => return super::end(&Stopped("build").into()),
        BuildError::Dockerfile(diagnostics) => render(source, diagnostics),
        BuildError::Step { span, error } => failure(source, summary, *span, error),
        BuildError::Other(error) => failure(None, summary, None, error),
    };
    let _ = std::io::stderr().write_all(report.as_bytes());
    ExitCode::FAILURE
}

fn render(source: Option<&Source>, diagnostics: &[Diagnostic]) -> String {
    let Some(source) = source else {
        return String::new();
    };
    let rendered = diagnostics
        .iter()
        .map(|found| found.render(&source.name, &source.text, Color::Plain));
    let text = rendered.collect::<Vec<_>>().join("\n\n") + "\n";
    redact(&text).into_owned()
}

fn failure(
    source: Option<&Source>,
    summary: &Summary,
    span: Option<Span>,
    error: &anyhow::Error,
) -> String {
    // Only a step of the Dockerfile has output worth repeating.
    let step = summary.failed.as_ref().filter(|_| span.is_some());
    render_failure(&Failure {
        step,
        source: source.zip(span).map(|(source, span)| Excerpt {
            file: &source.name,
            text: &source.text,
            span,
        }),
        error: &text::causes(error),
    })
}

fn report_success(options: &BuildOptions, built: &Built) -> Result<()> {
    let emitted = || built.emitted.iter();
    let id = emitted()
        .find_map(|emitted| emitted.id)
        .or_else(|| built.images.first().map(|image| image.id))
        .map(|id| id.to_string())
        .unwrap_or_default();
    let top = emitted().find_map(|emitted| emitted.descriptor.as_ref());
    // Several images have no config in common: then the index stands for them.
    let id = if built.images.len() > 1 {
        top.map(|top| top.digest.to_string()).unwrap_or(id)
    } else {
        id
    };
    if let Some(path) = &options.iid_file {
        crate::sink::write_whole(path, |out| Ok(out.write_all(id.as_bytes())?))?;
    }
    if let Some(path) = &options.metadata_file {
        let mut facts = serde_json::Map::new();
        facts.insert("containerimage.config.digest".into(), id.clone().into());
        if let Some(top) = top {
            facts.insert(
                "containerimage.descriptor".into(),
                serde_json::to_value(top)?,
            );
            facts.insert(
                "containerimage.digest".into(),
                top.digest.to_string().into(),
            );
        }
        let names: Vec<String> = options.tags.iter().map(|tag| tag.canonical()).collect();
        if !names.is_empty() {
            facts.insert("image.name".into(), names.join(",").into());
        }
        let text = serde_json::to_vec_pretty(&facts)?;
        crate::sink::write_whole(path, |out| Ok(out.write_all(&text)?))?;
    }
    if options.quiet {
        writeln!(std::io::stdout(), "{id}")?;
    }
    Ok(())
}
