//! Frames on a terminal that understands just what the view sends.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use super::super::{StepId, Stream, Warning};
use super::*;

/// A screen of fixed size. Lines that scroll off the top are kept in `history`.
struct Screen {
    columns: usize,
    height: usize,
    rows: Vec<Vec<char>>,
    history: Vec<String>,
    row: usize,
    column: usize,
    codes: Vec<String>,
}

impl Screen {
    fn new(columns: usize, height: usize) -> Self {
        let rows = vec![Vec::new(); height];
        Self {
            columns,
            height,
            rows,
            history: Vec::new(),
            row: 0,
            column: 0,
            codes: Vec::new(),
        }
    }

    fn feed(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\x1b' => {
                    let end = rest
                        .find(|c: char| c.is_ascii_alphabetic())
                        .expect("a final byte");
                    self.escape(&rest[1..end], &rest[end..=end]);
                    rest = &rest[end + 1..];
                }
                '\r' => self.column = 0,
                '\n' => {
                    self.column = 0;
                    self.down();
                }
                c => {
                    if self.column == self.columns {
                        self.column = 0;
                        self.down();
                    }
                    let row = &mut self.rows[self.row];
                    row.resize(row.len().max(self.column + 1), ' ');
                    row[self.column] = c;
                    self.column += 1;
                }
            }
        }
    }

    fn down(&mut self) {
        if self.row + 1 < self.height {
            self.row += 1;
        } else {
            self.history.push(self.rows.remove(0).into_iter().collect());
            self.rows.push(Vec::new());
        }
    }

    fn escape(&mut self, parameters: &str, kind: &str) {
        match kind {
            "A" => {
                let up = parameters.parse().expect("a number");
                self.row = self.row.saturating_sub(up);
            }
            "K" => self.rows[self.row].truncate(self.column),
            "J" => {
                self.rows[self.row].truncate(self.column);
                self.rows[self.row + 1..].fill(Vec::new());
            }
            "m" => self.codes.push(parameters.to_owned()),
            "h" | "l" => assert_eq!(parameters, "?25"),
            other => panic!("the view sent ESC [ {parameters} {other}"),
        }
    }

    fn text(&self) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|row| row.iter().collect::<String>())
            .collect();
        let text = self
            .history
            .iter()
            .chain(&rows)
            .map(|row| row.trim_end().to_owned())
            .collect::<Vec<_>>();
        text.join("\n").trim_end().to_owned()
    }

    /// What a terminal does with rows that are too long for a new width.
    fn narrow(&mut self, columns: usize) {
        let lines: Vec<Vec<char>> = self.rows[..self.row].to_vec();
        *self = Self {
            history: std::mem::take(&mut self.history),
            ..Self::new(columns, self.height)
        };
        for line in lines {
            let line: String = line.into_iter().collect();
            self.feed(&line);
            self.feed("\n");
        }
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Screen>>);

impl Write for Shared {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("lock")
            .feed(std::str::from_utf8(data).expect("utf-8"));
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Size(Cell<(u16, u16)>);

struct Space {
    screen: Arc<Mutex<Screen>>,
    size: Arc<Mutex<Size>>,
    tty: Box<dyn Progress>,
}

fn space(columns: u16, rows: u16, colors: Colors) -> Space {
    let screen = Arc::new(Mutex::new(Screen::new(columns.into(), rows.into())));
    let size = Arc::new(Mutex::new(Size(Cell::new((columns, rows)))));
    let asked = Arc::clone(&size);
    let ask = move || asked.lock().expect("lock").0.get();
    let tty = Box::new(Tty::new(Shared(Arc::clone(&screen)), ask, colors, None));
    Space { screen, size, tty }
}

impl Space {
    fn events(&mut self, events: &[Event]) {
        events.iter().for_each(|event| self.tty.event(event));
    }

    fn at(&mut self, millis: u64) -> String {
        self.tty.tick(at(millis));
        self.screen.lock().expect("lock").text()
    }

