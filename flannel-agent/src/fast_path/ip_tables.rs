//! The rules of legacy iptables (IPv4), out of the block in which the kernel hands out a table.
//! Pure.
//!
//! A table is a row of entries (`struct ipt_entry`, `include/uapi/linux/netfilter_ipv4/
//! ip_tables.h`): the tests of addresses and devices, matches, and one target. Chains of the kernel
//! begin where the table's description says so, others behind an entry with the target `ERROR`
//! that has their name; jumps are offsets. Numbers are in the host's byte order, and aligned for 64
//! bits.

use std::ops::Range;

use super::ruleset::Extension;

/// Hooks, by number (`NF_INET_*`), under the names of their chains.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Length of `struct ipt_entry`.
const ENTRY_LEN: usize = 112;
/// Where the counters of packets and octets stand in it.
const COUNTERS: Range<usize> = 96..112;
/// Length of the header of a match or target, `struct xt_entry_match`.
const EXTENSION_LEN: usize = 32;

/// A table is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's block of a table of iptables has no {0} where one belongs")]
pub struct Unreadable(&'static str);

/// What the kernel says of a table: `struct ipt_getinfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Bits of the hooks that it has chains for.
    pub hooks: u32,
    /// Offset of the first entry of each.
    pub starts: [u32; 5],
    /// Octets of all entries.
    pub size: u32,
}

impl Description {
    /// Length of the structure.
    pub const LEN: usize = 84;

    /// Reads it.
    #[must_use]
    pub fn parse(octets: &[u8; Self::LEN]) -> Self {
        let word = |index: usize| {
            let at = 32 + 4 * index;
            let mut word = [0; 4];
            word.copy_from_slice(&octets[at..at + 4]);
            u32::from_ne_bytes(word)
        };
        Self {
            hooks: word(0),
            starts: [1, 2, 3, 4, 5].map(word),
            size: word(12),
        }
    }
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// In the kernel's order.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Number of the hook, of the kernel's chains.
    pub hook: Option<usize>,
    /// In order. Of the kernel's chains the last is the policy.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Transport protocol; 0 for any.
    pub protocol: u16,
    /// `IPT_F_*`.
    pub flags: u8,
    /// `IPT_INV_*`.
    pub inversions: u8,
    /// Further tests, in order.
    pub matches: Vec<Extension>,
    /// What is done.
    pub target: Target,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nothing: the next rule is next.
    None,
    /// Accept, drop or return.
    Plain,
    /// To a program that has asked for packets.
    Queue,
    /// On with another chain, by its index.
    Chain(usize),
    /// Something else.
    Extension(Extension),
}

impl Rule {
    /// Whether whole packets of any of these protocols can pass the tests that are no extension.
    #[must_use]
    pub fn may_match(&self, protocols: &[u8]) -> bool {
        const FRAGMENTS: u8 = 1;
        const NOT_FRAGMENTS: u8 = 0x20;
        const NOT_PROTOCOL: u8 = 0x40;
        let is_for_fragments = self.flags & FRAGMENTS != 0 && self.inversions & NOT_FRAGMENTS == 0;
        let is_inverted = self.inversions & NOT_PROTOCOL != 0;
        let has_protocol = |protocol: &u8| {
            self.protocol == 0 || (u16::from(*protocol) == self.protocol) != is_inverted
        };
        !is_for_fragments && protocols.iter().any(has_protocol)
    }
}

/// Sets the counters of all entries to zero, so that blocks of the same rules are equal.
///
/// # Errors
/// The entries do not follow each other.
pub fn clear_counters(entries: &mut [u8]) -> Result<(), Unreadable> {
    let mut at = 0;
    while at < entries.len() {
        let next = at + Entry::at(entries, at)?.len;
        entries[at..][COUNTERS].fill(0);
        at = next;
    }
    Ok(())
}

