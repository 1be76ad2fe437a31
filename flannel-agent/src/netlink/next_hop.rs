//! Next-hop objects (Linux 5.3): a next hop with a number, which routes refer to.
//!
//! A peer's object has the number of its gateway, that is of the network address of its subnet:
//! 10.5.34.0 is 0x0a052200. With [`PROTOCOL`], and on-link on the tunnel's device, that makes it
//! ours; others are not touched. The kernel finds a route's next hop by the number of the object,
//! where it searches all next hops of the device for a route that spells its own
//! (`fib_info_hashfn_1` and `fib_find_info` in net/ipv4/fib_semantics.c).
//!
//! The crate for routes does not know these messages. Layout and numbers are those of
//! `include/uapi/linux/nexthop.h`; integers are in host order, addresses in network order.

use std::net::Ipv4Addr;

use rtnetlink::packet_core::{
    DecodeError, NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable, NlasIterator,
};

use super::{Change, Error, Netlink, errno};

/// Who made an object: the number of the routes to direct peers, for the same reason.
pub const PROTOCOL: u8 = super::route::DIRECT_PROTOCOL;

/// Message types (`include/uapi/linux/rtnetlink.h`).
const NEW: u16 = 104;
const DELETE: u16 = 105;
const GET: u16 = 106;

/// Octets of `struct nhmsg`.
const HEADER_LEN: usize = 8;
/// Octets of an attribute of four.
const ATTRIBUTE_LEN: usize = 8;

/// Attributes.
const ID: u16 = 1;
const OIF: u16 = 5;
const GATEWAY: u16 = 6;
/// Flag of a gateway that is taken for a neighbour whatever the routes say (`RTNH_F_ONLINK`).
const ONLINK: u32 = 4;

/// A next-hop object of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// Link that packets leave through.
    pub oif: u32,
    /// Next hop, and by [`number`] the number of the object.
    pub gateway: Ipv4Addr,
}

/// Number of the object of a gateway.
#[must_use]
pub fn number(gateway: Ipv4Addr) -> u32 {
    gateway.into()
}

impl Netlink {
    /// Our objects on a device, by their gateways; none where the kernel has no such objects.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn next_hops(&self, ifindex: u32) -> Result<Vec<Ipv4Addr>, Error> {
        let request = Message {
            kind: GET,
            oif: Some(ifindex),
            ..Message::default()
        };
        let operation = || format!("list next-hop objects of interface {ifindex}");
        let found = self.batch.dump(request, operation, |object: Message| {
            let next_hop = object.next_hop()?;
            (next_hop.oif == ifindex).then_some(next_hop.gateway)
        });
        match found {
            Err(error) if errno(&error).is_some_and(is_unsupported) => Ok(Vec::new()),
            other => other,
        }
    }
}

/// Whether an error number says that the kernel does not know next-hop objects.
#[must_use]
pub fn is_unsupported(errno: i32) -> bool {
    errno == libc::EOPNOTSUPP
}

impl Change {
    /// Adds an object. The kernel refuses with `EEXIST` if there is one with its number.
    #[must_use]
    pub fn add_next_hop(next_hop: NextHop) -> Self {
        let NextHop { oif, gateway } = next_hop;
        Self {
            message: Message::of(next_hop).into(),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            tolerated: &[],
            operation: format!("add the next-hop object of {gateway} on interface {oif}"),
        }
    }

    /// Removes the object of a gateway. Routes through it, if any, go with it, at the cost of a walk
    /// through all tables.
    #[must_use]
    pub fn remove_next_hop(gateway: Ipv4Addr) -> Self {
        let message = Message {
            kind: DELETE,
            id: Some(number(gateway)),
            ..Message::default()
        };
        Self {
            message: message.into(),
            flags: 0,
            // It is not there.
            tolerated: &[libc::ENOENT],
            operation: format!("remove the next-hop object of {gateway}"),
        }
    }
}

/// A message about an object, as far as ours go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    kind: u16,
    family: u8,
    protocol: u8,
    flags: u32,
    id: Option<u32>,
    oif: Option<u32>,
    gateway: Option<Ipv4Addr>,
    /// Whether there is something else: a group, an encapsulation, another family's gateway.
    has_more: bool,
}

impl Message {
    fn of(next_hop: NextHop) -> Self {
        let NextHop { oif, gateway } = next_hop;
        Self {
            kind: NEW,
            family: libc::AF_INET as u8,
            protocol: PROTOCOL,
            flags: ONLINK,
            id: Some(number(gateway)),
            oif: Some(oif),
            gateway: Some(gateway),
            has_more: false,
        }
    }

    /// The object of a peer, if that is what it is.
    pub(super) fn next_hop(&self) -> Option<NextHop> {
        let Self {
            kind: _,
            family: _,
            protocol,
            flags,
            id,
            oif,
            gateway,
            has_more,
        } = *self;
        let gateway = gateway?;
        let is_ours = protocol == PROTOCOL
            && id == Some(number(gateway))
            // Other flags tell of the link's state.
            && flags & ONLINK != 0
            && !has_more;
        let oif = oif?;
        is_ours.then_some(NextHop { oif, gateway })
    }

