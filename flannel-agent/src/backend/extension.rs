//! The extension backend: commands of the operator carry packets, or set up what does.
//!
//! Four of them, each run as flannel from v0.28.2 on runs it: `PreStartupCommand` before there is a
//! lease, whose output the lease tells to all peers; `PostStartupCommand` when there is one; and
//! for each peer `SubnetAddCommand` when it comes and `SubnetRemoveCommand` when it goes, which
//! find on their standard input what the peer's first command has printed. Ours besides are a
//! shell for those who ask for one, a time limit, and the next try after a failure.
//!
//! What peers write reaches a command as standard input and as parsed addresses in its
//! environment, never as part of its text.

mod commands;
mod data;
mod failure;
mod output;
mod peers;
mod process;
mod schedule;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::commands::{Commands, OwnFacts};
pub use self::data::NotText;
pub use self::failure::Failure;
pub use self::peers::{PeerFacts, Peers};
use super::peer::{IgnoredReason, Peer, require_type};
use super::{Advert, Backend, Device, Place, Reach};
use crate::dataplane::Attachment;
use crate::iface::ExternalInterface;
use crate::lease::{Lease, LeaseTable};
use crate::netlink::{MacAddr, Netlink};
use crate::network;

/// The backend.
#[derive(Debug)]
pub struct Extension {
    commands: Arc<Commands>,
    /// What `PostStartupCommand` was told when it last succeeded.
    own: Option<OwnFacts>,
    /// From the first peers on.
    peers: Option<Peers>,
}

impl Extension {
    /// The backend with these commands, which get `environment`, the agent's own.
    #[must_use]
    pub fn new(
        options: network::Extension,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        Self {
            commands: Arc::new(Commands::new(options, environment)),
            own: None,
            peers: None,
        }
    }
}

#[async_trait]
impl Backend for Extension {
    fn name(&self) -> &'static str {
        "extension"
    }

    fn reach(&self) -> Reach {
        Reach::None
    }

    fn programs(&self) -> &'static [Attachment] {
        &[]
    }

    fn pod_mtu(&self, external_mtu: u32) -> Option<u32> {
        Some(external_mtu)
    }

    /// A command that runs when this is dropped is killed.
    async fn prepare(&mut self, _: &Netlink, _: &ExternalInterface) -> Result<Advert> {
        let stop = CancellationToken::new();
        Ok(Advert {
            backend_data: self.commands.pre_startup(&stop).await?,
            mac: None,
        })
    }

    /// Runs `PostStartupCommand` whenever the node is another one than at its last success.
    async fn set_up(&mut self, _: &Netlink, place: &Place) -> Result<Option<Device>> {
        let own = OwnFacts {
            network: place.network,
            subnet: place.subnet,
            ipv6_subnet: None,
            public_ip: place.local,
            public_ipv6: None,
        };
        if self.own != Some(own) {
            let stop = CancellationToken::new();
            self.commands.post_startup(&own, &stop).await?;
            self.own = Some(own);
        }
        Ok(None)
    }

    fn accept(&self, lease: &Lease) -> Result<Option<MacAddr>, IgnoredReason> {
        require_type(lease, self.name())?;
        PeerFacts::from_lease(&lease.attrs)?;
        Ok(None)
    }

    async fn sync_peers(&mut self, peers: &[Peer], leases: &LeaseTable) {
        let facts = peers.iter().filter_map(|peer| {
            let lease = leases.get(peer.subnet)?;
            let facts = PeerFacts::from_lease(&lease.attrs).ok()?;
            Some((peer.subnet, facts))
        });
        let facts: BTreeMap<_, _> = facts.collect();
        let commands = &self.commands;
        let start = || Peers::start(Arc::clone(commands));
        self.peers.get_or_insert_with(start).set_peers(&facts);
    }

    fn problems(&self) -> Vec<String> {
        let failures = self.peers.as_ref().map(Peers::failures);
        let failures = failures.unwrap_or_default();
        let problem = failures.first().map(|(subnet, reason)| {
            let count = failures.len();
            format!("the commands for {count} peers have failed, the first, {subnet}: {reason}")
        });
        problem.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
