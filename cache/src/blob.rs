//! Blobs: bytes under the name of their sha256.
//!
//! A blob appears under its name only after its bytes were hashed; whoever reads one learns at its
//! end whether they still match, and a blob that does not is removed, so that the next build
//! fetches it again.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::error::At;
use crate::index::{touch, touch_at};
use crate::lease::Leased;
use crate::store::{BLOBS, create_file};
use crate::{Digest, Error, HashingReader, HashingWriter, Kind, Result, Store, dir};

impl Store {
    /// The size of a blob, if it is there. It will not be pruned while this process lives.
    pub fn has_blob(&self, digest: &Digest) -> Option<u64> {
        self.leases().take(Leased::Blob(*digest)).ok()?;
        let name = blob_name(digest);
        let found = dir::lookup(self.dir(), &name).ok()??;
        touch_at(self.dir(), &name, &found);
        (found.kind == Kind::File).then_some(found.size)
    }

    /// Opens a blob, if it is there. Reading it fails at its end if the bytes do not match the
    /// digest.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<BlobReader>> {
        self.leases().take(Leased::Blob(*digest))?;
        let name = blob_name(digest);
        let path = self.root().join(&name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(self.dir(), &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.at("open", &path)?,
        };
        touch(&file);
        let size = dir::stat(&file).at("stat", &path)?.size;
        Ok(Some(BlobReader {
            store: self.clone(),
            digest: *digest,
            size,
            inner: HashingReader::new(file.into()),
            checked: false,
        }))
    }

    /// Reads a small blob whole and checks it; none if it is not there.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(mut blob) = self.open_blob(digest)? else {
            return Ok(None);
        };
        if blob.size > limit {
            return Err(Error::Corrupt {
                what: format!("blob {digest}"),
                expected: format!("at most {limit} bytes"),
                found: format!("{} bytes", blob.size),
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
        match blob.read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(_) if blob.checked => Err(blob.corrupt()),
            Err(error) => Err(Error::io(
                "read",
                &self.root().join(blob_name(digest)),
                error,
            )),
        }
    }

    /// Starts a new blob of unknown size.
    pub fn ingest(&self) -> Result<Ingest> {
        let (name, path) = self.temp_name();
        let file = create_file(self.temp_dir(), &name).at("create", &path)?;
        Ok(Ingest {
            store: self.clone(),
            name,
            path,
            limit: u64::MAX,
            inner: Some(HashingWriter::new(file.into())),
        })
    }

    /// Adds a blob whose bytes are at hand.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.has_blob(&digest) == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        let path = ingest.path.clone();
        ingest.write_all(bytes).at("write", &path)?;
        ingest.commit().map(|(digest, _)| digest)
    }

    /// Removes a blob, if it is there.
    pub fn remove_blob(&self, digest: &Digest) -> Result<()> {
        let name = blob_name(digest);
        match unlinkat(self.dir(), &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("remove", &self.root().join(&name), error)),
        }
    }
}

fn shard_name(digest: &Digest) -> PathBuf {
    PathBuf::from(format!("{BLOBS}/{:02x}", digest.as_bytes()[0]))
}

pub(crate) fn blob_name(digest: &Digest) -> PathBuf {
    shard_name(digest).join(digest.hex())
}

/// Whether the bytes of a blob are what its name says.
pub(crate) fn is_whole(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let mut reader = HashingReader::new(file);
    let read = io::copy(&mut reader, &mut io::sink());
    let name = path.file_name().unwrap_or_default();
    read.is_ok() && name == reader.digest().hex().as_str()
}

/// Reads a blob, and checks it on the way.
pub struct BlobReader {
    store: Store,
    digest: Digest,
    size: u64,
    inner: HashingReader<File>,
    checked: bool,
}

impl BlobReader {
    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn corrupt(&self) -> Error {
        Error::Corrupt {
            what: "blob".to_owned(),
            expected: self.digest.to_string(),
            found: self.inner.digest().to_string(),
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.checked {
            self.checked = true;
            if self.inner.digest() != self.digest {
                // A failure to remove it is found again by the next reader.
                let _ = self.store.remove_blob(&self.digest);
                return Err(io::Error::new(io::ErrorKind::InvalidData, self.corrupt()));
            }
        }
        Ok(read)
    }
}

/// A blob on its way into the store. Nothing is left of one that is dropped.
pub struct Ingest {
    store: Store,
    name: CString,
    path: PathBuf,
    limit: u64,
    inner: Option<HashingWriter<File>>,
}

impl Ingest {
    /// Lets writing fail once more than `size` bytes came.
    pub fn with_limit(mut self, size: u64) -> Self {
        self.limit = size;
        self
    }

    /// The number of bytes so far.
    pub fn count(&self) -> u64 {
        self.inner.as_ref().map_or(0, HashingWriter::count)
    }

    /// Puts the blob under the name of what was written.
    pub fn commit(mut self) -> Result<(Digest, u64)> {
        let Some(inner) = self.inner.take() else {
            return Err(Error::Missing("the blob".to_owned()));
        };
        let (_file, digest, size) = inner.finish();
        self.publish(&digest)?;
        Ok((digest, size))
    }

    /// Puts the blob under its name if digest and size are as declared; otherwise nothing is left.
    pub fn commit_as(mut self, digest: &Digest, size: u64) -> Result<()> {
        let Some(inner) = self.inner.take() else {
            return Err(Error::Missing("the blob".to_owned()));
        };
        let (_file, found, count) = inner.finish();
        if found == *digest && count == size {
            return self.publish(digest);
        }
        Err(Error::Corrupt {
            what: "blob".to_owned(),
            expected: format!("{digest} of {size} bytes"),
            found: format!("{found} of {count} bytes"),
        })
    }

    fn publish(&self, digest: &Digest) -> Result<()> {
        let store = &self.store;
        store.leases().take(Leased::Blob(*digest))?;
        let name = blob_name(digest);
        let path = store.root().join(&name);
        let _publishing = store.session().publishing()?;
        if renameat(store.temp_dir(), &self.name, store.dir(), &name).is_ok() {
            return Ok(());
        }
        match mkdirat(store.dir(), shard_name(digest), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io("create the folder of", &path, error)),
        }
        renameat(store.temp_dir(), &self.name, store.dir(), &name).at("create", &path)
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(inner) = &mut self.inner else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if bytes.len() as u64 > self.limit - inner.count() {
            let text = format!("more than the declared {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        inner.write(bytes).map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, Error::io("write to", self.store.root(), error))
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Gone already if it was committed; else the session's end removes it.
        let _ = unlinkat(self.store.temp_dir(), &self.name, AtFlags::empty());
    }
}
