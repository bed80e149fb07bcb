//! Names of images: the roots that a prune keeps.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::At;
use crate::store::REFS;
use crate::{Digest, Error, Result, Store, dir};

/// A longer file name is cut and ends in a digest instead.
const LONGEST: usize = 200;

#[derive(Serialize, Deserialize)]
struct Ref {
    name: String,
    digest: Digest,
}

impl Store {
    /// All names, sorted, and the digests they stand for.
    pub fn refs(&self) -> Result<Vec<(String, Digest)>> {
        let path = self.root().join(REFS);
        let folder = dir::open(&path).at("open", &path)?;
        let mut refs = Vec::new();
        for file in dir::names(folder.as_fd()).at("list", &path)? {
            let name = Path::new(REFS).join(file.to_string_lossy().as_ref());
            refs.extend(
                self.read_ref(&name)?
                    .map(|entry| (entry.name, entry.digest)),
            );
        }
        refs.sort();
        Ok(refs)
    }

    /// The digest that a name stands for.
    pub fn ref_(&self, name: &str) -> Result<Option<Digest>> {
        let entry = self.read_ref(&ref_name(name))?;
        Ok(entry
            .filter(|entry| entry.name == name)
            .map(|entry| entry.digest))
    }

    /// Lets a name stand for a digest. The name may be any text.
    pub fn set_ref(&self, name: &str, digest: &Digest) -> Result<()> {
        let file = ref_name(name);
        let entry = Ref {
            name: name.to_owned(),
            digest: *digest,
        };
        let bytes = serde_json::to_vec(&entry).at("encode", &file)?;
        self.replace_file(&file, &bytes)
    }

    /// Forgets a name; whether it was known.
    pub fn remove_ref(&self, name: &str) -> Result<bool> {
        let file = ref_name(name);
        match unlinkat(self.dir(), &file, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(Error::io("remove", &self.root().join(file), error)),
        }
    }

    fn read_ref(&self, name: &Path) -> Result<Option<Ref>> {
        let path = self.root().join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(self.dir(), name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.at("open", &path)?,
        };
        let text = io::read_to_string(std::fs::File::from(file)).at("read", &path)?;
        Ok(serde_json::from_str(&text).ok())
    }
}

/// The file of a name: readable, and different for different names.
fn ref_name(name: &str) -> PathBuf {
    let mut file = crate::escape::escape(name.as_bytes());
    if let Some(rest) = file.strip_prefix('.') {
        file = format!("%2E{rest}");
    }
    if file.len() > LONGEST || file.is_empty() {
        file.truncate(LONGEST / 2);
        file.push('~');
        file.push_str(&blake3::hash(name.as_bytes()).to_hex());
    }
    Path::new(REFS).join(file)
}
