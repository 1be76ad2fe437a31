//! Ring "packet": tables of packets run through the programs by BPF_PROG_TEST_RUN, without any
//! interface. Each row says what goes in, the verdict, every byte that comes out, and the one
//! counter that moves.
//!
//! Not reachable this way, since the test run cannot make such packets, and covered in the other
//! rings: VLAN tags beside the packet, flow hashes of sockets, real aggregates, checksums that a
//! device has verified.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod bed;
mod checksum;
mod direct;
mod program;
mod udp_decap;
mod udp_encap;
mod vxlan_decap;
mod vxlan_encap;
