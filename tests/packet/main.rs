//! Ring "packet": tables of packets run through the programs, most by BPF_PROG_TEST_RUN, without any
//! interface. Each row says what goes in, the verdict, every byte that comes out, and the one
//! counter that moves.
//!
//! What a test run cannot make of a packet comes over real devices here: `bed` for a device without
//! link-layer header and for aggregates, `devices` for VLAN tags beside the packet and headers
//! outside of the linear part, `pod_devices` for the way into a pod and behind XDP. In the other
//! rings: flow hashes of sockets, and checksums that a device has verified. [`reasons`] holds that
//! every reason of every program has its row.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod admission;
mod bed;
mod checksum;
mod devices;
mod direct;
mod flows;
mod from_pod;
mod outer;
mod pod_devices;
mod probe;
mod program;
mod queue;
mod reasons;
mod to_us;
mod udp_decap;
mod udp_encap;
mod vxlan_decap;
mod vxlan_encap;
mod xdp;
