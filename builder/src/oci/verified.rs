//! A reader that proves its bytes: exactly the declared size, exactly the declared digest.

use std::io::{self, Read};

use lapstrake_cache::Digest;
use sha2::{Digest as _, Sha256};

use super::Descriptor;

/// Hashes bytes that come in pieces.
#[derive(Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

/// Passes a blob through and fails at its end, at the latest, when it is not what the descriptor promises.
///
/// The end is reported (`Ok(0)`) only after size and digest were checked, and never more than the declared
/// bytes are handed out: an endless source is cut off.
pub struct Verified<R> {
    inner: R,
    expected: Descriptor,
    left: u64,
    hasher: Option<Hasher>,
}

impl<R: Read> Verified<R> {
    /// Wraps `inner`, which should yield the blob of `expected`.
    pub fn new(inner: R, expected: &Descriptor) -> Self {
        Self {
            inner,
            expected: expected.clone(),
            left: expected.size,
            hasher: Some(Hasher::default()),
        }
    }

    /// Reads a small blob whole.
    ///
    /// # Errors
    /// When the blob is declared larger than `limit`, or is not what it is declared to be.
    pub fn read_small(mut self, limit: u64) -> io::Result<Vec<u8>> {
        let Descriptor { digest, size, .. } = &self.expected;
        if *size > limit {
            return Err(invalid(format!(
                "blob {digest} has {size} bytes, more than the {limit} allowed"
            )));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let Descriptor { digest, size, .. } = &self.expected;
        if self.inner.read(&mut [0])? != 0 {
            return Err(invalid(format!(
                "blob {digest} is longer than its {size} bytes"
            )));
        }
        let found = hasher.finish();
        if found != *digest {
            return Err(invalid(format!("blob {digest} has the digest {found}")));
        }
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return self.finish().map(|()| 0);
        }
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..want])?;
        if count == 0 {
            let Descriptor { digest, size, .. } = &self.expected;
            let text = format!("blob {digest} ends {} bytes short of its {size}", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.left -= count as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::oci::media;

    fn read(bytes: &[u8], declared: &Descriptor) -> Result<Vec<u8>, String> {
        Verified::new(bytes, declared)
            .read_small(1 << 20)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_declared_bytes_pass() {
        let good = Descriptor::of(media::OCI_LAYER, b"hello");
        assert_eq!(read(b"hello", &good).unwrap(), b"hello");
        assert!(
            read(b"hellp", &good)
                .unwrap_err()
                .contains("has the digest")
        );
        assert!(
            read(b"hello!", &good)
                .unwrap_err()
                .contains("longer than its 5 bytes")
        );
        assert!(
            read(b"hell", &good)
                .unwrap_err()
                .contains("ends 1 bytes short")
        );
        let empty = Descriptor::of(media::OCI_LAYER, b"");
        assert_eq!(read(b"", &empty).unwrap(), b"");
        assert!(read(b"x", &empty).unwrap_err().contains("longer"));
    }

    #[test]
    fn a_large_blob_is_not_read_whole() {
        let declared = Descriptor {
            size: 2 << 20,
            ..Descriptor::of(media::OCI_CONFIG, b"")
        };
        assert!(
            read(b"", &declared)
                .unwrap_err()
                .contains("more than the 1048576 allowed")
        );
    }

    #[test]
    fn an_endless_source_is_cut_off() {
        let declared = Descriptor {
            size: 1 << 16,
            ..Descriptor::of(media::OCI_LAYER, b"")
        };
        let mut out = Vec::new();
        let error = Verified::new(io::repeat(0), &declared)
            .read_to_end(&mut out)
            .unwrap_err();
        assert!(error.to_string().contains("longer"), "{error}");
        assert_eq!(out.len(), 1 << 16);
    }
}
