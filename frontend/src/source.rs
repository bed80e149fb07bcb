//! The text of a Dockerfile as a row of pieces: what an editor or a formatter works on.

use crate::ast::Dockerfile;
use crate::span::{Span, to_u32};

/// A part of the source text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Piece {
    /// What it is.
    pub kind: PieceKind,
    /// Where it is. Never empty.
    pub span: Span,
}

/// See [`Piece::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PieceKind {
    /// Blanks, line ends, a byte order mark, and continuations without text.
    Space,
    /// A comment or a parser directive, from its `#` to the end of the line without the line end.
    Comment,
    /// The instruction of this index, with its continuation lines, the comments among these, and its heredocs.
    Instruction(usize),
}

impl Dockerfile {
    /// Cuts `source`, the text that this was parsed from, into pieces: in order, without gap or overlap, so that all of
    /// them together are the text again, byte for byte.
    ///
    /// ```
    /// use lapstrake_frontend::{parse, source::PieceKind};
    ///
    /// let source = "# base\nFROM  alpine\n\n  RUN a \\\n  b\n";
    /// let dockerfile = parse(source).unwrap();
    /// let pieces = dockerfile.pieces(source);
    /// assert!(matches!(pieces[0].kind, PieceKind::Comment));
    /// // Upper-case keywords become lower-case ones; all else stays as it is.
    /// let text: String = pieces
    ///     .iter()
    ///     .map(|piece| match piece.kind {
    ///         PieceKind::Instruction(index) => {
    ///             let keyword = &dockerfile.instructions[index].keyword;
    ///             let rest = piece.span.slice(source).strip_prefix(keyword.value.as_str());
    ///             keyword.value.to_lowercase() + rest.unwrap_or_default()
    ///         }
    ///         _ => piece.span.slice(source).to_owned(),
    ///     })
    ///     .collect();
    /// assert_eq!(text, "# base\nfrom  alpine\n\n  run a \\\n  b\n");
    /// ```
    pub fn pieces(&self, source: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for (index, instruction) in self.instructions.iter().enumerate() {
            let span = instruction.span;
            between(source, Span::new(at, span.start), &mut pieces);
            push(PieceKind::Instruction(index), span, &mut pieces);
            at = span.end;
        }
        between(source, Span::new(at, to_u32(source.len())), &mut pieces);
        pieces
    }
}

/// Cuts what stands between two instructions.
fn between(source: &str, gap: Span, pieces: &mut Vec<Piece>) {
    let mut space = gap.start;
    let mut at = gap.start;
    for line in gap.slice(source).split_inclusive('\n') {
        let text = line.trim_start_matches('\u{feff}').trim_start();
        let content = text.trim_end_matches(['\r', '\n']);
        let start = at + to_u32(line.len() - text.len());
        let end = start + to_u32(content.len());
        if content.starts_with('#') {
            push(PieceKind::Space, Span::new(space, start), pieces);
            push(PieceKind::Comment, Span::new(start, end), pieces);
            space = end;
        }
        at += to_u32(line.len());
    }
    push(PieceKind::Space, Span::new(space, gap.end), pieces);
}

fn push(kind: PieceKind, span: Span, pieces: &mut Vec<Piece>) {
    if span.start < span.end {
        pieces.push(Piece { kind, span });
    }
}
