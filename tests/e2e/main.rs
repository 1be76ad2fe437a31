//! End to end: real etcd, an agent per host, pods that talk.
//!
//! Needs root and a built agent (`FLANNEL_AGENT`, or the one beside this program). Every test has
//! a bed of its own, so tests run beside each other and in any order; each prints what it saw
//! (`--nocapture`).

mod beds;
mod bench;
mod change;
mod cleanup;
mod extension;
mod fast_path;
mod flows;
mod host_gw;
mod interface;
mod lease_loss;
mod leases;
mod look;
mod nic;
mod pairings;
mod path_mtu;
mod peers;
mod quiet;
mod refusals;
mod restart;
mod routed;
mod store;
mod trouble;
mod underlay;
mod xdp;
