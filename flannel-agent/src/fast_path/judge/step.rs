//! Expressions of nftables that go by their name, and objects: what each depends on.

use super::reason::Why;
use super::tally::{Finding, Tally};

/// Takes an expression in by its name (`struct nft_expr_type`).
pub(super) fn other(name: &str, tally: &mut Tally) {
    match name {
        // They look, and nothing more.
        "counter" | "last" => {}
        // Routes, local sockets, IPsec and tunnels: by the flow. `hash` is of registers, or the
        // kernel's of the flow. `osf` reads SYN packets only.
        "fib" | "rt" | "socket" | "xfrm" | "tunnel" | "hash" | "osf" => {}
        // Done to every packet alike. `fwd` sends to a device, so that nothing is admitted; a flow
        // in a flow table goes around the rules in the kernel's own way.
        "reject" | "nat" | "masq" | "redir" | "notrack" | "fwd" | "flow_offload" => tally.decides(),
        "limit" | "quota" => tally.test(Finding::new(name, Why::Counts)),
        "numgen" => tally.test(Finding::new(name, Why::Chance)),
        "connlimit" => tally.test(Finding::new("ct count", Why::Connections)),
        "inner" => tally.test(Finding::new(name, Why::Payload)),
        "queue" | "dup" | "tproxy" => tally.effect(Finding::new(name, Why::EachPacket)),
        // It goes on changing sequence and acknowledgement numbers after the handshake.
        "synproxy" => tally.effect(Finding::new(name, Why::Rewrites)),
        _ => {
            tally.decides();
            tally.test(Finding::new(name, Why::Unknown));
        }
    }
}

/// Takes a named object in by its kind (`NFT_OBJECT_*`).
pub(super) fn object(kind: u32, tally: &mut Tally) {
    match kind {
        // Counter.
        1 => {}
        // Tunnel key, conntrack timeout, secmark, expectation.
        6..=9 => tally.decides(),
        2 => tally.test(Finding::new("quota object", Why::Counts)),
        // It reads the packets of its connection for as long as that lasts.
        3 => tally.effect(Finding::new("ct helper", Why::Payload)),
        4 => tally.test(Finding::new("limit object", Why::Counts)),
        5 => tally.test(Finding::new("ct count object", Why::Connections)),
        10 => tally.effect(Finding::new("synproxy object", Why::Rewrites)),
        _ => tally.effect(Finding::new(format!("object type {kind}"), Why::Unknown)),
    }
}
