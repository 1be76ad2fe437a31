//! The rules of nftables out of netlink messages (`nfnetlink`, subsystem `NFTABLES`). Pure.
//!
//! Attributes are numbered in `include/uapi/linux/netfilter/nf_tables.h` and
//! `nf_tables_compat.h`; numbers in them are in network order. What is not known is kept by name
//! and judged as such; what contradicts the format is an error, since a rule that is passed over
//! in silence would be taken for one that is not there.

use super::{
    Access, Base, Elements, Expression, Extension, Family, MemberId, Register, Rule, Ruleset, Set,
    Table, TableId, Verdict,
};

/// A message that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's listing of nftables has no {0} where one belongs")]
pub struct Unreadable(&'static str);

type Result<T> = std::result::Result<T, Unreadable>;

/// Length of `struct nfgenmsg`, which starts with the family.
const HEADER_LEN: usize = 4;
/// What of an attribute's kind is no flag (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;
/// Member of a list.
const LIST_ELEM: u16 = 1;
/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
/// Register of the verdict.
const VERDICT_REGISTER: u32 = 0;
/// `NF_QUEUE`, the lower half of a verdict to queue.
const QUEUE: u32 = 3;

/// The attributes of one level, all of them whole.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self> {
        let mut rest = octets;
        while !rest.is_empty() {
            (_, _, rest) = first_attribute(rest).ok_or(Unreadable("attribute"))?;
        }
        Ok(Self(octets))
    }

    /// Kind and value of each.
    fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (kind, value, behind) = first_attribute(rest)?;
            rest = behind;
            Some((kind, value))
        })
    }

    fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.all()
            .find(|(it, _)| *it == kind)
            .map(|(_, value)| value)
    }

    /// The attributes in one; none if it is not there.
    fn nested(self, kind: u16) -> Result<Attributes<'a>> {
        Self::parse(self.get(kind).unwrap_or_default())
    }

    fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    fn u64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    fn text(self, kind: u16) -> Option<String> {
        let text = self.get(kind)?;
        let end = text.iter().position(|octet| *octet == 0);
        let text = &text[..end.unwrap_or(text.len())];
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn need_u32(self, kind: u16, what: &'static str) -> Result<u32> {
        self.u32(kind).ok_or(Unreadable(what))
    }

    fn need_text(self, kind: u16, what: &'static str) -> Result<String> {
        self.text(kind).ok_or(Unreadable(what))
    }
}

/// Kind and value of the first attribute, `struct nlattr`, and what is behind it.
fn first_attribute(octets: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let [a, b, c, d] = *octets.first_chunk()?;
    let len = usize::from(u16::from_ne_bytes([a, b]));
    let value = octets.get(4..len)?;
    // The last one may come without its padding.
    let rest = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([c, d]) & KIND, value, rest))
}

/// Family and attributes of a message; none of a family that does not matter.
fn open(message: &[u8]) -> Result<Option<(Family, Attributes<'_>)>> {
    let family = Family(*message.first().ok_or(Unreadable("header"))?);
    let attributes = message.get(HEADER_LEN..).ok_or(Unreadable("header"))?;
    let is_known = family.name().is_some();
    Ok(match is_known {
        true => Some((family, Attributes::parse(attributes)?)),
        false => None,
    })
}

impl Ruleset {
    /// Takes in a table, from a message `NFT_MSG_NEWTABLE` without its netlink header.
    ///
    /// # Errors
    /// It is not one.
    pub fn add_table(&mut self, message: &[u8]) -> Result<()> {
        let Some((family, table)) = open(message)? else {
            return Ok(());
        };
        let name = table.need_text(1, "table name")?;
        let added = self.tables.entry(TableId { family, name }).or_default();
        added.is_dormant = table.u32(2).unwrap_or_default() & DORMANT != 0;
        Ok(())
    }

