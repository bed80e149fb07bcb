//! Which network a step sees.

use std::io::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use lapstrake_runtime::{Network, RESOLVER, RunSpec, prepare_network};

use crate::Test;
use crate::skip;
use crate::support::{Needs, Space, outcome, sh};

pub(crate) const TESTS: &[Test] = &[
    (
        "no_network_but_loopback",
        Needs::Nothing,
        no_network_but_loopback,
    ),
    (
        "a_network_is_as_good_as_new",
        Needs::Nothing,
        a_network_is_as_good_as_new,
    ),
    ("network_of_the_host", Needs::Nothing, network_of_the_host),
    ("isolated_network", Needs::Nothing, isolated_network),
];

fn no_network_but_loopback(space: &Space) {
    let script = "cd /sys/class/net; echo *; cat lo/operstate; ping -c 1 -W 1 127.0.0.1 | grep -c '1 packets received'";
    let name = SocketAddr::from_abstract_name("lapstrake-canary").unwrap();
    let _listener = UnixListener::bind_addr(&name);
    assert_eq!(sh(space, "grep canary /proc/net/unix; true"), "");
    let output = sh(space, script);
    assert!(
        output.starts_with("lo\n") && output.ends_with("\n1"),
        "{output}"
    );
}

fn a_network_is_as_good_as_new(space: &Space) {
    let namespace = || sh(space, "readlink /proc/self/ns/net");
    assert_eq!(namespace(), namespace(), "it is not used again");
    // Who closes first keeps the port: the server, which has nothing to say.
    let serve = "nc -l -p 8080 </dev/null & sleep 0.2; sleep 0.3 | nc 127.0.0.1 8080; wait
        grep -c '0100007F:1F90 .* 06' /proc/net/tcp /proc/net/tcp6 | grep -c ':1$'";
    assert_eq!(sh(space, serve), "1");
    assert_eq!(sh(space, "tail -q -n +2 /proc/net/tcp /proc/net/tcp6"), "");
}

fn with(space: &Space, script: &str, network: Network) -> RunSpec {
    let mut spec = space.sh(script);
    spec.network = network;
    spec
}

/// Says `hello` to whoever connects to the host's loopback, and returns the port.
fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"hello\n");
        }
    });
    port
}

fn network_of_the_host(space: &Space) {
    let script = format!(
        "nc -w 2 127.0.0.1 {} </dev/null; readlink /proc/self/ns/net; ls -d /sys/class/net/lo",
        greeter()
    );
    let output = outcome(&with(space, &script, Network::Host)).ok();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(
        output,
        format!("hello\n{}\n/sys/class/net/lo", own.display())
    );
}

fn pasta() -> Option<PathBuf> {
    ["/usr/bin/pasta", "/usr/local/bin/pasta"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

fn isolated_network(space: &Space) {
    let Some(pasta) = pasta() else {
        return skip("isolated_network", "pasta is not installed");
    };
    assert!(prepare_network(Path::new("/nonexistent/pasta")).is_err());
    if let Err(error) = prepare_network(&pasta) {
        // An ordinary user may not open /dev/net/tun everywhere.
        if Needs::Root.met(space.identity) {
            panic!("{error}");
        }
        return println!("n/a: {error}");
    }
    let isolated = || Network::Isolated {
        pasta: pasta.clone(),
    };
    let script = format!(
        "to() {{ nc -w 1 $1 $2 </dev/null 2>&1; }}; to 127.0.0.1 {port} | grep hello
        to 169.254.169.254 80 | grep -c 'No route'
        gateway=$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); to $gateway {port} | grep hello
        ip route | grep -c ^default",
        port = greeter()
    );
    assert_eq!(outcome(&with(space, &script, isolated())).ok(), "1\n1");
    // One after the other they share one, at the same time they do not.
    let namespace = || {
        outcome(&with(
            space,
            "readlink /proc/self/ns/net; sleep 0.3",
            isolated(),
        ))
        .ok()
    };
    assert_eq!(namespace(), namespace());
    std::thread::scope(|scope| {
        let (one, other) = (scope.spawn(namespace), scope.spawn(namespace));
        assert_ne!(one.join().unwrap(), other.join().unwrap());
    });
    assert!(RESOLVER.parse::<std::net::Ipv4Addr>().is_ok());
}
