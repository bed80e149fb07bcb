//! The signals that `STOPSIGNAL` may name.

/// Linux' names without `SIG`, real-time signals aside.
const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// True for a number but 0, and for a name in any case, with or without `SIG`.
pub(super) fn is_known(signal: &str) -> bool {
    if let Ok(number) = signal.parse::<i64>() {
        return number != 0;
    }
    let upper = signal.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix, most| {
        name.strip_prefix(prefix).and_then(|n: &str| {
            n.parse::<u8>()
                .ok()
                .filter(|v| n == v.to_string() && (1..=most).contains(v))
        })
    };
    NAMES.contains(&name) || offset("RTMIN+", 15).is_some() || offset("RTMAX-", 14).is_some()
}

#[cfg(test)]
mod tests {
    use super::is_known;

    #[test]
    fn signals_are_known_by_number_and_name() {
        for known in [
            "9",
            "SIGKILL",
            "kill",
            "usr1",
            "SIGRTMIN",
            "SIGRTMIN+15",
            "RTMAX-14",
            "64",
            "-1",
        ] {
            assert!(is_known(known), "{known}");
        }
        for unknown in [
            "0", "", "SIG", "SIGNOPE", "RTMIN+0", "RTMIN+16", "RTMAX-15", "RTMIN+01", "9x",
        ] {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}
