//! Archives without an end, without bottom, or cut off.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lapstrake_cache::{DiffId, Digest, Error, Unpack, unpack_archive};

use super::attacks::checksummed;
use crate::support::{Raw, RawTar, store};

/// Gives bytes without end, and counts them.
struct Endless {
    head: io::Cursor<Vec<u8>>,
    given: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.head.read(buffer)?;
        let read = if read == 0 {
            io::repeat(b'x').read(buffer)?
        } else {
            read
        };
        self.given += read as u64;
        assert!(self.given < 64 << 20, "read without bounds");
        Ok(read)
    }
}

#[test]
fn headers_without_end_are_refused_early() {
    let (_dir, store) = store();
    let sized = |kind, size| {
        let mut raw = Raw::new(kind, "x");
        raw.size = size;
        if kind != b'x' {
            raw.magic = b"ustar  \0";
        }
        raw.block().to_vec()
    };
    // A sparse header whose continuation never ends.
    let mut extended = Raw::new(b'S', "s").block();
    extended[257..265].copy_from_slice(b"ustar  \0");
    extended[482] = 1;
    let extended = checksummed(RawTar::new(), extended).0;
    let sparse_map = RawTar::new()
        .pax(&[
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"9"),
        ])
        .bytes(&sized(b'0', 1 << 40))
        .0;
    for head in [
        sized(b'x', 256 << 20),
        sized(b'L', 128 << 20),
        sized(b'K', 128 << 20),
        sized(b'g', 256 << 20),
        extended,
        sparse_map,
    ] {
        let begun = Instant::now();
        let mut reader = Endless {
            head: io::Cursor::new(head),
            given: 0,
        };
        let refused = store.extract(&mut reader, &DiffId(Digest::of(b"")));
        assert!(matches!(refused, Err(Error::Archive { .. })), "{refused:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn truncated_archives_are_refused() {
    let (_dir, store) = store();
    let tar = RawTar::new()
        .file("a", &[1; 3000])
        .pax(&[(b"path", b"b")])
        .file("b", b"x")
        .0;
    for len in [100, 512, 700, 3500, 3600, 4100, 4200, 4700, 5200] {
        let cut = &tar[..len];
        let id = DiffId(Digest::of(cut));
        let refused = store.extract(cut, &id);
        assert!(
            matches!(refused, Err(Error::Archive { .. })),
            "{len}: {refused:?}"
        );
    }
    // Some programs leave out the end; the digest says that nothing is missing.
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    let empty = DiffId(Digest::of(b""));
    assert_eq!(store.extract(&b""[..], &empty).unwrap().size, 0);
}

#[test]
fn a_reader_that_fails_is_said_to() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("connection lost"));
            }
            let len = buffer.len().min(self.0);
            self.0 -= len;
            buffer[..len].fill(0);
            Ok(len)
        }
    }
    let (dir, store) = store();
    for len in [0, 100, 1024, 300 << 10, 3 << 20] {
        let failed = store.extract(Failing(len), &DiffId(Digest::of(b"")));
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("connection lost"), "{len}: {text}");
        let fd = fs::File::open(dir.path()).unwrap();
        if len < 512 {
            let failed = unpack_archive(Failing(len), fd.as_fd(), &Unpack::default());
            assert!(failed.unwrap_err().to_string().contains("connection lost"));
        }
    }
}

#[test]
fn large_archives_take_linear_time() {
    let (_dir, store) = store();
    let extract = |tar: Vec<u8>| {
        let begun = Instant::now();
        let id = DiffId(Digest::of(&tar));
        store.extract(&tar[..], &id).unwrap();
        let took = begun.elapsed();
        store.remove_layer(&id).unwrap();
        took
    };
    let many = |files: usize| {
        let tar = (0..files).fold(RawTar::new(), |tar, i| {
            tar.file(format!("d{}/{i}", i % 7), b"")
        });
        tar.end()
    };
    let opaque = |files: usize| {
        let tar = (0..files).fold(RawTar::new(), |tar, i| tar.file(format!("d{i}/f"), b""));
        let tar = (0..files).fold(tar, |tar, i| tar.file(format!("d{i}/.wh..wh..opq"), b""));
        tar.end()
    };
    let limit = Duration::from_secs(30);
    assert!(extract(many(20_000)) < limit);
    assert!(extract(opaque(3_000)) < limit);
}

#[test]
fn deep_trees_are_unpacked_and_removed() {
    let (dir, store) = store();
    let path = vec!["d"; 1900].join("/");
    let tar = (1..=1900).fold(RawTar::new(), |tar, depth| {
        let name = vec!["d"; depth].join("/");
        tar.pax(&[(b"path", format!("{name}/").as_bytes())])
            .dir("x")
    });
    let tar = tar
        .pax(&[(b"path", format!("{path}/file").as_bytes())])
        .file("x", b"deep")
        .end();
    let id = DiffId(Digest::of(&tar));
    store.extract(&tar[..], &id).unwrap();
    let mut again = Vec::new();
    let replayed = store.write_layer_tar(&id, &mut again);
    assert!(
        replayed.is_ok() || matches!(replayed, Err(Error::Foreign(_))),
        "{replayed:?}"
    );
    store.remove_layer(&id).unwrap();

    // Implicit parents are made one by one; so many are refused, not followed by a crash.
    let tar = RawTar::new()
        .pax(&[(b"path", format!("{path}/file").as_bytes())])
        .file("x", b"")
        .end();
    let refused = store.extract(&tar[..], &DiffId(Digest::of(&tar)));
    assert!(refused.is_err());
    let fd = fs::File::open(dir.path()).unwrap();
    assert!(unpack_archive(&tar[..], fd.as_fd(), &Unpack::default()).is_err());
}
