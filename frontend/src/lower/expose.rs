//! `EXPOSE`: ports, ranges of them, and protocols.

use serde_json::json;
use smol_str::{SmolStr, format_smolstr};

use super::{Lowering, State};
use crate::ast::Word;
use crate::diag::{Code, Diagnostic};
use crate::expand;
use crate::lint::Warning;
use crate::text::list;

/// The first is meant where none is named.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// All there are, of the three protocols; an instruction that names more repeats itself.
const MAX_PORTS: usize = 3 * 65536;

impl Lowering<'_> {
    /// Words are split again after expansion: one variable may hold several ports.
    pub(super) fn expose(&self, state: &mut State, ports: &[Word]) -> Result<(), Diagnostic> {
        let mut exposed = Vec::new();
        for raw in ports {
            let words = expand::words(&raw.value, self.escape, &|name| state.env.lookup(name))
                .map_err(|error| error.diagnostic(raw))?;
            for word in words.words {
                state.warn_of_port(&word);
                let ports = parse(&word).map_err(|message| {
                    Diagnostic::error(Code::Port, raw.span, message)
                        .hint("write a port as 80, 80/udp or 8000-8010")
                })?;
                exposed.extend(ports);
                if exposed.len() > MAX_PORTS {
                    let message = format!("more than {MAX_PORTS} ports are exposed at once");
                    return Err(Diagnostic::error(Code::Port, raw.span, message)
                        .hint("name each port once"));
                }
            }
        }
        state.record(["EXPOSE ", &list(&exposed)].concat());
        state
            .config
            .config
            .exposed_ports
            .extend(exposed.into_iter().map(|port| (port, json!({}))));
        Ok(())
    }
}

impl State {
    fn warn_of_port(&mut self, port: &str) {
        let (ports, protocol) = port.split_once('/').unwrap_or((port, ""));
        if protocol != protocol.to_lowercase() {
            self.warnings
                .push(Warning::expose_proto_casing(self.at, port));
        }
        if ports.trim_end_matches(|c| c != ':').len() > 1 {
            self.warnings
                .push(Warning::expose_invalid_format(self.at, port));
        }
    }
}

/// Reads `[[ip:]host:]port[-port][/protocol]`. What stands before the container's port is checked and dropped.
fn parse(word: &str) -> Result<impl Iterator<Item = SmolStr>, String> {
    let (host, rest) = word
        .rsplit_once(':')
        .map_or((None, word), |(host, rest)| (Some(host), rest));
    let (address, host) = match host.map(|host| host.rsplit_once(':').unwrap_or(("", host))) {
        Some((address, host)) => (address, host),
        None => ("", ""),
    };
    let (ports, protocol) = rest.split_once('/').unwrap_or((rest, ""));
    let fail = |reason: &str| format!("invalid port: {word:?}: {reason}");
    if ports.is_empty() {
        return Err(fail("no port specified"));
    }
    let known = |name: &&str| name.eq_ignore_ascii_case(protocol);
    let protocol = match PROTOCOLS.into_iter().find(known) {
        Some(protocol) => protocol,
        None if protocol.is_empty() => PROTOCOLS[0],
        None => {
            let protocol = protocol.to_lowercase();
            return Err(fail(&format!("invalid proto: {protocol}")));
        }
    };
    check_address(address)?;
    let (first, last) = range(ports).ok_or_else(|| format!("invalid containerPort: {ports}"))?;
    if !host.is_empty() {
        let (low, high) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != high - low && last != first {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {ports} and {host}"
            ));
        }
    }
    Ok((first..=last).map(move |port| format_smolstr!("{port}/{protocol}")))
}

fn check_address(address: &str) -> Result<(), String> {
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    match address.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        true => Ok(()),
        false => Err(format!("invalid IP address: {address}")),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.strip_prefix('+').unwrap_or(text).parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ports_are_read() {
        let shown = |word| match parse(word) {
            Ok(ports) => ports.collect::<Vec<_>>().join(" "),
            Err(error) => error,
        };
        for (word, want) in [
            ("80", "80/tcp"),
            ("80/udp", "80/udp"),
            ("80/TCP", "80/tcp"),
            ("80/", "80/tcp"),
            ("9000-9002/sctp", "9000/sctp 9001/sctp 9002/sctp"),
            ("8080:80", "80/tcp"),
            ("127.0.0.1:8080:80", "80/tcp"),
            ("[::1]:8080:80", "80/tcp"),
            ("::1:8080:80", "80/tcp"),
            ("8080-8090:80", "80/tcp"),
            (
                "8080-8081:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 8080-8081",
            ),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("", "invalid port: \"\": no port specified"),
            ("/udp", "invalid port: \"/udp\": no port specified"),
            ("80/what", "invalid port: \"80/what\": invalid proto: what"),
            ("http", "invalid containerPort: http"),
            ("65536", "invalid containerPort: 65536"),
            ("9-8", "invalid containerPort: 9-8"),
            ("a:80", "invalid hostPort: a"),
        ] {
            assert_eq!(shown(word), want, "{word}");
        }
    }
}
