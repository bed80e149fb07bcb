//! The body of a request: nothing, bytes, or a blob that is read while it is sent.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use lapstrake_cache::no_threads;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::error::Result;
use crate::threads;

/// Opens a blob from its beginning; called again when an upload must be repeated.
pub type Open = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync;

/// Told how many bytes of a blob were transferred so far; less than before when a transfer starts again.
pub type Meter = Arc<dyn Fn(u64) + Send + Sync>;

/// How much is read from a blob at once.
const CHUNK: usize = 128 << 10;

/// How many chunks are read ahead of the network.
const AHEAD: usize = 4;

/// The speed at which a registry is believed to check a blob that it has received.
const CHECKED_PER_SECOND: u64 = 8 << 20;

/// What a request carries.
pub(super) enum Body<'a> {
    Empty,
    Bytes(Bytes),
    Stretch(Stretch<'a>),
}

/// The body of a request that carries `length` bytes of a blob from `from` on, for other servers than registries.
pub(crate) fn stretch(open: &Open, from: u64, length: u64) -> reqwest::Body {
    let stretch = Stretch {
        open,
        from,
        length,
        meter: None,
    };
    reqwest::Body::wrap(stretch.start(&Moved::default()))
}

/// A part of a blob.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'a> {
    pub(super) open: &'a Open,
    pub(super) from: u64,
    pub(super) length: u64,
    pub(super) meter: Option<&'a Meter>,
}

impl Body<'_> {
    /// The body for one try, with its length.
    pub(super) fn open(&self, moved: &Moved) -> Result<Option<(reqwest::Body, u64)>> {
        match self {
            Self::Empty => Ok(None),
            Self::Bytes(bytes) => Ok(Some((bytes.clone().into(), bytes.len() as u64))),
            Self::Stretch(stretch) => Ok(Some((
                reqwest::Body::wrap(stretch.start(moved)),
                stretch.length,
            ))),
        }
    }
}

impl Stretch<'_> {
    /// Reads on a blocking thread, a few chunks ahead of the network.
    fn start(&self, moved: &Moved) -> Sending {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let opened = (self.open)();
        let (from, length) = (self.from, self.length);
        let failed = sender.clone();
        let read = move || {
            let sent = opened.and_then(|blob| pump(blob, from, length, &sender));
            if let Err(error) = sent {
                // Nobody listens once the request has failed.
                let _ = sender.blocking_send(Err(error));
            }
        };
        if threads::start("upload", &Handle::current(), read).is_err() {
            let _ = failed.try_send(Err(no_threads()));
        }
        drop(failed);
        let meter = self.meter.cloned();
        Sending {
            receiver,
            left: length,
            from,
            length,
            moved: moved.clone(),
            meter,
        }
    }
}

fn pump(
    mut blob: Box<dyn Read + Send>,
    from: u64,
    length: u64,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    io::copy(&mut (&mut blob).take(from), &mut io::sink())?;
    let mut left = length;
    while left > 0 {
        let mut chunk = Vec::with_capacity(CHUNK);
        let count = (&mut blob)
            .take(left.min(CHUNK as u64))
            .read_to_end(&mut chunk)?;
        if count == 0 {
            let text = format!("blob ends {left} bytes too early");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        left -= count as u64;
        if sender.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A body on its way.
struct Sending {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    from: u64,
    length: u64,
    moved: Moved,
    meter: Option<Meter>,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match ready!(self.receiver.poll_recv(cx)) {
            Some(Ok(chunk)) => {
                self.left -= chunk.len() as u64;
                self.moved.advance(chunk.len() as u64, self.left == 0);
                if let Some(meter) = &self.meter {
                    meter(self.from + self.length - self.left);
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Some(Err(error)) => {
                self.moved.fail(&error);
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// How far a body has come, seen from the outside.
#[derive(Clone, Default)]
pub(super) struct Moved(Arc<State>);

#[derive(Default)]
struct State {
    count: AtomicU64,
    /// How long the registry may think about what it has got, in seconds.
    grace: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Moved {
    fn advance(&self, bytes: u64, is_last: bool) {
        let before = self.0.count.fetch_add(bytes, Ordering::Relaxed);
        if is_last {
            self.0
                .grace
                .store((before + bytes) / CHECKED_PER_SECOND, Ordering::Relaxed);
        }
    }

    fn fail(&self, error: &io::Error) {
        let text = format!("read blob: {error}");
        *self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// Why the blob itself could not be read.
    pub(super) fn failure(&self) -> Option<String> {
        self.0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Comes back when nothing has moved for so long.
    pub(super) async fn stalled(&self, limit: Duration) {
        let mut seen = 0;
        loop {
            tokio::time::sleep(limit).await;
            let count = self.0.count.load(Ordering::Relaxed);
            let grace = self.0.grace.swap(0, Ordering::Relaxed);
            if grace > 0 {
                tokio::time::sleep(Duration::from_secs(grace)).await;
            } else if count == seen {
                return;
            }
            seen = count;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body::Body as _;

    async fn collect(open: &Open, from: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut body = Stretch {
            open,
            from,
            length,
            meter: None,
        }
        .start(&Moved::default());
        let mut bytes = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            bytes.extend_from_slice(&frame?.into_data().unwrap());
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_stretch_is_sent_exactly() {
        let blob: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let copy = blob.clone();
        let open = move || Ok(Box::new(io::Cursor::new(copy.clone())) as Box<dyn Read + Send>);
        assert_eq!(collect(&open, 0, 1_000_000).await.unwrap(), blob);
        assert_eq!(
            collect(&open, 400_000, 300_000).await.unwrap(),
            blob[400_000..700_000]
        );
        let error = collect(&open, 0, 1_000_001).await.unwrap_err();
        assert!(error.to_string().contains("1 bytes too early"), "{error}");
    }

    #[tokio::test]
    async fn a_body_that_moves_does_not_stall() {
        let moved = Moved::default();
        let sender = moved.clone();
        let started = std::time::Instant::now();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(60)).await;
                sender.advance(1, false);
            }
        });
        moved.stalled(Duration::from_millis(100)).await;
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
}
