//! How long it takes from a text to a plan: a file of 1,000 lines, and one of 20 stages.

#![allow(missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lapstrake_frontend::image::Platform;
use lapstrake_frontend::plan::{Inputs, Lowered, Plan};
use lapstrake_frontend::{lower, parse};

/// Instructions as they stand in most Dockerfiles: 20 lines.
const BLOCK: &str = "\
# what the service is built from
ARG VERSION=1.2.3
ENV APP_HOME=/srv/app NODE_ENV=production \\
    PATH=/srv/app/bin:$PATH
WORKDIR $APP_HOME/src
COPY --chown=1000:1000 package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm \\
    set -eux; \\
    npm ci --omit=dev; \\
    # nothing of the build is kept
    rm -rf /tmp/*
COPY . .
LABEL org.opencontainers.image.version=\"${VERSION}\" vendor='me & co'
RUN make VERSION=${VERSION:-dev} all && make install
USER app
EXPOSE 8080/tcp 9090
HEALTHCHECK --interval=30s CMD curl -f http://localhost:8080/ || exit 1
ENTRYPOINT [\"/srv/app/bin/start\"]
CMD [\"--port\", \"8080\"]

";

fn thousand_lines() -> String {
    let mut text = "FROM debian:bookworm\n".to_owned();
    while text.lines().count() < 1000 {
        text += BLOCK;
    }
    text
}

fn twenty_stages() -> String {
    let mut text = "FROM debian:bookworm AS s0\nRUN make\n".to_owned();
    for stage in 1..20 {
        let before = stage - 1;
        let _ = write!(
            text,
            "FROM s{before} AS s{stage}\nARG A{stage}=1\nCOPY --from=s0 /out /in{stage}\n\
             RUN --mount=from=s{before},target=/m make STAGE=$A{stage}\n"
        );
    }
    text
}

fn plan(text: &str, inputs: &Inputs) -> Box<Plan> {
    let dockerfile = parse(text).unwrap_or_else(|found| panic!("{found:?}"));
    match lower(&dockerfile, inputs) {
        Ok(Lowered::Ready(plan)) => plan,
        other => panic!("{other:?}"),
    }
}

/// What the command line gives, with the base image's config at hand.
fn inputs(text: &str) -> Inputs {
    let platform = Platform::new("linux", "amd64", None);
    let mut inputs = Inputs {
        build_platform: platform.clone(),
        target_platform: platform,
        ..Inputs::default()
    };
    let dockerfile = parse(text).unwrap_or_else(|found| panic!("{found:?}"));
    if let Ok(Lowered::Need(wanted)) = lower(&dockerfile, &inputs) {
        let config = br#"{"config":{"Env":["PATH=/bin"]},"rootfs":{"diff_ids":["sha256:aa"]}}"#;
        let images = wanted
            .into_iter()
            .map(|wanted| ((wanted.reference, wanted.platform), config.to_vec()));
        inputs.images.extend(images);
    }
    inputs
}

fn benches(criterion: &mut Criterion) {
    for (name, text) in [
        ("1000 lines", thousand_lines()),
        ("20 stages", twenty_stages()),
    ] {
        let inputs = inputs(&text);
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| plan(black_box(&text), &inputs));
        });
    }
}

criterion_group!(all, benches);
criterion_main!(all);
