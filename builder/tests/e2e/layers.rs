//! Steps on a store whose layers cannot be mounted: copies yield the same image, byte for byte.

use std::collections::BTreeSet;
use std::fs;

use super::support::{Ended, TestSpace, shell};

/// Adds, removes and replaces everything that a layer can tell of, and later the other way round. What would have the time
/// of the build gets another one.
const DOCKERFILE: &str = r#"
FROM busybox AS made
ADD base.tar /
RUN set -e; cd /t; stamp() { touch -hd @1000000000 "$@"; }; \
    echo new > new; rm gone; rm -r gonedir; rm -r again; mkdir again; echo x > again/y; chmod 700 mode; chmod 4755 file; \
    busybox cp -a linked copied; ln linked/a linked/c; busybox chown -R 5:6 owned; busybox mv moved elsewhere; busybox mv movedir elsewheredir; \
    rm -r tofile; echo > tofile; rm todir; mkdir todir; rm link; ln -s other link; ln -s x newlink; \
    touch same/x; rm same/x; touch -d @1 timed; chmod 700 back; chmod 755 back; echo y >> deep/er/file; \
    rm -r deep/gone; rm -r deep/again; mkdir -p deep/again/most; busybox mkfifo fifo; rm -r swapped; busybox mv swap swapped; \
    busybox nc -ll -U -s there 2>/dev/null & sleep 0.1; cd /t; \
    touch -hd @1000000000 . new again again/y elsewhere elsewheredir tofile todir link newlink same deep deep/er \
    deep/er/file deep/again deep/again/most fifo swapped copied linked file mode
RUN cd /t; echo again > gone; mkdir gonedir; echo z > gonedir/z; rm new again/y elsewhere fifo; rm -r elsewheredir todir; \
    mkdir elsewhere; rm tofile; ln -s y tofile; chmod 600 owned/b; \
    touch -hd @1100000000 . gone gonedir gonedir/z again elsewhere tofile deep deep/er
