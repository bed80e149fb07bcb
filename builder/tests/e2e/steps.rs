//! What RUN steps see: mounts, hosts, limits, heredocs.

use std::os::unix::net::UnixListener;

use super::support::{TestSpace, shell};

#[test]
fn mounts_of_every_type() {
    let dockerfile = "\
# syntax=docker/dockerfile:1
FROM busybox AS tools
RUN echo from-stage > /tool
FROM busybox
RUN --mount=type=bind,source=dir,target=/ctx --mount=from=tools,source=/tool,target=/t \\
    cat /ctx/a /t > /bind; if touch /ctx/no 2>/dev/null; then exit 3; fi
RUN --mount=type=bind,target=/ctx,rw echo new > /ctx/dir/new
RUN --mount=type=cache,target=/cache,id=c echo one >> /cache/log; wc -l < /cache/log > /first
RUN --mount=type=cache,target=/cache,id=c echo two >> /cache/log; wc -l < /cache/log > /second
RUN --mount=type=tmpfs,target=/scratch,size=1m df -k /scratch | grep -c 1024 > /tmpfs; touch /scratch/x
RUN --mount=type=secret,id=file,target=/etc/key,mode=0440,uid=1000,gid=1000 stat -c '%a %u %g' /etc/key > /secret
RUN --mount=type=secret,id=file cat /run/secrets/file | wc -c >> /secret
RUN --mount=type=secret,id=env,env=TOKEN test \"$TOKEN\" = hush && test ! -e /run/secrets/env && echo ok >> /secret
RUN --mount=type=secret,id=none test ! -e /run/secrets/none
RUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && stat -c '%a' \"$SSH_AUTH_SOCK\" > /ssh
RUN ls -A /run/secrets /scratch /cache /ctx 2>/dev/null | wc -l > /left
";
    let space = TestSpace::with(dockerfile).env("TOKEN_HERE", "hush");
    space.write("dir/a", "context\n");
    space.write("../key", "sesame");
    let socket = space.path("../agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let files = space.files(&[
        "--secret=id=file,src=../key",
        "--secret=id=env,env=TOKEN_HERE",
        &format!("--ssh=default={}", socket.display()),
        ".",
    ]);
    assert_eq!(files["bind"], "context\nfrom-stage\n");
    assert_eq!((&*files["first"], &*files["second"]), ("1\n", "2\n"));
    assert_eq!(files["tmpfs"], "1\n");
    assert_eq!(files["secret"], "440 1000 1000\n6\nok\n");
    assert_eq!(files["ssh"], "600\n");
    assert!(!space.path("dir/new").exists());
    let stubs = files
        .keys()
        .filter(|path| path.contains("secrets") || path.starts_with("ctx"));
    assert_eq!(stubs.count(), 0, "{files:?}");
}

#[test]
fn what_mounts_lack_is_an_error_with_its_line() {
    for (mount, why) in [
        (
            "type=secret,id=gone,required=true",
            "secret gone: not found",
        ),
        ("type=ssh,required=true", "ssh agent default: not found"),
        ("type=bind,source=gone,target=/x", "\"/gone\": not found"),
        ("type=bind,from=gone,target=/x", "gone"),
        ("type=nope,target=/x", "nope"),
        ("type=cache", "target"),
    ] {
        let space = TestSpace::with(&format!("FROM busybox\nRUN --mount={mount} true\n"));
        let error = space.fails(&["."]);
        assert!(
            error.contains(why) && error.contains("Dockerfile:2"),
            "{mount}: {error}"
        );
    }
    let space = TestSpace::with("FROM busybox\n");
    let error = space.fails(&["--secret=id=a,src=nowhere", "."]);
    assert!(error.contains("--secret a"), "{error}");
    let error = space.fails(&["--secret=id=a,env=NOWHERE", "."]);
    assert!(error.contains("NOWHERE is not set"), "{error}");
}

#[test]
fn hosts_and_limits() {
    let dockerfile = "\
FROM busybox
RUN grep -w db /etc/hosts > /hosts
RUN ulimit -n > /files; df -k /dev/shm | grep -c 131072 > /shm
RUN --network=none ls /sys/class/net > /net
";
    let space = TestSpace::with(dockerfile);
    let files = space.files(&[
        "--add-host=db:10.1.2.3",
        "--ulimit=nofile=512:1024",
        "--shm-size=128m",
        ".",
    ]);
    assert!(
        files["hosts"].contains("10.1.2.3\tdb"),
        "{}",
        files["hosts"]
    );
    assert_eq!(
        (&*files["files"], &*files["shm"], &*files["net"]),
        ("512\n", "1\n", "lo\n")
    );
    assert!(
        !files
            .get("etc/hosts")
            .is_some_and(|hosts| hosts.contains("db"))
    );
}

