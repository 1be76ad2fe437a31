//! The external interface: its choice, and what to do when it is not what it was.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::Config;
use crate::error::chain;
use crate::iface::{self, ExternalInterface};
use crate::network::Backend;

/// Between the first sign that the address has gone and the choice of another: a DHCP client takes
/// an address away before it sets the next one. Also between choices while there is none.
const SETTLE: Duration = Duration::from_secs(1);

/// Chooses the external interface. Nodes of the extension backend are told by its address, as in
/// flannel, whatever `--public-ip` says.
///
/// # Errors
/// Nothing fits, or the host could not be asked.
pub(super) async fn choose(config: &Config, backend: &Backend) -> Result<ExternalInterface> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let host = iface::read_host(&handle, &config.interface).await;
    connection.abort();
    let mut chosen = iface::choose(&host?, &config.interface)?;
    if let Backend::Extension(_) = backend {
        chosen.public_ip = chosen.address;
    }
    Ok(chosen)
}

/// Returns when a node that started with `current` should start over: `has_moved` says that the
/// interface is gone, or its address or MTU is not what it was, and another choice can be made. Until
/// one can be, the node works on as well as it can.
pub(super) async fn moved(
    config: &Config,
    backend: &Backend,
    current: &ExternalInterface,
    mut has_moved: watch::Receiver<bool>,
) {
    let mut said = None;
    loop {
        if has_moved.wait_for(|moved| *moved).await.is_err() {
            // The node has ended.
            return std::future::pending().await;
        }
        tokio::time::sleep(SETTLE).await;
        match choose(config, backend).await {
            Ok(chosen) if !is_same(&chosen, current) => {
                info!(
                    interface = chosen.name,
                    address = %chosen.address,
                    public_ip = %chosen.public_ip,
                    mtu = chosen.mtu,
                    "the external interface has changed, starting over with it"
                );
                return;
            }
            Ok(_) => {}
            Err(error) => {
                let error = chain(error.as_ref());
                // Once per reason, not once per look.
                if said.as_ref() != Some(&error) {
                    warn!(
                        error,
                        "the external interface is gone or has lost its address"
                    );
                    said = Some(error);
                }
            }
        }
    }
}

/// Index and link-layer address are followed in place.
fn is_same(one: &ExternalInterface, other: &ExternalInterface) -> bool {
    let facts = |i: &ExternalInterface| (i.name.clone(), i.address, i.public_ip, i.mtu);
    facts(one) == facts(other)
}
