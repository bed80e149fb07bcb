//! `--progress=rawjson`: one JSON object a line, in the form of BuildKit's `SolveStatus`.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Event, Progress, StepId, Stream};

/// Writes objects to `out`, whose errors are dropped.
#[derive(Debug)]
pub struct Json<W> {
    out: W,
    epoch: SystemTime,
    vertexes: HashMap<StepId, Vertex>,
    items: HashMap<(StepId, String), String>,
}

#[derive(Debug, Default, Serialize)]
struct SolveStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<VertexStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<VertexLog>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<VertexWarning>,
}

#[derive(Debug, Clone, Serialize)]
struct Vertex {
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    name: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Debug, Serialize)]
struct VertexStatus {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    current: u64,
    timestamp: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Debug, Serialize)]
struct VertexLog {
    vertex: String,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Debug, Serialize)]
struct VertexWarning {
    #[serde(skip_serializing_if = "Option::is_none")]
    vertex: Option<String>,
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    source_info: Option<SourceInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<Range>,
}

#[derive(Debug, Serialize)]
struct SourceInfo {
    filename: String,
}

#[derive(Debug, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Position {
    line: u32,
}

impl<W: Write> Json<W> {
    /// Writes to `out`; the build began at `epoch`.
    pub fn new(out: W, epoch: SystemTime) -> Self {
        Self {
            out,
            epoch,
            vertexes: HashMap::new(),
            items: HashMap::new(),
        }
    }

    fn time(&self, at: Duration) -> String {
        let since = (self.epoch + at)
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        crate::time::rfc3339(since.as_secs() as i64, since.subsec_nanos())
    }

    fn status_of(&mut self, event: &Event) -> Option<SolveStatus> {
        let mut status = SolveStatus::default();
        match event {
            Event::Message { .. } => return None,
            Event::Started {
                id,
                name,
                inputs,
                at,
            } => status
                .vertexes
                .push(self.start(*id, name, inputs, *at).clone()),
            Event::Cached {
                id,
                name,
                inputs,
                at,
            } => {
                self.start(*id, name, inputs, *at).cached = true;
                status.vertexes.push(self.end(*id, *at)?);
            }
            Event::Done { id, at } => status.vertexes.push(self.end(*id, *at)?),
            Event::Failed { id, error, at } => {
                self.vertexes.get_mut(id)?.error.clone_from(error);
                status.vertexes.push(self.end(*id, *at)?);
            }
            Event::Cancelled { id, at } => {
                // Clients know a cancelled step by this ending.
                self.vertexes.get_mut(id)?.error = "context canceled".into();
                status.vertexes.push(self.end(*id, *at)?);
            }
            Event::Output {
                id,
                stream,
                data,
                at,
            } => status.logs.push(VertexLog {
                vertex: self.vertexes.get(id)?.digest.clone(),
                stream: if *stream == Stream::Stdout { 1 } else { 2 },
                data: BASE64_STANDARD.encode(data),
                timestamp: self.time(*at),
            }),
            Event::Status {
                id,
                item,
                current,
                total,
                done,
                at,
            } => {
                status
                    .statuses
                    .push(self.item(*id, item, (*current, *total), *done, *at)?);
            }
            Event::Warning(warning) => {
                let line = warning
                    .place
                    .as_ref()
                    .map(|(_, line)| Position { line: *line });
                status.warnings.push(VertexWarning {
                    vertex: warning
                        .step
                        .and_then(|id| self.vertexes.get(&id))
                        .map(|vertex| vertex.digest.clone()),
                    level: 1,
                    short: BASE64_STANDARD.encode(&warning.text),
                    detail: warning
                        .detail
                        .iter()
                        .map(|line| BASE64_STANDARD.encode(line))
                        .collect(),
                    url: warning.url.clone(),
                    source_info: warning.place.as_ref().map(|(filename, _)| SourceInfo {
                        filename: filename.clone(),
                    }),
                    range: line
                        .map(|line| Range {
                            start: line,
                            end: line,
                        })
                        .into_iter()
                        .collect(),
                });
            }
        }
        Some(status)
    }

    fn start(&mut self, id: StepId, name: &str, inputs: &[StepId], at: Duration) -> &mut Vertex {
        let started = self.time(at);
        let inputs = inputs
            .iter()
            .filter_map(|id| Some(self.vertexes.get(id)?.digest.clone()))
            .collect();
        self.vertexes.entry(id).or_insert_with(|| Vertex {
            digest: digest(id, name),
            inputs,
            name: name.to_owned(),
            started,
            completed: None,
            cached: false,
            error: String::new(),
        })
    }

