//! Two hosts with flannel's udp overlay between them, and no agents: the proxy alone.
//!
//! - [`Pair`]: hosts, wire and pods; [`Node`]: what the agent does about udp on one of them.
//! - [`mod@reference`]: the proxy that sends and receives one packet per system call, as flannel's;
//!   `cargo xtask bench` has both in one run.
//! - [`programs`]: the backend's programs beside it.

pub mod programs;
pub mod reference;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use flannel_agent::backend::udp::device::{
    Device, DeviceChange, DeviceError, DeviceSpec, ensure_device,
};
use flannel_agent::backend::udp::proxy::{Proxy, ProxySpec};
use flannel_agent::backend::udp::socket::Sockets;
use flannel_agent::backend::udp::table::Table;
use flannel_agent::backend::udp::{DEVICE_NAME, OVERHEAD};
use flannel_agent::netlink::Netlink;
use ipnetwork::Ipv4Network;

use crate::host::{Host, SubnetEnv};
use crate::mounts::Mounts;
use crate::netns::NetNs;
use crate::wire::Wire;

/// Port of flannel's udp backend.
pub const PORT: u16 = 8285;
/// Largest inner packet over a wire with an MTU of 1500.
pub const MTU: u32 = 1500 - OVERHEAD;

/// Two hosts and a wire; each has a subnet and a pod in it.
#[derive(Debug)]
pub struct Pair {
    /// `a` and `b`.
    pub hosts: [Host; 2],
}

impl Pair {
    /// Builds hosts, wire and pods; nothing carries packets between pods yet.
    ///
    /// # Errors
    /// Not root, or a device cannot be made.
    pub fn new(wire: Wire) -> Result<Self> {
        let mounts = Arc::new(Mounts::new()?);
        let namespaces = [NetNs::new(&mounts)?, NetNs::new(&mounts)?];
        namespaces[0].ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            namespaces[1].path()
        ))?;
        let [a, b] = namespaces;
        let pair = Self {
            hosts: [set_up(0, a)?, set_up(1, b)?],
        };
        pair.set_wire(wire)?;
        Ok(pair)
    }

    /// Changes how the wire treats large packets.
    ///
    /// # Errors
    /// The devices cannot do it.
    pub fn set_wire(&self, wire: Wire) -> Result<()> {
        self.hosts
            .iter()
            .try_for_each(|host| wire.apply(&host.ns, "eth0"))
    }

    /// Starts the proxy on both hosts, each with the other as its peer.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub fn start(&self) -> Result<[Node; 2]> {
        Ok([self.start_one(0)?, self.start_one(1)?])
    }

    /// Starts the proxy on one host with the other as its peer.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub fn start_one(&self, number: u8) -> Result<Node> {
        let host = &self.hosts[usize::from(number)];
        Node::start(host, number, self.peers_of(number))
    }

    /// The peers of a host: the other one.
    #[must_use]
    pub fn peers_of(&self, number: u8) -> Table {
        let other = 1 - number;
        let address = self.hosts[usize::from(other)].address;
        Table::new([(subnet(other), SocketAddrV4::new(address, PORT))])
    }
}

/// The whole network.
#[must_use]
pub fn network() -> Ipv4Network {
    Ipv4Network::new_checked([10, 5, 0, 0].into(), 16).unwrap_or_else(|| unreachable!())
}

/// The subnet of a host.
#[must_use]
pub fn subnet(number: u8) -> Ipv4Network {
    Ipv4Network::new_checked([10, 5, number, 0].into(), 24).unwrap_or_else(|| unreachable!())
}

fn set_up(number: u8, ns: NetNs) -> Result<Host> {
    let address = Ipv4Addr::new(192, 168, 7, 10 + number);
    ns.ip(&format!(
        "addr add {address}/24 dev eth0\nlink set eth0 up\n"
    ))?;
    ns.sysctl("net/ipv4/ip_forward", "1")?;
    let mut host = Host {
        name: char::from(b'a' + number).to_string(),
        ns,
        external: "eth0".to_owned(),
        address,
        gateway: None,
        pods: Vec::new(),
    };
    let bridge = Ipv4Network::new([10, 5, number, 1].into(), 24)?;
    host.add_pod(&SubnetEnv { bridge, mtu: MTU })?;
    Ok(host)
}

/// The device of a host, with as many queues as the agent would open.
#[must_use]
pub fn device_spec(number: u8) -> DeviceSpec {
    DeviceSpec {
        name: DEVICE_NAME.to_owned(),
        mtu: MTU,
        address: subnet(number).network(),
        network: network(),
        queues: flannel_agent::backend::udp::device::queue_count(),
    }
}

/// Calls [`ensure_device`] in the namespace of a host.
///
/// # Errors
/// The namespace cannot be entered; what the device says is the inner result.
pub fn ensure(
    host: &Host,
    spec: &DeviceSpec,
    held: Option<&Device>,
) -> Result<Result<(Device, DeviceChange), DeviceError>> {
    host.ns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(async {
            let netlink = Netlink::open()?;
            ensure_device(&netlink, spec, held).await
        }))
    })?
}

/// The udp backend on one host.
#[derive(Debug)]
pub struct Node {
    /// Its device, with open queues.
    pub device: Device,
    /// What carries its packets.
    pub proxy: Proxy,
}

impl Node {
    /// Binds, makes the device and starts the proxy, in the agent's order.
    ///
    /// # Errors
    /// The port or the device is taken, or the kernel refuses.
    pub fn start(host: &Host, number: u8, peers: Table) -> Result<Self> {
        let spec = device_spec(number);
        let address = SocketAddrV4::new(host.address, PORT);
        let sockets = host.ns.enter(|| Sockets::bind(address, spec.queues))??;
        let (device, _) = ensure(host, &spec, None)?.context("make the device")?;
        let start = || {
            Proxy::start(ProxySpec {
                sockets,
                device: &device,
                address: spec.address,
                peers,
            })
        };
        let proxy = host.ns.enter(start)??;
        Ok(Self { device, proxy })
    }
}
