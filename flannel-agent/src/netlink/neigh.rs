//! Neighbour and FDB entries.
//!
//! The tunnel device has permanent ones of both: address of a peer's subnet → VTEP MAC, and VTEP
//! MAC → underlay address. The underlay has ordinary neighbours, which are read and probed only.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Change, Error, MacAddr, Netlink, errno};

/// Bit of a permanent entry (`NUD_PERMANENT`). bridge(8) sets `NUD_NOARP` with it, flannel does not.
const PERMANENT: u16 = 0x80;
/// Bit of an entry that is never verified (`NUD_NOARP`).
const NOARP: u16 = 0x40;

/// An entry of the IPv4 neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface that it belongs to.
    pub ifindex: u32,
    /// Address of the neighbour.
    pub ip: Ipv4Addr,
    /// Link-layer address, once known.
    pub mac: Option<MacAddr>,
    /// State of the entry.
    pub state: NeighbourState,
    /// Flags of the entry.
    pub flags: NeighbourFlags,
}

impl Neighbour {
    /// The link-layer address, in states in which the kernel itself sends to it.
    #[must_use]
    pub fn usable_mac(&self) -> Option<MacAddr> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent => self.mac,
            _ => None,
        }
    }

    /// The link-layer address, if the entry is as flannel makes those of peers: permanent, without
    /// flags.
    #[must_use]
    pub fn peer_mac(&self) -> Option<MacAddr> {
        let is_plain =
            self.state == NeighbourState::Permanent && self.flags == NeighbourFlags::empty();
        self.mac.filter(|_| is_plain)
    }

    /// Whether the kernel never verifies the entry: an administrator's word, or the link's nature.
    fn is_fixed(&self) -> bool {
        u16::from(self.state) & (PERMANENT | NOARP) != 0
    }
}

/// An entry of a vxlan device's FDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// Link-layer address inside the tunnel.
    pub mac: MacAddr,
    /// Where frames to it are sent.
    pub remote: Option<Ipv4Addr>,
    /// Whether it is as flannel makes them: permanent, with port, VNI and lower link of the
    /// device, set by an administrator and not by a control protocol.
    pub is_plain: bool,
}

impl FdbEntry {
    /// Where frames are sent, if the entry is as flannel makes those of peers: plain, and not the
    /// all-zero default or that of a group, which are for broadcast.
    #[must_use]
    pub fn peer_remote(&self) -> Option<Ipv4Addr> {
        self.remote
            .filter(|_| self.is_plain && self.mac.is_station())
    }
}

impl Netlink {
    /// IPv4 neighbours of the link.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn neighbours(&self, ifindex: u32) -> Result<Vec<Neighbour>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        // Strict checking wants the filter as an attribute and the header empty.
        message
            .attributes
            .push(NeighbourAttribute::IfIndex(ifindex));
        self.dump(
            RouteNetlinkMessage::GetNeighbour(message),
            || format!("list neighbours of interface {ifindex}"),
            |object| match object {
                RouteNetlinkMessage::NewNeighbour(message) => {
                    parse_neighbour(&message).filter(|neighbour| neighbour.ifindex == ifindex)
                }
                _ => None,
            },
        )
        .await
    }

    /// The neighbour entry of one address.
    ///
    /// # Kernel
    /// Linux 5.0.
    ///
    /// # Errors
    /// See [`Error`]; no entry is `Ok(None)`.
    pub async fn neighbour(&self, ifindex: u32, ip: Ipv4Addr) -> Result<Option<Neighbour>, Error> {
        let message = neighbour_message(ifindex, ip);
        let found = self
            .get(RouteNetlinkMessage::GetNeighbour(message), || {
                format!("read the neighbour {ip} of interface {ifindex}")
            })
            .await;
        match found {
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => Ok(parse_neighbour(&message)),
            Ok(_) => Ok(None),
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the kernel to resolve the addresses, or to check again what it knows, as if it had
    /// packets to send there. Answers come as neighbour events. Gives the addresses for which it
    /// could not be asked.
    ///
    /// What an administrator has set for good is left alone: the kernel takes the question as the
    /// wish that the entry be an ordinary one (`NEIGH_UPDATE_F_USE` in `__neigh_update`, Linux
    /// 5.16), forgets its address, and without an answer to ARP nothing at all is sent there.
    ///
    /// # Errors
    /// The table cannot be read. See [`Error`].
    pub async fn probe_neighbours(
        &self,
        ifindex: u32,
        mut addresses: BTreeSet<Ipv4Addr>,
    ) -> Result<Vec<(Ipv4Addr, Error)>, Error> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        for neighbour in self.neighbours(ifindex).await? {
            if neighbour.is_fixed() {
                addresses.remove(&neighbour.ip);
            }
        }
        let mut failed = Vec::new();
        for ip in addresses {
            let asked = self.probe_neighbour(ifindex, ip).await;
            failed.extend(asked.err().map(|error| (ip, error)));
        }
        Ok(failed)
    }

    async fn probe_neighbour(&self, ifindex: u32, ip: Ipv4Addr) -> Result<(), Error> {
        let mut message = neighbour_message(ifindex, ip);
        message.header.flags = NeighbourFlags::Use;
        self.change(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE,
            || format!("probe the neighbour {ip} of interface {ifindex}"),
        )
        .await
    }

    /// Entries of the link's own FDB.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn fdb(&self, ifindex: u32) -> Result<Vec<FdbEntry>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        // Unlike in a neighbour dump, the filter is in the header.
        message.header.ifindex = ifindex;
        self.dump(
            RouteNetlinkMessage::GetNeighbour(message),
            || format!("list FDB entries of interface {ifindex}"),
            |object| match object {
                RouteNetlinkMessage::NewNeighbour(message) if message.header.ifindex == ifindex => {
                    parse_fdb(&message)
                }
                _ => None,
            },
        )
        .await
    }
}

