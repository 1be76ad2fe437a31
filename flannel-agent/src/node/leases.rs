//! What the node makes of a change of the leases at once, before a pass.

use flannel_ebpf::abi::Encap;
use tracing::warn;

use super::Node;
use crate::error::chain;
use crate::lease::LeaseChange;

impl Node {
    /// Takes a change; says whether a pass is due.
    ///
    /// Whoever starts on a node writes its lease before it sends a packet: the same lease again, if
    /// it can. So each writing may tell of another program at the other end, which has to show anew
    /// that it is kin.
    pub fn apply(&mut self, change: LeaseChange) -> bool {
        if self.backend.encap() == Encap::Udp
            && let Some(dataplane) = self.datapath.dataplane()
        {
            let maps = dataplane.maps();
            let forgotten = match &change {
                LeaseChange::Snapshot(_) => maps.forget_all_kin(),
                LeaseChange::Put(lease) => maps.forget_kin(lease.attrs.public_ip.octets()),
                LeaseChange::Removed(_) => Ok(()),
            };
            if let Err(error) = forgotten {
                warn!(error = chain(&error), "a peer is taken for what it was");
            }
        }
        self.leases.apply(change)
    }
}
