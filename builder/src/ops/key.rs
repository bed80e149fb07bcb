//! What goes into a step's key, and what does not.
//!
//! | value | in the key | because |
//! |---|---|---|
//! | the op's own definition: arguments, environment, cwd, user, modes, destinations, flags | yes | it decides the result |
//! | content of the base, of what is copied and of bind sources | yes | it is read |
//! | platform, network and security mode, ulimits, shm size, names of extra hosts, no new privileges, names of devices | yes | the step can see them |
//! | mounts: type, target, ids, modes, options | yes | the step can see them |
//! | values of secrets, credentials and proxies, contents of cache mounts | no | they may change without a rebuild |
//! | addresses of extra hosts, name servers, memory and cpu limits, what devices are made of here, host uid, host paths, times | no | the same step elsewhere must hit |
//!
//! Each op is taken apart without `..`: a new field does not compile until it is decided here.

use lapstrake_cache::{Content, Digest, Encoder};
use lapstrake_frontend::image::Platform;
use lapstrake_frontend::plan::{
    Chmod, Copy, CopySource, Git, Http, MakeDir, Mount, Network, Run, Security, Sharing,
};

use crate::ids::Owners;
use crate::web::redacted;

/// Settings of the build that a step can see.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visible {
    /// `--add-host` names, sorted.
    pub(crate) host_names: Vec<String>,
    /// `--ulimit`, as `name=soft:hard`, sorted.
    pub(crate) ulimits: Vec<String>,
    /// `--shm-size` in bytes.
    pub(crate) shm_size: Option<u64>,
    /// `--cgroup-parent`.
    pub(crate) cgroup_parent: Option<String>,
    /// `--security-opt no-new-privileges`.
    pub(crate) no_new_privileges: bool,
}

/// Encodes a RUN on `base`; `sources` are the contents of what its mounts read, in the order of those mounts.
pub(crate) fn run(
    encoder: &mut dyn Encoder,
    op: &Run,
    visible: &Visible,
    base: Content,
    sources: &[Content],
) {
    let Run {
        base: _,
        argv,
        script,
        env,
        proxy: _,
        cwd,
        user,
        network,
        security,
        devices,
        mounts,
        hostname,
        platform,
    } = op;
    let Visible {
        host_names,
        ulimits,
        shm_size,
        cgroup_parent,
        no_new_privileges,
    } = visible;
    encoder.field("base", &base.0);
    encoder.list("argv", argv.len());
    for word in argv {
        encoder.text("argv", word);
    }
    encoder.pairs("script", &borrowed(script));
    encoder.pairs("env", &borrowed(env));
    encoder.text("cwd", cwd);
    encoder.text("user", user);
    encoder.text("network", network_name(*network));
    encoder.text("security", security_name(*security));
    encoder.list("devices", devices.len());
    for (name, required) in devices {
        encoder.text("name", name);
        encoder.flag("required", *required);
    }
    encoder.list("mounts", mounts.len());
    let mut sources = sources.iter();
    for mount in mounts {
        encoder.group(&format!("mount {}", mount_label(mount)));
        encode_mount(encoder, mount, &mut sources);
    }
    encoder.group("");
    encoder.text("hostname", hostname);
    encode_platform(encoder, platform);
    encoder.texts("extra hosts", host_names);
    encoder.texts("ulimits", ulimits);
    encoder.optional(
        "shm size",
        shm_size
            .map(|size| size.to_string())
            .as_deref()
            .map(str::as_bytes),
    );
    encoder.optional("cgroup parent", cgroup_parent.as_deref().map(str::as_bytes));
    if *no_new_privileges {
        encoder.flag("no new privileges", true);
    }
}

/// Encodes `SOURCE_DATE_EPOCH` for an op that gives this time to what it makes.
pub(crate) fn epoch(encoder: &mut dyn Encoder, epoch: Option<i64>) {
    if let Some(epoch) = epoch {
        encoder.text("epoch", &epoch.to_string());
    }
}

/// Encodes, before a step that makes files, that they all belong to root. What is made where owners are kept is another thing,
/// and must not be taken for it, here or elsewhere.
pub(crate) fn owners(encoder: &mut dyn Encoder, owners: Owners) {
    if owners == Owners::Lost {
        encoder.flag("one id", true);
    }
}

/// What people call a mount.
fn mount_label(mount: &Mount) -> &str {
    match mount {
        Mount::Bind { target, .. }
        | Mount::Cache { target, .. }
        | Mount::Tmpfs { target, .. }
        | Mount::Ssh { target, .. }
        | Mount::Secret {
            target: Some(target),
            ..
        } => target,
        Mount::Secret {
            target: None, id, ..
        } => id,
    }
}

fn encode_mount(
    encoder: &mut dyn Encoder,
    mount: &Mount,
    sources: &mut std::slice::Iter<'_, Content>,
) {
    match mount {
        Mount::Bind {
            target,
            from: _,
            source,
            writable,
        } => {
            encoder.text("bind", target);
            encoder.optional("content", sources.next().map(|content| &content.0[..]));
            encoder.text("source", source);
            encoder.flag("writable", *writable);
        }
        Mount::Cache {
            target,
            id,
            sharing,
            readonly,
            from,
            source,
            mode,
            uid,
            gid,
        } => {
            encoder.text("cache", target);
            encoder.text("id", id);
            encoder.text("sharing", sharing_name(*sharing));
            encoder.flag("readonly", *readonly);
            encoder.flag("seeded", from.is_some());
            if from.is_some() {
                encoder.optional("content", sources.next().map(|content| &content.0[..]));
            }
            encoder.text("source", source);
            owner(encoder, *mode, *uid, *gid);
        }
        Mount::Tmpfs { target, size } => {
            encoder.text("tmpfs", target);
            encoder.optional(
                "size",
                size.map(|size| size.to_string())
                    .as_deref()
                    .map(str::as_bytes),
            );
        }
        Mount::Secret {
            target,
            id,
            env,
            required,
            mode,
            uid,
            gid,
        } => {
            encoder.optional("secret", target.as_deref().map(str::as_bytes));
            encoder.text("id", id);
            encoder.optional("variable", env.as_deref().map(str::as_bytes));
            encoder.flag("required", *required);
            owner(encoder, *mode, *uid, *gid);
        }
        Mount::Ssh {
            target,
            id,
            required,
            mode,
            uid,
            gid,
        } => {
            encoder.text("ssh", target);
            encoder.text("id", id);
            encoder.flag("required", *required);
            owner(encoder, *mode, *uid, *gid);
        }
    }
}

