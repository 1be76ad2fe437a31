//! The extension backend: commands of the operator carry packets, or set up what does.
//!
//! Four of them, each run as flannel from v0.28.2 on runs it: `PreStartupCommand` before there is a
//! lease, whose output the lease tells to all peers; `PostStartupCommand` when there is one; and
//! for each peer `SubnetAddCommand` when it comes and `SubnetRemoveCommand` when it goes, which
//! find on their standard input what the peer's first command has printed. Ours besides are a
//! shell for those who ask for one, a time limit, and the next try after a failure.
//!
//! What peers write reaches a command as standard input and as parsed addresses in its
//! environment, never as part of its text.

mod data;
mod failure;
mod output;
mod peers;
mod process;
mod schedule;
mod words;

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde_json::value::RawValue;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use self::failure::Failure;
use self::failure::Reason;
use self::output::WHOLE;
pub use self::peers::Peers;
use self::process::{Run, Runner};
use crate::lease::LeaseAttrs;
use crate::network;

/// Value of `BackendType` in leases of this backend.
pub const BACKEND_TYPE: &str = "extension";

/// The commands of a network config, ready to run.
#[derive(Debug)]
pub struct Extension {
    runner: Runner,
    pre_startup: Option<String>,
    post_startup: Option<String>,
    subnet_add: Option<String>,
    subnet_remove: Option<String>,
}

/// This node and its lease, as `PostStartupCommand` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnFacts {
    /// All of the overlay.
    pub network: Ipv4Network,
    /// What this node leases.
    pub subnet: Ipv4Network,
    /// The IPv6 part of the lease.
    pub ipv6_subnet: Option<Ipv6Network>,
    /// Address in the lease; with this backend that of the external interface.
    pub public_ip: Ipv4Addr,
    /// IPv6 address in the lease.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// A peer, as the commands about it are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its address on the underlay.
    pub public_ip: Ipv4Addr,
    /// What its `PreStartupCommand` has printed; empty when it has none.
    pub data: String,
}

/// Why there is nothing to run for a lease.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotAPeer {
    /// The node speaks another protocol.
    #[error("backend is {0:?}, not extension")]
    OtherBackend(String),
    /// No command could have printed that.
    #[error("BackendData is not a string: {0}")]
    NotText(String),
}

impl PeerFacts {
    /// What a lease says about its node.
    ///
    /// # Errors
    /// The lease is not of this backend, or not one that this backend writes.
    pub fn from_lease(attrs: &LeaseAttrs) -> Result<Self, NotAPeer> {
        if attrs.backend_type != BACKEND_TYPE {
            return Err(NotAPeer::OtherBackend(attrs.backend_type.clone()));
        }
        let data = data::text(attrs.backend_data.as_deref());
        Ok(Self {
            public_ip: attrs.public_ip,
            data: data.map_err(|error| NotAPeer::NotText(error.to_string()))?,
        })
    }
}

impl Extension {
    /// Takes the commands over from the network config. They get `environment`, the agent's own.
    #[must_use]
    pub fn new(
        options: network::Extension,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let network::Extension {
            pre_startup,
            post_startup,
            subnet_add,
            subnet_remove,
            shell,
            timeout,
        } = options;
        Self {
            runner: Runner {
                shell,
                limit: timeout,
                environment: environment.into_iter().collect(),
            },
            pre_startup,
            post_startup,
            subnet_add,
            subnet_remove,
        }
    }

    /// Runs `PreStartupCommand`; what it prints becomes the lease's `BackendData`. Without such a
    /// command there is none.
    ///
    /// Unlike in flannel, error output is not part of it: a warning would be taken for data by
    /// every peer.
    ///
    /// # Errors
    /// The command has failed, or was ended because `stop` was cancelled.
    pub async fn pre_startup(
        &self,
        stop: &CancellationToken,
    ) -> Result<Option<Box<RawValue>>, Failure> {
        const KEY: &str = "PreStartupCommand";
        let Some(text) = &self.pre_startup else {
            return Ok(None);
        };
        let run = Run {
            key: KEY,
            text,
            peer: None,
            variables: &[],
            input: "",
        };
        let output = self.runner.run(&run, stop).await?.whole;
        let failure = |reason| Failure::new(KEY, text, reason);
        if output.len() > WHOLE {
            return Err(failure(Reason::TooMuch));
        }
        let data = data::backend_data(&output);
        data.map(Some).map_err(|error| failure(Reason::Json(error)))
    }

    /// Runs `PostStartupCommand`, if there is one.
    ///
    /// # Errors
    /// The command has failed, or was ended because `stop` was cancelled.
    pub async fn post_startup(
        &self,
        own: &OwnFacts,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let Some(text) = &self.post_startup else {
            return Ok(());
        };
        let OwnFacts {
            network,
            subnet,
            ipv6_subnet,
            public_ip,
            public_ipv6,
        } = own;
        // What there is not is empty; flannel prints Go's `<nil>`.
        let variables = [
            ("NETWORK", network.to_string()),
            ("SUBNET", subnet.to_string()),
            (
                "IPV6SUBNET",
                ipv6_subnet.map(|v6| v6.to_string()).unwrap_or_default(),
            ),
            ("PUBLIC_IP", public_ip.to_string()),
            (
                "PUBLIC_IPV6",
                public_ipv6.map(|v6| v6.to_string()).unwrap_or_default(),
            ),
        ];
        let run = Run {
            key: "PostStartupCommand",
            text,
            peer: None,
            variables: &variables,
            input: "",
        };
        self.runner.run(&run, stop).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leases_that_this_backend_writes_are_peers() {
        let attrs = |backend_type: &str, data: Option<&str>| LeaseAttrs {
            public_ip: [192, 168, 7, 11].into(),
            public_ipv6: None,
            backend_type: backend_type.into(),
            backend_data: data.map(|data| RawValue::from_string(data.into()).unwrap()),
            backend_v6_data: None,
        };
        let facts = |data: &str| PeerFacts {
            public_ip: [192, 168, 7, 11].into(),
            data: data.into(),
        };
        let peer = |backend_type, data| PeerFacts::from_lease(&attrs(backend_type, data));
        assert_eq!(peer("extension", None), Ok(facts("")));
        assert_eq!(peer("extension", Some(r#""a\nb""#)), Ok(facts("a\nb")));
        let other = NotAPeer::OtherBackend("vxlan".into());
        assert_eq!(peer("vxlan", Some(r#""a""#)), Err(other));
        let object = peer("extension", Some(r#"{"VtepMAC":"x"}"#)).unwrap_err();
        assert!(
            object
                .to_string()
                .starts_with("BackendData is not a string")
        );
    }
}
