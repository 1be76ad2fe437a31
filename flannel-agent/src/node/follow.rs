//! Following single leases: the steps of a full pass, for the peers of changed leases alone.
//!
//! A node with ten thousand peers is told of a lease now and then, and of a thousand a second when
//! a cluster starts. Deriving everything from all leases each time is right, and costs the more the
//! more there are; what one lease changes is the same whatever the others are, unless it shares
//! something with one of them, and then [`changed_peers`] leaves it to the full pass.

use std::collections::BTreeSet;

use super::maps::probe;
use super::{Error, Node, Scope, report};
use crate::backend::peer::{PeerChange, changed_peers};
use crate::dataplane::maps::Part;
use crate::lease::Changed;
use crate::plan::plan;

/// Changed leases that are followed one by one; of more, a full pass makes less work.
const MANY: usize = 256;

impl Node {
    /// What these leases change, if that is all that there is to do.
    pub(super) fn peer_change(&self, scope: Scope, changed: &Changed) -> Option<PeerChange> {
        let Changed::Some(subnets) = changed else {
            return None;
        };
        // After a failure nothing is taken for granted; and a retry is for entries of any peer.
        let is_settled = self.error.is_none() && self.failed.is_none();
        if scope != Scope::LEASES || subnets.is_empty() || subnets.len() > MANY || !is_settled {
            return None;
        }
        let is_peers = |subnet| subnet != self.spec.subnet;
        let leases = subnets.iter().map(|subnet| {
            let lease = self.leases.get(*subnet);
            (*subnet, lease.filter(|lease| is_peers(lease.subnet.v4)))
        });
        let before = (self.peers.as_slice(), self.ignored.as_slice());
        changed_peers(before, leases, &self.own(), |lease| {
            self.backend.accept(lease)
        })
    }

    /// Follows a change.
    pub(super) async fn follow(&mut self, change: PeerChange) -> Result<(), Error> {
        let PeerChange {
            subnets,
            gone,
            mut come,
            ignored,
        } = change;
        report::log_ignored(&self.ignored, &ignored);
        for peer in gone.iter().chain(&come) {
            self.underlay.forget(peer.public_ip);
        }
        self.choose_reach(&mut come).await;
        self.peers.retain(|peer| !subnets.contains(&peer.subnet));
        self.peers.extend(&come);
        self.ignored.retain(|it| !subnets.contains(&it.subnet));
        self.ignored.extend(ignored);

        let before = self.desired_entries(&gone);
        let after = self.desired_entries(&come);
        let actions = plan(&after, &self.actual.part([&before, &after]));
        if self.carry_out(actions).await? {
            self.actual.replace(&before, after);
        }
        self.backend.sync_peers(&self.peers, &self.leases).await;

        let octets: BTreeSet<_> = subnets.iter().map(|it| it.network().octets()).collect();
        let both = gone.iter().chain(&come);
        let addresses: BTreeSet<_> = both.map(|peer| peer.public_ip.octets()).collect();
        let (subnet_keys, address_keys) = (Part::Keys(&octets), Part::Keys(&addresses));
        let (kernel, unresolved) = self
            .sync_maps(&come, subnet_keys, address_keys, false)
            .await?;
        self.kernel.retain(|(subnet, _)| !subnets.contains(subnet));
        self.kernel.extend(kernel);
        probe(&self.netlink, self.local.ifindex, unresolved).await;
        Ok(())
    }
}
