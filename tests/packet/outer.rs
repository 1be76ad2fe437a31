//! What can be odd about the outer headers, which both tunnels have in common.

use flannel_tests::frame::{HOP_MAC, Tunnel};

pub(crate) type Edit = fn(&mut Tunnel);

/// What is odd about a packet, and the reason why it is left.
pub(crate) type Odd = (&'static str, Edit, &'static str);

pub(crate) const ODD: [Odd; 7] = [
    (
        "other host",
        |t| t.ethernet_destination = HOP_MAC,
        "ingress other_host",
    ),
    (
        "broadcast",
        |t| t.ethernet_destination = [0xff; 6],
        "ingress other_host",
    ),
    (
        "options",
        |t| t.ip.options = vec![1; 4],
        "ingress ip_options",
    ),
    (
        "first fragment",
        |t| t.ip.fragment = [0x20, 0],
        "ingress fragment",
    ),
    (
        "other address",
        |t| t.ip.destination = [192, 168, 7, 99],
        "ingress other_address",
    ),
    (
        "unknown sender",
        |t| t.ip.source = [192, 168, 7, 99],
        "ingress unknown_sender",
    ),
    (
        "unverified checksum",
        |t| t.udp_checksum = [0x12, 0x34],
        "ingress udp_checksum",
    ),
];

/// What is damaged in a frame, and the reason why it is left.
pub(crate) type Damaged = (&'static str, fn(&mut Vec<u8>), &'static str);

pub(crate) const DAMAGED: [Damaged; 7] = [
    ("IP checksum", |f| f[24] ^= 1, "ingress ip_checksum"),
    (
        "TTL changed on the way",
        |f| f[22] -= 1,
        "ingress ip_checksum",
    ),
    ("UDP length", |f| f[39] += 1, "ingress length"),
    ("UDP length zero", |f| f[38..40].fill(0), "ingress length"),
    ("trailer", |f| f.extend([0; 6]), "ingress length"),
    ("cut by one", |f| f.truncate(f.len() - 1), "ingress length"),
    ("cut after UDP", |f| f.truncate(42), "ingress truncated"),
];
