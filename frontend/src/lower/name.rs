//! The names of steps, as BuildKit's progress shows them: `[linux/amd64 build 2/4] RUN make`.

use crate::env::Env;
use crate::image::Platform;

/// Counts the steps of a stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps {
    /// The stage's name; empty where there is only one.
    pub(super) label: String,
    pub(super) total: usize,
    pub(super) done: usize,
    /// Several platforms are built.
    pub(super) with_platform: bool,
    /// The step comes from a trigger.
    pub(super) onbuild: bool,
}

impl Steps {
    /// The name of the next step.
    pub(super) fn next(&mut self, text: &str, platform: &Platform, env: &Env) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        self.done += 1;
        let mut name = String::from("[");
        if self.with_platform {
            name += &format!("{platform}{} ", other_target(platform, env));
        }
        if !self.label.is_empty() {
            name += &format!("{} ", self.label);
        }
        let width = self.total.to_string().len();
        name += &format!("{:width$}/{}] ", self.done, self.total);
        if self.onbuild {
            name += "ONBUILD ";
        }
        name + text
    }
}

/// The text with its first word in upper case.
pub(super) fn upper_case_keyword(text: &str) -> String {
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// `->arm64` where a stage on this platform makes something for another.
fn other_target(base: &Platform, env: &Env) -> String {
    let Some(target) = target_in(env, base).map(|target| target.normalized()) else {
        return String::new();
    };
    if target.os != base.os {
        return format!("->{target}");
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    let variant = target.variant.map(|v| format!("/{v}")).unwrap_or_default();
    format!("->{}{variant}", target.architecture)
}

/// The target that the stage has been told of.
fn target_in(env: &Env, base: &Platform) -> Option<Platform> {
    if let Some(platform) = env
        .get("TARGETPLATFORM")
        .and_then(|text| Platform::parse(text, base).ok())
    {
        return Some(platform);
    }
    let [os, architecture, variant] =
        ["TARGETOS", "TARGETARCH", "TARGETVARIANT"].map(|name| env.get(name));
    os.or(architecture).or(variant)?;
    let or = |given: Option<&str>, base: &str| {
        given.filter(|g| !g.is_empty()).unwrap_or(base).to_owned()
    };
    Some(Platform::new(
        &or(os, &base.os),
        &or(architecture, &base.architecture),
        variant,
    ))
}
