//! The instructions that change only the image's config, and `WORKDIR`, which also makes the directory.

use serde_json::json;
use smol_str::SmolStr;

use super::{Lowering, State, signal};
use crate::ast::{Command, Healthcheck, Instruction, Pairs, Word};
use crate::diag::{Code, Diagnostic};
use crate::image::HealthConfig;
use crate::lint::{Warning, rules};
use crate::plan::{MakeDir, Op};
use crate::text::{duration, list, quoted_list};

/// Name and value of an `ENV` or `LABEL`, expanded.
type Pair = (SmolStr, SmolStr);

impl Lowering<'_> {
    /// All values are expanded with what was in scope before the line.
    fn pairs(&self, state: &mut State, pairs: &Pairs) -> Result<Vec<Pair>, Diagnostic> {
        let pairs = pairs.pairs.iter();
        pairs
            .map(|(name, value)| Ok((self.expand(state, name)?, self.expand(state, value)?)))
            .collect()
    }

    pub(super) fn env(&self, state: &mut State, pairs: &Pairs) -> Result<(), Diagnostic> {
        let expanded = self.pairs(state, pairs)?;
        state.record(recorded("ENV", &expanded));
        for ((key, _), (name, value)) in pairs.pairs.iter().zip(expanded) {
            if !rules::is_plain(&key.value) {
                state.warnings.extend(rules::secret("ENV", &name, key.span));
            }
            state.set_env(name, value);
        }
        Ok(())
    }

    pub(super) fn label(&self, state: &mut State, pairs: &Pairs) -> Result<(), Diagnostic> {
        let pairs = self.pairs(state, pairs)?;
        state.record(recorded("LABEL", &pairs));
        state.config.config.labels.extend(pairs);
        Ok(())
    }

    /// The directory is made even where it exists, so that the step does not depend on what is in the image.
    pub(super) fn workdir(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
        path: &Word,
    ) -> Result<(), Diagnostic> {
        let path = self.expand(state, path)?;
        if !state.workdir_set && !path.starts_with('/') {
            state
                .warnings
                .push(Warning::workdir_relative_path(state.at, &path));
        }
        state.workdir_set = true;
        state.change_dir(&path);
        let dir = state.config.config.working_dir.clone();
        let created_by = ["WORKDIR ", &dir].concat();
        if dir == "/" {
            state.record(created_by);
            return Ok(());
        }
        let name = state.next_step(&self.shown(state, &instruction.text));
        let user = state.config.config.user.clone();
        self.check_owner(state, &user, None, instruction.span)?;
        let op = Op::MakeDir(MakeDir {
            base: state.fs,
            path: state.cwd.to_string(),
            user,
        });
        let node = state.node(op, name, instruction.span);
        state.commit(&mut self.graph, node, created_by);
        Ok(())
    }

    pub(super) fn user(&self, state: &mut State, user: &Word) -> Result<(), Diagnostic> {
        let user = self.expand(state, user)?;
        state.record(["USER ", &user].concat());
        state.config.config.user = user;
        Ok(())
    }

    pub(super) fn cmd(&self, state: &mut State, instruction: &Instruction, command: &Command) {
        state.warn_of_shell_form(instruction, command);
        let words = state.command(command);
        state.record(["CMD ", &quoted_list(&words)].concat());
        state.config.config.cmd = Some(words).filter(|words| !words.is_empty());
        state.config.config.args_escaped = true;
        state.has_cmd = true;
    }

    /// A `CMD` that did not stand in this stage was meant for another entrypoint.
    pub(super) fn entrypoint(
        &self,
        state: &mut State,
        instruction: &Instruction,
        command: &Command,
    ) {
        state.warn_of_shell_form(instruction, command);
        let words = state.command(command);
        state.record(["ENTRYPOINT ", &quoted_list(&words)].concat());
        state.config.config.entrypoint = Some(words).filter(|words| !words.is_empty());
        if !state.has_cmd {
            state.config.config.cmd = None;
        }
    }

    pub(super) fn shell(&self, state: &mut State, shell: &[SmolStr]) {
        state.record(format!("SHELL {}", list(shell)));
        state.config.config.shell = Some(shell.to_vec());
    }

    pub(super) fn volume(&self, state: &mut State, paths: &[Word]) -> Result<(), Diagnostic> {
        let mut volumes = Vec::new();
        for raw in paths {
            let path = self.expand(state, raw)?;
            if path.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                return Err(Diagnostic::error(Code::Arguments, raw.span, message));
            }
            volumes.push(path);
        }
        state.record(format!("VOLUME {}", list(&volumes)));
        state
            .config
            .config
            .volumes
            .extend(volumes.into_iter().map(|path| (path, json!({}))));
        Ok(())
    }

    pub(super) fn stopsignal(&self, state: &mut State, raw: &Word) -> Result<(), Diagnostic> {
        let signal = self.expand(state, raw)?;
        if !signal::is_known(&signal) {
            let message = format!("invalid signal: {signal}");
            return Err(Diagnostic::error(Code::Arguments, raw.span, message)
                .hint("give a number or a name such as SIGTERM"));
        }
        state.record(format!("STOPSIGNAL {signal}"));
        state.config.config.stop_signal = signal;
        Ok(())
    }

    pub(super) fn healthcheck(&self, state: &mut State, check: &Healthcheck) {
        let health = match check {
            Healthcheck::None => HealthConfig {
                test: vec!["NONE".into()],
                ..HealthConfig::default()
            },
            Healthcheck::Cmd {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => {
                let test = match command {
                    Command::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
                    Command::Exec(words) => {
                        let words = words.iter().cloned();
                        std::iter::once("CMD".into()).chain(words).collect()
                    }
                };
                HealthConfig {
                    test,
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                }
            }
        };
        state.record(format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            list(&health.test),
            duration(health.interval),
            duration(health.timeout),
            duration(health.start_period),
            duration(health.start_interval),
            health.retries,
        ));
        state.config.config.healthcheck = Some(health);
    }
}

