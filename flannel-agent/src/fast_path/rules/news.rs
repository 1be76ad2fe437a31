//! What nftables says that has changed.
//!
//! A message has the whole rule or element. So a host that adds some all day costs no reading; what
//! is read and told twice is the same in the end, since the last message about a rule counts.
//! Elements that packets add (`dynset`) are no news: the kernel does not tell.

use std::collections::{BTreeMap, BTreeSet};

use super::netlink::messages;
use crate::fast_path::ruleset::{
    Elements, MemberId, Rule, Unreadable, parse_elements, parse_handle, parse_member, parse_rule,
};
use crate::netlink::nftables::Heard;

/// `NFNL_SUBSYS_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
const NFTABLES: u16 = 10;
/// Messages of nftables (`NFT_MSG_*`); the last one is the number of the generation.
const DELTABLE: u16 = 2;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const NEWGEN: u16 = 15;

/// What has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Which tables, chains, sets and objects there are, and how they are.
    pub(super) structure: bool,
    /// Rules that have come, or gone, in that order: chain, handle, and what they are.
    pub(super) rules: Vec<(MemberId, u64, Option<Rule>)>,
    /// Sets that are no more, or are others under the old name.
    pub(super) sets: BTreeSet<MemberId>,
    /// Elements that sets have got.
    pub(super) elements: BTreeMap<MemberId, Elements>,
    /// Sets that have lost elements.
    pub(super) shrunk: BTreeSet<MemberId>,
    /// More than was told.
    pub(super) everything: bool,
}

impl News {
    /// Takes in what was heard.
    pub(super) fn add(&mut self, heard: Heard<'_>) {
        let Heard::Messages(datagram) = heard else {
            self.everything = true;
            return;
        };
        for message in messages(datagram) {
            if message.kind >> 8 == NFTABLES
                && self.add_message(message.kind & 0xff, message.body).is_err()
            {
                self.everything = true;
            }
        }
    }

    fn add_message(&mut self, kind: u16, body: &[u8]) -> Result<(), Unreadable> {
        match kind {
            NEWGEN => {}
            NEWRULE | DELRULE => {
                if let Some(chain) = parse_member(body)? {
                    let rule = match kind {
                        NEWRULE => parse_rule(body)?,
                        _ => None,
                    };
                    self.rules.push((chain, parse_handle(body)?, rule));
                }
            }
            NEWSETELEM => {
                if let Some((set, added)) = parse_elements(body)? {
                    self.elements.entry(set).or_default().extend(added);
                }
            }
            DELSETELEM => self.shrunk.extend(parse_member(body)?),
            DELSET => {
                self.structure = true;
                self.sets.extend(parse_member(body)?);
            }
            // With all that is in it. Of a chain the rules have to go first, and are told of.
            DELTABLE => self.everything = true,
            _ => self.structure = true,
        }
        Ok(())
    }
}
