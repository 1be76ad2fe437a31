//! What an earlier run has left on the host: programs on pods' interfaces, which go on admitting
//! flows as long as the settings say so.

use std::fmt;

use flannel_ebpf::abi::map_name;
use tracing::{info, warn};

use super::endpoints::Endpoint;
use super::{IN_FLIGHT, programs};
use crate::dataplane::pin::Pins;
use crate::dataplane::{self, compat, maps};
use crate::error::chain;
use crate::netlink::nic::ClsactSide;
use crate::netlink::{self, Netlink};

/// A filter of ours on the clsact qdisc of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The interface.
    pub endpoint: Endpoint,
    /// Name of the program.
    pub program: &'static str,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, program } = self;
        write!(f, "filter {program} on {endpoint}")
    }
}

/// The filters on interfaces of pods, present or former.
///
/// # Errors
/// What the kernel said.
pub async fn filters(netlink: &Netlink) -> Result<Vec<Filter>, netlink::Error> {
    let clsact = netlink.clsact_links().await?;
    let links = netlink.links().await?;
    let mut found = Vec::new();
    for link in links.iter().filter(|link| clsact.contains(&link.index)) {
        for (program, side) in [
            ("to_pod", ClsactSide::Egress),
            ("from_pod", ClsactSide::Ingress),
        ] {
            let filters = netlink.filters(link.index, side).await?;
            if filters.iter().any(|it| it.name.as_deref() == Some(program)) {
                found.push(Filter {
                    endpoint: Endpoint {
                        index: link.index,
                        name: link.name.clone(),
                    },
                    program,
                });
            }
        }
    }
    Ok(found)
}

/// Takes the table of flows of an earlier run away, if it has room for another number of flows than
/// this run wants: the next load makes a new one. Programs of the earlier run go on with the old one,
/// where nothing is admitted any more, until they are replaced.
///
/// # Errors
/// The table cannot be read or taken away: loading will say so, too.
pub async fn make_room(options: &dataplane::Options) -> Result<(), dataplane::Error> {
    let pins = Pins::new(&options.pin_path);
    if !compat::has_other_room(&pins, options.flows)? {
        return Ok(());
    }
    maps::end_admissions(&pins)?;
    tokio::time::sleep(IN_FLIGHT).await;
    pins.remove_map(map_name::FLOWS)?;
    info!(flows = options.flows, "the table of flows is made anew");
    Ok(())
}

/// Ends the programs on pods' interfaces that are pinned at another place than this run's; returns what
/// was removed, a line each.
///
/// # Errors
/// The first thing that stays.
pub async fn remove_pinned(pins: &Pins) -> Result<Vec<String>, super::Error> {
    let links = pins.links_named(&programs::NAMES);
    if !links.is_empty() {
        if let Err(error) = maps::end_admissions(pins) {
            warn!(error = chain(&error), "flows stay on a former fast path");
        }
        tokio::time::sleep(IN_FLIGHT).await;
    }
    unpin(pins, &links)
}

fn unpin(pins: &Pins, links: &[String]) -> Result<Vec<String>, super::Error> {
    let mut removed = Vec::new();
    for pin in links {
        pins.remove_link(pin).map_err(super::Error::Pin)?;
        removed.push(format!("pin {}", pins.link(pin).display()));
    }
    Ok(removed)
}

/// Takes all programs off pods' interfaces; returns what was removed, a line each.
///
/// # Errors
/// The first thing that stays.
pub async fn remove(netlink: &Netlink, pins: &Pins) -> Result<Vec<String>, super::Error> {
    let links = pins.links_named(&programs::NAMES);
    let filters = filters(netlink).await?;
    if links.is_empty() && filters.is_empty() {
        return Ok(Vec::new());
    }
    if let Err(error) = maps::end_admissions(pins) {
        let error = chain(&error);
        warn!(
            error,
            "packets that are on their way into a pod may be lost"
        );
    }
    tokio::time::sleep(IN_FLIGHT).await;
    let mut removed = unpin(pins, &links)?;
    for filter in filters {
        programs::detach_filter(filter.program, &filter.endpoint)?;
        removed.push(filter.to_string());
    }
    Ok(removed)
}