    fn end(&mut self, id: StepId, at: Duration) -> Option<Vertex> {
        let completed = self.time(at);
        let vertex = self
            .vertexes
            .get_mut(&id)
            .filter(|vertex| vertex.completed.is_none())?;
        vertex.completed = Some(completed);
        Some(vertex.clone())
    }

    fn item(
        &mut self,
        id: StepId,
        item: &str,
        amount: (u64, Option<u64>),
        done: bool,
        at: Duration,
    ) -> Option<VertexStatus> {
        let now = self.time(at);
        let vertex = self.vertexes.get(&id)?.digest.clone();
        let key = (id, item.to_owned());
        let started = self
            .items
            .entry(key.clone())
            .or_insert_with(|| now.clone())
            .clone();
        if done {
            self.items.remove(&key);
        }
        let (current, total) = amount;
        let completed = done.then(|| now.clone());
        Some(VertexStatus {
            id: item.to_owned(),
            vertex,
            total,
            current,
            timestamp: now,
            started,
            completed,
        })
    }
}

impl<W: Write + Send> Progress for Json<W> {
    fn event(&mut self, event: &Event) {
        let Some(status) = self.status_of(event) else {
            return;
        };
        if let Ok(mut line) = serde_json::to_vec(&status) {
            line.push(b'\n');
            let _ = self.out.write_all(&line);
        }
    }

    fn flush(&mut self) {
        let _ = self.out.flush();
    }

    fn finish(&mut self, _now: Duration) {
        let _ = self.out.flush();
    }
}

/// A name for the step that is unique in the build; clients only compare it.
fn digest(id: StepId, name: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(id.0.to_be_bytes());
    hash.update(name);
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::super::Warning;
    use super::*;

    fn lines(events: &[Event]) -> Vec<Value> {
        let mut out = Json::new(Vec::new(), UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        for event in events {
            out.event(event);
        }
        String::from_utf8(out.out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn the_schema_of_solve_status() {
        let at = Duration::from_millis;
        let one = StepId(1);
        let seen = lines(&[
            Event::Cached {
                id: StepId(0),
                name: "FROM a".into(),
                inputs: vec![],
                at: at(0),
            },
            Event::Started {
                id: one,
                name: "RUN b".into(),
                inputs: vec![StepId(0)],
                at: at(500),
            },
            Event::Output {
                id: one,
                stream: Stream::Stderr,
                data: b"hi\n".to_vec(),
                at: at(600),
            },
            Event::Status {
                id: one,
                item: "x".into(),
                current: 1,
                total: Some(2),
                done: false,
                at: at(700),
            },
            Event::Status {
                id: one,
                item: "x".into(),
                current: 2,
                total: None,
                done: true,
                at: at(800),
            },
            Event::Warning(Warning {
                text: "w".into(),
                place: Some(("Dockerfile".into(), 3)),
                ..Warning::default()
            }),
            Event::Failed {
                id: one,
                error: "exit code 1".into(),
                at: at(900),
            },
            Event::Done {
                id: one,
                at: at(950),
            },
            Event::Done {
                id: StepId(9),
                at: at(950),
            },
        ]);
        let (a, b) = (digest(StepId(0), "FROM a"), digest(one, "RUN b"));
        let time = |fraction: &str| format!("2023-11-14T22:13:20{fraction}Z");
        let (start, half) = (time(""), time(".500000000"));
        let (t7, t8) = (time(".700000000"), time(".800000000"));
        assert_eq!(
            seen,
            [
                json!({"vertexes": [{"digest": a, "name": "FROM a", "started": start, "completed": start, "cached": true}]}),
                json!({"vertexes": [{"digest": b, "inputs": [a], "name": "RUN b", "started": half}]}),
                json!({"logs": [{"vertex": b, "stream": 2, "data": "aGkK", "timestamp": time(".600000000")}]}),
                json!({"statuses": [{"id": "x", "vertex": b, "total": 2, "current": 1, "timestamp": t7, "started": t7}]}),
                json!({"statuses": [{"id": "x", "vertex": b, "current": 2, "timestamp": t8, "started": t7, "completed": t8}]}),
                json!({"warnings": [{"level": 1, "short": "dw==", "sourceInfo": {"filename": "Dockerfile"},
                    "range": [{"start": {"line": 3}, "end": {"line": 3}}]}]}),
                json!({"vertexes": [{"digest": b, "inputs": [a], "name": "RUN b", "started": half,
                    "completed": time(".900000000"), "error": "exit code 1"}]}),
            ]
        );
    }
}
