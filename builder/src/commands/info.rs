//! `info`: what this machine offers to steps, what is therefore used, and how to get what is missing.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use lapstrake_runtime::Identity;

use super::Surroundings;
use super::settings::in_path;
use crate::cli::Format;
use crate::ids::{ONE_ID, REMEDY};
use crate::progress::text::causes;
use crate::trees::{COPIES, why_no_overlays};

/// One thing: its name, what there is and is used, and what to do where something is missing.
struct Fact {
    name: &'static str,
    value: String,
    remedy: Option<&'static str>,
}

fn fact(name: &'static str, value: impl Into<String>) -> Fact {
    Fact {
        name,
        value: value.into(),
        remedy: None,
    }
}

impl Fact {
    /// Says what to do if there is nothing of it.
    fn or(self, there: bool, remedy: &'static str) -> Fact {
        Fact {
            remedy: (!there).then_some(remedy),
            ..self
        }
    }
}

/// Prints it.
pub(super) fn info(surroundings: &Surroundings, format: Format, out: &mut dyn Write) -> Result<()> {
    let facts = facts(surroundings)?;
    match format {
        Format::Table => {
            for Fact {
                name,
                value,
                remedy,
            } in &facts
            {
                writeln!(out, "{name:<16} {value}")?;
                if let Some(remedy) = remedy {
                    writeln!(out, "{:<16} -> {remedy}", "")?;
                }
            }
        }
        Format::Json => {
            let facts = facts.into_iter().map(
                |Fact {
                     name,
                     value,
                     remedy,
                 }| {
                    let fact = match remedy {
                        Some(remedy) => serde_json::json!({ "value": value, "remedy": remedy }),
                        None => serde_json::json!({ "value": value }),
                    };
                    (name.replace(' ', "-"), fact)
                },
            );
            let all: serde_json::Map<_, _> = facts.collect();
            writeln!(out, "{}", serde_json::Value::from(all))?;
        }
    }
    Ok(())
}

fn facts(surroundings: &Surroundings) -> Result<Vec<Fact>> {
    // Before: afterwards these are those of the namespaces.
    let groups = control_groups();
    let entered = lapstrake_runtime::enter();
    let store = match &entered {
        Ok(identity) => surroundings.place(*identity)?,
        Err(_) => surroundings.root()?,
    };
    let exists = |path: &str| Path::new(path).exists();
    let mut facts = vec![
        fact("version", env!("CARGO_PKG_VERSION")),
        fact("platform", surroundings.env.platform.to_string()),
        fact("kernel", text("/proc/sys/kernel/osrelease")),
        fact("store", store.display().to_string()),
    ];
    facts.push(match &entered {
        Ok(identity) => namespaces(*identity),
        Err(error) => fact("namespaces", format!("none: {error}")).or(
            false,
            "run as root, or allow user namespaces (sysctl user.max_user_namespaces, \
             kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); in a container that \
             cannot, --isolation=none builds without confining steps",
        ),
    });
    facts.extend(entered.ok().map(|identity| layers(surroundings, identity)));
    facts.push(groups);
    let filter = exists("/proc/sys/kernel/seccomp/actions_avail");
    let filter_text = if filter {
        "filter of system calls as Docker's"
    } else {
        "no"
    };
    facts.push(fact("seccomp", filter_text).or(
        filter,
        "steps are not started without it: use a kernel with CONFIG_SECCOMP_FILTER",
    ));
    facts.push(network(surroundings));
    facts.push(emulators());
    let keys = in_path("ssh-agent").is_some() && in_path("ssh-add").is_some();
    facts.push(
        fact("ssh key files", if keys { "ssh-agent" } else { "no" })
            .or(keys, "install openssh-client"),
    );
    let git = in_path("git").is_some();
    facts.push(
        fact("git", if git { "yes" } else { "no" })
            .or(git, "install git to build from repositories"),
    );
    Ok(facts)
}

fn text(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn namespaces(identity: Identity) -> Fact {
    match identity {
        Identity::Root => fact(
            "namespaces",
            "those of every step; root is root of this machine",
        ),
        Identity::Range { ids } => fact(
            "namespaces",
            format!("those of every step, and a user namespace with {ids} ids"),
        ),
        Identity::Single | Identity::Bare => fact(
            "namespaces",
            format!("those of every step, and a user namespace with one id: {ONE_ID}"),
        )
        .or(false, REMEDY),
    }
}

fn layers(surroundings: &Surroundings, identity: Identity) -> Fact {
    let found = surroundings
        .open(identity)
        .and_then(|store| why_no_overlays(&store));
    let (value, remedy) = match found {
        Ok(None) => return fact("layers", "mounted as overlays"),
        Ok(Some(why)) => (
            format!("copied: {COPIES}: {why}"),
            "keep the store on a file system that is no overlay, with a kernel that has one (modprobe overlay)",
        ),
        Err(error) => (
            format!("unknown: {}", causes(&error)),
            "choose another store with --root",
        ),
    };
    fact("layers", value).or(false, remedy)
}

fn control_groups() -> Fact {
    let own = text("/proc/self/cgroup");
    let two = own.lines().any(|line| line.starts_with("0::"));
    let one = own.lines().any(|line| !line.starts_with("0::"));
    let kind = match (one, two) {
        (false, true) => "version 2",
        (true, true) => "hybrid: bounds by version 1, devices and killing by version 2",
        (true, false) => "version 1",
        (false, false) => "none",
    };
    let writable = rustix::process::geteuid().is_root()
        || fs::metadata("/sys/fs/cgroup/cgroup.procs")
            .is_ok_and(|file| !file.permissions().readonly());
    let value = if writable {
        kind.to_owned()
    } else {
        format!("{kind}, not for this user: no bounds on memory, processors and tasks")
    };
    fact("control groups", value).or(
        (one || two) && writable,
        "run as root, or delegate a group: systemd-run --user --scope -p Delegate=yes lapstrake build …",
    )
}

fn network(surroundings: &Surroundings) -> Fact {
    use crate::config::NetworkMode;
    let pasta = in_path("pasta");
    let mode = surroundings.config.steps.network_mode.unwrap_or_default();
    let value = match (mode, &pasta) {
        (NetworkMode::Host, _) => "the host's, as the config file says".to_owned(),
        (NetworkMode::None, _) => "none, as the config file says".to_owned(),
        (_, Some(pasta)) => format!("one for each step, through {}", pasta.display()),
        (_, None) => "the host's: pasta is not installed".to_owned(),
    };
    let fine = pasta.is_some() || matches!(mode, NetworkMode::Host | NetworkMode::None);
    fact("network", value).or(
        fine,
        "install passt, so that steps do not reach the host's loopback",
    )
}

fn emulators() -> Fact {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc")
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("qemu-").map(str::to_owned))
        .collect();
    names.sort();
    let value = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    };
    fact("emulators", value).or(
        !names.is_empty(),
        "install qemu-user-static and binfmt-support to run programs of other architectures",
    )
}
