//! `--chmod`: octal modes, and symbolic ones such as `u=rwX,go=rX`.
//!
//! Symbolic modes follow BSD's chmod without umask: `[ugoa...][+-=][rwxXstugo...]`, several operators a clause, several
//! clauses separated by commas.

use std::fmt;

use crate::plan::Chmod;

const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHER: u32 = 0o007;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// Everything but the sticky bit, which only an explicit `t` touches.
const STANDARD: u32 = SET_UID | SET_GID | USER | GROUP | OTHER;
const EXECUTE: u32 = 0o111;

/// A mode that is neither octal nor symbolic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChmodError(String);

impl fmt::Display for ChmodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.starts_with(|ch: char| ch.is_ascii_digit()) {
            write!(
                f,
                "invalid chmod parameter: '{}'. it should be octal string and between 0 and 07777",
                self.0
            )
        } else {
            write!(
                f,
                "invalid chmod parameter: '{}'. it should be octal or symbolic like u=rwX,go=rX",
                self.0
            )
        }
    }
}

impl std::error::Error for ChmodError {}

/// Reads the value of `--chmod`.
pub fn parse(text: &str) -> Result<Chmod, ChmodError> {
    if text.starts_with(|ch: char| ch.is_ascii_digit()) {
        let mode = u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777);
        return mode
            .map(Chmod::Octal)
            .ok_or_else(|| ChmodError(text.to_owned()));
    }
    Changes::parse(text).map(|_| Chmod::Symbolic(text.to_owned()))
}

/// What a symbolic mode does to a mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes(Vec<Change>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Set(u32),
    Clear(u32),
    /// Set where it is a directory, or anyone could execute it.
    SetIfExecutable(u32),
    /// Copies the bits of one class to the classes of `to`.
    Copy {
        from: u32,
        to: u32,
        operator: Operator,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Assign,
}

impl Changes {
    /// Reads a symbolic mode.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        let mut changes = Vec::new();
        let fits = text
            .split(',')
            .all(|clause| read_clause(clause, &mut changes).is_some());
        if fits {
            Ok(Self(changes))
        } else {
            Err(ChmodError(text.to_owned()))
        }
    }

    /// The mode afterwards. Bits other than 07777 stay.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let executable = is_dir || mode & EXECUTE != 0;
        self.0.iter().fold(mode, |mode, change| match *change {
            Change::Set(bits) => mode | bits,
            Change::Clear(bits) => mode & !bits,
            Change::SetIfExecutable(bits) if executable => mode | bits,
            Change::SetIfExecutable(_) => mode,
            Change::Copy { from, to, operator } => copy(mode, from, to, operator),
        })
    }
}

fn copy(mode: u32, from: u32, to: u32, operator: Operator) -> u32 {
    let shared = (mode & from) / (from & EXECUTE);
    let spread = (shared * EXECUTE) & to;
    match operator {
        Operator::Add => mode | spread,
        Operator::Remove => mode & !spread,
        Operator::Assign => (mode & !(to & (USER | GROUP | OTHER))) | spread,
    }
}

/// Reads the text between two commas. `None` if it is malformed.
fn read_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let operators = clause.find(['+', '-', '='])?;
    let (classes, mut rest) = clause.split_at(operators);
    let mut who = 0;
    for class in classes.chars() {
        who |= match class {
            'a' => STANDARD,
            'u' => SET_UID | USER,
            'g' => SET_GID | GROUP,
            'o' => OTHER,
            _ => return None,
        };
    }
    while let Some(sign) = rest.chars().next() {
        let operator = match sign {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Assign,
        };
        let end = rest[1..]
            .find(['+', '-', '='])
            .map_or(rest.len(), |at| at + 1);
        read_permissions(&rest[1..end], who, operator, changes)?;
        rest = &rest[end..];
    }
    Some(())
}

