//! `--dns`, `--dns-search`, `--dns-option`: what steps find in `/etc/resolv.conf`, as buildah has it.

use std::net::IpAddr;

use super::values::Invalid;

/// What is put in place of the host's settings; empty lists leave those.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// `--dns`.
    pub servers: Vec<IpAddr>,
    /// `--dns-search`; a single `.` is no domain at all.
    pub search: Vec<String>,
    /// `--dns-option`.
    pub options: Vec<String>,
}

impl Dns {
    /// Reads the values of the three flags.
    pub(super) fn parse(
        servers: &[String],
        search: &[String],
        options: &[String],
    ) -> Result<Dns, Invalid> {
        let servers = servers
            .iter()
            .flat_map(|text| text.split(','))
            .filter(|text| !text.is_empty());
        let server = |text: &str| {
            text.parse()
                .map_err(|_| format!("--dns: {text:?} is not an address"))
        };
        Ok(Dns {
            servers: servers.map(server).collect::<Result<_, _>>()?,
            search: words("dns-search", search)?,
            options: words("dns-option", options)?,
        })
    }

    /// The text of a resolv.conf with these settings in place of its own.
    pub(crate) fn apply(&self, host: &str) -> String {
        let replaced = |line: &str| match line.split_whitespace().next() {
            Some("nameserver") => !self.servers.is_empty(),
            Some("search" | "domain") => !self.search.is_empty(),
            Some("options") => !self.options.is_empty(),
            _ => false,
        };
        let mut lines: Vec<String> = host
            .lines()
            .filter(|line| !replaced(line))
            .map(str::to_owned)
            .collect();
        if !self.search.is_empty() && self.search != ["."] {
            lines.push(format!("search {}", self.search.join(" ")));
        }
        lines.extend(
            self.servers
                .iter()
                .map(|server| format!("nameserver {server}")),
        );
        if !self.options.is_empty() {
            lines.push(format!("options {}", self.options.join(" ")));
        }
        lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}

/// Each becomes a word of a line.
fn words(flag: &str, texts: &[String]) -> Result<Vec<String>, Invalid> {
    let words = texts
        .iter()
        .flat_map(|text| text.split(','))
        .filter(|text| !text.is_empty());
    let word = |text: &str| match text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Err(format!("--{flag}: {text:?} is not one word")),
        false => Ok(text.to_owned()),
    };
    words.map(word).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_replace_those_of_the_host() {
        let host = "# a note\ndomain old\nnameserver 10.0.0.1\nsearch a b\noptions ndots:5\n";
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let apply = |servers: &[&str], search: &[&str], options: &[&str]| {
            Dns::parse(&texts(servers), &texts(search), &texts(options)).map(|dns| dns.apply(host))
        };
        assert_eq!(apply(&[], &[], &[]).unwrap(), host);
        assert_eq!(
            apply(&["1.1.1.1", "::1"], &["corp"], &["rotate"]).unwrap(),
            "# a note\nsearch corp\nnameserver 1.1.1.1\nnameserver ::1\noptions rotate\n"
        );
        assert_eq!(
            apply(&[], &["."], &[]).unwrap(),
            "# a note\nnameserver 10.0.0.1\noptions ndots:5\n"
        );
        assert!(apply(&["name"], &[], &[]).is_err());
        assert!(apply(&[], &["a\nnameserver 6.6.6.6"], &[]).is_err());
    }
}
