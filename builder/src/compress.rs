//! Layer compression. The bytes depend on the input and the settings only, never on the number of threads.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::{Result, anyhow};
use libdeflater::{CompressionLvl, Compressor};

/// Bytes of input a gzip member: larger members gain under 0.2 % of size, smaller ones lose 1 %.
const MEMBER: usize = 1 << 20;
/// libdeflate's level 5 is smaller than level 6 of zlib and half again as fast.
const GZIP_LEVEL: i32 = 5;
const ZSTD_LEVEL: i32 = 3;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Compression {
    /// Plain tar.
    None,
    /// gzip at libdeflate's `level`, 1 to 12.
    Gzip(i32),
    /// zstd at `level`, 1 to 22.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip(GZIP_LEVEL)
    }
}

impl Compression {
    /// gzip at `compression-level=`, 1 to 9 as zlib counts.
    pub(crate) fn gzip(level: Option<i32>) -> Self {
        Self::Gzip(level.map_or(GZIP_LEVEL, |level| level.clamp(1, 9)))
    }

    /// zstd at `compression-level=`, 1 to 22.
    pub(crate) fn zstd(level: Option<i32>) -> Self {
        Self::Zstd(level.map_or(ZSTD_LEVEL, |level| level.clamp(1, 22)))
    }

    /// Names the algorithm and its settings, for keys of compressed blobs.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::None => "none".into(),
            Self::Gzip(level) => format!("gzip-{level}-{MEMBER}"),
            Self::Zstd(level) => format!("zstd-{level}"),
        }
    }
}

/// Compresses all of what `produce` writes into `out`.
pub(crate) fn compress(
    how: Compression,
    out: &mut dyn Write,
    produce: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    match how {
        Compression::None => produce(out),
        Compression::Gzip(level) => gzip(level, out, produce),
        Compression::Zstd(level) => {
            let mut encoder = zstd::Encoder::new(out, level)?;
            // Always through the worker API: without it the bytes differ.
            encoder.multithread(threads())?;
            produce(&mut encoder)?;
            encoder.finish()?;
            Ok(())
        }
    }
}

/// A stream that unpacks to more than this is looked at more closely.
const LARGE: u64 = 4 << 30;
/// And refused when it grew more than so many times: files of nothing but zeros do that (gzip: 1030 times), images hardly.
const GROWTH: u64 = 250;

/// The most that a stream of this packed size may unpack to.
pub(crate) fn most(packed: u64) -> u64 {
    LARGE.max(packed.saturating_add(1).saturating_mul(GROWTH) - 1)
}

/// Opens a compressed stream by its first bytes; anything unknown is passed through. What grows out of all proportion is refused.
pub(crate) fn decompress<'a>(
    mut input: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut head = [0; 6];
    let mut filled = 0;
    while filled < head.len() {
        match input.read(&mut head[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    let kind = sniff(&head[..filled]);
    let packed = Arc::new(AtomicU64::new(0));
    let whole = Counted {
        inner: io::Cursor::new(head).take(filled as u64).chain(input),
        count: Arc::clone(&packed),
    };
    let inner: Box<dyn Read + Send + 'a> = match kind {
        Packed::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        Packed::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        Packed::Xz => Box::new(xz2::read::XzDecoder::new_multi_decoder(whole)),
        Packed::Zstd => {
            let mut decoder = zstd::Decoder::new(whole)?;
            // 128 MiB: the largest window a decoder must accept (RFC 8878 recommends 8 MiB).
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        Packed::No => return Ok(Box::new(whole)),
    };
    Ok(Box::new(Bounded {
        inner,
        packed,
        count: 0,
        large: LARGE,
    }))
}

/// Tells how much was read.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// An unpacked stream that may not be both large and much larger than the packed one.
struct Bounded<R> {
    inner: R,
    packed: Arc<AtomicU64>,
    count: u64,
    large: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        if self.count > self.large && self.count / GROWTH > self.packed.load(Ordering::Relaxed) {
            let text = format!("it unpacks to more than {GROWTH} times its size");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(read)
    }
}

/// A compression format, known by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
    No,
}

fn sniff(head: &[u8]) -> Packed {
    match head {
        [0x1f, 0x8b, ..] => Packed::Gzip,
        [b'B', b'Z', b'h', ..] => Packed::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Packed::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packed::Zstd,
        _ => Packed::No,
    }
}

fn threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// gzip as a sequence of members, each compressed on its own (RFC 1952 section 2.2), by all cores.
fn gzip(
    level: i32,
    out: &mut dyn Write,
    produce: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let level = CompressionLvl::new(level)
        .map_err(|_| anyhow!("set the gzip level to {level}: it goes from 1 to 12"))?;
    let mut members = Members {
        level,
        block: Vec::with_capacity(MEMBER),
        running: VecDeque::new(),
        out,
    };
    produce(&mut members)?;
    members.finish()?;
    Ok(())
}

/// Cuts its input into blocks, has them compressed by rayon's threads, and writes the results in order.
struct Members<'a> {
    level: CompressionLvl,
    block: Vec<u8>,
    running: VecDeque<mpsc::Receiver<io::Result<Vec<u8>>>>,
    out: &'a mut dyn Write,
}

