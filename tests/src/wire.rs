//! What a wire between hosts does to large packets.
//!
//! A veth passes 64 KiB super-packets and so hides every cost per packet. The mode says which
//! hardware the wire stands for.

use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::netns::NetNs;

/// Mode of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// Each packet of at most the MTU crosses on its own, as between physical NICs.
    #[serde(rename = "wire-1500")]
    Mtu1500,
    /// Super-packets cross whole, as between virtual machines of one hypervisor.
    SuperPacket,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mtu1500 => "wire-1500",
            Self::SuperPacket => "super-packet",
        })
    }
}

impl Wire {
    /// Sets one end of a wire.
    ///
    /// # Errors
    /// The device is not there or cannot do it.
    pub fn apply(self, host: &NetNs, device: &str) -> Result<()> {
        let state = match self {
            Self::Mtu1500 => "off",
            Self::SuperPacket => "on",
        };
        let mut args = vec!["-K", device];
        let features = [
            "tso",
            "gso",
            "tx-udp-segmentation",
            "tx-udp_tnl-segmentation",
            "tx-udp_tnl-csum-segmentation",
        ];
        for feature in features {
            args.extend([feature, state]);
        }
        args.extend(["gro", "on"]);
        host.run("ethtool", &args).map(drop)
    }
}
