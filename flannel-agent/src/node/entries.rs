//! The kernel path: routes, neighbours and FDB entries of peers.

use tracing::{info, warn};

use super::{Error, Node};
use crate::backend::Reach;
use crate::backend::entries::{apply, read_actual};
use crate::backend::peer::Peer;
use crate::error::chain;
use crate::netlink::route::Via;
use crate::plan::{Action, KernelState, plan};

impl Node {
    /// Routes, neighbours and FDB entries of all peers.
    pub(super) async fn sync_entries(&mut self) -> Result<(), Error> {
        let desired = self.desired_entries(&self.peers);
        let actions = plan(&desired, &self.actual);
        if self.carry_out(actions).await? {
            self.actual = desired;
        }
        Ok(())
    }

    /// Carries out a plan; says whether all is as planned. If not, what is there has been read.
    pub(super) async fn carry_out(&mut self, actions: Vec<Action>) -> Result<bool, Error> {
        if actions.is_empty() && !self.forms.has_unused() {
            self.failed = None;
            return Ok(true);
        }
        let count = actions.len();
        let device = self.device_index();
        let failed = apply(&self.netlink, device, actions, &mut self.forms).await;
        info!(
            changes = count.saturating_sub(failed.len()),
            failed = failed.len(),
            "programmed peers"
        );
        let Some((step, error)) = failed.first() else {
            self.failed = None;
            return Ok(true);
        };
        let first = chain(error);
        // Once per kind of failure, not once per try.
        if self
            .failed
            .as_ref()
            .is_none_or(|(_, reason)| *reason != first)
        {
            warn!(
                ?step,
                error = first,
                count = failed.len(),
                "entries could not be made"
            );
        }
        self.failed = Some((failed.len(), first));
        self.read_entries().await?;
        Ok(false)
    }

    pub(super) async fn read_entries(&mut self) -> Result<(), Error> {
        let (actual, forms) = read_actual(&self.netlink, self.device_index()).await?;
        self.actual = actual;
        self.forms.read(forms);
        self.doubts.clear();
        Ok(())
    }

    /// What the kernel path to these peers needs.
    pub(super) fn desired_entries(&self, peers: &[Peer]) -> KernelState {
        let mut state = KernelState::default();
        if self.backend.reach() == Reach::None {
            return state;
        }
        for peer in peers {
            match (peer.direct, &self.device) {
                (Some(oif), _) => {
                    let via = Via {
                        oif,
                        gateway: peer.public_ip,
                        is_onlink: false,
                    };
                    state.routes.insert(peer.subnet, via);
                }
                (None, Some(device)) => self.backend.add_tunnel(device, peer, &mut state),
                (None, None) => {}
            }
        }
        state
    }
}