#[test]
fn name_servers_and_new_privileges() {
    let dockerfile = "\
FROM busybox
RUN cat /etc/resolv.conf > /dns
RUN grep NoNewPrivs /proc/self/status > /privileges
";
    let space = TestSpace::with(dockerfile);
    let files = space.files(&[
        "--dns=192.0.2.9",
        "--dns-search=corp.example",
        "--dns-opt=rotate",
        "--security-opt=no-new-privileges",
        ".",
    ]);
    let expected = "search corp.example\nnameserver 192.0.2.9\noptions rotate\n";
    assert!(files["dns"].ends_with(expected), "{}", files["dns"]);
    assert_eq!(files["privileges"], "NoNewPrivs:\t1\n");
}

#[test]
fn the_config_file_decides_on_the_network() {
    let space = TestSpace::with("FROM busybox\nRUN ls /sys/class/net > /net\n");
    space.write("../config.toml", "[steps]\nnetwork-mode = \"none\"\n");
    let config = space.path("../config.toml");
    let space = space.env("LAPSTRAKE_CONFIG", config.to_str().unwrap());
    assert_eq!(space.files(&["."])["net"], "lo\n");
    space.write("../config.toml", "[steps]\nnetwork-mode = \"bridge\"\n");
    assert!(space.fails(&["."]).contains("bridge"));
}

#[test]
fn what_this_machine_offers() {
    let space = TestSpace::empty();
    let facts = space.run(&["info", "--format=json"]).json();
    for name in [
        "namespaces",
        "layers",
        "control-groups",
        "seccomp",
        "network",
        "emulators",
        "ssh-key-files",
    ] {
        assert!(facts[name]["value"].is_string(), "{name}: {facts}");
    }
    let text = space.run(&["info"]).text();
    assert!(
        text.contains("namespaces       those of every step"),
        "{text}"
    );
}

