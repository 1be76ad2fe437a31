//! Dumps of nftables over netlink.
//!
//! The socket waits, since the kernel answers dumps within the call itself; whoever calls this is
//! on a thread that may.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator,
};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::fast_path::ruleset::{
    Elements, Family, MemberId, Rule, Ruleset, TableId, Unreadable, parse_elements, parse_handle,
    parse_rule,
};

/// `NFNL_SUBSYS_NFTABLES` and `NFNL_SUBSYS_ACCT` (`include/uapi/linux/netfilter/nfnetlink.h`).
const NFTABLES: u16 = 10;
const ACCT: u16 = 7;
/// Messages of nftables (`NFT_MSG_*`) that are sent, and the answer to `GETGEN`.
const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const GETGEN: u16 = 16;
/// `NFNL_MSG_ACCT_GET`.
const ACCT_GET: u16 = 1;
/// Flags of an accounting object that has a quota (`NFACCT_F_QUOTA_PKTS`, `..._BYTES`).
const QUOTA: u32 = 3;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER_LEN: usize = 16;
/// Octets that one call receives; the kernel fills 32 KiB at most.
const BUFFER_LEN: usize = 1 << 16;
/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Attempts at a listing that changes while it is taken.
const ATTEMPTS: usize = 10;

/// Why nftables could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a netlink socket for nftables")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("list {0} of nftables")]
    Refused(&'static str, #[source] io::Error),
    /// The kernel's answer cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Every attempt was overtaken by a change.
    #[error("nftables changes faster than it can be read")]
    Restless,
}

impl Error {
    /// Whether the kernel says that the object, or the subsystem, is not there.
    fn is(&self, number: i32) -> bool {
        matches!(self, Self::Refused(_, source) if source.raw_os_error() == Some(number))
    }
}

