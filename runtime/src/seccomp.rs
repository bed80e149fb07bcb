//! The filter of system calls: Docker's default policy, compiled to a classic BPF program.
//!
//! The policy is a table of names and numbers (`syscalls.txt`). A linear program over it would have some 700
//! instructions, and the kernel walks a filter once for each call number when it is loaded; a binary search over
//! ranges has a quarter of that and loads several times faster. It is compiled once, in the keeper.
//!
//! Beyond Docker's: the x32 numbers of x86 do not exist. As with Docker, 32-bit programs may use `socketcall`, whose
//! arguments a filter cannot see. A filter sees 64 bits of an argument; these look at the lower 32, as do the kernel's own
//! functions behind `clone`, `personality` and `socket`, so that nothing can be hidden above them.
//!
//! Why not the crate `seccompiler`: its filters are for one architecture each, and end the process on any other, so that
//! the 32-bit programs of a 64-bit image would die; it has one answer for all calls that are not listed, where this needs
//! two (EPERM for what is refused, ENOSYS for what is new); and it loads a filter only after setting `no_new_privs`,
//! which would break `sudo` and `su`. Why not `libseccomp`: it is a C library that must be there to build and to run.

use std::io;
use std::sync::OnceLock;

use crate::sys::{self, Instruction};

const POLICY: &str = include_str!("syscalls.txt");

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Offsets into what a filter sees: number, architecture, and the lower half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_NOT_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

/// One of the columns of the table, and the number by which the kernel names the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Architecture {
    column: usize,
    audit: u32,
}

const X86_64: Architecture = Architecture {
    column: 1,
    audit: 0xC000_003E,
};
const I386: Architecture = Architecture {
    column: 2,
    audit: 0x4000_0003,
};
const AARCH64: Architecture = Architecture {
    column: 3,
    audit: 0xC000_00B7,
};
const ARM: Architecture = Architecture {
    column: 4,
    audit: 0x4000_0028,
};
const RISCV64: Architecture = Architecture {
    column: 5,
    audit: 0xC000_00F3,
};

/// The architectures whose programs run on a machine: its own, and its 32-bit one.
fn native() -> &'static [Architecture] {
    match std::env::consts::ARCH {
        "x86_64" => &[X86_64, I386],
        "aarch64" => &[AARCH64, ARM],
        "riscv64" => &[RISCV64],
        _ => &[],
    }
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Return(u32),
    /// Processes and threads, but no namespaces: none of the `CLONE_NEW*` flags.
    NoNamespaces,
    /// Linux, and Linux or BSD with a fixed layout of addresses; asking which it is.
    KnownPersonas,
    /// All but 38 (the kernel's cryptography) and 40 (the host of a virtual machine).
    SafeFamilies,
}

/// Compiles the policy, so that [`install`] need not.
pub(crate) fn prepare() {
    let _ = program();
}

