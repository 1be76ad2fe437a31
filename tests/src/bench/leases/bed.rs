//! The host that is measured, and what is around it.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::lease::{FakeLease, NETWORK, OWN_MIN, format_mac};
use super::store::{self, Write};
use crate::agent::PREFIX;
use crate::bed::{Bed, BedOptions};
use crate::host::{self, Host};

/// Two hosts on a wire: the agent's, and the gateway to all the others.
#[derive(Debug)]
pub(super) struct LeaseBed {
    bed: Bed,
    /// Number of leases, without the agent's own.
    pub(super) count: u32,
}

impl LeaseBed {
    /// Builds it and puts the leases.
    pub(super) fn new(count: u32) -> Result<Self> {
        let bed = Bed::new(BedOptions::default())?;
        let config = format!(
            r#"{{"Network":"{NETWORK}","SubnetLen":24,"SubnetMin":"{OWN_MIN}","Backend":{{"Type":"vxlan"}}}}"#
        );
        bed.etcd.put(&format!("{PREFIX}/config"), &config)?;
        let bed = Self { bed, count };
        let gateway = bed.gateway();
        // What comes to the gateway has arrived; it is not to answer that there is nobody.
        gateway.ns.sysctl("net/ipv4/ip_forward", "0")?;
        let mac = format_mac(host::mac(&gateway.ns, &gateway.external)?);
        let Host {
            external, address, ..
        } = gateway;
        bed.host().ns.ip(&format!(
            "neigh replace {address} lladdr {mac} nud permanent dev {external}\n\
             route add 172.16.0.0/12 via {address}"
        ))?;
        let leases = (1..=count).map(|number| Write::Put(FakeLease::new(number)));
        store::connected(&gateway.ns, |etcd| etcd.write_all(leases))?;
        Ok(bed)
    }

    /// Where the agent runs.
    pub(super) fn host(&self) -> &Host {
        &self.bed.hosts[0]
    }

    /// The far end of the wire, and of the way to etcd.
    pub(super) fn gateway(&self) -> &Host {
        &self.bed.hosts[1]
    }

    /// Forgets the agent's own lease, so that the next start is a first one.
    pub(super) fn forget_own_lease(&self) -> Result<()> {
        let first: Ipv4Addr = OWN_MIN.parse()?;
        for key in self.bed.etcd.keys(&format!("{PREFIX}/subnets/10.12"))? {
            let subnet = key
                .rsplit('/')
                .next()
                .and_then(|name| name.split('-').next());
            let subnet: Option<Ipv4Addr> = subnet.and_then(|text| text.parse().ok());
            if subnet.is_some_and(|subnet| subnet >= first) {
                self.bed.etcd.delete(&key)?;
            }
        }
        Ok(())
    }
}
