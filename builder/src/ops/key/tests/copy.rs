//! COPY and ADD.

use super::*;

fn copy_key(op: &Copy) -> Key {
    key_of(&|encoder| copy(encoder, op, Some(BASE), SELECTION))
}

#[test]
fn fields_of_copy() {
    let op = a_copy();
    let Copy {
        base: _,
        sources: _,
        destination: _,
        chown: _,
        chmod: _,
        link: _,
        parents: _,
        excludes: _,
    } = &op;
    let path = |from, pattern: &str, unpack| CopySource::Path {
        from: OpId(from),
        pattern: pattern.into(),
        unpack,
    };
    let inline = |name: &str, text: &str| CopySource::Inline {
        name: name.into(),
        text: text.into(),
    };
    let source = |source: CopySource| with(&op, |op| op.sources[0] = source);
    let note = |source: CopySource| with(&op, |op| op.sources[1] = source);
    let cases = vec![
        ("base", Unchanged, with(&op, |op| op.base = OpId(7))),
        ("from", Unchanged, source(path(7, "src", false))),
        // What a pattern selects is what counts: its names are in the digest of the selection.
        ("pattern", Unchanged, source(path(1, "s*c", false))),
        ("unpack", Another, source(path(1, "src", true))),
        (
            "sources, one less",
            Another,
            with(&op, |op| drop(op.sources.remove(0))),
        ),
        (
            "sources, the order",
            Another,
            with(&op, |op| op.sources.reverse()),
        ),
        ("inline name", Another, note(inline("x", "text"))),
        ("inline text", Another, note(inline("note", "x"))),
        ("across the border", Another, note(inline("notet", "ext"))),
        (
            "destination",
            Another,
            with(&op, |op| op.destination = "/dest".into()),
        ),
        (
            "chown",
            Another,
            with(&op, |op| op.chown = Some("1:3".into())),
        ),
        ("no chown", Another, with(&op, |op| op.chown = None)),
        (
            "chmod",
            Another,
            with(&op, |op| op.chmod = Some(Chmod::Octal(0o600))),
        ),
        (
            "chmod, symbolic",
            Another,
            with(&op, |op| op.chmod = Some(Chmod::Symbolic("u=r".into()))),
        ),
        ("no chmod", Another, with(&op, |op| op.chmod = None)),
        ("link", Another, with(&op, |op| op.link = true)),
        ("parents", Another, with(&op, |op| op.parents = true)),
        (
            "excludes",
            Another,
            with(&op, |op| op.excludes.push("x".into())),
        ),
        ("no excludes", Another, with(&op, |op| op.excludes.clear())),
    ];
    check("copy", copy_key, &op, cases);
    let key = |(base, selection): &(Option<Content>, Content)| {
        key_of(&|encoder| copy(encoder, &op, *base, *selection))
    };
    let cases = vec![
        ("content of the base", Another, (Some(OTHER), SELECTION)),
        ("no base", Another, (None, SELECTION)),
        ("what is selected", Another, (Some(BASE), OTHER)),
    ];
    check("copy", key, &(Some(BASE), SELECTION), cases);
}
