//! Flags of `docker buildx build` that are known but not supported: each is refused with a reason, none is ignored.

use super::args::BuildArgs;
use super::attest::Attestation;
use super::values::Invalid;

/// The flag, when it is refused, and what to do instead.
type Row = (&'static str, fn(&BuildArgs) -> bool, &'static str);

/// Remove a row when the flag is supported.
const UNSUPPORTED: &[Row] = &[
    (
        "--attest",
        |a| {
            a.image
                .attest
                .iter()
                .any(|text| switched_on(Attestation::parse(text)))
        },
        NO_ATTESTATIONS,
    ),
    (
        "--provenance",
        |a| short_on("provenance", a.image.provenance.as_deref()),
        NO_ATTESTATIONS,
    ),
    (
        "--sbom",
        |a| short_on("sbom", a.image.sbom.as_deref()),
        NO_ATTESTATIONS,
    ),
    (
        "--builder",
        |a| {
            a.legacy
                .builder
                .as_deref()
                .is_some_and(|name| !matches!(name, "" | "default"))
        },
        "there is one builder, this process; leave the flag out",
    ),
    (
        "--policy",
        |a| any(&a.legacy.policy),
        "source policies are not supported; pin images by digest instead",
    ),
    (
        "--squash",
        |a| a.legacy.squash == Some(true),
        "layers are not merged; copy the files into a last stage with COPY --from instead",
    ),
];

const NO_ATTESTATIONS: &str = "attestations are not written yet; leave the flag out or give false";

/// Refuses the first flag that is not supported.
pub(super) fn refuse(args: &BuildArgs) -> Result<(), Invalid> {
    match UNSUPPORTED.iter().find(|(_, refused, _)| refused(args)) {
        Some((flag, _, why)) => Err(format!("{flag} is not supported: {why}")),
        None => Ok(()),
    }
}

/// Leaves the flags out of the help, where people look for what there is.
pub(super) fn hide(build: clap::Command) -> clap::Command {
    UNSUPPORTED.iter().fold(build, |build, (flag, ..)| {
        let id = flag.trim_start_matches('-').replace('-', "_");
        build.mut_arg(id, |flag| flag.hide(true))
    })
}

fn any(texts: &[String]) -> bool {
    texts.iter().any(|text| !text.is_empty())
}

/// Mistakes are not refused here: they are reported where the value is read.
fn switched_on(parsed: Result<(Attestation, bool), Invalid>) -> bool {
    parsed.is_ok_and(|(_, wanted)| wanted)
}

fn short_on(kind: &str, text: Option<&str>) -> bool {
    text.is_some_and(|text| switched_on(Attestation::parse_short(kind, text)))
}
