//! What steps may use and see, from the options and from this machine.

use std::path::PathBuf;

use anyhow::{Result, bail};
use lapstrake_frontend::plan::Network;
use lapstrake_runtime::{Identity, Limits, Ulimit};

use super::Surroundings;
use crate::cdi;
use crate::cli::{BuildOptions, HostAddress};
use crate::ids::Owners;
use crate::ops::{Settings, Visible};

/// The settings of a build.
pub(super) fn settings(
    surroundings: &Surroundings,
    options: &BuildOptions,
    identity: Identity,
) -> Result<Settings> {
    let hosts: Vec<(String, String)> = options
        .add_hosts
        .iter()
        .map(|entry| {
            let address = match &entry.address {
                HostAddress::Ip(address) => address.to_string(),
                // Steps reach the host where the host reaches itself, unless they have a network of their own.
                HostAddress::Gateway if options.network == Network::Host => "127.0.0.1".to_owned(),
                HostAddress::Gateway => bail!(
                    "--add-host {}: steps do not reach the host from their own network: give --network=host too",
                    entry.host
                ),
            };
            Ok((entry.host.clone(), address))
        })
        .collect::<Result<_>>()?;
    let mut host_names: Vec<String> = hosts.iter().map(|(name, _)| name.clone()).collect();
    host_names.sort_unstable();
    let limits = limits(options);
    let mut ulimits: Vec<String> = limits
        .ulimits
        .iter()
        .map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard))
        .collect();
    ulimits.sort_unstable();
    Ok(Settings {
        visible: Visible {
            host_names,
            ulimits,
            shm_size: limits.shm_size,
            cgroup_parent: limits.cgroup_parent.clone(),
            no_new_privileges: options.no_new_privileges,
        },
        hosts,
        resolv_conf: options.dns.apply(&resolv_conf()),
        limits,
        isolation: options.isolation,
        owners: Owners::of(identity),
        network_mode: surroundings.config.steps.network_mode.unwrap_or_default(),
        pasta: in_path("pasta"),
        cdi: surroundings
            .env
            .nonempty("LAPSTRAKE_CDI")
            .map_or(cdi::FOLDERS.map(PathBuf::from).into(), |folders| {
                std::env::split_paths(folders).collect()
            }),
        epoch: None,
        cache_ttl: options.cache_ttl,
    })
}

fn limits(options: &BuildOptions) -> Limits {
    let crate::cli::Limits {
        ulimits,
        shm_size,
        cgroup_parent,
        resources,
    } = options.limits.clone();
    let ulimits = ulimits.into_iter().map(|limit| Ulimit {
        name: limit.name,
        soft: limit.soft,
        hard: limit.hard,
    });
    Limits {
        memory: resources.memory,
        memory_swap: resources.memory_swap,
        pids: None,
        cpu_shares: resources.cpu_shares,
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        ulimits: ulimits.collect(),
        shm_size,
        cgroup_parent,
    }
}

/// The host's resolvers.
fn resolv_conf() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// A program of this machine, by the search path of this process.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}
