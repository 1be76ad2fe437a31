//! What registers hold while a rule is carried out: all values that a field can have in packets of
//! the fast path, and whether it differs within a flow.
//!
//! A field that is not here is the same in all packets of a flow and may be anything.

use std::collections::BTreeMap;

use crate::fast_path::ruleset::Register;

/// Octets of a register, counted in its bank: sixteen registers of four, or four of sixteen.
type Slot = u32;

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Name of the field.
    pub(super) name: &'static str,
    /// Every value that it can have; all of one length.
    pub(super) values: Vec<Vec<u8>>,
    /// Whether it differs between packets of one flow.
    pub(super) varies: bool,
    /// Whether it is the transport protocol, unchanged.
    pub(super) is_protocol: bool,
}

impl Content {
    fn len(&self) -> u32 {
        self.values.first().map_or(0, |value| value.len() as u32)
    }
}

/// All registers.
#[derive(Debug, Default)]
pub(super) struct Registers(BTreeMap<Slot, Content>);

impl Registers {
    /// Loads a field that can have these values.
    pub(super) fn load(&mut self, register: Register, content: Content) {
        self.forget(register, content.len());
        self.0.insert(slot(register), content);
    }

    /// `len` octets are loaded with what is the same in all packets of a flow.
    pub(super) fn forget(&mut self, register: Register, len: u32) {
        let slot = slot(register);
        self.0
            .retain(|start, held| slot + len <= *start || start + held.len() <= slot);
    }

    /// The same for a number of octets that is not known.
    pub(super) fn forget_some(&mut self, register: Register) {
        let slot = slot(register);
        self.0.retain(|start, held| *start != slot && held.varies);
    }

    /// Some register is loaded with what is the same in all packets of a flow.
    pub(super) fn load_somewhere(&mut self) {
        self.0.retain(|_, held| held.varies);
    }

    pub(super) fn get(&self, register: Register) -> Option<&Content> {
        self.0.get(&slot(register))
    }

    pub(super) fn get_mut(&mut self, register: Register) -> Option<&mut Content> {
        self.0.get_mut(&slot(register))
    }

    /// Names of what differs within a flow, in any part of `len` octets from the register on.
    pub(super) fn varying(&self, register: Register, len: u32) -> Option<&'static str> {
        let slot = slot(register);
        let mut held = self.0.iter();
        let found = held.find(|(start, held)| {
            held.varies && slot < **start + held.len() && **start < slot + len
        });
        found.map(|(_, held)| held.name)
    }

    /// Names of all that differs within a flow.
    pub(super) fn all_varying(&self) -> impl Iterator<Item = &'static str> {
        let varying = self.0.values().filter(|held| held.varies);
        varying.map(|held| held.name)
    }
}

/// Numbers 1 to 4 are of sixteen octets, 8 to 23 of four; the kernel names a register by the
/// former where it can (`nft_dump_register`).
fn slot(Register(number): Register) -> Slot {
    match number {
        1..=4 => (number - 1) * 16,
        8..=23 => (number - 8) * 4,
        // None that the kernel has; out of the way of those that it has.
        _ => 1024 + (number & 0xffff) * 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Content {
        Content {
            name: "tcp flags",
            values: vec![vec![0x10], vec![0x18]],
            varies: true,
            is_protocol: false,
        }
    }

    #[test]
    fn both_numbers_of_a_register_are_one() {
        let mut registers = Registers::default();
        registers.load(Register(1), flags());
        assert!(registers.get(Register(8)).is_some());
        registers.load(Register(9), flags());
        assert_eq!(registers.varying(Register(1), 16), Some("tcp flags"));
        // A number of octets that is not known may spare the second, sixteen do not.
        registers.forget_some(Register(1));
        assert_eq!(registers.varying(Register(1), 4), None);
        assert_eq!(registers.varying(Register(1), 16), Some("tcp flags"));
        registers.forget(Register(1), 16);
        assert_eq!(registers.all_varying().count(), 0);
    }

    #[test]
    fn a_load_into_an_unknown_register_forgets_only_what_a_flow_has_in_common() {
        let mut registers = Registers::default();
        registers.load(Register(1), flags());
        let constant = Content {
            varies: false,
            ..flags()
        };
        registers.load(Register(2), constant);
        registers.load_somewhere();
        assert!(registers.get(Register(1)).is_some());
        assert!(registers.get(Register(2)).is_none());
    }
}
