//! The host-gw backend: a route per peer, through the peer's own address. Nothing is put around
//! packets, so all nodes must be on one link.
//!
//! The kernel does all that there is to do; on the standard path eBPF counts.

use anyhow::{Result, bail};
use async_trait::async_trait;

use super::peer::{IgnoredReason, require_type};
use super::{Advert, Backend, Device, Place, Reach};
use crate::dataplane::{Attachment, Direction, Interface};
use crate::iface::ExternalInterface;
use crate::lease::Lease;
use crate::netlink::{MacAddr, Netlink};

/// Programs that count packets to and from direct peers.
pub const PROGRAMS: [Attachment; 2] = [
    Attachment {
        program: "direct_ingress",
        interface: Interface::External,
        direction: Direction::Ingress,
        handle: 2,
    },
    Attachment {
        program: "direct_egress",
        interface: Interface::External,
        direction: Direction::Egress,
        handle: 2,
    },
];

/// The backend.
#[derive(Debug, Clone, Copy)]
pub struct HostGw;

#[async_trait]
impl Backend for HostGw {
    fn name(&self) -> &'static str {
        "host-gw"
    }

    fn reach(&self) -> Reach {
        Reach::Direct
    }

    fn programs(&self) -> &'static [Attachment] {
        &PROGRAMS
    }

    fn pod_mtu(&self, external_mtu: u32) -> Option<u32> {
        Some(external_mtu)
    }

    async fn prepare(&mut self, _: &Netlink, external: &ExternalInterface) -> Result<Advert> {
        let ExternalInterface {
            name,
            address,
            public_ip,
            ..
        } = external;
        if address != public_ip {
            bail!(
                "host-gw routes packets to the address that peers are told, and {public_ip} \
                 (--public-ip) is not the address of {name}, {address}: use vxlan behind NAT, or \
                 choose the interface that has {public_ip}"
            );
        }
        Ok(Advert::default())
    }

    async fn set_up(&mut self, _: &Netlink, _: &Place) -> Result<Option<Device>> {
        Ok(None)
    }

    fn accept(&self, lease: &Lease) -> Result<Option<MacAddr>, IgnoredReason> {
        require_type(lease, self.name()).map(|()| None)
    }
}