/// The history entry of `ENV` and `LABEL`.
fn recorded(keyword: &str, pairs: &[Pair]) -> String {
    let length = |(name, value): &Pair| name.len() + value.len() + " =".len();
    let length = keyword.len() + pairs.iter().map(length).sum::<usize>();
    let mut text = String::with_capacity(length);
    text.push_str(keyword);
    for (name, value) in pairs {
        text.extend([" ", name, "=", value]);
    }
    text
}

impl State {
    /// The shell does not pass signals on; one that was chosen with `SHELL` may.
    fn warn_of_shell_form(&mut self, instruction: &Instruction, command: &Command) {
        let chosen = self
            .config
            .config
            .shell
            .as_ref()
            .is_some_and(|shell| !shell.is_empty());
        if matches!(command, Command::Shell(_)) && !chosen {
            let keyword = &instruction.keyword.value;
            self.warnings
                .push(Warning::json_args_recommended(self.at, keyword));
        }
    }

    /// The words of a command: those of `SHELL` come before the shell form.
    fn command(&self, command: &Command) -> Vec<SmolStr> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => self.in_shell(text.clone()),
        }
    }

    /// A script with the words of `SHELL` before it.
    pub(super) fn in_shell(&self, script: SmolStr) -> Vec<SmolStr> {
        let default: &[&'static str] = match self.config.os.as_str() {
            "windows" => &["cmd", "/S", "/C"],
            _ => &["/bin/sh", "-c"],
        };
        let chosen = self.config.config.shell.as_deref().unwrap_or_default();
        let mut words = Vec::with_capacity(chosen.len().max(default.len()) + 1);
        words.extend_from_slice(chosen);
        if words.is_empty() {
            words.extend(default.iter().copied().map(SmolStr::new_static));
        }
        words.push(script);
        words
    }
}
