//! Matches and targets of iptables, by name: what each depends on. They come from legacy iptables,
//! and from iptables-nft where nftables has nothing of its own for them.
//!
//! Structures are those of `include/uapi/linux/netfilter/xt_*.h`, in the host's byte order.

use super::field::all_tcp_flags;
use super::reason::Why;
use super::tally::{Finding, Tally};
use crate::fast_path::ruleset::Extension;

/// What a match comes to for packets of one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// The same for all of them.
    Constant,
    /// None matches.
    Never,
    /// It may differ.
    Varies(Finding),
}

/// Judges a match. `has_quota` says of an accounting object, if it is known yet.
pub(super) fn test(it: &Extension, mut has_quota: impl FnMut(&str) -> Option<bool>) -> Test {
    let Extension {
        name,
        revision,
        info,
    } = it;
    let revision = *revision;
    let varies = |why| Test::Varies(Finding::new(format!("match {name}"), why));
    match name.as_str() {
        // By addresses, ports, devices, routes, the connection, or time.
        "addrtype" | "cgroup" | "cluster" | "comment" | "connlabel" | "connmark" | "devgroup"
        | "helper" | "iprange" | "ipvs" | "mac" | "mark" | "multiport" | "owner" | "physdev"
        | "pkttype" | "policy" | "realm" | "rpfilter" | "socket" | "state" | "time" | "udp" => {
            Test::Constant
        }
        // It reads SYN packets only.
        "osf" => Test::Constant,
        // Not IPv4.
        "eui64" | "frag" | "hbh" | "dst" | "ipv6header" | "mh" | "rt" | "srh" | "icmp6" => {
            Test::Never
        }
        // Not TCP or UDP.
        "icmp" | "ah" | "esp" | "sctp" | "dccp" | "ipcomp" | "udplite" => Test::Never,
        "tcp" => tcp(info),
        "conntrack" if expires(revision, info) => varies(Why::Field),
        "conntrack" => Test::Constant,
        "set" if counts(revision, info) => varies(Why::Counts),
        "set" => Test::Constant,
        "nfacct" => match has_quota(&text(info.get(..32).unwrap_or(info))) {
            Some(true) => varies(Why::Counts),
            Some(false) | None => Test::Constant,
        },
        "connbytes" | "hashlimit" | "limit" | "quota" | "rateest" | "recent" => varies(Why::Counts),
        // At random, or every n-th.
        "statistic" => varies(Why::Chance),
        "connlimit" => varies(Why::Connections),
        "cpu" | "dscp" | "ecn" | "length" | "tcpmss" | "tos" | "ttl" => varies(Why::Field),
        "bpf" | "l2tp" | "string" | "u32" => varies(Why::Payload),
        _ => varies(Why::Unknown),
    }
}

/// Takes a target in.
pub(super) fn target(it: &Extension, tally: &mut Tally) {
    let Extension { name, info, .. } = it;
    let effect = |tally: &mut Tally, why| {
        tally.effect(Finding::new(format!("target {name}"), why));
    };
    match name.as_str() {
        // The kernel's log: one line a second of an admitted flow.
        "LOG" => {}
        // Done to all packets of a flow alike. `CHECKSUM` fills in what a device would.
        "CHECKSUM" | "CONNMARK" | "CONNSECMARK" | "DNAT" | "HMARK" | "MARK" | "MASQUERADE"
        | "NETMAP" | "NOTRACK" | "REDIRECT" | "REJECT" | "SECMARK" | "SNAT" => {
            tally.decides();
        }
        "CT" if has_helper(info) => {
            tally.effect(Finding::new("target CT with a helper", Why::Payload));
        }
        "CT" => tally.decides(),
        "AUDIT" | "NFLOG" | "ULOG" => tally.copy(format!("target {name}")),
        "NFQUEUE" | "TEE" | "TPROXY" | "TRACE" => effect(tally, Why::EachPacket),
        // `CLASSIFY` sets the priority for queues, which packets that go around do not have;
        // `SYNPROXY` goes on changing sequence and acknowledgement numbers.
        "CLASSIFY" | "DSCP" | "ECN" | "SYNPROXY" | "TCPMSS" | "TCPOPTSTRIP" | "TOS" | "TTL" => {
            effect(tally, Why::Rewrites);
        }
        _ => effect(tally, Why::Unknown),
    }
}

/// `struct xt_tcp`: ports (8 octets), option, mask and comparison of the flags, inversions.
fn tcp(info: &[u8]) -> Test {
    const INVERT_FLAGS: u8 = 4;
    let Some(&[option, mask, flags, inversions]) = info.get(8..12) else {
        return Test::Varies(Finding::new("match tcp", Why::Unknown));
    };
    let matches = |octet: u8| (octet & mask == flags) != (inversions & INVERT_FLAGS != 0);
    let mut all = all_tcp_flags().map(matches);
    let first = all.next().unwrap_or_default();
    let is_constant = all.all(|other| other == first);
    if is_constant && !first {
        Test::Never
    } else if !is_constant {
        Test::Varies(Finding::new("match tcp flags", Why::Field))
    } else if option != 0 {
        Test::Varies(Finding::new("match tcp option", Why::Field))
    } else {
        Test::Constant
    }
}

/// Whether a conntrack match looks at how long the entry still lasts, which counts from the last
/// packet that came by. `struct xt_conntrack_mtinfo1` to `3` are alike up to there.
fn expires(revision: u32, info: &[u8]) -> bool {
    const EXPIRES: u16 = 1 << 7;
    match (revision, info.get(146..148)) {
        (1..=3, Some(&[low, high])) => u16::from_ne_bytes([low, high]) & EXPIRES != 0,
        // None that kernels of this century have.
        _ => true,
    }
}

/// Whether a match of an ipset looks at the counters of the element: `struct xt_set_info_match_v3`
/// and `v4`, in which operator and value of a counter change places.
fn counts(revision: u32, info: &[u8]) -> bool {
    let is_used = |at: usize| info.get(at).is_none_or(|operator| *operator != 0);
    match revision {
        0..=2 => false,
        3 => is_used(8) || is_used(24),
        4 => is_used(16) || is_used(32),
        _ => true,
    }
}

/// `struct xt_ct_target_info` and `_v1`: flags, zone, events, then the helper's name.
fn has_helper(info: &[u8]) -> bool {
    info.get(12).is_none_or(|first| *first != 0)
}

/// Text that a NUL ends.
fn text(octets: &[u8]) -> String {
    let text = octets.split(|octet| *octet == 0).next();
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests;