/// Reads what follows one operator.
fn read_permissions(
    text: &str,
    mut who: u32,
    operator: Operator,
    changes: &mut Vec<Change>,
) -> Option<()> {
    let (mut plain, mut conditional) = (0, 0);
    let mut assigned = false;
    let special = who == 0 || who & !OTHER != 0;
    for ch in text.chars() {
        match ch {
            'r' => plain |= 0o444,
            'w' => plain |= 0o222,
            'x' => plain |= EXECUTE,
            'X' if operator == Operator::Remove => plain |= EXECUTE,
            'X' => conditional |= EXECUTE,
            's' if special => plain |= SET_UID | SET_GID,
            't' if special => {
                who |= STICKY;
                plain |= STICKY;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => {
                if plain != 0 {
                    push(operator, who, plain, changes);
                }
                push_conditional(who, conditional, changes);
                (plain, conditional, assigned) = (0, 0, true);
                let from = match ch {
                    'u' => USER,
                    'g' => GROUP,
                    _ => OTHER,
                };
                let to = if who == 0 { STANDARD } else { who };
                changes.push(Change::Copy {
                    from,
                    to: to & (USER | GROUP | OTHER),
                    operator,
                });
            }
            _ => return None,
        }
    }
    if plain != 0 || (operator == Operator::Assign && !assigned) {
        push(operator, who, plain, changes);
    }
    push_conditional(who, conditional, changes);
    Some(())
}

fn push(operator: Operator, who: u32, bits: u32, changes: &mut Vec<Change>) {
    let affected = if who == 0 { bits } else { who & bits };
    match operator {
        Operator::Add => changes.push(Change::Set(affected)),
        Operator::Remove => changes.push(Change::Clear(affected)),
        Operator::Assign => {
            changes.push(Change::Clear(if who == 0 { STANDARD } else { who }));
            changes.push(Change::Set(affected));
        }
    }
}

fn push_conditional(who: u32, bits: u32, changes: &mut Vec<Change>) {
    if bits != 0 {
        changes.push(Change::SetIfExecutable(if who == 0 {
            bits
        } else {
            who & bits
        }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn octal() {
        assert_eq!(parse("0"), Ok(Chmod::Octal(0)));
        assert_eq!(parse("04755"), Ok(Chmod::Octal(0o4755)));
        for bad in ["64a", "10000", "8", "7 "] {
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.starts_with(&format!(
                "invalid chmod parameter: '{bad}'. it should be octal string"
            )));
        }
    }

    #[test]
    fn symbolic() {
        for (text, before, is_dir, after) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o710, false, 0o755),
            ("go-w", 0o777, false, 0o755),
            ("=rw,+X", 0o711, false, 0o777),
            ("=rw,+X", 0o600, false, 0o666),
            ("+X", 0o644, true, 0o755),
            ("u=rwx,go=u-w", 0o000, false, 0o755),
            ("go=", 0o777, false, 0o700),
            ("a+x", 0o644, false, 0o755),
            ("+x-w", 0o666, false, 0o555),
            ("g=u", 0o750, false, 0o770),
            ("o+g", 0o750, false, 0o755),
            ("u+s", 0o755, false, 0o4755),
            ("g+s,+t", 0o755, true, 0o3755),
            ("o+s,o+t", 0o755, false, 0o755),
            ("u=rwx", 0o4755, false, 0o755),
            ("=", 0o7777, false, 0o1000),
            ("a-X", 0o755, false, 0o644),
            ("u-g", 0o750, false, 0o250),
            ("u=rw", 0o100_755, false, 0o100_655),
        ] {
            let changes = Changes::parse(text).unwrap();
            assert_eq!(changes.apply(before, is_dir), after, "{text} on {before:o}");
        }
    }

    #[test]
    fn malformed() {
        for bad in [
            "", "u", "rwx", "u=rw,", ",u=r", "z+x", "u+q", "u + x", "u=r;g=r", "+x,",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
