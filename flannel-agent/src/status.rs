//! What a running agent tells about itself: the document behind `flannel-agent status`.
//!
//! The agent answers with it on its control socket; `status` prints it as a table or, with
//! `--json`, as it is. Field names are an interface: add, do not rename.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::backend::udp::counters::Counters as Proxy;

/// The whole document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_secs: u64,
    /// Whether the node is fully working; see `problems`.
    pub ready: bool,
    /// What keeps the node from being ready or whole, a sentence each.
    pub problems: Vec<String>,
    /// What an operator should know although nothing is wrong, a sentence each: a network config
    /// that waits for a restart.
    #[serde(default)]
    pub notices: Vec<String>,
    /// Backend name, for example `vxlan`.
    pub backend: String,
    /// The external interface.
    pub interface: Interface,
    /// The own lease.
    pub lease: OwnLease,
    /// The tunnel device; absent for backends without one.
    pub device: Option<Device>,
    /// Which data path is in use, and why.
    pub datapath: Datapath,
    /// What the udp backend's proxy has carried and refused since it started; absent for
    /// other backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// The fast path; absent while the agent has not come so far.
    #[serde(default)]
    pub fast_path: FastPath,
    /// Peers by how they are reached.
    pub peers: PeerCounts,
    /// The lease store.
    pub store: Store,
}

/// The interface that carries the underlay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Interface {
    /// Name, for example `eth0`.
    pub name: String,
    /// Kernel index.
    pub index: u32,
    /// Largest packet it carries, bytes.
    pub mtu: u32,
    /// Source address of the tunnel.
    pub address: Ipv4Addr,
}

/// The lease that this node holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnLease {
    /// Leased subnet, for example `10.5.34.0/24`.
    pub subnet: String,
    /// The network that it is part of.
    pub network: String,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
    /// Seconds until it runs out; absent for a reservation, which does not.
    pub expires_in_secs: Option<u64>,
}

/// The tunnel device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Device {
    /// Name, for example `flannel.1`.
    pub name: String,
    /// Kernel index.
    pub index: u32,
    /// Link-layer address in colon notation: the VTEP MAC. A device without link layer has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest inner packet, bytes.
    pub mtu: u32,
    /// VXLAN network identifier, of a vxlan device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// UDP port.
    pub port: u16,
}

/// The data path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Datapath {
    /// What was asked for: `auto`, `ebpf` or `kernel`.
    pub requested: String,
    /// What is in use: `ebpf` or `kernel`.
    pub active: String,
    /// Why, in one line.
    pub reason: String,
    /// Attached programs; empty on the kernel path.
    pub programs: Vec<Program>,
    /// Packets by outcome; empty on the kernel path.
    pub counters: Vec<Counter>,
    /// What XDP does on the external interface; absent on the kernel path.
    pub xdp: Option<Xdp>,
}

/// Taking tunnel headers off in the driver of the external interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// What was asked for: `auto`, `native` or `off`.
    pub requested: String,
    /// Whether it is in use.
    pub active: bool,
    /// Why, in one line.
    pub reason: String,
}

/// The fast path: flows that go around routing and netfilter for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPath {
    /// What was asked for: `auto` or `off`.
    pub requested: String,
    /// Whether it is in use.
    pub active: bool,
    /// Why not, if not.
    pub reasons: Vec<String>,
    /// How long a flow goes around the rules before they are asked again, milliseconds.
    pub bound_ms: u64,
    /// Pods whose packets may take it.
    pub pods: usize,
    /// Flows that take it, about: those that were admitted within the last bound.
    pub flows: usize,
    /// Interfaces of pods that it leaves alone, with the reason.
    pub skipped: Vec<String>,
}

/// One attached program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Name of the program, for example `vxlan_encap`.
    pub name: String,
    /// Kernel id, as bpftool takes it.
    pub id: u32,
    /// Interface that it is attached to.
    pub interface: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `tcx` or `clsact`.
    pub attach: String,
}

/// Packets of one outcome, summed over CPUs since the maps were created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Counter {
    /// `egress` (towards peers), `ingress` (from peers), or `fast`: both, as the fast path sees them.
    pub direction: String,
    /// `encapsulated`, `decapsulated`, or the reason why a packet was left to the kernel path, or, for
    /// `fast`, to the standard path.
    pub outcome: String,
    /// Whether eBPF carried these packets, or the fast path did (otherwise the path that the reason
    /// left them to).
    pub handled: bool,
    /// Packets on the wire: an aggregate counts as its segments.
    pub packets: u64,
    /// Bytes, link-layer header included.
    pub bytes: u64,
}

/// Number of peers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PeerCounts {
    /// All peers that this backend can reach.
    pub total: usize,
    /// Of these, reached through the tunnel and carried by eBPF.
    pub ebpf: usize,
    /// Of these, reached by a plain route, which the kernel follows: with host-gw all, with vxlan
    /// and `DirectRouting` those on the own link.
    #[serde(default)]
    pub direct: Vec<DirectPeer>,
    /// Of these, reached through the tunnel and left to the kernel path, with the reason.
    pub kernel: Vec<KernelPeer>,
    /// Leases that are not used, with the reason (other backend, unusable data).
    pub ignored: Vec<KernelPeer>,
}

/// A peer that is reached by a plain route.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DirectPeer {
    /// Subnet of the peer.
    pub subnet: String,
    /// Address of the peer, the route's next hop.
    pub public_ip: Ipv4Addr,
    /// What went there and came from there, counted by eBPF; absent on the kernel path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// Traffic with one peer, summed over CPUs since it became a direct one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets sent, as the wire sees them.
    pub sent_packets: u64,
    /// Bytes sent, link-layer header included.
    pub sent_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// A peer that eBPF does not carry, or that is not used at all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KernelPeer {
    /// Subnet of the peer.
    pub subnet: String,
    /// Why, in a few words.
    pub reason: String,
}

/// The connection to the lease store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Store {
    /// Endpoints as configured, without credentials.
    pub endpoints: Vec<String>,
    /// Whether the watch of all leases is alive.
    pub connected: bool,
    /// Store revision up to which leases are known.
    pub revision: i64,
    /// The last error, while not connected.
    pub error: Option<String>,
    /// Keys among the leases that are skipped.
    #[serde(default)]
    pub unreadable: Vec<UnreadableKey>,
}

/// A key among the leases that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableKey {
    /// The key, without the prefix of all leases.
    pub key: String,
    /// Why.
    pub reason: String,
}