RUN ls -R /t > /dev/null; echo > /tmp/x; rm /tmp/x; touch -d @1100000000 /tmp
RUN --mount=from=busybox,source=/etc,target=/m,rw --mount=type=cache,target=/c --mount=type=tmpfs,target=/t/same \
    --mount=type=secret,id=s,target=/t/deep/secret cd /t; echo >> /m/file; ls -R /m > seen; cat deep/secret >> seen; \
    touch /c/x same/y; stat -c '%n %h' linked/* >> seen; touch -d @1100000000 seen . deep
FROM busybox
ARG SOURCE_DATE_EPOCH
WORKDIR /proc
WORKDIR /sys
WORKDIR /dev
WORKDIR /
COPY --from=made /t /t2
COPY --from=made --chown=7:8 /t/linked/a /tmp/
RUN --mount=from=made,target=/m rm -r /t2/deep; busybox cp -a /m/t/again /m/t/swapped /t2/; touch -d @1100000000 /t2
ADD over.tar more.tar /t2/
RUN rm -r /t2/again; ls /t2; touch -d @1100000000 /t2
"#;

const TREE: &str = "set -e; umask 022; mkdir -p tree/t tree/proc tree/sys tree/dev tree/tmp tree/c tree/m; chmod 1777 tree/tmp
    cd tree/t; mkdir -p gonedir again/sub tofile/x movedir/y linked owned same back mode deep/er deep/gone deep/again/old
    mkdir -p swap swapped; touch swap/a swapped/b again/sub/z movedir/y/f same/k deep/again/old/f gonedir/f timed moved todir
    for file in gone file linked/a linked/d owned/a owned/b deep/er/file deep/gone/f; do echo $file > $file; done
    ln linked/a linked/b; ln owned/a owned/c; ln -s old link
    cd ..; find . -exec touch -hd @900000000 {} +; tar --numeric-owner --owner=0 --group=0 -cf ../base.tar t proc sys dev tmp c m
    cd t; rm -r back; mkdir over; echo over > file; echo over > over/x; rm link; mkdir link; touch -hd @950000000 file over/x over link
    tar --numeric-owner --owner=0 --group=0 -cf ../../over.tar file over link
    rm -r over; echo more > over; touch -hd @960000000 over file; tar --numeric-owner --owner=0 --group=0 -cf ../../more.tar over file
    cd ../..; rm -r tree";

/// Whose store it is.
#[derive(Clone, Copy)]
enum Whose {
    Root,
    Nobody,
}

/// Runs `lapstrake ARGUMENTS` with a store that lies in an overlay, which stays from one call to the next.
fn on_overlay(space: &TestSpace, whose: Whose, arguments: &[&str]) -> Ended {
    let program = env!("CARGO_BIN_EXE_lapstrake");
    let script = format!(
        "test -e lapstrake || cp {program} lapstrake; mkdir -p on/lower on/upper on/work on/merged; \
         echo nobody:2000000:65536 > ranges; chmod 755 .; chown -h 65534:65534 context on/upper"
    );
    shell(&space.path(".."), &script);
    let who = match whose {
        Whose::Root => "",
        Whose::Nobody => "setpriv --reuid=65534 --regid=65534 --clear-groups",
    };
    let script = format!(
        "shift; cd ../on; mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged; cd ../context; \
         mount --bind ../ranges /etc/subuid; mount --bind ../ranges /etc/subgid; \
         export LAPSTRAKE_ROOT=$(realpath ../on/merged)/store; exec {who} ../lapstrake \"$@\""
    );
    let script = format!("exec unshare -m sh -ec '{script}' sh \"$@\"");
    space.scripted(&script, arguments).output().unwrap().into()
}

fn space() -> TestSpace {
    let space = TestSpace::with(DOCKERFILE);
    shell(&space.path("."), TREE);
    space.write("../secret", "hush");
    space
}

const MOUNTED: &str =
    "--output=type=oci,dest=mounted.tar,compression=uncompressed,force-compression=true";
const COPIED: &str =
    "--output=type=oci,dest=copied.tar,compression=uncompressed,force-compression=true";
const NOTICE: &str = "steps run on copies of their layers";

/// What the archive of an image holds, with what its layers hold, for a failure that can be read.
fn listing(space: &TestSpace, archive: &str) -> BTreeSet<String> {
    let script = format!(
        "mkdir image; tar -xf {archive} -C image; for blob in image/blobs/sha256/*; do tar --full-time -tvf $blob || true; done 2>&1; \
         rm -r image"
    );
    let text = shell(&space.path("."), &script);
    text.lines().map(str::to_owned).collect()
}

fn same_layers(whose: Whose) {
    let space = space();
    let arguments = |output| {
        [
            "build",
            "--progress=plain",
            "--secret=id=s,src=../secret",
            "--build-arg=SOURCE_DATE_EPOCH=1",
            output,
            ".",
        ]
    };
    let mounted = space.run(&arguments(MOUNTED));
    assert_eq!(mounted.code, Some(0), "{}", mounted.stderr);
    assert!(!mounted.stderr.contains(NOTICE), "{}", mounted.stderr);
    let copied = on_overlay(&space, whose, &arguments(COPIED));
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
    assert_eq!(
        copied.stderr.matches(NOTICE).count(),
        1,
        "{}",
        copied.stderr
    );
    let reason = "changes cannot be kept on an overlay file system";
    assert!(copied.stderr.contains(reason), "{}", copied.stderr);
    let (has, wanted) = (
        listing(&space, "copied.tar"),
        listing(&space, "mounted.tar"),
    );
    let differ: Vec<_> = has.symmetric_difference(&wanted).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    let image = |name: &str| fs::read(space.path(name)).unwrap();
    assert!(image("copied.tar") == image("mounted.tar"));
    // What is cached needs no tree.
    let again = on_overlay(&space, whose, &arguments(COPIED));
    assert!(!again.stderr.contains(NOTICE), "{}", again.stderr);
    let sound = on_overlay(&space, whose, &["fsck"]);
    assert_eq!(sound.code, Some(0), "{}{}", sound.text(), sound.stderr);
    let info = on_overlay(&space, whose, &["info"]).text();
    assert!(
        info.contains(NOTICE) && info.contains("-> keep the store on"),
        "{info}"
    );
    let tmp = fs::read_dir(space.path("../on/upper/store/tmp")).unwrap();
    assert_eq!(tmp.count(), 0);
}

#[test]
fn a_store_on_an_overlay_has_the_same_layers() {
    same_layers(Whose::Root);
}

#[test]
fn a_store_of_an_ordinary_user_on_an_overlay_has_the_same_layers() {
    same_layers(Whose::Nobody);
}
