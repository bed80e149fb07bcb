//! `--ulimit`, `--shm-size`, `--resource`, `--cgroup-parent`.

use super::args::BuildArgs;
use super::values::{Invalid, each, key_value, last_of_each, of, size};

/// What bounds the processes of steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of equal names the last counts.
    pub ulimits: Vec<Ulimit>,
    /// The size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// The parent of the steps' cgroups.
    pub cgroup_parent: Option<String>,
    /// Memory and processor time.
    pub resources: Resources,
}

impl Limits {
    /// Works out what the flags mean, those of older dockers too.
    pub(super) fn resolve(args: &BuildArgs) -> Result<Self, Invalid> {
        let legacy = &args.legacy;
        let old_spellings = [
            ("memory", &legacy.memory),
            ("memory-swap", &legacy.memory_swap),
            ("cpu-shares", &legacy.cpu_shares),
            ("cpu-period", &legacy.cpu_period),
            ("cpu-quota", &legacy.cpu_quota),
            ("cpuset-cpus", &legacy.cpuset_cpus),
            ("cpuset-mems", &legacy.cpuset_mems),
        ];
        let mut resources = Resources::default();
        for (name, value) in old_spellings {
            if let Some(value) = value {
                of(name, resources.set_one(name, value))?;
            }
        }
        for text in args.steps.resource.iter().filter(|text| !text.is_empty()) {
            of("resource", resources.set(text))?;
        }
        let shm_size = args
            .steps
            .shm_size
            .as_deref()
            .map(|text| of("shm-size", size(text)))
            .transpose()?;
        Ok(Self {
            ulimits: last_of_each(
                each("ulimit", &args.steps.ulimit, Ulimit::parse)?,
                |ulimit| &ulimit.name,
            ),
            shm_size: shm_size.filter(|size| *size > 0),
            cgroup_parent: args
                .steps
                .cgroup_parent
                .clone()
                .filter(|path| !path.is_empty()),
            resources,
        })
    }
}

/// A limit of one process; -1 is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ulimit {
    /// `nofile`, `core`, …: see [`Ulimit::NAMES`].
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

/// Limits of a whole step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<u64>,
    /// Memory and swap together in bytes; -1 is no limit.
    pub memory_swap: Option<i64>,
    /// A weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds of each period; -1 is no limit.
    pub cpu_quota: Option<i64>,
    /// `0-3` or `0,1`.
    pub cpuset_cpus: Option<String>,
    /// `0-3` or `0,1`.
    pub cpuset_mems: Option<String>,
}

impl Ulimit {
    /// The limits that docker knows.
    pub const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];

    /// Reads `NAME=SOFT[:HARD]`.
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let (name, Some(value)) = key_value(text)? else {
            return Err(format!("{text:?} is not NAME=SOFT[:HARD]"));
        };
        if !Self::NAMES.contains(&name) {
            return Err(format!(
                "unknown limit {name:?}: use one of {}",
                Self::NAMES.join(", ")
            ));
        }
        let number = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is not a number, as {name}=SOFT[:HARD] wants"))
        };
        let (soft, hard) = value.split_once(':').unwrap_or((value, value));
        let (soft, hard): (i64, i64) = (number(soft)?, number(hard)?);
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(format!("{text:?}: the soft limit is above the hard one"));
        }
        Ok(Self {
            name: name.to_owned(),
            soft,
            hard,
        })
    }
}

impl Resources {
    /// Sets what `NAME=VALUE` says.
    pub(super) fn set(&mut self, text: &str) -> Result<(), Invalid> {
        let (name, Some(value)) = key_value(text)? else {
            return Err(format!("{text:?} is not NAME=VALUE"));
        };
        self.set_one(name.trim(), value.trim())
            .map_err(|why| format!("{}: {why}", name.trim()))
    }

    pub(super) fn set_one(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        match name {
            "memory" => self.memory = Some(size(value)?),
            "memory-swap" if value == "-1" => self.memory_swap = Some(-1),
            "memory-swap" => {
                self.memory_swap = Some(i64::try_from(size(value)?).unwrap_or(i64::MAX));
            }
            "cpu-shares" => self.cpu_shares = Some(number(value)?),
            "cpu-period" => self.cpu_period = Some(number(value)?),
            "cpu-quota" => self.cpu_quota = Some(number(value)?),
            "cpuset-cpus" => self.cpuset_cpus = Some(cpu_list(value)?),
            "cpuset-mems" => self.cpuset_mems = Some(cpu_list(value)?),
            _ => {
                return Err(
                    "unknown resource: use memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus or \
                     cpuset-mems"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, Invalid> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number that fits here"))
}

/// `0-3,5`: it is written into a file of the kernel, so nothing else may be in it.
fn cpu_list(text: &str) -> Result<String, Invalid> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let range = |text: &str| {
        text.split_once('-')
            .map_or(number(text), |(from, to)| number(from) && number(to))
    };
    if text.split(',').all(range) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a list such as 0-3 or 0,1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits() {
        let cases = [
            ("nofile=1024:2048", Some((1024, 2048))),
            ("nofile=1024", Some((1024, 1024))),
            ("core=0:-1", Some((0, -1))),
            ("core=-1", Some((-1, -1))),
            ("core=-1:5", None),
            ("nofile=5:4", None),
            ("nofile", None),
            ("nofile=", None),
            ("nofile=1:2:3", None),
            ("files=1", None),
            ("=1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                Ulimit::parse(text).ok().map(|u| (u.soft, u.hard)),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn resources() {
        let mut all = Resources::default();
        let texts = [
            "memory=2g",
            "memory-swap=-1",
            "cpu-shares=5",
            "cpu-period=100",
            "cpu-quota=-1",
            "cpuset-cpus = 0-3,5",
        ];
        for text in texts {
            assert_eq!(all.set(text), Ok(()), "{text}");
        }
        let expected = Resources {
            memory: Some(2 << 30),
            memory_swap: Some(-1),
            cpu_shares: Some(5),
            cpu_period: Some(100),
            cpu_quota: Some(-1),
            cpuset_cpus: Some("0-3,5".into()),
            cpuset_mems: None,
        };
        assert_eq!(all, expected);
        for text in [
            "memory",
            "memory=x",
            "pids=5",
            "cpuset-mems=0;1",
            "cpuset-cpus=",
            "cpu-shares=-1",
            "=1",
        ] {
            assert!(all.set(text).is_err(), "{text}");
        }
    }
}
