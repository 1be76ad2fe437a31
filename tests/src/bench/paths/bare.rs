//! The limit: from the pod's interface straight to the wire and from there straight into the other
//! pod, with nothing looked at, looked up or written.
//!
//! No header has to change, since everything is addressed to the next device on the way from the
//! start: the pod's neighbour is the other host's external interface.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};

use super::side::Unavailable;
use crate::bpf::{self, Instruction, TcProgram};
use crate::host::{self, Host};
use crate::measure::probe::Ends;
use crate::udp::Pair;
use crate::wire::Wire;

/// Two hosts whose pods are joined so.
#[derive(Debug)]
pub(super) struct Bare {
    // First, so that they end before what they are attached to.
    _links: Vec<OwnedFd>,
    pub(super) hosts: Pair,
}

impl Bare {
    /// Builds it.
    pub(super) fn new() -> Result<(Self, Ends)> {
        let hosts = Pair::new(Wire::Mtu1500)?;
        let mut links = Vec::new();
        let [a, b] = &hosts.hosts;
        for (host, other) in [(a, b), (b, a)] {
            links.extend(join(host, other)?);
        }
        let next_hop = host::mac(&b.ns, &b.external)?;
        let ends = Ends::of_pods_via(&hosts.hosts, next_hop)?;
        let _links = links;
        Ok((Self { _links, hosts }, ends))
    }
}

fn join(host: &Host, other: &Host) -> Result<[OwnedFd; 2]> {
    let pod = host.pods.first().context("no pod")?;
    let there = other.pods.first().context("no pod")?;
    let mac = host::mac(&other.ns, &other.external)?;
    let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
    // The other pod is on the pod's own link: nobody is asked for its address.
    pod.ns.ip(&format!(
        "route add {0}/32 dev eth0\n\
         neigh replace {0} lladdr {mac} nud permanent dev eth0",
        there.address
    ))?;
    let veth = host.device_index(&pod.veth)?;
    let external = host.device_index(&host.external)?;
    let out = TcProgram::load(&redirect(bpf::REDIRECT, external))?;
    let into = TcProgram::load(&redirect(bpf::REDIRECT_PEER, veth))?;
    host.ns.enter(|| -> Result<_> {
        let attached = [out.attach(veth), into.attach(external)];
        let [out, into] = attached.map(|link| link.map_err(|e| Unavailable(format!("{e:#}"))));
        Ok([out?, into?])
    })?
}

/// A program that sends everything to an interface.
fn redirect(helper: i32, ifindex: u32) -> [Instruction; 4] {
    [
        bpf::set(1, ifindex.cast_signed()),
        bpf::set(2, 0),
        bpf::call(helper),
        bpf::exit(),
    ]
}
