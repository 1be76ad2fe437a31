//! What the node says of itself.

use std::collections::BTreeMap;

use flannel_ebpf::abi;
use tracing::{info, warn};

use super::Node;
use crate::backend::peer::{Ignored, IgnoredReason, Peer};
use crate::backend::udp::counters::Counters as Proxy;
use crate::dataplane::maps::Key;
use crate::status::{Datapath, Device, DirectPeer, Interface, KernelPeer, PeerCounts, Traffic};

/// The node's part of the status document.
#[derive(Debug, Clone)]
pub struct Report {
    /// External interface.
    pub interface: Interface,
    /// Name of the backend.
    pub backend: String,
    /// Tunnel device, for backends with one.
    pub device: Option<Device>,
    /// Peers.
    pub peers: PeerCounts,
    /// Attached programs and counters, as far as there is a dataplane.
    pub datapath: Datapath,
    /// What the backend's proxy has carried, for backends with one.
    pub proxy: Option<Proxy>,
    /// What an operator should know although nothing is wrong.
    pub notices: Vec<String>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

impl Node {
    /// The node as it is.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut problems: Vec<String> = self.error.iter().cloned().collect();
        if let Some((count, reason)) = &self.failed {
            problems.push(format!(
                "{count} kernel entries of peers could not be made, the first: {reason}"
            ));
        }
        let (datapath, problem) = self.datapath.status();
        problems.extend(problem);
        let traffic = self.datapath.traffic().unwrap_or_else(|error| {
            problems.push(crate::error::chain(&error));
            BTreeMap::new()
        });
        let direct: Vec<_> = self
            .peers
            .iter()
            .filter(|peer| peer.direct.is_some())
            .map(|peer| direct_peer(peer, &traffic))
            .collect();
        let kernel: Vec<_> = self
            .kernel
            .iter()
            .map(|(subnet, reason)| KernelPeer {
                subnet: subnet.to_string(),
                reason: reason.to_string(),
            })
            .collect();
        problems.extend(self.backend.problems());
        let total = self.peers.len();
        let ebpf = if self.has_dataplane() {
            // A pass that failed may know of fewer peers than the one before left to the kernel.
            total.saturating_sub(direct.len() + kernel.len())
        } else {
            0
        };
        let ignored = self
            .ignored
            .iter()
            .map(|Ignored { subnet, reason }| KernelPeer {
                subnet: subnet.to_string(),
                reason: reason.to_string(),
            });
        Report {
            interface: Interface {
                name: self.spec.external.clone(),
                index: self.local.ifindex,
                mtu: self.local.mtu,
                address: self.local.address,
            },
            backend: self.backend.name().to_owned(),
            device: self.device.as_ref().map(|device| Device {
                name: device.name.clone(),
                index: device.index,
                mac: device.mac.map(|mac| mac.to_string()),
                mtu: device.mtu,
                vni: device.vni,
                port: device.port,
            }),
            peers: PeerCounts {
                total,
                ebpf,
                direct,
                kernel,
                ignored: ignored.collect(),
            },
            datapath,
            proxy: self.backend.proxy(),
            notices: self.notices(),
            problems,
        }
    }
}

impl Node {
    fn notices(&self) -> Vec<String> {
        let is_told = self.has_dataplane() && !self.others.is_empty();
        is_told
            .then(|| self.others.to_string())
            .into_iter()
            .collect()
    }
}

fn direct_peer(peer: &Peer, traffic: &BTreeMap<Key, abi::Traffic>) -> DirectPeer {
    let traffic = traffic.get(&peer.subnet.network().octets());
    DirectPeer {
        subnet: peer.subnet.to_string(),
        public_ip: peer.public_ip,
        traffic: traffic.map(|abi::Traffic { sent, received }| Traffic {
            sent_packets: sent.packets,
            sent_bytes: sent.bytes,
            received_packets: received.packets,
            received_bytes: received.bytes,
        }),
    }
}

/// Says which leases have become unusable: a peer of another backend is a setup that an operator
/// may want, unusable data is not.
pub(super) fn log_ignored(before: &[Ignored], now: &[Ignored]) {
    for ignored in now.iter().filter(|ignored| !before.contains(ignored)) {
        let Ignored { subnet, reason } = ignored;
        match reason {
            IgnoredReason::OtherBackend { .. } => info!(%subnet, %reason, "peer is not used"),
            _ => warn!(%subnet, %reason, "peer is not used"),
        }
    }
}
