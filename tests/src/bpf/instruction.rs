//! Instructions to make small programs of, as the kernel documents them in
//! `Documentation/bpf/standardization/instruction-set.rst`.

/// One instruction, as `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high four.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Width of a memory access.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum Width {
    /// Four octets.
    Word = 0x00,
    /// Two octets.
    Half = 0x08,
}

/// `dst = *(u32 *)(src + offset)`.
#[must_use]
pub fn load_word(dst: u8, src: u8, offset: i16) -> Instruction {
    Instruction {
        code: 0x61,
        registers: src << 4 | dst,
        offset,
        immediate: 0,
    }
}

/// `*(width *)(dst + offset) = value`.
#[must_use]
pub fn store(width: Width, dst: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code: 0x62 | width as u8,
        registers: dst,
        offset,
        immediate: value,
    }
}

/// `dst = src`.
#[must_use]
pub fn copy(dst: u8, src: u8) -> Instruction {
    Instruction {
        code: 0xbf,
        registers: src << 4 | dst,
        offset: 0,
        immediate: 0,
    }
}

/// `dst = value`.
#[must_use]
pub fn set(dst: u8, value: i32) -> Instruction {
    Instruction {
        code: 0xb7,
        registers: dst,
        offset: 0,
        immediate: value,
    }
}

/// `dst += value`.
#[must_use]
pub fn add(dst: u8, value: i32) -> Instruction {
    Instruction {
        code: 0x07,
        registers: dst,
        offset: 0,
        immediate: value,
    }
}

/// Skips `distance` instructions if `dst > src`, unsigned.
#[must_use]
pub fn jump_if_greater(dst: u8, src: u8, distance: i16) -> Instruction {
    Instruction {
        code: 0x2d,
        registers: src << 4 | dst,
        offset: distance,
        immediate: 0,
    }
}

/// Ends the program.
#[must_use]
pub fn exit() -> Instruction {
    Instruction {
        code: 0x95,
        registers: 0,
        offset: 0,
        immediate: 0,
    }
}

/// Calls a helper by its number (`enum bpf_func_id`); its result is in register 0, and registers
/// 1 to 5 are gone.
#[must_use]
pub fn call(helper: i32) -> Instruction {
    Instruction {
        code: 0x85,
        registers: 0,
        offset: 0,
        immediate: helper,
    }
}

/// `dst %= value`, unsigned, on 32 bits.
#[must_use]
pub fn modulo(dst: u8, value: i32) -> Instruction {
    Instruction {
        code: 0x94,
        registers: dst,
        offset: 0,
        immediate: value,
    }
}

/// `dst >>= bits`, on 32 bits.
#[must_use]
pub fn shift_right(dst: u8, bits: i32) -> Instruction {
    Instruction {
        code: 0x74,
        registers: dst,
        offset: 0,
        immediate: bits,
    }
}

/// `*(width *)(dst + offset) = src`.
#[must_use]
pub fn store_register(width: Width, dst: u8, offset: i16, src: u8) -> Instruction {
    Instruction {
        code: 0x63 | width as u8,
        registers: src << 4 | dst,
        offset,
        immediate: 0,
    }
}

/// Turns the lower two octets of `dst` around and clears the rest: to network order, or from it,
/// on a little-endian machine.
#[must_use]
pub fn swap_half(dst: u8) -> Instruction {
    Instruction {
        code: 0xdc,
        registers: dst,
        offset: 0,
        immediate: 16,
    }
}
