//! Outputs as they were asked for, turned into sinks.

use anyhow::{Context, Result, bail, ensure};
use lapstrake_frontend::image::ImageRef;

use crate::annotations::Annotations;
use crate::cli::{
    Annotated, Annotation, ArchiveFormat, ArchiveOutput, BuildOptions, Compression as Named,
    Destination, Encoding, FilesOutput, ImageOutput, OutputSpec,
};
use crate::compress::Compression;
use crate::pack::{Flavour, Packing};
use crate::sink::{FilesTarget, Format, Output, Sink, Target, Times};

/// All outputs of a build.
pub(super) fn outputs(options: &BuildOptions) -> Result<Vec<Output>> {
    let to_stdout = |output: &OutputSpec| {
        let (OutputSpec::Archive(ArchiveOutput { dest, .. })
        | OutputSpec::Files(FilesOutput { dest, .. })) = output
        else {
            return false;
        };
        *dest == Destination::Stdout
    };
    ensure!(
        lapstrake_runtime::has_stdout() || !options.outputs.iter().any(to_stdout),
        "--output: standard output is closed"
    );
    let output = |output| {
        Ok(Output {
            sink: sink(output)?,
            times: times(output),
        })
    };
    options.outputs.iter().map(output).collect()
}

/// Registries that an output trusts without TLS.
pub(super) fn insecure(options: &BuildOptions) -> Vec<String> {
    let images = options.outputs.iter().filter_map(|output| match output {
        OutputSpec::Image(image) if image.insecure => Some(&image.names),
        _ => None,
    });
    images
        .flatten()
        .map(|name: &ImageRef| name.registry.clone())
        .collect()
}

fn sink(output: &OutputSpec) -> Result<Sink> {
    Ok(match output {
        OutputSpec::Image(ImageOutput {
            names,
            push: false,
            encoding,
            ..
        }) => Sink::Store {
            names: names.clone(),
            annotations: packing(encoding)?.annotations,
        },
        OutputSpec::Image(ImageOutput {
            names,
            push_by_digest,
            encoding,
            ..
        }) => Sink::Registry {
            names: names.clone(),
            packing: packing(encoding)?,
            by_digest: *push_by_digest,
        },
        OutputSpec::Archive(ArchiveOutput {
            format,
            dest,
            names,
            encoding,
        }) => Sink::Archive {
            format: match format {
                ArchiveFormat::Oci => Format::Oci,
                ArchiveFormat::Docker => Format::Docker,
            },
            target: match dest {
                Destination::Unset => Target::Docker,
                Destination::Stdout => Target::Stdout,
                Destination::File(path) => Target::File(path.clone()),
                Destination::Directory(path) => Target::Directory(path.clone()),
            },
            names: names.clone(),
            packing: packing(encoding)?,
        },
        OutputSpec::Files(files) => self::files(files)?,
        OutputSpec::CacheOnly => Sink::Nothing,
    })
}

fn times(output: &OutputSpec) -> Times {
    let (epoch, rewrite) = match output {
        OutputSpec::Image(ImageOutput { encoding, .. })
        | OutputSpec::Archive(ArchiveOutput { encoding, .. }) => {
            (encoding.source_date_epoch, encoding.rewrite_timestamp)
        }
        OutputSpec::Files(files) => (files.source_date_epoch, false),
        OutputSpec::CacheOnly => (None, false),
    };
    Times { epoch, rewrite }
}

fn files(output: &FilesOutput) -> Result<Sink> {
    if output.delete {
        bail!("--output: mode=delete is not supported yet: empty the directory first");
    }
    let target = match &output.dest {
        Destination::Directory(path) => FilesTarget::Directory(path.clone()),
        Destination::File(path) => FilesTarget::Tar(path.clone()),
        Destination::Stdout => FilesTarget::Stdout,
        Destination::Unset => bail!("--output: give dest=PATH"),
    };
    Ok(Sink::Files {
        target,
        split: output.platform_split,
    })
}

fn packing(encoding: &Encoding) -> Result<Packing> {
    let Encoding {
        compression,
        level,
        force,
        oci_media_types,
        annotations,
        // See `times`.
        rewrite_timestamp: _,
        source_date_epoch: _,
    } = encoding;
    let level = level
        .map(|level| i32::try_from(level).context("--output: compression-level is too large"))
        .transpose()?;
    let compression = match compression {
        None | Some(Named::Gzip) => Compression::gzip(level),
        Some(Named::Zstd) => Compression::zstd(level),
        Some(Named::None) => Compression::None,
    };
    let annotations = self::annotations(annotations);
    ensure!(
        *oci_media_types != Some(false) || !annotations.needs_oci(),
        "--annotation: with oci-mediatypes=false only manifests can be annotated"
    );
    Ok(Packing {
        compression,
        force: *force,
        flavour: if *oci_media_types == Some(false) {
            Flavour::Docker
        } else {
            Flavour::Oci
        },
        annotations,
    })
}

fn annotations(asked: &[Annotation]) -> Annotations {
    let mut annotations = Annotations::default();
    for Annotation {
        on,
        platform,
        key,
        value,
    } in asked
    {
        let pair = [(key.clone(), value.clone())];
        match on {
            Annotated::Manifest => annotations.manifest.extend(platform.clone(), pair),
            Annotated::ManifestDescriptor => annotations
                .manifest_descriptor
                .extend(platform.clone(), pair),
            Annotated::Index => annotations.index.extend(pair),
            Annotated::IndexDescriptor => annotations.index_descriptor.extend(pair),
        }
    }
    annotations
}