/// Loads the filter into this process. Needs the right to do so without `no_new_privs`.
pub(crate) fn install() -> io::Result<()> {
    let program = program();
    if program.is_empty() {
        let text = format!(
            "there is no policy for {}: allow it to run unconfined",
            std::env::consts::ARCH
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    sys::load_filter(program)
}

fn program() -> &'static [Instruction] {
    static PROGRAM: OnceLock<Vec<Instruction>> = OnceLock::new();
    PROGRAM.get_or_init(|| compile(POLICY, native()))
}

const fn statement(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Empty if there is no architecture.
fn compile(policy: &str, architectures: &[Architecture]) -> Vec<Instruction> {
    let mut code = Vec::new();
    for architecture in architectures {
        let section = section(policy, *architecture);
        // Conditional jumps are too short for a section; an unconditional one is not.
        code.push(statement(LOAD, ARCHITECTURE));
        code.push(jump(IF_EQUAL, architecture.audit, 1, 0));
        code.push(statement(
            (libc::BPF_JMP | libc::BPF_JA) as u16,
            section.len() as u32,
        ));
        code.extend(section);
    }
    if !code.is_empty() {
        code.push(statement(RETURN, KILL));
    }
    code
}

fn section(policy: &str, architecture: Architecture) -> Vec<Instruction> {
    let mut code = vec![statement(LOAD, NUMBER)];
    code.extend(search(&ranges(policy, architecture.column)));
    code
}

/// The whole range of numbers as ranges of one verdict each: where it starts, what it is.
fn ranges(policy: &str, column: usize) -> Vec<(u32, Verdict)> {
    let mut calls = calls(policy, column);
    calls.sort_by_key(|(number, _)| *number);
    // What lies between known calls is known to be refused; a private range of ARM is far above the others.
    let highest = calls
        .iter()
        .map(|(number, _)| *number)
        .filter(|number| *number < 0x1000)
        .max()
        .unwrap_or(0);
    let otherwise = |number: u32| Verdict::Return(if number <= highest { EPERM } else { ENOSYS });
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut add = |start: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((start, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in calls {
        if number > next {
            add(next, otherwise(next));
            if next <= highest && number > highest + 1 {
                add(highest + 1, otherwise(highest + 1));
            }
        }
        add(number, verdict);
        next = number + 1;
    }
    add(next, otherwise(next));
    ranges
}

fn calls(policy: &str, column: usize) -> Vec<(u32, Verdict)> {
    let call = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = fields.get(column)?.parse().ok()?;
        let verdict = match fields.get(6) {
            None => Verdict::Return(ALLOW),
            Some(&"no-namespaces") => Verdict::NoNamespaces,
            Some(&"known-personas") => Verdict::KnownPersonas,
            Some(&"safe-families") => Verdict::SafeFamilies,
            Some(_) => Verdict::Return(ENOSYS),
        };
        Some((number, verdict))
    };
    policy
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(call)
        .collect()
}

/// A tree of comparisons over sorted ranges.
fn search(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let ([_, ..], Some((middle, _))) = (left, right.first()) else {
        return right
            .first()
            .map_or_else(Vec::new, |(_, verdict)| decide(*verdict));
    };
    let (left, right) = (search(left), search(right));
    let mut code = match u8::try_from(left.len()) {
        Ok(distance) => vec![jump(IF_NOT_LESS, *middle, distance, 0)],
        Err(_) => vec![
            jump(IF_NOT_LESS, *middle, 0, 1),
            statement((libc::BPF_JMP | libc::BPF_JA) as u16, left.len() as u32),
        ],
    };
    code.extend(left);
    code.extend(right);
    code
}

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const NAMESPACE_FLAGS: u32 = 0x7E02_0000;
const PERSONAS: [u32; 5] = [0, 8, 0x20000, 0x20008, u32::MAX];

fn decide(verdict: Verdict) -> Vec<Instruction> {
    let load = statement(LOAD, FIRST_ARGUMENT);
    let (allow, refuse) = (statement(RETURN, ALLOW), statement(RETURN, EPERM));
    match verdict {
        Verdict::Return(value) => vec![statement(RETURN, value)],
        Verdict::NoNamespaces => vec![load, jump(IF_ANY_BIT, NAMESPACE_FLAGS, 1, 0), allow, refuse],
        Verdict::KnownPersonas => {
            let count = PERSONAS.len();
            let tests = PERSONAS
                .iter()
                .enumerate()
                .map(|(i, value)| jump(IF_EQUAL, *value, (count - i) as u8, 0));
            [load]
                .into_iter()
                .chain(tests)
                .chain([refuse, allow])
                .collect()
        }
        Verdict::SafeFamilies => {
            vec![
                load,
                jump(IF_EQUAL, 38, 2, 0),
                jump(IF_EQUAL, 40, 1, 0),
                allow,
                refuse,
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: [Architecture; 5] = [X86_64, I386, AARCH64, ARM, RISCV64];

    /// What the kernel would do.
    fn evaluate(code: &[Instruction], audit: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let Instruction {
                code: op,
                jt,
                jf,
                k,
            } = code[at];
            at += 1;
            let taken = match op {
                LOAD => {
                    value = match k {
                        NUMBER => number,
                        ARCHITECTURE => audit,
                        _ => argument,
                    };
                    continue;
                }
                RETURN => return k,
                IF_EQUAL => value == k,
                IF_NOT_LESS => value >= k,
                IF_ANY_BIT => value & k != 0,
                _ => {
                    at += k as usize;
                    continue;
                }
            };
            at += usize::from(if taken { jt } else { jf });
        }
    }

    #[test]
    fn the_program_decides_as_the_table_says_for_every_number() {
        for architecture in ALL {
            let code = compile(POLICY, &[architecture]);
            let calls = calls(POLICY, architecture.column);
            for number in (0..1000)
                .chain(0xf0000..0xf0010)
                .chain([0x4000_0000, u32::MAX])
            {
                let expected = calls
                    .iter()
                    .find(|(known, _)| *known == number)
                    .map(|(_, verdict)| *verdict);
                let got = evaluate(&code, architecture.audit, number, 0);
                match expected {
                    Some(Verdict::Return(value)) => assert_eq!(got, value, "{number}"),
                    Some(_) => assert_eq!(got, ALLOW, "{number}"),
                    None if number < 466 => assert_eq!(got, EPERM, "{number}"),
                    None => assert_eq!(got, ENOSYS, "{number}"),
                }
            }
        }
    }

    #[test]
    fn arguments_are_looked_at_where_the_policy_says_so() {
        let code = compile(POLICY, &[X86_64, I386]);
        let on = |number, argument| evaluate(&code, X86_64.audit, number, argument);
        let (clone, personality, socket) = (56, 135, 41);
        assert_eq!(on(clone, libc::SIGCHLD as u32), ALLOW);
        assert_eq!(on(clone, libc::CLONE_NEWUSER as u32), EPERM);
        assert_eq!(on(personality, 0x20000), ALLOW);
        assert_eq!(on(personality, 1), EPERM);
        for (family, expected) in [
            (2, ALLOW),
            (37, ALLOW),
            (38, EPERM),
            (39, ALLOW),
            (40, EPERM),
            (41, ALLOW),
        ] {
            assert_eq!(on(socket, family), expected, "{family}");
        }
        assert_eq!(evaluate(&code, AARCH64.audit, 0, 0), KILL);
        assert_eq!(
            evaluate(&code, I386.audit, 120, libc::CLONE_NEWUSER as u32),
            EPERM
        );
    }

    #[test]
    fn every_name_has_a_number_and_every_rule_a_meaning() {
        for line in POLICY.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            assert!(
                fields.len() >= 6
                    && fields[1..6]
                        .iter()
                        .any(|field| field.parse::<u32>().is_ok()),
                "{line}"
            );
            let rules = ["no-namespaces", "known-personas", "safe-families", "absent"];
            assert!(
                fields.get(6).is_none_or(|rule| rules.contains(rule)),
                "{line}"
            );
        }
    }

    #[test]
    fn numbers_of_this_machine_are_those_of_its_headers() {
        if cfg!(target_arch = "x86_64") {
            let number = |name: &str| {
                let line = POLICY
                    .lines()
                    .find(|line| line.split_whitespace().next() == Some(name))
                    .unwrap();
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<i64>()
                    .unwrap()
            };
            let pairs = [
                ("openat2", libc::SYS_openat2),
                ("clone", libc::SYS_clone),
                ("write", libc::SYS_write),
            ];
            for (name, expected) in pairs {
                assert_eq!(number(name), expected, "{name}");
            }
        }
    }

    #[test]
    fn the_program_is_small() {
        assert!(compile(POLICY, &[X86_64, I386]).len() < 700);
    }
}
