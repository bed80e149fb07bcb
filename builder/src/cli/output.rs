//! `--output`: what becomes of a result.

use std::path::PathBuf;

use lapstrake_frontend::image::{ImageRef, Platform};

use super::annotation::{self, Annotation};
use super::values::{self, Invalid, boolean};

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSpec {
    /// `type=image`, `type=registry`: an image in the store.
    Image(ImageOutput),
    /// `type=oci`, `type=docker`: an archive or a layout on disk.
    Archive(ArchiveOutput),
    /// `type=local`, `type=tar`: the files of the result.
    Files(FilesOutput),
    /// `type=cacheonly`: nothing but the cache.
    CacheOnly,
}

/// See [`OutputSpec::Image`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageOutput {
    /// Names the image gets; from `--tag`, else from `name=`.
    pub names: Vec<ImageRef>,
    /// Send it to the registries of its names.
    pub push: bool,
    /// `push-by-digest`: without a tag.
    pub push_by_digest: bool,
    /// `registry.insecure`: the registry may speak HTTP or have a certificate that nobody signed.
    pub insecure: bool,
    /// How it is written.
    pub encoding: Encoding,
}

/// See [`OutputSpec::Archive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOutput {
    /// What is written.
    pub format: ArchiveFormat,
    /// Where to. [`Destination::Unset`] only for docker's format: load it into docker.
    pub dest: Destination,
    /// Names the image gets; from `--tag`, else from `name=`.
    pub names: Vec<ImageRef>,
    /// How it is written.
    pub encoding: Encoding,
}

/// See [`OutputSpec::Files`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesOutput {
    /// A directory that gets the files, or a tar of them.
    pub dest: Destination,
    /// True for a tar.
    pub tar: bool,
    /// `platform-split`: a folder for each platform; by default where there are several.
    pub platform_split: Option<bool>,
    /// `mode=delete`: what else is in the directory is removed.
    pub delete: bool,
    /// As [`Encoding::source_date_epoch`].
    pub source_date_epoch: Option<Option<i64>>,
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// The format of `docker save`.
    Docker,
}

/// Where bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Destination {
    /// Not given.
    Unset,
    Stdout,
    File(PathBuf),
    Directory(PathBuf),
}

/// How layers and manifests are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// How new layers are compressed; `None` is the default of the output.
    pub compression: Option<Compression>,
    /// `compression-level`.
    pub level: Option<u32>,
    /// `force-compression`: base layers too.
    pub force: bool,
    /// `oci-media-types`, by default as the output has it.
    pub oci_media_types: Option<bool>,
    /// `rewrite-timestamp`: no file is younger than `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
    /// `source-date-epoch`, instead of the build's; empty for none.
    pub source_date_epoch: Option<Option<i64>>,
    /// In the order they were given; of equal keys the last counts.
    pub annotations: Vec<Annotation>,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

const TYPES: &str = "use image, registry, docker, oci, local, tar or cacheonly";

impl OutputSpec {
    /// An image under the names of `--tag`: the output of a build that names none.
    pub(super) fn image(push: bool) -> Self {
        Self::Image(ImageOutput {
            push,
            ..ImageOutput::default()
        })
    }

    /// What `--load` stands for.
    pub(super) fn load() -> Self {
        Self::Archive(ArchiveOutput {
            format: ArchiveFormat::Docker,
            dest: Destination::Unset,
            names: Vec::new(),
            encoding: Encoding::default(),
        })
    }

