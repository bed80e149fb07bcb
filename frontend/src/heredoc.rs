//! The openers of here-documents (`<<EOF`), and reading their bodies.

use smol_str::SmolStr;

use crate::ast::Heredoc;
use crate::diag::{Code, Diagnostic};
use crate::expand::{Mode, raw_words};
use crate::lines::Lines;
use crate::span::{Span, to_u32};

/// `[fd]<<[-]word`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opener {
    pub(crate) name: SmolStr,
    pub(crate) fd: Option<u32>,
    pub(crate) expand: bool,
    pub(crate) chomp: bool,
}

/// Reads one shell word as an opener.
pub(crate) fn opener(word: &str) -> Option<Opener> {
    let (fd, rest) = word.split_once('<')?;
    let rest = rest.strip_prefix('<')?;
    if !fd.bytes().all(|byte| byte.is_ascii_digit()) || rest.contains('<') {
        return None;
    }
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    let unquoted = single(raw_words(rest, Mode::default()).ok()?)?;
    let quoted = single(
        raw_words(
            rest,
            Mode {
                keep_quotes: true,
                ..Mode::default()
            },
        )
        .ok()?,
    )?;
    let expand = quotes(&unquoted) == quotes(&quoted);
    Some(Opener {
        name: unquoted.into(),
        fd: fd.parse().ok(),
        expand,
        chomp,
    })
}

fn single(words: Vec<String>) -> Option<String> {
    <[String; 1]>::try_from(words).ok().map(|[word]| word)
}

fn quotes(word: &str) -> usize {
    word.matches(['\'', '"']).count()
}

/// All openers of a logical line, keyword and flags included. A line that the lexer does not understand has none.
pub(crate) fn openers(line: &str) -> Vec<Opener> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let mode = Mode {
        keep_quotes: true,
        keep_escapes: true,
        ..Mode::default()
    };
    raw_words(line, mode)
        .unwrap_or_default()
        .iter()
        .filter_map(|word| opener(word))
        .collect()
}

/// Reads the bodies that follow a line. `line` is the span of the opening line.
pub(crate) fn bodies(
    openers: Vec<Opener>,
    lines: &mut Lines<'_>,
    line: Span,
) -> Result<Vec<Heredoc>, Diagnostic> {
    openers
        .into_iter()
        .map(|opener| read(opener, lines, line))
        .collect()
}

fn read(opener: Opener, lines: &mut Lines<'_>, line: Span) -> Result<Heredoc, Diagnostic> {
    let Opener {
        name,
        fd,
        expand,
        chomp,
    } = opener;
    let mut body = String::new();
    let (mut span, mut nearly) = (Span::new(line.end, line.end), false);
    while let Some((start, text)) = lines.physical() {
        if body.is_empty() {
            span.start = to_u32(start);
        }
        span.end = to_u32(start);
        let candidate = text.trim_end_matches(['\r', '\n']);
        let candidate = if chomp {
            candidate.trim_start_matches('\t')
        } else {
            candidate
        };
        if candidate == name {
            return Ok(Heredoc {
                name,
                fd,
                expand,
                chomp,
                body,
                span,
            });
        }
        nearly |= candidate.trim() == name;
        body.push_str(text);
    }
    let hint = if nearly {
        format!(
            "there is a line with {name} and blanks around it; the end must be alone on its line"
        )
    } else {
        format!("end it with a line that holds {name} and nothing else")
    };
    let message = format!("unterminated heredoc {name}");
    Err(Diagnostic::error(Code::Heredoc, line, message).hint(hint))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(line: &str) -> Vec<SmolStr> {
        openers(line)
            .into_iter()
            .map(|opener| opener.name)
            .collect()
    }

    #[test]
    fn finds_openers() {
        assert_eq!(names("RUN cat <<EOF"), ["EOF"]);
        assert_eq!(names("COPY <<a <<b /d/"), ["a", "b"]);
        assert_eq!(names("RUN 3<<-EOF cat"), ["EOF"]);
        assert_eq!(names("RUN << EOF cat"), ["EOF"]);
        assert_eq!(names("COPY <<'a b' /d"), ["a b"]);
        assert_eq!(names("RUN cat <<<EOF"), Vec::<SmolStr>::new());
        assert_eq!(names("RUN \"cat <<EOF\""), Vec::<SmolStr>::new());
        assert_eq!(names("RUN echo it's <<EOF"), Vec::<SmolStr>::new());
        assert_eq!(names("RUN <<"), Vec::<SmolStr>::new());
        assert_eq!(names("RUN x<<EOF"), Vec::<SmolStr>::new());
        assert_eq!(names("RUN <<$EOF"), ["$EOF"]);
        assert_eq!(names("RUN << -EOF"), ["-EOF"]);
        assert_eq!(names("RUN <<- EOF"), Vec::<SmolStr>::new());
        assert_eq!(names("RUN echo $(( 1 << 2 ))"), ["2"]);
        assert_eq!(names("RUN echo ${X^^} <<EOF"), Vec::<SmolStr>::new());
    }

    #[test]
    fn quotes_turn_expansion_off() {
        assert!(opener("<<EOF").unwrap().expand);
        for word in ["<<'EOF'", "<<\"EOF\"", "<<eo'f'"] {
            assert!(!opener(word).unwrap().expand, "{word}");
        }
        assert!(opener("<<eo\\'f").unwrap().expand);
        assert!(!opener("<<'e'o\\'f").unwrap().expand);
        assert_eq!(opener("<<'e'o\\'f").unwrap().name, "eo'f");
        let found = opener("12<<-'E'").unwrap();
        assert_eq!(
            (found.fd, found.chomp, found.name.as_str()),
            (Some(12), true, "E")
        );
    }
}
