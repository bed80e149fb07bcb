//! An archive with everything in it, broken at random.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use lapstrake_cache::{DiffId, Digest, Unpack, unpack_archive};

use super::Canary;
use super::attacks::checksummed;
use crate::support::{Raw, RawTar, store};

/// An archive with a little of everything, to be broken.
fn rich() -> Vec<u8> {
    let mut device = Raw::new(b'3', "dev");
    device.dev = (1, 3);
    let mut sparse = Raw::new(b'S', "sparse").block();
    sparse[257..265].copy_from_slice(b"ustar  \0");
    sparse[386..398].copy_from_slice(b"00000000000\0");
    sparse[398..410].copy_from_slice(b"00000000000\0");
    sparse[483..495].copy_from_slice(b"00000000777\0");
    let tar = RawTar::new()
        .dir("d/")
        .file("d/f", &[7; 700])
        .symlink("l", "d")
        .hard_link("h", "d/f")
        .entry(&device)
        .global(&[(b"comment", b"c")])
        .pax(&[
            (b"path", b"long/name"),
            (b"SCHILY.xattr.user.a", b"1"),
            (b"mtime", b"-1.5"),
        ])
        .file("x", b"content")
        .gnu(b'L', &[b'n'; 120])
        .file("x", b"")
        .pax(&[(b"GNU.sparse.map", b"0,3"), (b"GNU.sparse.size", b"9")])
        .file("p", b"abc")
        .file("d/.wh.gone", b"")
        .file("d/.wh..wh..opq", b"");
    checksummed(tar, sparse).end()
}

fn fix_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_broken_archive_is_refused_or_stays_inside(
        changes in proptest::collection::vec((0usize..12_000, proptest::num::u8::ANY), 1..6),
        cut in proptest::option::of(0usize..12_000),
    ) {
        let (dir, store) = store();
        let canary = Canary::new(dir.path());
        let mut tar = rich();
        for (at, byte) in changes {
            let at = at % tar.len();
            tar[at] = byte;
        }
        fix_checksums(&mut tar);
        tar.truncate(cut.unwrap_or(tar.len()));
        let id = DiffId(Digest::of(&tar));
        if store.extract(&tar[..], &id).is_ok() {
            let _ = store.write_layer_tar(&id, &mut io::sink());
        }
        let dest = dir.path().join("dest");
        fs::create_dir(&dest).unwrap();
        let fd = fs::File::open(&dest).unwrap();
        let _ = unpack_archive(&tar[..], fd.as_fd(), &Unpack::default());
        canary.check("broken archive");
    }
}

#[test]
fn the_archive_that_is_broken_above_is_whole() {
    let (_dir, store) = store();
    let tar = rich();
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    assert_eq!(
        fs::read(store.layer_dir(&id).join("p")).unwrap(),
        b"abc\0\0\0\0\0\0"
    );
    assert_eq!(
        fs::metadata(store.layer_dir(&id).join("sparse"))
            .unwrap()
            .len(),
        0o777
    );
    assert_eq!(
        fs::metadata(store.layer_dir(&id).join("long/name"))
            .unwrap()
            .mtime(),
        -2
    );
}
