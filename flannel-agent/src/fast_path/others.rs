//! What others have put on an interface to see, change or slow down its packets: the fast path
//! would take them around it.

use std::collections::BTreeSet;

use super::endpoints::WhyNot;
use crate::dataplane::{Direction, foreign};
use crate::netlink::link::Link;
use crate::netlink::{self, Netlink};

/// Which way packets pass an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    /// Sent by it.
    Egress,
    /// Either.
    Both,
}

impl Sides {
    const fn directions(self) -> &'static [Direction] {
        match self {
            Self::Egress => &[Direction::Egress],
            Self::Both => &[Direction::Egress, Direction::Ingress],
        }
    }
}

/// What the links themselves say: a queueing discipline that limits or shapes, an XDP program.
pub(super) fn on_link(link: &Link) -> Option<WhyNot> {
    if link.xdp_id.is_some() {
        return Some(WhyNot::Xdp);
    }
    let qdisc = link.qdisc.as_deref().unwrap_or("noqueue");
    (qdisc != "noqueue").then(|| WhyNot::Qdisc(qdisc.to_owned()))
}

/// Queueing disciplines that neither limit nor shape: one of them stands on a tunnel device that has
/// a queue, by the default of the host.
const PLAIN: [&str; 6] = ["noqueue", "pfifo_fast", "fq_codel", "fq", "pfifo", "mq"];

/// As [`on_link`], of a tunnel device.
pub(super) fn shaper(link: &Link) -> Option<WhyNot> {
    let qdisc = link.qdisc.as_deref().unwrap_or("noqueue");
    (!PLAIN.contains(&qdisc)).then(|| WhyNot::Qdisc(qdisc.to_owned()))
}

/// TC programs and filters, by interface.
#[derive(Debug)]
pub struct Programs<'a> {
    netlink: &'a Netlink,
    /// Where filters can hang at all.
    clsact: BTreeSet<u32>,
}

impl<'a> Programs<'a> {
    /// Reads which interfaces have a clsact qdisc.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn read(netlink: &'a Netlink) -> Result<Self, netlink::Error> {
        let clsact = netlink.clsact_links().await?;
        Ok(Self { netlink, clsact })
    }

    /// Whether a TC program or filter of somebody else hangs on an interface.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn has_foreign(
        &self,
        index: u32,
        name: &str,
        sides: Sides,
    ) -> Result<bool, netlink::Error> {
        for direction in sides.directions() {
            if !foreign::on_tcx(name, *direction).is_empty() {
                return Ok(true);
            }
            if self.clsact.contains(&index)
                && !foreign::on_clsact(self.netlink, index, *direction)
                    .await?
                    .is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