impl Members<'_> {
    fn start_block(&mut self) -> io::Result<()> {
        // A few blocks a core in flight: memory stays flat, however large the layer is.
        while self.running.len() > 2 * threads() as usize {
            self.write_oldest()?;
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(MEMBER));
        let (send, receive) = mpsc::sync_channel(1);
        let level = self.level;
        lapstrake_cache::prepare_rayon()?;
        rayon::spawn(move || {
            let _ = send.send(member(level, &block));
        });
        self.running.push_back(receive);
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        if let Some(oldest) = self.running.pop_front() {
            let member = oldest
                .recv()
                .map_err(|_| io::Error::other("a compression thread died"))??;
            self.out.write_all(&member)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.start_block()?;
        while !self.running.is_empty() {
            self.write_oldest()?;
        }
        Ok(())
    }
}

impl Write for Members<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.block.len() == MEMBER {
            self.start_block()?;
        }
        let taken = data.len().min(MEMBER - self.block.len());
        self.block.extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn member(level: CompressionLvl, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
    let size = compressor
        .gzip_compress(block, &mut out)
        .map_err(|_| io::Error::other("compress a gzip member"))?;
    out.truncate(size);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn packed(how: Compression, input: &[u8], chunk: usize) -> Vec<u8> {
        let mut out = Vec::new();
        compress(how, &mut out, |sink| {
            Ok(input
                .chunks(chunk)
                .try_for_each(|part| sink.write_all(part))?)
        })
        .unwrap();
        out
    }

    #[test]
    fn what_is_packed_unpacks_and_does_not_depend_on_write_sizes() {
        let input: Vec<u8> = (0..5_000_000u32).map(|n| (n / 7 % 251) as u8).collect();
        for how in [
            Compression::None,
            Compression::default(),
            Compression::Zstd(3),
        ] {
            let once = packed(how, &input, input.len());
            assert_eq!(once, packed(how, &input, 4097), "{how:?}");
            let mut back = Vec::new();
            decompress(&once[..])
                .unwrap()
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == input, "{how:?}");
        }
    }

    #[test]
    fn an_empty_layer_is_a_valid_stream() {
        let mut back = Vec::new();
        decompress(&packed(Compression::default(), b"", 1)[..])
            .unwrap()
            .read_to_end(&mut back)
            .unwrap();
        assert!(back.is_empty());
    }

    #[test]
    fn what_grows_out_of_proportion_is_refused() {
        let unpack = |large, packed| {
            let mut stream = Bounded {
                inner: io::repeat(0).take(1 << 20),
                packed: Arc::new(AtomicU64::new(packed)),
                count: 0,
                large,
            };
            io::copy(&mut stream, &mut io::sink())
        };
        let bomb = unpack(1 << 16, 1000).unwrap_err();
        assert_eq!(bomb.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            (most(9), most(1 << 30)),
            (LARGE, ((1 << 30) + 1) * GROWTH - 1)
        );
        assert_eq!(unpack(1 << 20, 1000).unwrap(), 1 << 20);
        assert_eq!(unpack(1 << 16, 8000).unwrap(), 1 << 20);
    }
}