impl Change {
    /// Sets the permanent neighbour `ip`.
    #[must_use]
    pub fn set_neighbour(ifindex: u32, ip: Ipv4Addr, mac: MacAddr) -> Self {
        let mut message = neighbour_message(ifindex, ip);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        Self {
            message: RouteNetlinkMessage::NewNeighbour(message).into(),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            tolerated: &[],
            operation: format!("set the neighbour {ip} of interface {ifindex} to {mac}"),
        }
    }

    /// Removes the neighbour `ip`.
    #[must_use]
    pub fn remove_neighbour(ifindex: u32, ip: Ipv4Addr) -> Self {
        Self {
            message: RouteNetlinkMessage::DelNeighbour(neighbour_message(ifindex, ip)).into(),
            flags: 0,
            // It is not there.
            tolerated: &[libc::ENOENT],
            operation: format!("remove the neighbour {ip} of interface {ifindex}"),
        }
    }

    /// Sets the permanent FDB entry of `mac`.
    #[must_use]
    pub fn set_fdb(ifindex: u32, mac: MacAddr, remote: Ipv4Addr) -> Self {
        let mut message = fdb_message(ifindex, mac);
        message
            .attributes
            .push(NeighbourAttribute::Destination(remote.into()));
        Self {
            message: RouteNetlinkMessage::NewNeighbour(message).into(),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            tolerated: &[],
            operation: format!("set the FDB entry {mac} of interface {ifindex} to {remote}"),
        }
    }

    /// Removes the FDB entry of `mac`.
    #[must_use]
    pub fn remove_fdb(ifindex: u32, mac: MacAddr) -> Self {
        Self {
            message: RouteNetlinkMessage::DelNeighbour(fdb_message(ifindex, mac)).into(),
            flags: 0,
            // It is not there.
            tolerated: &[libc::ENOENT],
            operation: format!("remove the FDB entry {mac} of interface {ifindex}"),
        }
    }
}

fn neighbour_message(ifindex: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(ip.into()));
    message
}

fn fdb_message(ifindex: u32, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

/// The IPv4 neighbour in a message; also used for events.
pub(super) fn parse_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let ip = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
            _ => None,
        })?;
    Some(Neighbour {
        ifindex: message.header.ifindex,
        ip,
        mac: link_layer_address(message),
        state: message.header.state,
        flags: message.header.flags,
    })
}

/// The FDB entry in a message; also used for events.
pub(super) fn parse_fdb(message: &NeighbourMessage) -> Option<FdbEntry> {
    let mut remote = None;
    // The kernel names port, VNI and link of an entry only where they differ from the device's.
    let mut is_plain = u16::from(message.header.state) & PERMANENT != 0
        && message.header.flags == NeighbourFlags::Own;
    for attribute in &message.attributes {
        match attribute {
            // AF_BRIDGE does not tell the crate the family of the destination.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                remote = <[u8; 4]>::try_from(bytes.as_slice())
                    .ok()
                    .map(Ipv4Addr::from);
            }
            NeighbourAttribute::Port(_)
            | NeighbourAttribute::Vni(_)
            | NeighbourAttribute::SourceVni(_)
            | NeighbourAttribute::IfIndex(_)
            | NeighbourAttribute::Vlan(_)
            | NeighbourAttribute::Controller(_) => is_plain = false,
            _ => {}
        }
    }
    Some(FdbEntry {
        mac: link_layer_address(message)?,
        remote,
        is_plain: is_plain && remote.is_some(),
    })
}

fn link_layer_address(message: &NeighbourMessage) -> Option<MacAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => MacAddr::from_slice(bytes),
            _ => None,
        })
}
