//! Which devices the processes of a control group may open: a BPF program.
//!
//! A command may make any node (`CAP_MKNOD`), as package managers and bootstrapping tools do, but open only the harmless
//! ones.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::{self, DeviceInstruction};

/// Character devices, with their minor numbers; none means any.
const ALLOWED: [(u32, Option<u32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

const MAKE_NODE: i32 = 1;
const CHARACTER: i32 = 2;

/// Puts the policy on `group` and all below.
pub(crate) fn restrict(group: BorrowedFd<'_>) -> io::Result<()> {
    let program = sys::load_device_program(&program())?;
    sys::attach_device_program(group, program.as_fd())
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> DeviceInstruction {
    DeviceInstruction {
        code,
        registers,
        offset,
        immediate,
    }
}

/// Loads a 32-bit field of the context (register 1) into `register`.
const fn field(register: u8, offset: i16) -> DeviceInstruction {
    instruction(0x61, register | 1 << 4, offset, 0)
}

/// Skips `count` instructions unless `register` equals `value`.
const fn unless_equal(register: u8, value: i32, count: i16) -> DeviceInstruction {
    instruction(0x55, register, count, value)
}

/// Register 0 becomes `value`, and the program ends.
const fn answer(value: i32) -> [DeviceInstruction; 2] {
    [instruction(0xb7, 0, 0, value), instruction(0x95, 0, 0, 0)]
}

fn program() -> Vec<DeviceInstruction> {
    // The context: access in the upper and kind in the lower half of its first field, then major, then minor.
    let mut code = vec![field(2, 0), field(3, 0), field(4, 4), field(5, 8)];
    // Register 2: kind, register 3: access.
    code.push(instruction(0x54, 2, 0, 0xffff));
    code.push(instruction(0x74, 3, 0, 16));
    code.push(unless_equal(3, MAKE_NODE, 2));
    code.extend(answer(1));
    code.push(instruction(0x15, 2, 2, CHARACTER));
    code.extend(answer(0));
    for (major, minor) in ALLOWED {
        code.push(unless_equal(
            4,
            major as i32,
            if minor.is_some() { 3 } else { 2 },
        ));
        code.extend(minor.map(|minor| unless_equal(5, minor as i32, 2)));
        code.extend(answer(1));
    }
    code.extend(answer(0));
    code
}