#[test]
fn devices_of_the_machine() {
    let dockerfile = "\
FROM busybox
RUN --device=vendor.com/nothing=zero,required head -c 2 /dev/mine | wc -c > /read; cat /opt/tools/file > /tool; \\
    echo $NOTHING > /variable; id -G > /groups
RUN --device=vendor.com/nothing=missing ls /dev > /without
";
    let space = TestSpace::with(dockerfile);
    let tools = space.path("../tools");
    space.write("../tools/file", "a tool\n");
    space.write(
        "../cdi/vendor.yaml",
        format!(
            "cdiVersion: 0.6.0\nkind: vendor.com/nothing\ndevices:\n- name: zero\n  containerEdits:\n    \
             deviceNodes: [{{path: /dev/mine, hostPath: /dev/zero}}]\n    additionalGids: [77]\n    env: [NOTHING=much]\n    \
             mounts: [{{hostPath: {}, containerPath: /opt/tools, options: [ro, bind]}}]\n",
            tools.display()
        ),
    );
    let folder = space.path("../cdi");
    let space = space.env("LAPSTRAKE_CDI", folder.to_str().unwrap());
    let error = space.fails(&["."]);
    assert!(
        error.contains("Dockerfile:2") && error.contains("--allow device=vendor.com/nothing=zero"),
        "{error}"
    );
    let files = space.files(&["--allow=device=vendor.com/nothing=zero", "."]);
    assert_eq!(
        (&*files["read"], &*files["tool"], &*files["variable"]),
        ("2\n", "a tool\n", "much\n")
    );
    assert!(!files["without"].contains("mine"));
    assert!(
        !files
            .keys()
            .any(|path| path.starts_with("opt") || path.starts_with("dev/")),
        "{files:?}"
    );
    // With a single id there are no other groups.
    assert!(
        files["groups"].contains("77") || !is_root(),
        "{}",
        files["groups"]
    );
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

#[test]
fn keys_of_ssh_as_files() {
    let space = TestSpace::with(
        "FROM busybox\nRUN --mount=type=ssh,id=deploy test -S $SSH_AUTH_SOCK && \\
    cat /proc/net/unix | grep -c agent > /sockets; echo ok > /ran\n",
    );
    for kind in ["ed25519", "rsa", "ecdsa"] {
        shell(
            space.path(".").as_path(),
            &format!("ssh-keygen -q -t {kind} -N '' -f ../{kind}"),
        );
    }
    shell(
        space.path(".").as_path(),
        "ssh-keygen -q -t ed25519 -N secret -f ../locked; echo no > ../junk",
    );
    let files = space.files(&["--ssh=deploy=../ed25519,../rsa,../ecdsa", "."]);
    assert_eq!(files["ran"], "ok\n");
    for (keys, why) in [
        ("../locked", "passphrase"),
        ("../junk", "junk"),
        ("../missing", "missing"),
    ] {
        let error = space.fails(&[&format!("--ssh=deploy={keys}"), "."]);
        assert!(
            error.contains("--ssh deploy") && error.contains(why),
            "{error}"
        );
    }
}

#[test]
fn the_host_as_a_name() {
    let space = TestSpace::with("FROM busybox\nRUN grep -w me /etc/hosts > /hosts\n");
    let files = space.files(&["--add-host=me:host-gateway", "--network=host", "."]);
    assert_eq!(files["hosts"], "127.0.0.1\tme\n");
}

#[test]
fn heredocs() {
    let dockerfile = "\
FROM busybox
ARG WHO=world
RUN <<EOF
set -e
echo hello $WHO > /a
EOF
RUN <<'EOF' cat > /b
$WHO
EOF
RUN <<EOF
#!/bin/cat
a script
EOF
COPY --chmod=755 --chown=1:2 <<one <<-\"two\" /files/
$WHO
one
\t\t$WHO
two
ADD <<EOF /single
  $WHO
EOF
";
    let space = TestSpace::with(dockerfile);
    let files = space.files(&["--build-arg=WHO=you", "."]);
    assert_eq!((&*files["a"], &*files["b"]), ("hello you\n", "$WHO\n"));
    assert_eq!(
        (&*files["files/one"], &*files["files/two"]),
        ("you\n", "$WHO\n")
    );
    assert_eq!(files["single"], "  you\n");
}

#[test]
fn a_failing_step_names_its_line() {
    let space = TestSpace::with("FROM busybox\n\nRUN echo before; \\\n    exit 7\n");
    let error = space.fails(&["."]);
    assert!(
        error.contains("Dockerfile:3") && error.contains("exit code: 7"),
        "{error}"
    );
    assert!(error.contains("before"), "{error}");
    space.write("Dockerfile", "FROM busybox\nRUN --security=insecure true\n");
    let error = space.fails(&["."]);
    assert!(
        error.contains("Dockerfile:2") && error.contains("--allow security.insecure"),
        "{error}"
    );
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN --device=vendor.com/gpu=all,required true\n",
    );
    let error = space.fails(&["--allow=device", "."]);
    assert!(
        error.contains("Dockerfile:2") && error.contains("vendor.com/gpu=all"),
        "{error}"
    );
    space.write("Dockerfile", "FROM busybox\nUSER nobody-here\nRUN true\n");
    let error = space.fails(&["."]);
    assert!(
        error.contains("Dockerfile:3") && error.contains("nobody-here"),
        "{error}"
    );
}

#[test]
fn a_cache_mount_is_like_the_directory_that_it_is_filled_from() {
    let dockerfile = "\
FROM busybox AS made
RUN mkdir -p /made/sub && chown 7:8 /made && chmod 2770 /made && ln -s made /link
FROM busybox
RUN --mount=type=cache,id=a,from=made,source=/made,target=/c stat -c '%a %u:%g' /c > /a; ls /c >> /a
RUN --mount=type=cache,id=b,from=made,source=/link,target=/c stat -c '%a %u:%g' /c > /b; ls /c >> /b
";
    let files = TestSpace::with(dockerfile).files(&["."]);
    for name in ["a", "b"] {
        assert_eq!(files[name], "2770 7:8\nsub\n", "{name}");
    }
}

#[test]
fn hosts_are_as_buildkit_names_them() {
    let space = TestSpace::with("FROM busybox\nRUN cat /etc/hosts > /hosts\n");
    let arguments = [
        "--add-host=one:10.0.0.1",
        "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=here",
        ".",
    ];
    let text =
        "127.0.0.1\tlocalhost here\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\tone\n";
    assert_eq!(space.files(&arguments)["hosts"], text);
}
