//! What a RUN is made of, and what it reads and sees.

use super::*;

#[test]
fn fields_of_run() {
    let op = a_run();
    // A field that is not here does not compile: give it a case below.
    let Run {
        base: _,
        argv: _,
        script: _,
        env: _,
        proxy: _,
        cwd: _,
        user: _,
        network: _,
        security: _,
        devices: _,
        mounts: _,
        hostname: _,
        platform: _,
    } = &op;
    let cases = vec![
        // The number of the op; its content is what counts.
        ("base", Unchanged, with(&op, |op| op.base = OpId(7))),
        (
            "argv",
            Another,
            with(&op, |op| op.argv[2] = "make all ".into()),
        ),
        (
            "argv, cut elsewhere",
            Another,
            with(&op, |op| {
                op.argv = vec!["/bin/sh -c".into(), "make all".into()];
            }),
        ),
        (
            "argv, one more",
            Another,
            with(&op, |op| op.argv.push("".into())),
        ),
        (
            "script, its text",
            Another,
            with(&op, |op| op.script[0].1.push('x')),
        ),
        (
            "script, its name",
            Another,
            with(&op, |op| op.script[0].0.push('x')),
        ),
        ("no script", Another, with(&op, |op| op.script.clear())),
        (
            "env, a value",
            Another,
            with(&op, |op| op.env[1].1 = "y".into()),
        ),
        (
            "env, a name",
            Another,
            with(&op, |op| op.env[1].0 = "NODE".into()),
        ),
        ("env, the order", Another, with(&op, |op| op.env.reverse())),
        (
            "env, across the border",
            Another,
            with(&op, |op| op.env[1] = ("MODEx".into(), "".into())),
        ),
        ("proxy", Unchanged, with(&op, |op| op.proxy.clear())),
        ("cwd", Another, with(&op, |op| op.cwd = "/".into())),
        ("user", Another, with(&op, |op| op.user = "0".into())),
        (
            "network none",
            Another,
            with(&op, |op| op.network = Network::None),
        ),
        (
            "network host",
            Another,
            with(&op, |op| op.network = Network::Host),
        ),
        (
            "security",
            Another,
            with(&op, |op| op.security = Security::Insecure),
        ),
        (
            "device",
            Another,
            with(&op, |op| op.devices[0].0 = "x".into()),
        ),
        (
            "device, required",
            Another,
            with(&op, |op| op.devices[0].1 = true),
        ),
        ("no device", Another, with(&op, |op| op.devices.clear())),
        (
            "mounts, the order",
            Another,
            with(&op, |op| op.mounts.reverse()),
        ),
        (
            "mounts, one less",
            Another,
            with(&op, |op| drop(op.mounts.pop())),
        ),
        (
            "hostname",
            Another,
            with(&op, |op| op.hostname = "other".into()),
        ),
        (
            "platform",
            Another,
            with(&op, |op| {
                op.platform = Platform::new("linux", "amd64", None);
            }),
        ),
        (
            "variant",
            Another,
            with(&op, |op| op.platform.variant = Some("v9".into())),
        ),
        (
            "no variant",
            Another,
            with(&op, |op| op.platform.variant = None),
        ),
        (
            "os",
            Another,
            with(&op, |op| op.platform.os = "plan9".into()),
        ),
        (
            "os version",
            Another,
            with(&op, |op| op.platform.os_version = Some("1".into())),
        ),
    ];
    check("run", run_key, &op, cases);
}

#[test]
fn what_run_reads() {
    let op = a_run();
    let key = |(base, source): &(Content, Content)| {
        key_of(&|encoder| run(encoder, &op, &visible(), *base, &[*source]))
    };
    let cases = vec![
        ("content of the base", Another, (OTHER, OTHER)),
        ("content of a mount", Another, (BASE, BASE)),
        ("both, exchanged", Another, (OTHER, BASE)),
    ];
    check("run", key, &(BASE, OTHER), cases);
}

#[test]
fn settings_that_run_sees() {
    let op = a_run();
    let seen = visible();
    let Visible {
        host_names: _,
        ulimits: _,
        shm_size: _,
        cgroup_parent: _,
        no_new_privileges: _,
    } = &seen;
    let key = |seen: &Visible| key_of(&|encoder| run(encoder, &op, seen, BASE, &[OTHER]));
    let cases = vec![
        (
            "host names",
            Another,
            with(&seen, |seen| seen.host_names.push("b".into())),
        ),
        (
            "from hosts to ulimits",
            Another,
            with(&seen, |seen| {
                let moved = seen.host_names.remove(0);
                seen.ulimits.insert(0, moved);
            }),
        ),
        (
            "ulimits",
            Another,
            with(&seen, |seen| seen.ulimits[0].push('3')),
        ),
        (
            "shm size",
            Another,
            with(&seen, |seen| seen.shm_size = Some(65)),
        ),
        (
            "no shm size",
            Another,
            with(&seen, |seen| seen.shm_size = None),
        ),
        (
            "no new privileges",
            Another,
            with(&seen, |seen| seen.no_new_privileges = true),
        ),
        (
            "cgroup parent",
            Another,
            with(&seen, |seen| seen.cgroup_parent = Some(String::new())),
        ),
    ];
    check("visible", key, &seen, cases);
}