/// A socket for dumps.
pub(super) struct Nftables {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Nftables {
    pub(super) fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        let socket_address = SocketAddr::new(0, 0);
        socket.connect(&socket_address).map_err(Error::Open)?;
        let wait = TimeVal::milliseconds(DEADLINE.as_millis() as i64);
        setsockopt(&socket, ReceiveTimeout, &wait).map_err(|errno| Error::Open(errno.into()))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER_LEN),
            sequence: 0,
        })
    }

    /// Tables, chains without rules, and sets without elements, of one generation.
    pub(super) fn ruleset(&mut self) -> Result<Ruleset, Error> {
        for _ in 0..ATTEMPTS {
            let mut ruleset = Ruleset::default();
            let Some(before) = self.generation()? else {
                return Ok(ruleset);
            };
            let is_whole = self.list("tables", GETTABLE, |it| ruleset.add_table(it))?
                & self.list("chains", GETCHAIN, |it| ruleset.add_chain(it))?
                & self.list("sets", GETSET, |it| ruleset.add_set(it))?;
            if is_whole && self.generation()? == Some(before) {
                return Ok(ruleset);
            }
        }
        Err(Error::Restless)
    }

    /// Rules of a chain; none if it is gone.
    pub(super) fn rules(&mut self, chain: &MemberId) -> Result<BTreeMap<u64, Rule>, Error> {
        self.of_member(
            "rules of a chain",
            GETRULE,
            chain,
            |rules: &mut BTreeMap<_, _>, message| {
                if let Some(rule) = parse_rule(message)? {
                    rules.insert(parse_handle(message)?, rule);
                }
                Ok(())
            },
        )
    }

    /// What the elements of a set have; nothing if it is gone.
    pub(super) fn elements(&mut self, set: &MemberId) -> Result<Elements, Error> {
        let what = "elements of a set";
        self.of_member(what, GETSETELEM, set, |elements: &mut Elements, message| {
            if let Some((_, found)) = parse_elements(message)? {
                elements.extend(found);
            }
            Ok(())
        })
    }

    /// What a chain or set has.
    fn of_member<T: Default>(
        &mut self,
        what: &'static str,
        kind: u16,
        (TableId { family, name }, member): &MemberId,
        take: impl Fn(&mut T, &[u8]) -> Result<(), Unreadable>,
    ) -> Result<T, Error> {
        let request = [text_attribute(1, name), text_attribute(2, member)].concat();
        for _ in 0..ATTEMPTS {
            let mut found = T::default();
            let kind = NFTABLES << 8 | kind;
            let add = |message: &[u8]| take(&mut found, message);
            match self.dump(what, kind, *family, &request, add) {
                Ok(true) => return Ok(found),
                Ok(false) => {}
                Err(error) if error.is(libc::ENOENT) => return Ok(T::default()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Restless)
    }

    /// Names of accounting objects that have a quota.
    pub(super) fn quotas(&mut self) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        let kind = ACCT << 8 | ACCT_GET;
        self.dump("accounting objects", kind, Family(0), &[], |message| {
            let mut name = String::new();
            let mut flags = 0;
            for found in NlasIterator::new(message.get(4..).unwrap_or_default()).flatten() {
                match (found.kind(), found.value()) {
                    (1, text) => {
                        let text = String::from_utf8_lossy(text);
                        name = text.trim_end_matches('\0').to_owned();
                    }
                    (5, [a, b, c, d]) => flags = u32::from_be_bytes([*a, *b, *c, *d]),
                    _ => {}
                }
            }
            if flags & QUOTA != 0 {
                names.insert(name);
            }
            Ok(())
        })?;
        Ok(names)
    }

    /// Number of the ruleset's generation; none in a kernel without nftables.
    fn generation(&mut self) -> Result<Option<u32>, Error> {
        let mut generation = 0;
        let request = self.message(NFTABLES << 8 | GETGEN, NLM_F_REQUEST, Family(0), &[]);
        let take = |message: &[u8]| {
            let attributes = message.get(4..).unwrap_or_default();
            for found in NlasIterator::new(attributes).flatten() {
                if let (1, Some(number)) = (found.kind(), found.value().first_chunk()) {
                    generation = u32::from_be_bytes(*number);
                }
            }
            Ok(())
        };
        match self.exchange("the generation", &request, take) {
            // No such subsystem (`nfnetlink_rcv_msg`).
            Err(error) if error.is(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(Some(generation)),
        }
    }

    /// All objects of a kind; whether none changed meanwhile.
    fn list(
        &mut self,
        what: &'static str,
        kind: u16,
        take: impl FnMut(&[u8]) -> Result<(), Unreadable>,
    ) -> Result<bool, Error> {
        self.dump(what, NFTABLES << 8 | kind, Family(0), &[], take)
    }

    fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        family: Family,
        attributes: &[u8],
        take: impl FnMut(&[u8]) -> Result<(), Unreadable>,
    ) -> Result<bool, Error> {
        let request = self.message(kind, NLM_F_REQUEST | NLM_F_DUMP, family, attributes);
        self.exchange(what, &request, take)
    }

    /// A request: `struct nlmsghdr`, `struct nfgenmsg`, attributes.
    fn message(&mut self, kind: u16, flags: u16, family: Family, attributes: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let len = HEADER_LEN + 4 + attributes.len();
        [
            &(len as u32).to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &self.sequence.to_ne_bytes(),
            &[0; 4],
            &[family.0, 0, 0, 0],
            attributes,
        ]
        .concat()
    }

    /// Sends a request and takes the answers; whether nothing changed while they were put together.
    fn exchange(
        &mut self,
        what: &'static str,
        request: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Unreadable>,
    ) -> Result<bool, Error> {
        let refused = |source| Error::Refused(what, source);
        self.socket.send(request, 0).map_err(refused)?;
        let is_dump = header_half(request, 6) & NLM_F_DUMP == NLM_F_DUMP;
        let mut is_whole = true;
        // An answer that cannot be read is an error once all of them have been fetched.
        let mut outcome = Ok(());
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0).map_err(refused)?;
            for message in messages(&self.buffer) {
                // Left from a request that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                is_whole &= message.flags & NLM_F_DUMP_INTR == 0;
                if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    let code = message.body.first_chunk().copied();
                    let code = code.map_or(0, i32::from_ne_bytes);
                    if code != 0 {
                        return Err(refused(io::Error::from_raw_os_error(-code)));
                    }
                    return Ok(outcome.map(|()| is_whole)?);
                }
                outcome = outcome.and_then(|()| take(message.body));
                if !is_dump {
                    return Ok(outcome.map(|()| is_whole)?);
                }
            }
        }
    }
}

/// A netlink message.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages in a datagram.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let message = datagram.get(..len)?;
        let body = message.get(HEADER_LEN..)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: header_half(message, 4),
            flags: header_half(message, 6),
            sequence: u32::from_ne_bytes(*message.get(8..)?.first_chunk()?),
            body,
        })
    })
}

fn header_half(message: &[u8], at: usize) -> u16 {
    let found = message.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().map_or(0, u16::from_ne_bytes)
}

fn text_attribute(kind: u16, text: &str) -> Vec<u8> {
    let len = 4 + text.len() + 1;
    let mut octets = [&(len as u16).to_ne_bytes()[..], &kind.to_ne_bytes()].concat();
    octets.extend(text.bytes());
    octets.resize(len.next_multiple_of(4), 0);
    octets
}
