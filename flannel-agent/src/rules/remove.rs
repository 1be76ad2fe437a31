//! Takes from the host what this program has written into its rules, and nothing else.

use super::legacy::{self, Legacy};
use super::listing::Chain;
use super::plan::{Edits, Family, IptablesTable};
use super::{Error, blackhole, forward, masquerade, nft, plan};
use crate::netlink::Netlink;
use crate::netlink::blackhole::BlackholeRoute;

/// Everything of ours, as found.
#[derive(Debug, Default)]
struct Ours {
    lines: Vec<String>,
    nft: String,
    legacy: Option<(Legacy, String)>,
    routes: Vec<BlackholeRoute>,
}

/// Names what [`remove_ours`] would remove, a line each.
///
/// # Errors
/// See [`Error`].
pub async fn list_ours(netlink: &Netlink) -> Result<Vec<String>, Error> {
    find(netlink).await.map(|ours| ours.lines)
}

/// Removes our table, our rules in the tables of iptables, and our blackhole routes; returns what
/// was removed, a line each. Rules of stock flannel stay.
///
/// # Errors
/// See [`Error`].
pub async fn remove_ours(netlink: &Netlink) -> Result<Vec<String>, Error> {
    let Ours {
        lines,
        nft: script,
        legacy,
        routes,
    } = find(netlink).await?;
    if !script.is_empty() {
        nft::apply(&script).await?;
    }
    if let Some((tools, script)) = legacy {
        tools.apply(&script).await?;
    }
    for route in routes {
        netlink.remove_blackhole_route(route).await?;
    }
    Ok(lines)
}

async fn find(netlink: &Netlink) -> Result<Ours, Error> {
    let mut ours = Ours::default();
    match find_in_nft(&mut ours).await {
        // Without the binary nothing can have been written, or it went since; either way this is
        // no reason to keep the rest.
        Ok(()) | Err(Error::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    find_in_legacy(&mut ours).await?;
    ours.routes = blackhole::ours(netlink).await?;
    let routes = ours.routes.iter();
    let lines = routes.map(|route| format!("blackhole route {}", route.subnet));
    ours.lines.extend(lines);
    Ok(ours)
}

async fn find_in_nft(ours: &mut Ours) -> Result<(), Error> {
    let there = nft::tables().await?;
    let has = |family: &str, name: &str| there.contains(&(family.into(), name.into()));
    if has("ip", masquerade::TABLE)
        && masquerade::is_ours(&nft::table("ip", masquerade::TABLE).await?)
    {
        ours.nft = format!("delete table ip {}\n", masquerade::TABLE);
        ours.lines
            .push(format!("nftables table ip {}", masquerade::TABLE));
    }
    let table = IptablesTable::FORWARD;
    let (family, name) = (table.family_name(), table.name());
    if has(family, name)
        && let Some(edits) = our_edits(&nft::table(family, name).await?)
    {
        ours.nft.push_str(&plan::edits_text(table, &edits));
        ours.lines
            .push(format!("accept rules in nftables table {family} {name}"));
    }
    Ok(())
}

async fn find_in_legacy(ours: &mut Ours) -> Result<(), Error> {
    let table = IptablesTable::FORWARD;
    if !legacy::tables_in_use(Family::V4).contains(table.name()) {
        return Ok(());
    }
    let Some(tools) = Legacy::find(Family::V4).await? else {
        return Ok(());
    };
    if let Some(edits) = our_edits(&tools.table(table).await?) {
        let script = legacy::script(table, &edits);
        ours.legacy = Some((tools, script));
        ours.lines.push(format!(
            "accept rules in legacy iptables table {}",
            table.name()
        ));
    }
    Ok(())
}

fn our_edits(chains: &[Chain]) -> Option<Edits> {
    let mut edits = Edits::default();
    forward::add_edits(&mut edits, chains, None);
    (!edits.is_empty()).then_some(edits)
}
