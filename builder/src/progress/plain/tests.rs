//! What a script of events looks like.

use super::super::{Event, Progress, StepId, Stream, Warning};
use super::*;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn started(id: u32, name: &str, millis: u64) -> Event {
    Event::Started {
        id: StepId(id),
        name: name.into(),
        inputs: vec![],
        at: at(millis),
    }
}

fn cached(id: u32, name: &str, millis: u64) -> Event {
    Event::Cached {
        id: StepId(id),
        name: name.into(),
        inputs: vec![],
        at: at(millis),
    }
}

fn output(id: u32, text: &str, millis: u64) -> Event {
    Event::Output {
        id: StepId(id),
        stream: Stream::Stdout,
        data: text.into(),
        at: at(millis),
    }
}

fn status(id: u32, current: u64, done: bool, millis: u64) -> Event {
    Event::Status {
        id: StepId(id),
        item: "sha256:4abc".into(),
        current,
        total: Some(1_000_000),
        done,
        at: at(millis),
    }
}

fn done(id: u32, millis: u64) -> Event {
    Event::Done {
        id: StepId(id),
        at: at(millis),
    }
}

fn shown(events: &[Event]) -> String {
    let mut plain = Plain::new(Vec::new(), Colour::Drop);
    for event in events {
        plain.event(event);
    }
    plain.finish(at(99_000));
    String::from_utf8(plain.out).expect("utf-8")
}

#[test]
fn a_build() {
    let script = [
        started(0, "[internal] load build definition from Dockerfile", 0),
        done(0, 4),
        started(1, "[1/3] FROM docker.io/library/alpine:3.20", 5),
        status(1, 0, false, 10),
        status(1, 10_000, false, 20),
        status(1, 500_000, false, 110),
        status(1, 1_000_000, true, 210),
        done(1, 300),
        cached(2, "[2/3] COPY . /src", 301),
        started(3, "[3/3] RUN make", 310),
        output(3, "cc -o hel", 433),
        output(3, "lo hello.c\nsecond\nno end", 440),
        Event::Failed {
            id: StepId(3),
            error: "run \"make\": exit code 2\nsecond line".into(),
            at: at(12_310),
        },
    ];
    let expected = "\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s

#2 [1/3] FROM docker.io/library/alpine:3.20
#2 sha256:4abc 0B / 1.00MB
#2 sha256:4abc 500.00kB / 1.00MB 0.1s
#2 sha256:4abc 1.00MB / 1.00MB 0.2s done
#2 DONE 0.3s

#3 [2/3] COPY . /src
#3 CACHED

#4 [3/3] RUN make
#4 0.130 cc -o hello hello.c
#4 0.130 second
#4 12.00 no end
#4 ERROR: run \"make\": exit code 2
#4 second line
";
    assert_eq!(shown(&script), expected);
}

#[test]
fn steps_that_run_at_once_take_turns() {
    let script = [
        started(1, "first", 0),
        started(2, "second", 0),
        output(1, "a\n", 100),
        output(2, "b\n", 200),
        output(1, "c\n", 300),
        // the first is silent for a second
        output(2, "d\n", 1400),
        output(1, "e\n", 1500),
        // the second ended: it is shown at once, then the first goes on
        done(2, 1600),
        output(1, "f\n", 1700),
        done(1, 1800),
    ];
    let expected = "\
#1 first
#1 0.100 a
#1 0.300 c
#1 ...

#2 second
#2 0.200 b
#2 1.400 d
#2 DONE 1.6s

#1 first
#1 1.500 e
#1 1.700 f
#1 DONE 1.8s
";
    assert_eq!(shown(&script), expected);
}

#[test]
fn of_a_status_that_waits_the_last_line_is_enough() {
    let mut script = vec![started(2, "busy", 0), started(1, "pulls", 0)];
    script.extend((1..=9).map(|n| status(1, n * 100_000, false, n * 10)));
    script.extend([
        output(2, "x\n", 90),
        done(2, 100),
        status(1, 1_000_000, true, 110),
        done(1, 120),
    ]);
    let expected = "\
#1 busy
#1 0.090 x
#1 DONE 0.1s

#2 pulls
#2 sha256:4abc 900.00kB / 1.00MB 0.1s
#2 sha256:4abc 1.00MB / 1.00MB 0.1s done
#2 DONE 0.1s
";
    assert_eq!(shown(&script), expected);
}

#[test]
fn a_step_that_never_falls_silent_gives_way_after_its_turn() {
    let mut script = vec![
        started(1, "busy", 0),
        started(2, "patient", 0),
        output(2, "hello\n", 1),
    ];
    script.extend((0..12).map(|n| output(1, ".\n", n * 500)));
    let text = shown(&script);
    let busy = text.split("#1 ...").next().unwrap_or_default();
    assert_eq!(busy.matches(" .\n").count(), 11, "{text}");
    assert!(
        text.contains("#1 ...\n\n#2 patient\n#2 0.001 hello\n"),
        "{text}"
    );
}

#[test]
fn what_waits_is_bounded() {
    let long = "x".repeat(1000) + "\n";
    let mut script = vec![started(1, "quiet", 0), started(2, "flood", 0)];
    script.extend((0..1200).map(|_| output(2, &long, 1)));
    let mut plain = Plain::new(Vec::new(), Colour::Drop);
    for event in &script {
        plain.event(event);
    }
    assert!(plain.out.len() > MOST_WAITING);
}

#[test]
fn cancelled_steps_warnings_and_messages() {
    let script = [
        started(1, "RUN a", 0),
        Event::Message {
            text: "waiting for another build".into(),
            at: at(1),
        },
        output(1, "x\n", 2),
        Event::Warning(Warning {
            step: Some(StepId(1)),
            text: "careful".into(),
            ..Warning::default()
        }),
        Event::Warning(Warning {
            text: "of no step".into(),
            ..Warning::default()
        }),
        Event::Cancelled {
            id: StepId(1),
            at: at(3),
        },
        output(1, "too late\n", 4),
        done(7, 5),
    ];
    let expected = "\
#1 RUN a

waiting for another build

#1 RUN a
#1 0.002 x
#1 WARN: careful
#1 CANCELED
";
    assert_eq!(shown(&script), expected);
}

#[test]
fn nothing_that_a_step_writes_reaches_the_terminal_raw() {
    let script = [
        started(1, "COPY a\x1b[2J\nb", 0),
        output(1, "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x07\n", 0),
        Event::Status {
            id: StepId(1),
            item: "x\x1b[2J".into(),
            current: 0,
            total: None,
            done: true,
            at: at(0),
        },
        Event::Failed {
            id: StepId(1),
            error: "no\x1b[2J\r\n#1 DONE".into(),
            at: at(0),
        },
    ];
    let expected = "\
#1 COPY a\\u{1b}[2J\\nb
#1 0.000 red \\u{7}
#1 x\\u{1b}[2J done
#1 ERROR: no
#1 #1 DONE
";
    assert_eq!(shown(&script), expected);
}

#[test]
fn a_build_that_was_stopped_shows_what_it_had() {
    let script = [
        started(1, "a", 0),
        started(2, "b", 0),
        output(2, "half", 10),
    ];
    assert_eq!(
        shown(&script),
        "#1 a\n#1 ...\n\n#2 b\n#2 98.00 half\n".replace("98.00", "99.00")
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    let mut plain = Plain::new(Closed, Colour::Keep);
    plain.event(&started(1, "a", 0));
    plain.event(&done(1, 0));
    plain.finish(at(1));
}
