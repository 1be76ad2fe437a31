//! Programs of others on the interfaces of the node: an operator is told of them, and they have the
//! first look at every packet.
//!
//! XDP comes before TC anyway, and among the programs at a tcx hook ours is the last. But the kernel
//! runs all of tcx before the filters of clsact: where somebody has filters, ours joins them there.

use std::fmt::{self, Display, Formatter};

use tracing::{debug, info};

use super::scope::Scope;
use super::{Error, Node};
use crate::dataplane::foreign::{self, Foreign};
use crate::dataplane::{Direction, Interface, Interfaces, attach, xdp};
use crate::error::chain;
use crate::netlink::nic::XdpMode;
use crate::netlink::{self, Netlink};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Others {
    /// One word or two for each program: interface, hook, what it is.
    programs: Vec<String>,
    /// Hooks with filters of others.
    filtered: Vec<(Interface, Direction)>,
    /// Hooks with programs of others of whatever kind.
    watched: Vec<(Interface, Direction)>,
}

impl Others {
    /// Looks at the node's interfaces. What cannot be asked is taken for nothing.
    async fn find(netlink: &Netlink, interfaces: Interfaces<'_>) -> Self {
        let Interfaces { external, device } = interfaces;
        let mut found = Self::default();
        let external = [(Interface::External, external)];
        for (interface, name) in external
            .into_iter()
            .chain(device.map(|name| (Interface::Device, name)))
        {
            if let Err(error) = found.look_at(netlink, interface, name).await {
                debug!(
                    interface = name,
                    error = chain(&error),
                    "programs of others"
                );
            }
        }
        found
    }

    /// Hooks where somebody has filters on clsact.
    fn filtered(&self) -> &[(Interface, Direction)] {
        &self.filtered
    }

    /// Whether somebody looks at what the external interface receives, and is to see tunnel packets
    /// as they come.
    pub(super) fn watch_arrivals(&self) -> bool {
        self.watched
            .contains(&(Interface::External, Direction::Ingress))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    async fn look_at(
        &mut self,
        netlink: &Netlink,
        interface: Interface,
        name: &str,
    ) -> Result<(), netlink::Error> {
        let index = attach::index(name);
        let mut programs = netlink.nic(index).await?.xdp;
        programs.retain(|(_, id)| !xdp::is_own(*id));
        for (mode, id) in programs {
            let mode = match mode {
                XdpMode::Native => "native",
                XdpMode::Generic => "generic",
                XdpMode::Offloaded => "offloaded",
            };
            self.programs.push(format!("{name}: {mode} XDP (id {id})"));
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut found = foreign::on_tcx(name, direction);
            found.extend(foreign::on_clsact(netlink, index, direction).await?);
            let hook = (interface, direction);
            for foreign in found {
                self.programs.push(format!("{name}: {foreign}"));
                self.watched.push(hook);
                let is_filter = matches!(foreign, Foreign::Filter { .. });
                if is_filter && !self.filtered.contains(&hook) {
                    self.filtered.push(hook);
                }
            }
        }
        Ok(())
    }
}

impl Node {
    /// Attaches what is not attached, and elsewhere where others have come or gone.
    pub(super) async fn attach(&mut self, scope: Scope) -> Result<(), Error> {
        let Some(dataplane) = self.datapath.dataplane() else {
            return Ok(());
        };
        if !scope.device && dataplane.was_attached() {
            return Ok(());
        }
        let interfaces = Interfaces {
            external: &self.spec.external,
            device: self.device.as_ref().map(|device| device.name.as_str()),
        };
        let others = Others::find(&self.netlink, interfaces).await;
        let has_moved = others.filtered() != self.others.filtered();
        if others != self.others && !others.is_empty() {
            info!("{others}");
        }
        self.others = others;
        if has_moved || !dataplane.is_attached() {
            dataplane.yield_to(self.others.filtered());
            dataplane.attach(interfaces)?;
        }
        Ok(())
    }
}

impl Display for Others {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let programs = self.programs.join(", ");
        write!(
            f,
            "programs of others see packets before this agent's: {programs}"
        )
    }
}
