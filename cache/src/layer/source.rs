//! The bytes of an archive, in blocks that several threads may read.

use std::io::{self, Read};
use std::sync::Arc;

/// An archive is read in blocks of this size: large enough that handing one over costs nothing.
pub(crate) const BLOCK: usize = 256 << 10;

/// A piece of an archive.
pub(crate) type Block = Arc<Vec<u8>>;

/// Gives the next block; none at the end.
pub(crate) type Next<'a> = Box<dyn FnMut() -> io::Result<Option<Block>> + 'a>;

/// Reads a block; one that is not full is the last.
pub(crate) fn read_block(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK);
    reader.take(BLOCK as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// A stream of blocks, of which any number of bytes can be looked at together.
pub(crate) struct Source<'a> {
    next: Next<'a>,
    block: Block,
    at: usize,
    /// Bytes before the block's, put together because they were wanted in one piece.
    staged: Vec<u8>,
    staged_at: usize,
    ended: bool,
}

impl<'a> Source<'a> {
    pub(crate) fn new(next: Next<'a>) -> Self {
        Self {
            next,
            block: Block::default(),
            at: 0,
            staged: Vec::new(),
            staged_at: 0,
            ended: false,
        }
    }

    /// The bytes that come next: at least `min`, unless the stream ends before.
    pub(crate) fn peek(&mut self, min: usize) -> io::Result<&[u8]> {
        if self.staged_at == self.staged.len() {
            self.staged.clear();
            self.staged_at = 0;
            if self.at == self.block.len() {
                self.advance()?;
            }
            if self.block.len() - self.at >= min || self.ended {
                return Ok(&self.block[self.at..]);
            }
        }
        self.stage(min)?;
        Ok(&self.staged[self.staged_at..])
    }

    /// Goes on by `count` bytes, which were seen.
    pub(crate) fn consume(&mut self, count: usize) {
        let staged = count.min(self.staged.len() - self.staged_at);
        self.staged_at += staged;
        self.at = (self.at + count - staged).min(self.block.len());
    }

    fn stage(&mut self, min: usize) -> io::Result<()> {
        loop {
            let have = self.staged.len() - self.staged_at;
            // Growing by halves keeps the cost of looking again and again in proportion.
            let want = min.max(have + have / 2).saturating_sub(have);
            let take = want.min(self.block.len() - self.at);
            self.staged
                .extend_from_slice(&self.block[self.at..self.at + take]);
            self.at += take;
            if have + take >= min || self.ended {
                return Ok(());
            }
            self.advance()?;
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        while !self.ended && self.at == self.block.len() {
            match (self.next)()? {
                Some(block) => (self.block, self.at) = (block, 0),
                None => self.ended = true,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_split_gives_the_same_bytes() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for size in [1, 7, 512, 4999, 5000] {
            let mut blocks = bytes.chunks(size).map(|block| Arc::new(block.to_vec()));
            let mut source = Source::new(Box::new(move || Ok(blocks.next())));
            let mut seen = Vec::new();
            for min in [1, 512, 3, 1024, 100].into_iter().cycle() {
                let peeked = source.peek(min).unwrap();
                if peeked.is_empty() {
                    break;
                }
                let take = min.min(peeked.len());
                seen.extend_from_slice(&peeked[..take]);
                source.consume(take);
            }
            assert!(seen == bytes, "blocks of {size}");
        }
    }
}
