//! The alloc backend: a lease and the environment file, and nothing on the host. Packets between
//! subnets are somebody else's business, a cloud's route table for example.

use anyhow::Result;
use async_trait::async_trait;

use super::peer::IgnoredReason;
use super::{Advert, Backend, Device, Place, Reach};
use crate::dataplane::Attachment;
use crate::iface::ExternalInterface;
use crate::lease::Lease;
use crate::netlink::{MacAddr, Netlink};

/// The backend.
#[derive(Debug, Clone, Copy)]
pub struct Alloc;

#[async_trait]
impl Backend for Alloc {
    fn name(&self) -> &'static str {
        "alloc"
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

    async fn prepare(&mut self, _: &Netlink, _: &ExternalInterface) -> Result<Advert> {
        Ok(Advert::default())
    }

    async fn set_up(&mut self, _: &Netlink, _: &Place) -> Result<Option<Device>> {
        Ok(None)
    }

    fn accept(&self, _: &Lease) -> Result<Option<MacAddr>, IgnoredReason> {
        Ok(None)
    }
}