    /// Reads the value of one `--output`.
    pub(super) fn parse(text: &str, local: &Platform) -> Result<Self, Invalid> {
        let fields = values::fields(text)?;
        // A lone path; what begins with type= is never a path.
        if fields.len() == 1 && fields[0] == text && !text.starts_with("type=") {
            let tar = text == "-";
            let dest = if tar {
                Destination::Stdout
            } else {
                Destination::Directory(text.into())
            };
            return Ok(Self::Files(FilesOutput {
                dest,
                tar,
                platform_split: None,
                delete: false,
                source_date_epoch: None,
            }));
        }
        let mut options = Options::read(text)?;
        let Some(kind) = options.take("type") else {
            return Err(format!("{text:?} lacks a type: {TYPES}"));
        };
        let output = match kind.as_str() {
            "image" => Self::Image(options.image(false, local)?),
            "registry" => Self::Image(options.image(true, local)?),
            "oci" => Self::Archive(options.archive(ArchiveFormat::Oci, local)?),
            "docker" => Self::Archive(options.archive(ArchiveFormat::Docker, local)?),
            "local" => Self::Files(options.files(false)?),
            "tar" => Self::Files(options.files(true)?),
            "cacheonly" => Self::CacheOnly,
            _ => return Err(format!("unknown output type {kind:?}: {TYPES}")),
        };
        options.all_taken(&kind)?;
        Ok(output)
    }

    /// True where standard output takes the result.
    pub fn uses_stdout(&self) -> bool {
        match self {
            Self::Archive(archive) => archive.dest == Destination::Stdout,
            Self::Files(files) => files.dest == Destination::Stdout,
            Self::Image(_) | Self::CacheOnly => false,
        }
    }

    /// The names, where the output carries names.
    pub(super) fn names_mut(&mut self) -> Option<&mut Vec<ImageRef>> {
        match self {
            Self::Image(image) => Some(&mut image.names),
            Self::Archive(archive) => Some(&mut archive.names),
            Self::Files(_) | Self::CacheOnly => None,
        }
    }

    /// How an image is written, where it is one.
    pub(super) fn encoding_mut(&mut self) -> Option<&mut Encoding> {
        match self {
            Self::Image(image) => Some(&mut image.encoding),
            Self::Archive(archive) => Some(&mut archive.encoding),
            Self::Files(_) | Self::CacheOnly => None,
        }
    }
}

/// The options of one output that nobody has read yet.
struct Options(Vec<(String, String)>);

impl Options {
    fn read(text: &str) -> Result<Self, Invalid> {
        values::pairs(text).map(Self)
    }

