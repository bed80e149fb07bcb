//! `--add-host`: names that steps can look up.

use std::net::IpAddr;

use super::values::Invalid;

/// One line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// The name.
    pub host: String,
    /// What it stands for.
    pub address: HostAddress,
}

/// What a host name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAddress {
    /// An address.
    Ip(IpAddr),
    /// `host-gateway`: the address under which steps reach this machine.
    Gateway,
}

impl HostEntry {
    /// Reads `HOST:IP` or `HOST=IP`; several addresses of one name are separated by commas, IPv6 may be in brackets.
    pub(super) fn parse(text: &str) -> Result<Vec<Self>, Invalid> {
        let invalid = || format!("{text:?} is not HOST:IP, HOST=IP or HOST:host-gateway");
        let split = text.split_once('=').or_else(|| text.split_once(':'));
        let (host, addresses) = split.ok_or_else(invalid)?;
        // The name becomes a word of /etc/hosts.
        if host.is_empty()
            || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
        {
            return Err(invalid());
        }
        let one = |address: &str| {
            let address = match address {
                "host-gateway" => HostAddress::Gateway,
                _ => {
                    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                    HostAddress::Ip(bare.unwrap_or(address).parse().map_err(|_| invalid())?)
                }
            };
            Ok(Self {
                host: host.to_owned(),
                address,
            })
        };
        addresses.split(',').map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let cases = [
            ("db:10.0.0.1", "db 10.0.0.1"),
            ("db=10.0.0.1", "db 10.0.0.1"),
            ("db:::1", "db ::1"),
            ("db=[::1]", "db ::1"),
            ("db:[10.0.0.1]", "db 10.0.0.1"),
            ("db=10.0.0.1,fe80::1", "db 10.0.0.1 db fe80::1"),
            ("docker:host-gateway", "docker gateway"),
            ("db", "error"),
            ("db:", "error"),
            (":10.0.0.1", "error"),
            ("db:localhost", "error"),
            ("d b:10.0.0.1", "error"),
            ("d\nb:10.0.0.1", "error"),
            ("db:10.0.0.1\n10.0.0.2 x", "error"),
        ];
        for (text, expected) in cases {
            let shown = |entry: &HostEntry| match &entry.address {
                HostAddress::Ip(ip) => format!("{} {ip}", entry.host),
                HostAddress::Gateway => format!("{} gateway", entry.host),
            };
            let entries =
                HostEntry::parse(text).map(|e| e.iter().map(shown).collect::<Vec<_>>().join(" "));
            assert_eq!(entries.unwrap_or("error".into()), expected, "{text}");
        }
    }
}
