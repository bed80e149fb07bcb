//! Keys as bytes: pinned, and without a doubt where one field ends.

use super::*;

/// What an encoder is told, to be told again with changes.
#[derive(Default)]
struct Tape(Vec<Entry>);

#[derive(Clone)]
enum Entry {
    Field(&'static str, Vec<u8>),
    List(&'static str, usize),
}

impl Encoder for Tape {
    fn field(&mut self, name: &'static str, value: &[u8]) {
        self.0.push(Entry::Field(name, value.to_vec()));
    }

    fn list(&mut self, name: &'static str, len: usize) {
        self.0.push(Entry::List(name, len));
    }
}

fn replay(tape: &[Entry]) -> Key {
    key_of(&|encoder| {
        for entry in tape {
            match entry {
                Entry::Field(name, value) => encoder.field(name, value),
                Entry::List(name, len) => encoder.list(name, *len),
            }
        }
    })
}

fn examples() -> Vec<(&'static str, Box<Encode<'static>>)> {
    let make = MakeDir {
        base: OpId(0),
        path: "/w".into(),
        user: "user".into(),
    };
    let fetched = Http {
        url: "https://example.com/a".into(),
        checksum: None,
        filename: "a".into(),
    };
    let checked_out = Git {
        remote: "https://example.com/a.git".into(),
        reference: None,
        subdir: Some("x".into()),
        checksum: None,
        keep_git_dir: true,
        submodules: true,
        commit_time: false,
    };
    vec![
        (
            "run",
            Box::new(|encoder| run(encoder, &a_run(), &visible(), BASE, &[OTHER])),
        ),
        (
            "copy",
            Box::new(|encoder| copy(encoder, &a_copy(), Some(BASE), SELECTION)),
        ),
        (
            "workdir",
            Box::new(move |encoder| make_dir(encoder, &make, BASE)),
        ),
        (
            "http",
            Box::new(move |encoder| http(encoder, &fetched, &Digest::of(b"a"), Some(5))),
        ),
        (
            "git",
            Box::new(move |encoder| git(encoder, &checked_out, "0123", "refs/heads/main")),
        ),
    ]
}

#[test]
fn no_byte_moves_across_a_border() {
    for (what, encode) in examples() {
        let mut tape = Tape::default();
        encode(&mut tape);
        let tape = tape.0;
        let mut keys = vec![replay(&tape)];
        assert_eq!(keys[0], key_of(&encode), "{what}");
        let fields: Vec<usize> = (0..tape.len())
            .filter(|at| matches!(tape[*at], Entry::Field(..)))
            .collect();
        for two in fields.windows(2) {
            let mut changed = tape.clone();
            if !move_byte(&mut changed, two[0], two[1]) {
                continue;
            }
            let key = replay(&changed);
            assert!(
                !keys.contains(&key),
                "{what}: a byte moves from part {} to the next",
                two[0]
            );
            keys.push(key);
        }
        assert!(keys.len() > fields.len() / 2, "{what}");
    }
}

/// Moves the last byte of one field to the front of another; false if there is none.
fn move_byte(tape: &mut [Entry], from: usize, to: usize) -> bool {
    let moved = match &mut tape[from] {
        Entry::Field(_, value) => value.pop(),
        Entry::List(..) => None,
    };
    match (moved, &mut tape[to]) {
        (Some(byte), Entry::Field(_, value)) => {
            value.insert(0, byte);
            true
        }
        _ => false,
    }
}

#[test]
fn keys_are_pinned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/keys");
    let update = std::env::var_os("UPDATE").is_some();
    for (what, encode) in examples() {
        let mut explainer = Explainer::new();
        encode(&mut explainer);
        let mut text = String::new();
        for part in explainer.finish() {
            text.push_str(&format!("{}: {}\n", part.name, part.value));
        }
        text.push_str(&format!("= {}\n", key_of(&encode)));
        let file = folder.join(format!("{what}.txt"));
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let pinned = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, pinned, "{}: UPDATE=1 writes it anew", file.display());
    }
}
