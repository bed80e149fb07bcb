//! The names of steps, as BuildKit's progress shows them: `[linux/amd64 build 2/4] RUN make`.

use std::fmt::Write as _;

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
    /// The name of the next step: its text with the first word in upper case.
    pub(super) fn next(&mut self, text: &str, platform: &Platform, env: &Env) -> String {
        let mut name = String::with_capacity(self.label.len() + text.len() + "[ 000/000] ".len());
        if self.total > 0 {
            self.done += 1;
            self.count(&mut name, platform, env);
        }
        let keyword = &text[..text.find(' ').unwrap_or(text.len())];
        match keyword.is_ascii() {
            true => name.extend(
                keyword
                    .bytes()
                    .map(|byte| char::from(byte.to_ascii_uppercase())),
            ),
            false => name += &keyword.to_uppercase(),
        }
        name + &text[keyword.len()..]
    }

    /// Which step it is of which stage.
    fn count(&self, name: &mut String, platform: &Platform, env: &Env) {
        name.push('[');
        if self.with_platform {
            *name += &format!("{platform}{} ", other_target(platform, env));
        }
        if !self.label.is_empty() {
            name.extend([&self.label, " "]);
        }
        let width = self.total.ilog10() as usize + 1;
        // Writing to a string cannot fail.
        let _ = write!(name, "{:width$}/{}] ", self.done, self.total);
        if self.onbuild {
            *name += "ONBUILD ";
        }
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
