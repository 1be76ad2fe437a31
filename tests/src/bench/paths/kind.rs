//! The data paths that are compared: ours, the kernel's, and those of other programs.

use std::fmt;

use anyhow::{Result, ensure};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use crate::bench::leases::Subject;

/// A data path that needs nothing but this project and the kernel.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    clap::ValueEnum,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From host to host: no pods, no overlay.
    Host,
    /// From pod to pod by programs that redirect and do nothing else: what no data path can exceed.
    Bare,
    /// The kernel's vxlan device.
    VxlanKernel,
    /// vxlan in eBPF, through routing and netfilter.
    VxlanEbpf,
    /// vxlan in eBPF, around both.
    VxlanFast,
    /// The same, with tunnel headers taken off by XDP before GRO: by force, as `auto` does on NICs.
    VxlanXdp,
    /// The kernel's routes.
    HostGwKernel,
    /// The same, with nftables' flow table around routing and netfilter.
    HostGwFlowtable,
    /// The kernel's routes, with the packets of each peer counted in eBPF.
    HostGwEbpf,
    /// In eBPF around routing and netfilter.
    HostGwFast,
    /// The agent's TUN proxy.
    UdpKernel,
    /// udp in eBPF.
    UdpEbpf,
    /// udp in eBPF, around routing and netfilter.
    UdpFast,
    /// The same with XDP, as for vxlan.
    UdpXdp,
    /// A proxy that moves one packet per system call, as flannel's.
    UdpLoop,
}

impl Kind {
    /// All of them, in the order of the rows.
    pub const ALL: [Self; 15] = [
        Self::Host,
        Self::Bare,
        Self::VxlanKernel,
        Self::VxlanEbpf,
        Self::VxlanFast,
        Self::VxlanXdp,
        Self::HostGwKernel,
        Self::HostGwFlowtable,
        Self::HostGwEbpf,
        Self::HostGwFast,
        Self::UdpKernel,
        Self::UdpEbpf,
        Self::UdpFast,
        Self::UdpXdp,
        Self::UdpLoop,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host to host",
            Self::Bare => "bare redirect",
            Self::VxlanKernel => "vxlan kernel",
            Self::VxlanEbpf => "vxlan eBPF",
            Self::VxlanFast => "vxlan fast",
            Self::VxlanXdp => "vxlan fast, XDP",
            Self::HostGwKernel => "host-gw kernel",
            Self::HostGwFlowtable => "host-gw flowtable",
            Self::HostGwEbpf => "host-gw eBPF",
            Self::HostGwFast => "host-gw fast",
            Self::UdpKernel => "udp proxy",
            Self::UdpEbpf => "udp eBPF",
            Self::UdpFast => "udp fast",
            Self::UdpXdp => "udp fast, XDP",
            Self::UdpLoop => "udp loop",
        }
    }

    /// Its name on the command line and in JSON.
    #[must_use]
    pub fn id(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// A backend that moves packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `vxlan`.
    Vxlan,
    /// `host-gw`.
    HostGw,
    /// `udp`.
    Udp,
}

impl Backend {
    const ALL: [Self; 3] = [Self::Vxlan, Self::HostGw, Self::Udp];

    /// `Type` of the network configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp => "udp",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone)]
pub enum Choice {
    /// One of those that are always there.
    Own(Kind),
    /// A program that takes flanneld's flags.
    Peer(Subject, Backend),
}

impl Choice {
    /// All that can be measured, with each backend of these programs.
    #[must_use]
    pub fn all(peers: &[Subject]) -> Vec<Self> {
        let own = Kind::ALL.into_iter().map(Self::Own);
        let of = |peer: &Subject| Backend::ALL.map(|backend| Self::Peer(peer.clone(), backend));
        own.chain(peers.iter().flat_map(of)).collect()
    }

    /// Those whose id is one of `words` or begins with one: `vxlan` has all of vxlan.
    ///
    /// # Errors
    /// Nothing has such an id.
    pub fn select(all: Vec<Self>, words: &[String]) -> Result<Vec<Self>> {
        let fits = |id: &str, word: &str| {
            let rest = id.strip_prefix(word);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let ids: Vec<String> = all.iter().map(Self::id).collect();
        for word in words {
            ensure!(
                ids.iter().any(|id| fits(id, word)),
                "no data path {word}; there are {}",
                ids.join(", ")
            );
        }
        let chosen = |choice: &Self| words.iter().any(|word| fits(&choice.id(), word));
        Ok(all.into_iter().filter(chosen).collect())
    }

    /// Its name on the command line and in JSON.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Own(kind) => kind.id(),
            Self::Peer(peer, backend) => format!("{}-{}", peer.name(), backend.name()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(kind) => f.pad(kind.name()),
            Self::Peer(peer, backend) => f.pad(&format!("{} {}", peer.name(), backend.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_selects_what_begins_with_it() {
        let ids = |words: &[&str]| -> Result<Vec<String>> {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let chosen = Choice::select(Choice::all(&[]), &words)?;
            Ok(chosen.iter().map(Choice::id).collect())
        };
        assert_eq!(ids(&["vxlan-fast"]).unwrap(), ["vxlan-fast"]);
        let all = ids(&["vxlan", "host"]).unwrap();
        assert_eq!(
            all.len(),
            1 + 4 + 4,
            "host and host-gw both begin so: {all:?}"
        );
        assert!(ids(&["vx"]).is_err());
    }
}