    /// Takes the option `key`; the last one counts.
    fn take(&mut self, key: &str) -> Option<String> {
        let mut found = None;
        self.0.retain_mut(|(known, value)| {
            if known == key {
                found = Some(std::mem::take(value));
            }
            known != key
        });
        found
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, Invalid> {
        let value = self.take(key);
        value
            .map(|value| boolean(&value).map_err(|why| format!("{key}: {why}")))
            .transpose()
    }

    fn flag(&mut self, key: &str) -> Result<bool, Invalid> {
        Ok(self.boolean(key)?.unwrap_or(false))
    }

    fn image(&mut self, push: bool, local: &Platform) -> Result<ImageOutput, Invalid> {
        // The store always keeps images, and always as layers that can be used at once.
        let unpack = self.flag("unpack")?;
        self.boolean("store")?;
        let image = ImageOutput {
            names: self.names()?,
            push: self.boolean("push")?.unwrap_or(push),
            push_by_digest: self.flag("push-by-digest")?,
            insecure: self.flag("registry.insecure")?,
            encoding: self.encoding(local)?,
        };
        if unpack && image.encoding.rewrite_timestamp {
            return Err("rewrite-timestamp=true conflicts with unpack=true".to_owned());
        }
        Ok(image)
    }

    fn archive(
        &mut self,
        format: ArchiveFormat,
        local: &Platform,
    ) -> Result<ArchiveOutput, Invalid> {
        let tar = self.boolean("tar")?.unwrap_or(true);
        let dest = match self.take("dest").as_deref() {
            None | Some("") if !tar => return Err("tar=false wants dest=DIRECTORY".to_owned()),
            None | Some("") if format == ArchiveFormat::Docker => Destination::Unset,
            None | Some("" | "-") if tar => Destination::Stdout,
            Some("-") => return Err("a directory cannot go to standard output".to_owned()),
            Some(path) if tar => Destination::File(path.into()),
            path => Destination::Directory(path.unwrap_or_default().into()),
        };
        Ok(ArchiveOutput {
            format,
            dest,
            names: self.names()?,
            encoding: self.encoding(local)?,
        })
    }

    fn files(&mut self, tar: bool) -> Result<FilesOutput, Invalid> {
        let dest = match self.take("dest").as_deref() {
            None | Some("" | "-") if tar => Destination::Stdout,
            Some(path) if tar => Destination::File(path.into()),
            None | Some("") => return Err("type=local wants dest=DIRECTORY".to_owned()),
            Some("-") => {
                return Err("type=local cannot go to standard output: use type=tar".to_owned());
            }
            Some(path) => Destination::Directory(path.into()),
        };
        let delete = match self.take("mode").as_deref() {
            None | Some("copy") => false,
            Some("delete") if !tar => true,
            Some(mode) => return Err(format!("mode={mode}: use copy or delete, with type=local")),
        };
        Ok(FilesOutput {
            dest,
            tar,
            platform_split: self.boolean("platform-split")?,
            delete,
            source_date_epoch: self.epoch()?,
        })
    }

    fn names(&mut self) -> Result<Vec<ImageRef>, Invalid> {
        let names = self.take("name").unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        names
            .map(|name| {
                name.parse()
                    .map_err(|error| format!("name={name}: {error}"))
            })
            .collect()
    }

    fn encoding(&mut self, local: &Platform) -> Result<Encoding, Invalid> {
        let compression = match self.take("compression").as_deref() {
            None => None,
            Some("uncompressed") => Some(Compression::None),
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            Some("estargz") => {
                return Err("compression=estargz is not supported: use gzip or zstd".to_owned());
            }
            Some(other) => {
                return Err(format!(
                    "unknown compression {other:?}: use gzip, zstd or uncompressed"
                ));
            }
        };
        let oci = self.boolean("oci-mediatypes")?;
        Ok(Encoding {
            compression,
            level: self.level(compression)?,
            force: self.flag("force-compression")?,
            oci_media_types: oci.or(self.boolean("oci-media-types")?),
            rewrite_timestamp: self.flag("rewrite-timestamp")?,
            source_date_epoch: self.epoch()?,
            annotations: self.annotations(local)?,
        })
    }

    fn level(&mut self, compression: Option<Compression>) -> Result<Option<u32>, Invalid> {
        let Some(text) = self.take("compression-level") else {
            return Ok(None);
        };
        let most = if compression == Some(Compression::Zstd) {
            22
        } else {
            9
        };
        match text.parse() {
            Ok(level) if level <= most => Ok(Some(level)),
            _ => Err(format!(
                "compression-level={text}: give a number from 0 to {most}"
            )),
        }
    }

    fn epoch(&mut self) -> Result<Option<Option<i64>>, Invalid> {
        let parse = |text: String| match text.parse() {
            _ if text.is_empty() => Ok(None),
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => Err(format!("source-date-epoch={text}: give seconds since 1970")),
        };
        self.take("source-date-epoch").map(parse).transpose()
    }

    fn annotations(&mut self, local: &Platform) -> Result<Vec<Annotation>, Invalid> {
        let mut annotations = Vec::new();
        let mut rest = Vec::new();
        for (name, value) in std::mem::take(&mut self.0) {
            match annotation::parse_option(&name, &value, local) {
                Some(annotation) => annotations.push(annotation?),
                None => rest.push((name, value)),
            }
        }
        self.0 = rest;
        Ok(annotations)
    }

    fn all_taken(&self, kind: &str) -> Result<(), Invalid> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("type={kind} has no option {key:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<OutputSpec, Invalid> {
        OutputSpec::parse(text, &Platform::new("linux", "amd64", None))
    }

    fn image(text: &str) -> ImageOutput {
        match parse(text) {
            Ok(OutputSpec::Image(image)) => image,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn where_results_go() {
        use Destination::*;
        let files = |dest, tar| {
            OutputSpec::Files(FilesOutput {
                dest,
                tar,
                platform_split: None,
                delete: false,
                source_date_epoch: None,
            })
        };
        let archive = |format, dest| {
            let (names, encoding) = (vec![], Encoding::default());
            OutputSpec::Archive(ArchiveOutput {
                format,
                dest,
                names,
                encoding,
            })
        };
        let cases = [
            ("out", files(Directory("out".into()), false)),
            ("-", files(Stdout, true)),
            ("./a b", files(Directory("./a b".into()), false)),
            ("type=local,dest=out", files(Directory("out".into()), false)),
            ("type=tar", files(Stdout, true)),
            ("type=tar,dest=-", files(Stdout, true)),
            ("type=tar,dest=a.tar", files(File("a.tar".into()), true)),
            ("type=oci", archive(ArchiveFormat::Oci, Stdout)),
            (
                "type=oci,dest=a.tar",
                archive(ArchiveFormat::Oci, File("a.tar".into())),
            ),
            (
                "type=oci,tar=false,dest=a",
                archive(ArchiveFormat::Oci, Directory("a".into())),
            ),
            ("type=docker", archive(ArchiveFormat::Docker, Unset)),
            ("type=docker,dest=-", archive(ArchiveFormat::Docker, Stdout)),
            (
                r#"type=docker,"dest=a,b.tar""#,
                archive(ArchiveFormat::Docker, File("a,b.tar".into())),
            ),
            ("type=image", OutputSpec::image(false)),
            ("type=registry", OutputSpec::image(true)),
            ("type=image,push=true,unpack=false", OutputSpec::image(true)),
            ("type=cacheonly", OutputSpec::CacheOnly),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn how_images_are_written() {
        let encoding =
            image("type=image,compression=zstd,compression-level=22,force-compression=1").encoding;
        assert_eq!(
            (encoding.compression, encoding.level, encoding.force),
            (Some(Compression::Zstd), Some(22), true)
        );
        let encoding =
            image("type=image,oci-mediatypes=false,rewrite-timestamp=true,source-date-epoch=0")
                .encoding;
        assert_eq!(
            (encoding.oci_media_types, encoding.rewrite_timestamp),
            (Some(false), true)
        );
        assert_eq!(encoding.source_date_epoch, Some(Some(0)));
        let annotated = image("type=image,annotation.a.b=1,annotation-index.c=2")
            .encoding
            .annotations;
        assert_eq!(
            annotated.iter().map(|a| a.key.as_str()).collect::<Vec<_>>(),
            ["a.b", "c"]
        );
        let named = image(
            r#"type=registry,"name=a,ghcr.io/b/c:1",push-by-digest=true,registry.insecure=t"#,
        );
        assert_eq!(
            named
                .names
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["a:latest", "ghcr.io/b/c:1"]
        );
        assert!(named.push && named.push_by_digest && named.insecure);
    }

    #[test]
    fn mistakes() {
        let cases = [
            ("dest=out,tar=false", "lacks a type"),
            (
                "type=oci,dest",
                "\"dest\" in \"type=oci,dest\" is not KEY=VALUE",
            ),
            ("type=sif", "unknown output type \"sif\""),
            ("type=local", "type=local wants dest=DIRECTORY"),
            ("type=local,dest=-", "use type=tar"),
            ("type=oci,tar=false", "tar=false wants dest"),
            ("type=oci,tar=false,dest=-", "cannot go to standard output"),
            ("type=oci,tar=maybe", "tar: \"maybe\" is neither"),
            ("type=tar,mode=delete", "mode=delete: use copy or delete"),
            ("type=oci,compression=estargz", "estargz is not supported"),
            ("type=oci,compression=lz4", "unknown compression \"lz4\""),
            ("type=oci,compression-level=10", "from 0 to 9"),
            (
                "type=oci,compression=zstd,compression-level=23",
                "from 0 to 22",
            ),
            (
                "type=oci,name=UPPER",
                "name=UPPER: invalid reference format",
            ),
            ("type=oci,push=true", "type=oci has no option \"push\""),
            (
                "type=local,dest=a,compression=gzip",
                "type=local has no option \"compression\"",
            ),
            ("type=image,annotation-x.a=b", "cannot annotate \"x\""),
            ("type=image,source-date-epoch=now", "seconds since 1970"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
