//! What the BPF programs and user space agree on, and the packet code that needs no kernel.
//!
//! ```text
//! abi    maps and counters: the contract between programs, agent and tests
//! wire   headers as they are on the wire, and the Internet checksum
//! ecn    congestion marks across the tunnel (RFC 6040)
//! flow   which packets belong together: the outer source port
//! encap  complete the outer header of one packet from its peer's template
//! ttl    hops that the dataplane counts in place of a proxy
//! fast   which packets may go around routing and netfilter, and on what proof
//! decap  decide whether a received packet is ours to take, and what its inner header becomes
//! ```
//!
//! Everything here is `no_std`, has no `unsafe` beyond `Pod`, and is tested on the host. The BPF
//! object (`src/main.rs` and `src/programs`) adds only packet access, map lookups and helper calls.

#![no_std]
#![deny(unsafe_code)]

pub mod abi;
pub mod decap;
pub mod ecn;
pub mod encap;
pub mod fast;
pub mod flow;
pub mod ttl;
pub mod wire;