    /// Takes in a chain without its rules, from `NFT_MSG_NEWCHAIN`.
    ///
    /// # Errors
    /// It is not one.
    pub fn add_chain(&mut self, message: &[u8]) -> Result<()> {
        let Some((family, chain)) = open(message)? else {
            return Ok(());
        };
        let name = chain.need_text(3, "chain name")?;
        let base = match chain.get(4) {
            Some(hook) => Some(base(chain, Attributes::parse(hook)?)?),
            None => None,
        };
        self.table(family, chain)?
            .chains
            .entry(name)
            .or_default()
            .base = base;
        Ok(())
    }

    /// Takes in a set, from `NFT_MSG_NEWSET`.
    ///
    /// # Errors
    /// It is not one.
    pub fn add_set(&mut self, message: &[u8]) -> Result<()> {
        let Some((family, set)) = open(message)? else {
            return Ok(());
        };
        let name = set.need_text(2, "set name")?;
        let added = Set {
            timeout_ms: set.u64(11).unwrap_or_default(),
            object: set.u32(15).unwrap_or_default(),
            expressions: one_or_list(set, 17, 18)?,
        };
        self.table(family, set)?.sets.insert(name, added);
        Ok(())
    }

    /// The table that an object names in its first attribute.
    fn table(&mut self, family: Family, object: Attributes<'_>) -> Result<&mut Table> {
        let name = object.need_text(1, "table name")?;
        Ok(self.tables.entry(TableId { family, name }).or_default())
    }
}

/// A rule, from `NFT_MSG_NEWRULE`; none of a family that does not matter.
///
/// # Errors
/// It is not one.
pub fn parse_rule(message: &[u8]) -> Result<Option<Rule>> {
    let rule = open(message)?;
    rule.map(|(_, rule)| list(rule.nested(4)?)).transpose()
}

/// The handle of a rule, by which `nft -a` shows it, from a message about one.
///
/// # Errors
/// It is not such a message.
pub fn parse_handle(message: &[u8]) -> Result<u64> {
    let attributes = message.get(HEADER_LEN..).ok_or(Unreadable("header"))?;
    let handle = Attributes::parse(attributes)?.u64(3);
    handle.ok_or(Unreadable("rule handle"))
}

/// Elements and the set that has them, from `NFT_MSG_NEWSETELEM` and its like; none of a family
/// that does not matter.
///
/// # Errors
/// It is not such a message.
pub fn parse_elements(message: &[u8]) -> Result<Option<(MemberId, Elements)>> {
    let (Some(id), Some((_, attributes))) = (parse_member(message)?, open(message)?) else {
        return Ok(None);
    };
    let mut elements = Elements::default();
    for (_, member) in attributes.nested(3)?.all() {
        let element = Attributes::parse(member)?;
        if let Some(found) = element.nested(2)?.get(2) {
            elements
                .verdicts
                .insert(verdict(Attributes::parse(found)?)?);
        }
        elements.expressions.extend(one_or_list(element, 7, 11)?);
    }
    Ok(Some((id, elements)))
}

/// The chain or set that a message is about: of those about rules, sets and elements. None of a
/// family that does not matter.
///
/// # Errors
/// It is not such a message.
pub fn parse_member(message: &[u8]) -> Result<Option<MemberId>> {
    let Some((family, attributes)) = open(message)? else {
        return Ok(None);
    };
    let table = TableId {
        family,
        name: attributes.need_text(1, "table name")?,
    };
    Ok(Some((table, attributes.need_text(2, "name")?)))
}

fn base(chain: Attributes<'_>, hook: Attributes<'_>) -> Result<Base> {
    let mut devices = Vec::from_iter(hook.text(3));
    for (_, member) in hook.nested(4)?.all() {
        let name = String::from_utf8_lossy(member).into_owned();
        devices.push(name.trim_end_matches('\0').to_owned());
    }
    Ok(Base {
        hook: hook.need_u32(1, "hook")?,
        kind: chain.need_text(7, "chain type")?,
        devices,
    })
}

/// Expressions that come alone in one attribute, or several in another.
fn one_or_list(within: Attributes<'_>, one: u16, several: u16) -> Result<Vec<Expression>> {
    match within.get(one) {
        Some(found) => Ok(vec![expression(Attributes::parse(found)?)?]),
        None => list(within.nested(several)?),
    }
}