/// Reads a table.
///
/// # Errors
/// The block is not a table's.
pub fn parse(name: &str, description: &Description, entries: &[u8]) -> Result<Table, Unreadable> {
    let mut table = Table {
        name: name.to_owned(),
        chains: Vec::new(),
    };
    // Offset of the first rule of each chain, ascending.
    let mut starts: Vec<usize> = Vec::new();
    let mut jumps = Vec::new();
    let mut at = 0;
    while at < entries.len() {
        let entry = Entry::at(entries, at)?;
        let is_start = |hook: &usize| {
            description.hooks & 1 << hook != 0 && description.starts[*hook] as usize == at
        };
        if let Some(hook) = (0..HOOKS.len()).find(is_start) {
            starts.push(at);
            table.chains.push(Chain {
                name: HOOKS[hook].to_owned(),
                hook: Some(hook),
                rules: Vec::new(),
            });
        }
        let next = at + entry.len;
        match entry.target()? {
            // The last of all entries has one, too; no rule is behind that.
            found if found.name == "ERROR" => {
                starts.push(next);
                table.chains.push(Chain {
                    name: text(&found.info),
                    hook: None,
                    rules: Vec::new(),
                });
            }
            found => {
                let chain = table.chains.last_mut().ok_or(Unreadable("chain"))?;
                let target = target(found, next, |offset| {
                    jumps.push((starts.len() - 1, chain.rules.len(), offset));
                })?;
                chain.rules.push(entry.rule(target)?);
            }
        }
        at = next;
    }
    for (chain, rule, offset) in jumps {
        let to = starts
            .binary_search(&offset)
            .map_err(|_| Unreadable("chain to jump to"))?;
        table.chains[chain].rules[rule].target = Target::Chain(to);
    }
    Ok(table)
}

/// The target of a rule; `jump` gets the offset that it leads to.
fn target(
    found: Extension,
    next: usize,
    mut jump: impl FnMut(usize),
) -> Result<Target, Unreadable> {
    // Of verdicts, which are below zero: `-NF_QUEUE - 1`.
    const QUEUE: i32 = -4;
    if !found.name.is_empty() {
        return Ok(Target::Extension(found));
    }
    let verdict = found.info.first_chunk().ok_or(Unreadable("verdict"))?;
    let verdict = i32::from_ne_bytes(*verdict);
    let Ok(offset) = usize::try_from(verdict) else {
        return Ok(match verdict {
            QUEUE => Target::Queue,
            _ => Target::Plain,
        });
    };
    if offset != next {
        jump(offset);
    }
    Ok(Target::None)
}

/// One entry.
#[derive(Clone, Copy)]
struct Entry<'a> {
    octets: &'a [u8],
    len: usize,
    target_at: usize,
}

impl<'a> Entry<'a> {
    fn at(entries: &'a [u8], at: usize) -> Result<Self, Unreadable> {
        let rest = entries.get(at..).ok_or(Unreadable("entry"))?;
        let number = |at| Some(usize::from(half(rest, at)?));
        let target_at = number(88).ok_or(Unreadable("entry"))?;
        let len = number(90).ok_or(Unreadable("entry"))?;
        let octets = rest.get(..len).ok_or(Unreadable("entry"))?;
        if target_at < ENTRY_LEN || len < target_at + EXTENSION_LEN {
            return Err(Unreadable("target"));
        }
        Ok(Self {
            octets,
            len,
            target_at,
        })
    }

    fn target(self) -> Result<Extension, Unreadable> {
        extension(&self.octets[self.target_at..]).map(|(found, _)| found)
    }

    fn rule(self, target: Target) -> Result<Rule, Unreadable> {
        let mut matches = Vec::new();
        let mut rest = &self.octets[ENTRY_LEN..self.target_at];
        while !rest.is_empty() {
            let (found, len) = extension(rest)?;
            matches.push(found);
            rest = &rest[len..];
        }
        // `struct ipt_ip`: addresses and devices, 80 octets.
        Ok(Rule {
            protocol: half(self.octets, 80).unwrap_or_default(),
            flags: self.octets[82],
            inversions: self.octets[83],
            matches,
            target,
        })
    }
}

/// A match or target, and its length with the header.
fn extension(octets: &[u8]) -> Result<(Extension, usize), Unreadable> {
    let len = half(octets, 0).map_or(0, usize::from);
    if len < EXTENSION_LEN || len > octets.len() {
        return Err(Unreadable("match or target"));
    }
    let found = Extension {
        name: text(&octets[2..31]),
        revision: octets[31].into(),
        info: octets[EXTENSION_LEN..len].to_vec(),
    };
    Ok((found, len))
}

fn half(octets: &[u8], at: usize) -> Option<u16> {
    let found = octets.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*found))
}

/// Text that a NUL ends.
fn text(octets: &[u8]) -> String {
    let text = octets.split(|octet| *octet == 0).next();
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests;