    /// Whether it tells that the object is gone.
    pub(super) fn is_removal(&self) -> bool {
        self.kind == DELETE
    }

    fn attributes(&self) -> impl Iterator<Item = (u16, [u8; 4])> {
        let id = self.id.map(|id| (ID, id.to_ne_bytes()));
        let oif = self.oif.map(|oif| (OIF, oif.to_ne_bytes()));
        let gateway = self.gateway.map(|it| (GATEWAY, it.octets()));
        [id, oif, gateway].into_iter().flatten()
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER_LEN + ATTRIBUTE_LEN * self.attributes().count()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(HEADER_LEN);
        // The scope and the reserved octet are the kernel's.
        header[..4].copy_from_slice(&[self.family, 0, self.protocol, 0]);
        header[4..].copy_from_slice(&self.flags.to_ne_bytes());
        for (place, (kind, value)) in attributes
            .chunks_exact_mut(ATTRIBUTE_LEN)
            .zip(self.attributes())
        {
            place[..2].copy_from_slice(&(ATTRIBUTE_LEN as u16).to_ne_bytes());
            place[2..4].copy_from_slice(&kind.to_ne_bytes());
            place[4..].copy_from_slice(&value);
        }
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let [family, _, protocol, _, flags @ ..] = payload
            .first_chunk::<HEADER_LEN>()
            .ok_or_else(|| DecodeError::from("next-hop object without header"))?;
        let mut message = Self {
            kind: header.message_type,
            family: *family,
            protocol: *protocol,
            flags: u32::from_ne_bytes(*flags),
            ..Self::default()
        };
        for attribute in NlasIterator::new(&payload[HEADER_LEN..]) {
            let attribute = attribute?;
            let value = <[u8; 4]>::try_from(attribute.value());
            match (attribute.kind(), value) {
                (ID, Ok(octets)) => message.id = Some(u32::from_ne_bytes(octets)),
                (OIF, Ok(octets)) => message.oif = Some(u32::from_ne_bytes(octets)),
                (GATEWAY, Ok(octets)) => message.gateway = Some(octets.into()),
                _ => message.has_more = true,
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT_HOP: NextHop = NextHop {
        oif: 9,
        gateway: Ipv4Addr::new(10, 5, 34, 0),
    };

    fn octets(message: &Message) -> Vec<u8> {
        let mut octets = vec![0xff; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    fn parse(octets: &[u8]) -> Result<Message, DecodeError> {
        let mut header = NetlinkHeader::default();
        header.message_type = NEW;
        Message::deserialize(&header, octets)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_message_has_the_layout_of_the_kernel() {
        assert_eq!(number(NEXT_HOP.gateway), 0x0a05_2200);
        let expected = [
            [2, 0, 70, 0, 4, 0, 0, 0],
            [8, 0, 1, 0, 0, 0x22, 5, 10],
            [8, 0, 5, 0, 9, 0, 0, 0],
            [8, 0, 6, 0, 10, 5, 34, 0],
        ];
        assert_eq!(octets(&Message::of(NEXT_HOP)), expected.concat());
    }

    #[test]
    fn what_is_written_is_read() {
        let message = Message::of(NEXT_HOP);
        let read = parse(&octets(&message)).unwrap();
        assert_eq!(read, message);
        assert_eq!(read.next_hop(), Some(NEXT_HOP));
    }

    #[test]
    fn only_the_exact_shape_is_ours() {
        let foreign: [fn(&mut Message); 6] = [
            |message| message.protocol = 4,
            |message| message.flags = 0,
            |message| message.id = Some(7),
            |message| message.gateway = Some([10, 5, 35, 0].into()),
            |message| message.oif = None,
            |message| message.has_more = true,
        ];
        for change in foreign {
            let mut message = Message::of(NEXT_HOP);
            change(&mut message);
            assert_eq!(message.next_hop(), None, "{message:?}");
        }
        // What the kernel adds: that the link has no carrier (RTNH_F_LINKDOWN).
        let mut message = Message::of(NEXT_HOP);
        message.flags |= 16;
        assert_eq!(message.next_hop(), Some(NEXT_HOP));
    }

    #[test]
    fn a_group_or_another_family_is_more() {
        let group = [&octets(&Message::default())[..], &[4, 0, 2, 0]].concat();
        assert!(parse(&group).unwrap().has_more);
        let mut gateway = octets(&Message::default());
        gateway.extend([20, 0, 6, 0]);
        gateway.extend([0xfe; 16]);
        assert!(parse(&gateway).unwrap().has_more);
    }

    #[test]
    fn damage_is_an_error() {
        let whole = octets(&Message::of(NEXT_HOP));
        assert!(parse(&whole[..7]).is_err());
        assert!(parse(&whole[..whole.len() - 1]).is_err());
    }
}