fn list(members: Attributes<'_>) -> Result<Vec<Expression>> {
    let members = members.all().filter(|(kind, _)| *kind == LIST_ELEM);
    members
        .map(|(_, member)| expression(Attributes::parse(member)?))
        .collect()
}

fn expression(found: Attributes<'_>) -> Result<Expression> {
    let name = found.need_text(1, "expression name")?;
    let it = found.nested(2)?;
    let load = |kind| it.u32(kind).map(|number| Access::Load(Register(number)));
    let register = |kind| it.need_u32(kind, "register").map(Register);
    Ok(match name.as_str() {
        "meta" => Expression::Meta {
            key: it.need_u32(2, "meta key")?,
            access: load(1).unwrap_or(Access::Store),
        },
        "payload" => Expression::Payload {
            base: it.need_u32(2, "payload base")?,
            offset: it.need_u32(3, "payload offset")?,
            len: it.need_u32(4, "payload length")?,
            access: load(1).unwrap_or(Access::Store),
        },
        "ct" => Expression::Conntrack {
            key: it.need_u32(2, "ct key")?,
            access: load(1).unwrap_or(Access::Store),
        },
        "exthdr" => Expression::Option {
            kind: it.u32(6).unwrap_or_default(),
            access: load(1).unwrap_or(Access::Store),
        },
        "bitwise" => {
            let data = |kind| Ok(it.nested(kind)?.get(1).unwrap_or_default().to_vec());
            // Other operations than the first, `NFT_BITWISE_MASK_XOR`, have no masks.
            Expression::Bitwise {
                from: register(1)?,
                to: register(2)?,
                mask: data(4)?,
                xor: data(5)?,
            }
        }
        // To the other byte order.
        "byteorder" => Expression::Bitwise {
            from: register(1)?,
            to: register(2)?,
            mask: Vec::new(),
            xor: Vec::new(),
        },
        "cmp" => Expression::Compare {
            register: register(1)?,
            operator: it.need_u32(2, "operator")?,
            value: it.nested(3)?.get(1).ok_or(Unreadable("value"))?.to_vec(),
        },
        "range" => Expression::Range {
            register: register(1)?,
        },
        "lookup" => Expression::Lookup {
            set: it.need_text(1, "set name")?,
        },
        "dynset" => Expression::Update {
            set: it.need_text(1, "set name")?,
            timeout_ms: it.u64(6).unwrap_or_default(),
            expressions: one_or_list(it, 7, 10)?,
        },
        "immediate" => match register(1)? {
            Register(VERDICT_REGISTER) => Expression::Verdict(verdict(it.nested(2)?.nested(2)?)?),
            to => Expression::Constant { to },
        },
        "log" => Expression::Log {
            group: it
                .get(1)
                .and_then(|group| Some(u16::from_be_bytes(group.try_into().ok()?))),
        },
        "objref" => match it.text(4) {
            Some(set) => Expression::ObjectMap { set },
            None => Expression::Object {
                kind: it.need_u32(1, "object type")?,
            },
        },
        "match" | "target" => {
            let its_name = it.need_text(1, "name of iptables")?;
            let extension = Extension {
                revision: it.u32(2).unwrap_or_default(),
                info: it.get(3).unwrap_or_default().to_vec(),
                name: its_name,
            };
            match name.as_str() {
                "match" => Expression::Match(extension),
                _ => Expression::Target(extension),
            }
        }
        _ => Expression::Other { name },
    })
}

fn verdict(it: Attributes<'_>) -> Result<Verdict> {
    let code = it.need_u32(1, "verdict")?;
    Ok(match it.text(2) {
        Some(chain) => Verdict::Chain(chain),
        // Negative codes are nftables' own: go on, break, return.
        None if code.cast_signed() >= 0 && code & 0xff == QUEUE => Verdict::Queue,
        None => Verdict::Plain,
    })
}

#[cfg(test)]
mod tests;