/// Encodes a COPY or ADD. `base` is `None` for `--link`, whose result does not depend on it; `selection` is the digest of
/// all that is copied, names included.
pub(crate) fn copy(
    encoder: &mut dyn Encoder,
    op: &Copy,
    base: Option<Content>,
    selection: Content,
) {
    let Copy {
        base: _,
        sources,
        destination,
        chown,
        chmod,
        link,
        parents,
        excludes,
    } = op;
    encoder.flag("on a base", base.is_some());
    if let Some(base) = base {
        encoder.field("base", &base.0);
    }
    encoder.field("selection", &selection.0);
    encoder.list("sources", sources.len());
    for source in sources {
        match source {
            // The pattern itself only selects: what it selected is in `selection`.
            CopySource::Path {
                from: _,
                pattern: _,
                unpack,
            } => encoder.flag("unpack", *unpack),
            CopySource::Inline { name, text } => {
                encoder.text("inline", name);
                encoder.text("text", text);
            }
        }
    }
    encoder.text("destination", destination);
    encoder.optional("chown", chown.as_deref().map(str::as_bytes));
    match chmod {
        None => encoder.optional("chmod", None),
        Some(Chmod::Octal(mode)) => encoder.optional("chmod", Some(format!("{mode:o}").as_bytes())),
        Some(Chmod::Symbolic(mode)) => encoder.optional("chmod", Some(mode.as_bytes())),
    }
    encoder.flag("link", *link);
    encoder.flag("parents", *parents);
    encoder.texts("excludes", excludes);
}

/// Encodes a WORKDIR.
pub(crate) fn make_dir(encoder: &mut dyn Encoder, op: &MakeDir, base: Content) {
    let MakeDir {
        base: _,
        path,
        user,
    } = op;
    encoder.field("base", &base.0);
    encoder.text("path", path);
    encoder.text("user", user);
}

/// Encodes what an ADD of a URL fetches: `digest` is that of the file, `modified` its time.
pub(crate) fn http(encoder: &mut dyn Encoder, op: &Http, digest: &Digest, modified: Option<i64>) {
    let Http {
        url: _,
        checksum,
        filename,
    } = op;
    let modified = modified.map(|seconds| seconds.to_string());
    encoder.field("content", digest.as_bytes());
    encoder.text("filename", filename);
    encoder.optional("modified", modified.as_deref().map(str::as_bytes));
    // What it says is the digest. The file's time is not known then, and must not be taken for a file without time.
    if checksum.is_some() {
        encoder.flag("pinned", true);
    }
}

/// Encodes a git tree that was found at `commit`, which the remote calls `reference`.
pub(crate) fn git(encoder: &mut dyn Encoder, op: &Git, commit: &str, reference: &str) {
    let Git {
        remote,
        // Both led to the commit and to the full name of the reference.
        reference: _,
        checksum: _,
        subdir,
        keep_git_dir,
        submodules,
        commit_time,
    } = op;
    encoder.text("remote", &redacted(remote));
    encoder.text("commit", commit);
    encoder.optional("subdir", subdir.as_deref().map(str::as_bytes));
    encoder.flag("keep git dir", *keep_git_dir);
    // The kept repository holds it.
    if *keep_git_dir {
        encoder.text("reference", reference);
    }
    encoder.flag("submodules", *submodules);
    // Only where it is set: those who never heard of it keep their keys.
    if *commit_time {
        encoder.flag("commit time", true);
    }
}

fn owner(encoder: &mut dyn Encoder, mode: u32, uid: u32, gid: u32) {
    encoder.text("mode", &format!("{mode:o}"));
    encoder.text("owner", &format!("{uid}:{gid}"));
}

fn encode_platform(encoder: &mut dyn Encoder, platform: &Platform) {
    let Platform {
        os,
        architecture,
        variant,
        os_version,
    } = platform;
    encoder.text("os", os);
    encoder.text("architecture", architecture);
    encoder.optional("variant", variant.as_deref().map(str::as_bytes));
    encoder.optional("os version", os_version.as_deref().map(str::as_bytes));
}

fn borrowed<S: AsRef<str>>(pairs: &[(S, S)]) -> Vec<(&str, &str)> {
    let pairs = pairs.iter();
    pairs.map(|(a, b)| (a.as_ref(), b.as_ref())).collect()
}

fn network_name(network: Network) -> &'static str {
    match network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    }
}

fn security_name(security: Security) -> &'static str {
    match security {
        Security::Sandbox => "sandbox",
        Security::Insecure => "insecure",
    }
}

fn sharing_name(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Shared => "shared",
        Sharing::Private => "private",
        Sharing::Locked => "locked",
    }
}

#[cfg(test)]
mod tests;
