//! The commands of a network config, and the two of them that run at the start.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::data::backend_data;
use super::failure::{Failure, Reason};
use super::output::WHOLE;
use super::process::{Run, Runner};
use crate::network;

/// The commands of a network config, ready to run.
#[derive(Debug)]
pub struct Commands {
    pub(super) runner: Runner,
    pre_startup: Option<String>,
    post_startup: Option<String>,
    pub(super) subnet_add: Option<String>,
    pub(super) subnet_remove: Option<String>,
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

impl Commands {
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
        let data = backend_data(&output);
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
