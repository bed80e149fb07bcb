//! `RUN`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use smol_str::{SmolStr, format_smolstr};

use super::budget::ENTRY;
use super::{DEFAULT_HOSTNAME, Lowering, State};
use crate::ast::{self, Command, Instruction, Script};
use crate::diag::Diagnostic;
use crate::expand;
use crate::plan::{Mount, Network, Op, Run, Security, Variable};

/// The names under which a proxy is known, each in upper and lower case.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];
/// Where scripts that begin with `#!` are mounted.
const SCRIPTS: &str = "/dev/pipes/";

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
        run: &ast::Run,
    ) -> Result<(), Diagnostic> {
        let (argv, script) = state.argv(run);
        let mounts = self.mounts(state, instruction, run)?;
        state.note_mounts(&mounts);
        let mut env: Vec<Variable> = state.env.iter().cloned().collect();
        let agent = mounts.iter().find_map(|m| {
            if let Mount::Ssh { target, .. } = m {
                Some(target)
            } else {
                None
            }
        });
        if let (Some(agent), None) = (agent, state.env.get("SSH_AUTH_SOCK")) {
            env.push(("SSH_AUTH_SOCK".into(), agent.as_str().into()));
        }
        let name = self.run_name(state, instruction, run, &mounts);
        let created_by = state.run_entry(&argv);
        state.used += state.args.len() * ENTRY;
        let hostname = self
            .inputs
            .build_args
            .get("BUILDKIT_SANDBOX_HOSTNAME")
            .filter(|name| !name.is_empty());
        let op = Run {
            base: state.fs,
            argv,
            script,
            env,
            proxy: self.proxies(),
            cwd: state.cwd.clone(),
            user: state.config.config.user.clone(),
            network: match run.network.as_ref().map(|n| n.value.as_str()) {
                Some("none") => Network::None,
                Some("host") => Network::Host,
                _ => self.inputs.network,
            },
            security: match run.security.as_ref().map(|s| s.value.as_str()) {
                Some("insecure") => Security::Insecure,
                _ => Security::Sandbox,
            },
            devices: run
                .devices
                .iter()
                .map(|device| (device.name.to_string(), device.required))
                .collect(),
            mounts,
            hostname: hostname.map_or(DEFAULT_HOSTNAME, String::as_str).into(),
            platform: state.platform.clone(),
        };
        let mut node = state.node(Op::Run(Box::new(op)), name, instruction.span);
        node.ignore_cache = state.ignore_cache;
        state.commit(&mut self.graph, node, created_by);
        Ok(())
    }

    /// Secrets that are variables show as stars: not to hide their values, which are not known here, but to say where
    /// they come from.
    fn run_name(
        &self,
        state: &mut State,
        instruction: &Instruction,
        run: &ast::Run,
        mounts: &[Mount],
    ) -> String {
        let text = match run.script_title() {
            Some(title) => Cow::Owned(format!("{} ({title})", instruction.text)),
            None => Cow::Borrowed(instruction.text.as_str()),
        };
        let secrets: BTreeSet<&str> = mounts
            .iter()
            .filter_map(|mount| match mount {
                Mount::Secret { env, .. } => env.as_deref(),
                _ => None,
            })
            .collect();
        let env = &state.env;
        let lookup = |name: &str| {
            if secrets.contains(name) {
                Some(Cow::Borrowed("****"))
            } else {
                env.lookup(name)
            }
        };
        let shown = expand::display(&text, self.escape, &lookup);
        state.next_step(&shown)
    }

    /// Given in any case, a proxy is set in both. Of two the one in lower case counts.
    fn proxies(&self) -> Vec<(String, String)> {
        let given = |name: &str| {
            let mut args = self.inputs.build_args.iter().rev();
            args.find(|(arg, _)| arg.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
                .filter(|v| !v.is_empty())
        };
        let proxies = PROXIES
            .iter()
            .filter_map(|name| Some((*name, given(name)?)));
        proxies
            .flat_map(|(name, value)| {
                [
                    (name.to_owned(), value.clone()),
                    (name.to_lowercase(), value.clone()),
                ]
            })
            .collect()
    }
}

impl State {
    /// The argument vector, and a script that must be mounted for it.
    fn argv(&self, run: &ast::Run) -> (Vec<SmolStr>, Vec<(String, String)>) {
        match (&run.command, run.script()) {
            (Command::Exec(words), _) => (words.clone(), Vec::new()),
            (Command::Shell(_), Some(Script::File { name, body }))
                if self.config.os != "windows" =>
            {
                let path = format_smolstr!("{SCRIPTS}{name}");
                (self.in_shell(path), vec![(name.into(), body)])
            }
            (Command::Shell(_), Some(Script::File { body, .. })) => {
                (self.in_shell(body.into()), Vec::new())
            }
            (Command::Shell(_), Some(Script::Text(text))) => (self.in_shell(text), Vec::new()),
            (Command::Shell(text), None) => (self.in_shell(text.clone()), Vec::new()),
        }
    }

    /// The history entry: `RUN |2 A=1 B=2 make # buildkit`, with every declared argument once, as steps see it.
    fn run_entry(&self, argv: &[SmolStr]) -> String {
        let count = match self.args.len() {
            0 => SmolStr::default(),
            count => format_smolstr!("|{count} "),
        };
        let args = self.args.iter().flat_map(|(name, value)| {
            let value = self.env.get(name).or(value.as_deref()).unwrap_or_default();
            [name, "=", value, " "]
        });
        let words = argv.iter().enumerate().flat_map(|(index, word)| {
            let blank = if index == 0 { "" } else { " " };
            [blank, word]
        });
        let parts = ["RUN ", &count].into_iter().chain(args);
        let parts = parts.chain(words).chain([" # buildkit"]);
        let mut entry = String::with_capacity(parts.clone().map(str::len).sum());
        entry.extend(parts);
        entry
    }
}
