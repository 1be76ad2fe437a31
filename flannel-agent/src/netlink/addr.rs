//! IPv4 addresses of a link.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Netlink, tolerate};

impl Netlink {
    /// IPv4 addresses of the link, each with its prefix length, in the kernel's order: primary
    /// ones first.
    ///
    /// # Errors
    /// See [`Error`]; `ENODEV` for an unknown index.
    pub async fn addresses(&self, ifindex: u32) -> Result<Vec<Ipv4Network>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = ifindex;
        self.dump(
            RouteNetlinkMessage::GetAddress(message),
            || format!("list addresses of interface {ifindex}"),
            |object| match object {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == ifindex => {
                    parse_address(&message)
                }
                _ => None,
            },
        )
        .await
    }

    /// All IPv4 addresses, each with the index of its link.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn all_addresses(&self) -> Result<Vec<(u32, Ipv4Network)>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        self.dump(
            RouteNetlinkMessage::GetAddress(message),
            || "list addresses".to_owned(),
            |object| match object {
                RouteNetlinkMessage::NewAddress(message) => {
                    Some((message.header.index, parse_address(&message)?))
                }
                _ => None,
            },
        )
        .await
    }

    /// Gives the link the address as a /32, without broadcast address and on-link route.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensure_host_address(&self, ifindex: u32, address: Ipv4Addr) -> Result<(), Error> {
        let added = self
            .change(
                RouteNetlinkMessage::NewAddress(address_message(ifindex, address, 32)),
                NLM_F_CREATE | NLM_F_EXCL,
                || format!("add address {address}/32 to interface {ifindex}"),
            )
            .await;
        // EEXIST: it is there.
        tolerate(added, &[libc::EEXIST])
    }

    /// Makes the address the link's only one inside `network`, as a /32. Addresses elsewhere are
    /// not touched.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensure_sole_address(
        &self,
        ifindex: u32,
        address: Ipv4Addr,
        network: Ipv4Network,
    ) -> Result<(), Error> {
        // The right one first: a link that loses its last address loses its routes.
        self.ensure_host_address(ifindex, address).await?;
        for other in self.addresses(ifindex).await? {
            let is_wanted = other.ip() == address && other.prefix() == 32;
            if !is_wanted && network.contains(other.ip()) {
                self.remove_address(ifindex, other).await?;
            }
        }
        Ok(())
    }

    /// Takes the address from the link.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_address(&self, ifindex: u32, address: Ipv4Network) -> Result<(), Error> {
        let removed = self
            .change(
                RouteNetlinkMessage::DelAddress(address_message(
                    ifindex,
                    address.ip(),
                    address.prefix(),
                )),
                0,
                || format!("remove address {address} from interface {ifindex}"),
            )
            .await;
        // EADDRNOTAVAIL: it is not there; ENODEV: nor is the link.
        tolerate(removed, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }
}

fn address_message(ifindex: u32, address: Ipv4Addr, prefix: u8) -> AddressMessage {
    AddressMessageBuilder::<Ipv4Addr>::new()
        .index(ifindex)
        .address(address, prefix)
        .build()
}

fn parse_address(message: &AddressMessage) -> Option<Ipv4Network> {
    let prefix = message.header.prefix_len;
    // IFA_LOCAL is the own address; on a point-to-point link IFA_ADDRESS is the other end's.
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Ipv4Network::new(*address, prefix).ok(),
            _ => None,
        })
}