    fn finish(&mut self, millis: u64) -> String {
        self.tty.finish(at(millis));
        self.screen.lock().expect("lock").text()
    }
}

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

fn output(id: u32, text: &str) -> Event {
    Event::Output {
        id: StepId(id),
        stream: Stream::Stderr,
        data: text.into(),
        at: at(0),
    }
}

fn status(item: &str, current: u64, done: bool, millis: u64) -> Event {
    let total = Some(3_400_000);
    Event::Status {
        id: StepId(1),
        item: item.into(),
        current,
        total,
        done,
        at: at(millis),
    }
}

#[test]
fn a_build() {
    let mut space = space(60, 24, Colors::default());
    space.events(&[Event::Cached {
        id: StepId(0),
        name: "[build 1/3] FROM rust".into(),
        inputs: vec![],
        at: at(3),
    }]);
    space.events(&[
        started(1, "[stage-1 1/2] FROM alpine", 5),
        status("sha256:4abc", 1_050_000, false, 100),
    ]);
    space.events(&[
        started(2, "[build 2/3] RUN make", 5),
        output(2, "cc a.c\ncc b.c\nlink"),
    ]);
    let expected = "\
[+] Building 1.2s (1/3)
 => CACHED [build 1/3] FROM rust                       0.0s
 => [stage-1 1/2] FROM alpine                          1.2s
 => => sha256:4abc 1.05MB / 3.40MB                     1.1s
 => [build 2/3] RUN make                               1.2s
 => => # cc a.c
 => => # cc b.c
 => => # link";
    assert_eq!(space.at(1_205), expected);
    space.events(&[
        status("sha256:4abc", 3_400_000, true, 1_300),
        Event::Done {
            id: StepId(1),
            at: at(1_305),
        },
    ]);
    space.events(&[Event::Failed {
        id: StepId(2),
        error: "exit code 2".into(),
        at: at(2_005),
    }]);
    let expected = "\
[+] Building 2.1s (3/3) FINISHED
 => CACHED [build 1/3] FROM rust                       0.0s
 => [stage-1 1/2] FROM alpine                          1.3s
 => => sha256:4abc 3.40MB / 3.40MB                     1.2s
 => ERROR [build 2/3] RUN make                         2.0s";
    assert_eq!(space.finish(2_100), expected);
}

#[test]
fn a_finished_build_says_so_and_what_still_ran_is_cancelled() {
    let mut first = space(60, 24, Colors::default());
    first.events(&[
        started(1, "a", 0),
        Event::Done {
            id: StepId(1),
            at: at(100),
        },
    ]);
    assert!(
        first
            .finish(200)
            .starts_with("[+] Building 0.2s (1/1) FINISHED\n")
    );
    let mut second = space(60, 24, Colors::default());
    second.events(&[started(1, "a", 0)]);
    let expected = format!(
        "[+] Building 0.2s (1/1) FINISHED\n => CANCELED a{:41}0.2s",
        ""
    );
    assert_eq!(second.finish(200), expected);
}

#[test]
fn more_steps_than_rows_show_what_runs() {
    let mut space = space(40, 8, Colors::default());
    for id in 0..20 {
        space.events(&[started(id, &format!("step {id}"), 0)]);
        if id != 3 && id != 19 {
            space.events(&[Event::Done {
                id: StepId(id),
                at: at(50),
            }]);
        }
    }
    let shown = space.at(100);
    let names: Vec<&str> = shown
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    assert_eq!(names, ["3", "15", "16", "17", "18", "19"], "{shown}");
    assert_eq!(
        space.at(300).lines().count(),
        7,
        "a frame replaces the one before"
    );
    assert_eq!(
        space.finish(400).lines().count(),
        21,
        "the last frame shows all"
    );
}

#[test]
fn long_and_wide_names_are_cut() {
    let mut space = space(30, 24, Colors::default());
    space.events(&[
        started(1, &"x".repeat(100), 0),
        started(2, &"日本".repeat(30), 0),
        output(1, &"y".repeat(99)),
    ]);
    let shown = space.at(100);
    let rows: Vec<&str> = shown.lines().collect();
    assert_eq!(rows.len(), 4, "{shown}");
    assert!(rows.iter().all(|row| text::width(row) <= 29), "{shown}");
    assert!(rows[1].ends_with("xx 0.1s"), "{shown}");
}

#[test]
fn tiny_terminals() {
    for (columns, rows) in [(1, 1), (5, 3), (12, 2), (0, 0), (18, 4)] {
        let mut space = space(columns.max(1), rows.max(1), Colors::default());
        space.size.lock().expect("lock").0.set((columns, rows));
        space.events(&[
            started(1, "[1/2] RUN make", 0),
            output(1, "hello\n"),
            started(2, "b", 0),
        ]);
        let shown = space.at(100);
        assert!(
            shown.lines().count() <= usize::from(rows.max(1)),
            "{columns}x{rows}: {shown}"
        );
        space.finish(200);
    }
}

#[test]
fn a_terminal_that_becomes_narrower_shows_no_remains() {
    let mut space = space(80, 24, Colors::default());
    space.events(&[
        started(1, "[1/2] FROM alpine", 0),
        started(2, "[2/2] RUN make", 0),
    ]);
    space.at(100);
    space.screen.lock().expect("lock").narrow(40);
    space.size.lock().expect("lock").0.set((40, 24));
    let expected = "\
[+] Building 0.2s (0/2)
 => [1/2] FROM alpine              0.2s
 => [2/2] RUN make                 0.2s";
    assert_eq!(space.at(200), expected);
}

#[test]
fn messages_stay_above_the_view() {
    let mut space = space(40, 24, Colors::default());
    space.events(&[started(1, "a", 0)]);
    space.at(100);
    space.events(&[Event::Message {
        text: "waiting for another build".into(),
        at: at(150),
    }]);
    let shown = space.at(200);
    assert!(
        shown.starts_with("waiting for another build\n[+] Building 0.2s (0/1)\n => a"),
        "{shown}"
    );
    assert_eq!(space.at(300).lines().count(), 3);
}

#[test]
fn colours_are_sent_only_where_they_are_wanted() {
    let script = [
        started(1, "a", 0),
        Event::Done {
            id: StepId(1),
            at: at(1),
        },
        started(2, "b", 0),
    ];
    let warning = Warning {
        step: Some(StepId(2)),
        text: "careful".into(),
        ..Warning::default()
    };
    for (no_color, expected) in [
        (None, vec!["34", "0", "2", "0", "33", "0"]),
        (Some("1"), vec![]),
    ] {
        let mut space = space(40, 24, Colors::from_env(no_color, None));
        space.events(&script);
        space.events(&[
            Event::Warning(warning.clone()),
            output(2, "\x1b[31mred\x1b[2J\x1b]0;x\x07\tb"),
        ]);
        let shown = space.at(100);
        assert!(
            shown.contains(" => WARN: careful\n") || shown.contains(" => => # red    b"),
            "{shown}"
        );
        assert_eq!(space.screen.lock().expect("lock").codes, expected);
    }
}

#[test]
fn nothing_is_drawn_while_nothing_happens() {
    let mut space = space(40, 24, Colors::default());
    assert_eq!(space.at(100), "");
    space.events(&[
        started(1, "a", 0),
        Event::Done {
            id: StepId(1),
            at: at(1),
        },
    ]);
    let shown = space.at(200);
    assert_eq!(space.at(900), shown);
}
