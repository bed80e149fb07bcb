//! Bounds on resources as files of control groups, in either version.

use std::io;
use std::os::fd::BorrowedFd;

use crate::hierarchy::write;
use crate::spec::Limits;

/// Which files there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// A file of a group and what to write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    file: &'static str,
    value: String,
    /// By a user: failing to set it is an error.
    pub(crate) asked: bool,
}

fn asked(file: &'static str, value: &impl ToString) -> Setting {
    Setting {
        file,
        value: value.to_string(),
        asked: true,
    }
}

fn implied(file: &'static str, value: &impl ToString) -> Setting {
    Setting {
        file,
        value: value.to_string(),
        asked: false,
    }
}

/// What to write for one controller.
pub(crate) fn settings(controller: &str, limits: &Limits, version: Version) -> Vec<Setting> {
    match controller {
        "pids" => match limits.pids {
            Some(count) => vec![asked("pids.max", &count)],
            None => vec![implied("pids.max", &Limits::DEFAULT_PIDS)],
        },
        "memory" => memory(limits, version),
        "cpu" => cpu(limits, version),
        "cpuset" => {
            let cpus = limits
                .cpuset_cpus
                .as_ref()
                .map(|list| asked("cpuset.cpus", &list));
            let mems = limits
                .cpuset_mems
                .as_ref()
                .map(|list| asked("cpuset.mems", &list));
            cpus.into_iter().chain(mems).collect()
        }
        _ => Vec::new(),
    }
}

fn memory(limits: &Limits, version: Version) -> Vec<Setting> {
    // One process killed leaves a step that hangs or succeeds by chance, whose bound it was that was hit.
    let together = implied("memory.oom.group", &1);
    let Some(bytes) = limits.memory else {
        return match version {
            Version::One => Vec::new(),
            Version::Two => vec![together],
        };
    };
    // Docker's default: as much swap as memory.
    let total = limits
        .memory_swap
        .unwrap_or_else(|| i64::try_from(bytes.saturating_mul(2)).unwrap_or(-1));
    let total = u64::try_from(total).ok();
    match version {
        Version::One => {
            let swap = implied(
                "memory.memsw.limit_in_bytes",
                &total.map_or("-1".into(), |total| total.to_string()),
            );
            vec![asked("memory.limit_in_bytes", &bytes), swap]
        }
        Version::Two => {
            let swap = total.map_or("max".into(), |total| {
                total.saturating_sub(bytes).to_string()
            });
            vec![
                asked("memory.max", &bytes),
                implied("memory.swap.max", &swap),
                together,
            ]
        }
    }
}

fn cpu(limits: &Limits, version: Version) -> Vec<Setting> {
    let mut list = Vec::new();
    match version {
        Version::One => {
            list.extend(
                limits
                    .cpu_period
                    .map(|period| asked("cpu.cfs_period_us", &period)),
            );
            list.extend(
                limits
                    .cpu_quota
                    .map(|quota| asked("cpu.cfs_quota_us", &quota)),
            );
            list.extend(limits.cpu_shares.map(|shares| asked("cpu.shares", &shares)));
        }
        Version::Two => {
            if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
                let quota = limits
                    .cpu_quota
                    .filter(|quota| *quota > 0)
                    .map_or("max".into(), |quota| quota.to_string());
                list.push(asked(
                    "cpu.max",
                    &format!("{quota} {}", limits.cpu_period.unwrap_or(100_000)),
                ));
            }
            if let Some(shares) = limits.cpu_shares {
                // 2..=262144 to 1..=10000.
                list.push(asked(
                    "cpu.weight",
                    &(1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142),
                ));
            }
        }
    }
    list
}

/// Writes them; what was only implied may fail.
pub(crate) fn set(group: BorrowedFd<'_>, settings: &[Setting]) -> io::Result<()> {
    for Setting { file, value, asked } in settings {
        if let Err(error) = write(group, file, value)
            && *asked
        {
            return Err(io::Error::other(format!("set {file} to {value}: {error}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_files() {
        let limits = Limits {
            memory: Some(1000),
            cpu_quota: Some(50_000),
            cpu_shares: Some(1024),
            ..Limits::default()
        };
        let text = |controller, version| {
            let list = settings(controller, &limits, version);
            list.iter()
                .map(|s| format!("{}={}", s.file, s.value))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            text("memory", Version::Two),
            "memory.max=1000 memory.swap.max=1000 memory.oom.group=1"
        );
        assert_eq!(
            text("memory", Version::One),
            "memory.limit_in_bytes=1000 memory.memsw.limit_in_bytes=2000"
        );
        assert_eq!(
            text("cpu", Version::Two),
            "cpu.max=50000 100000 cpu.weight=39"
        );
        assert_eq!(text("pids", Version::Two), "pids.max=4096");
        assert_eq!(text("cpuset", Version::Two), "");
    }
}
