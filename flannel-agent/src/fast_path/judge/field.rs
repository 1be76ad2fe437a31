//! Fields of packets and of what the kernel knows beside them: the same in all packets of a flow,
//! or not. Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`.

use flannel_ebpf::fast::{TCP_CLEAR, TCP_SET};

use super::reason::Why;
use super::registers::Content;
use super::tally::Finding;

/// Transport protocols on the fast path: their numbers.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// What a load puts into a register: nothing to know, or all possible values.
type Loaded = Result<Option<Content>, Finding>;

/// Reading `meta`.
pub(super) fn meta(key: u32, protocols: &[u8]) -> Loaded {
    Ok(match key {
        // protocol: the Ethernet type.
        1 => Some(constant("meta protocol", &[&[0x08, 0x00]])),
        // nfproto: `NFPROTO_IPV4`.
        15 => Some(constant("meta nfproto", &[&[2]])),
        16 => Some(protocol(protocols)),
        // mark, interfaces by index, name, type, group and kind, and those of a bridge port; owner
        // of a local socket; class of the route; labels; kind of link-layer address; secpath; time.
        3..=14 | 17..=19 | 21..=23 | 25..=36 => None,
        0 => return Err(Finding::new("meta length", Why::Field)),
        // Forwarding sets it from the TOS field (`ip_forward`).
        2 => return Err(Finding::new("meta priority", Why::Field)),
        20 => return Err(Finding::new("meta cpu", Why::Field)),
        24 => return Err(Finding::new("meta random", Why::Chance)),
        _ => return Err(Finding::new(format!("meta key {key}"), Why::Unknown)),
    })
}

/// Writing `meta`.
pub(super) fn set_meta(key: u32) -> Result<(), Finding> {
    match key {
        // mark, secmark, pkttype, broute: the same for all packets if the value is.
        3 | 14 | 19 | 35 => Ok(()),
        // Packets that go around the rules have no priority for the queues.
        2 => Err(Finding::new("meta priority set", Why::Rewrites)),
        12 => Err(Finding::new("meta nftrace set", Why::EachPacket)),
        _ => Err(Finding::new(format!("meta key {key} set"), Why::Unknown)),
    }
}

/// Reading `ct`.
pub(super) fn conntrack(key: u32) -> Result<(), Finding> {
    match key {
        // state, direction, status, mark, secmark; helper, addresses, ports, labels; zone, events,
        // addresses by family, id.
        0..=4 | 6..=13 | 17..=23 => Ok(()),
        // It counts from the last packet that came by.
        5 => Err(Finding::new("ct expiration", Why::Field)),
        14 => Err(Finding::new("ct packets", Why::Counts)),
        15 => Err(Finding::new("ct bytes", Why::Counts)),
        16 => Err(Finding::new("ct avgpkt", Why::Counts)),
        _ => Err(Finding::new(format!("ct key {key}"), Why::Unknown)),
    }
}

/// Reading octets of the packet.
pub(super) fn payload(base: u32, offset: u32, len: u32, protocols: &[u8]) -> Loaded {
    let end = offset.saturating_add(len);
    let bad = |what: &str, why| Err(Finding::new(what, why));
    match (base, offset, end) {
        // Ethernet: addresses, which the flow has with it, and the type.
        (0, 12, 14) => Ok(Some(constant("ether type", &[&[0x08, 0x00]]))),
        (0, _, 0..=14) => Ok(None),
        (0, ..) => bad("VLAN tag", Why::Field),
        // IPv4: version and header length; fragment bits; protocol; addresses.
        (1, 0, 1) => Ok(Some(constant("ip version", &[&[0x45]]))),
        (1, 6, 8) => Ok(Some(fragment())),
        (1, 9, 10) => Ok(Some(protocol(protocols))),
        (1, 12.., 0..=20) => Ok(None),
        (1, 1, 2) => bad("ip dscp", Why::Field),
        (1, 2, 4) => bad("ip length", Why::Field),
        (1, 4, 6) => bad("ip id", Why::Field),
        (1, 8, 9) => bad("ip ttl", Why::Field),
        (1, 10, 12) => bad("ip checksum", Why::Field),
        (1, ..) => bad(&format!("@nh,{},{}", offset * 8, len * 8), Why::Field),
        // TCP and UDP: the ports.
        (2, _, 0..=4) => Ok(None),
        (2, 13, 14) if protocols == [TCP] => Ok(Some(tcp_flags())),
        (2, ..) => bad(&format!("@th,{},{}", offset * 8, len * 8), Why::Field),
        _ => bad("inner headers", Why::Payload),
    }
}

/// Whether octets that are written are such that the packet is another flow's afterwards.
pub(super) fn is_flow_identity(base: u32, offset: u32, len: u32) -> bool {
    let end = offset.saturating_add(len);
    matches!(
        (base, offset, end),
        (0, _, 0..=12) | (1, 12.., 0..=20) | (2, _, 0..=4)
    )
}

/// An option or extension header, read.
pub(super) fn option(kind: u32) -> Result<(), Finding> {
    match kind {
        // IPv6: not in these packets. IPv4 options, of which they have none.
        0 | 2 => Ok(()),
        1 => Err(Finding::new("tcp option", Why::Field)),
        // SCTP, DCCP: neither is on the fast path.
        3 | 4 => Ok(()),
        _ => Err(Finding::new(format!("exthdr {kind}"), Why::Unknown)),
    }
}

fn constant(name: &'static str, values: &[&[u8]]) -> Content {
    Content {
        name,
        values: values.iter().map(|value| value.to_vec()).collect(),
        varies: false,
        is_protocol: false,
    }
}

fn protocol(protocols: &[u8]) -> Content {
    Content {
        name: "protocol",
        values: protocols.iter().map(|number| vec![*number]).collect(),
        varies: false,
        is_protocol: true,
    }
}

/// No fragment is on the fast path; "don't fragment" and the reserved bit may differ.
fn fragment() -> Content {
    Content {
        name: "ip frag-off",
        values: [0x00, 0x40, 0x80, 0xc0].map(|high| vec![high, 0]).into(),
        varies: true,
        is_protocol: false,
    }
}

fn tcp_flags() -> Content {
    Content {
        name: "tcp flags",
        values: all_tcp_flags().map(|flags| vec![flags]).collect(),
        varies: true,
        is_protocol: false,
    }
}

/// Every octet of flags that a packet on the fast path can have.
pub(super) fn all_tcp_flags() -> impl Iterator<Item = u8> {
    (0..=u8::MAX).filter(|flags| flags & (TCP_CLEAR | TCP_SET) == TCP_SET)
}
