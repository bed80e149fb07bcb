//! Bytes cut into lines, as a terminal would show them.

/// A longer line is shown in pieces, so that a step that never ends its line takes no memory.
pub(super) const LONGEST: usize = 16 * 1024;

/// The line that a step is writing.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    returned: bool,
}

impl Lines {
    /// Adds `data` and calls `emit` with every line that is complete now, without its end.
    ///
    /// A carriage return goes back to the start of the line: what is written next replaces it, as progress bars do.
    pub(super) fn push(&mut self, mut data: &[u8], emit: &mut dyn FnMut(&[u8])) {
        while let Some(at) = data.iter().position(|&b| b == b'\n' || b == b'\r') {
            self.text(&data[..at], emit);
            if data[at] == b'\n' {
                emit(&self.partial);
                self.partial.clear();
                self.returned = false;
            } else {
                self.returned = true;
            }
            data = &data[at + 1..];
        }
        self.text(data, emit);
    }

    /// Calls `emit` with a last line that had no end.
    pub(super) fn flush(&mut self, emit: &mut dyn FnMut(&[u8])) {
        if !self.partial.is_empty() {
            emit(&self.partial);
            self.partial.clear();
        }
        self.returned = false;
    }

    /// The line as far as it was written.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    fn text(&mut self, mut data: &[u8], emit: &mut dyn FnMut(&[u8])) {
        if data.is_empty() {
            return;
        }
        if self.returned {
            self.partial.clear();
            self.returned = false;
        }
        while self.partial.len() + data.len() > LONGEST {
            let (now, later) = data.split_at(LONGEST - self.partial.len());
            self.partial.extend_from_slice(now);
            let end = whole_characters(&self.partial);
            emit(&self.partial[..end]);
            self.partial.drain(..end);
            data = later;
        }
        self.partial.extend_from_slice(data);
    }
}

/// Where to cut `text` so that no UTF-8 character is torn.
fn whole_characters(text: &[u8]) -> usize {
    let first = text.len().saturating_sub(4);
    match text[first..].iter().rposition(|b| b & 0xc0 != 0x80) {
        // The last character begins here; it is whole unless it is a lead byte that wants more than there is.
        Some(at) if first + at > 0 && std::str::from_utf8(&text[first + at..]).is_err() => {
            first + at
        }
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        let mut emit = |line: &[u8]| out.push(String::from_utf8_lossy(line).into_owned());
        for piece in pieces {
            lines.push(piece, &mut emit);
        }
        lines.flush(&mut emit);
        out
    }

    #[test]
    fn ends() {
        let cases: &[(&[&[u8]], &[&str])] = &[
            (&[b"a\nb\n"], &["a", "b"]),
            (&[b"a", b"b\nc"], &["ab", "c"]),
            (&[b"a\r\nb\r\n"], &["a", "b"]),
            (&[b"a\r", b"\nb"], &["a", "b"]),
            (&[b"10%\r20%\r100%\n"], &["100%"]),
            (&[b"10%\r", b"20%\r"], &["20%"]),
            (&[b"\n\n"], &["", ""]),
            (&[b""], &[]),
            (&[b"x\r"], &["x"]),
        ];
        for (pieces, lines) in cases {
            assert_eq!(cut(pieces), *lines, "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces() {
        let long = vec![b'x'; 2 * LONGEST + 5];
        let lengths: Vec<usize> = cut(&[&long]).iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST, LONGEST, 5]);
    }

    #[test]
    fn characters_are_not_torn() {
        let mut text = vec![b'x'; LONGEST - 1];
        text.extend_from_slice("ü tail".as_bytes());
        let lines = cut(&[&text]);
        assert_eq!(lines[0].len(), LONGEST - 1);
        assert_eq!(lines[1], "ü tail");
        let binary = vec![0x80; LONGEST + 1];
        assert_eq!(cut(&[&binary]).len(), 2);
    }
}
