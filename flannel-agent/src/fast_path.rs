//! The fast path: flows between pods that have been let through by routing and netfilter go around
//! both for a while (`flannel-ebpf/src/programs/fast.rs` has how). This side finds the pods, puts
//! the programs on their interfaces, and ends all admissions whenever something has changed that a
//! packet's way depends on.
//!
//! What is admitted expires by itself, so nothing here has to happen for packets to obey the rules
//! within the bound: it only makes them do so earlier.

pub mod endpoints;
mod follow;
pub mod ip_tables;
pub mod judge;
pub mod liberal;
pub mod programs;
pub mod rules;
pub mod ruleset;
pub mod run;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use aya::programs::TcAttachType;
use flannel_ebpf::abi;
use ipnetwork::Ipv4Network;
use tracing::{info, warn};

use self::endpoints::{Endpoint, Host, WhyNot, find, unbridged};
use self::liberal::Liberal;
use self::programs::Programs;
use crate::cli::FastPathMode;
use crate::dataplane;
use crate::error::chain;
use crate::netlink::{self, Netlink};
use crate::status;

/// How the fast path is to be used.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where the dataplane is.
    pub dataplane: dataplane::Options,
    /// Whether to use it.
    pub mode: FastPathMode,
    /// How long an admission lasts.
    pub bound: Duration,
    /// Name of the external interface.
    pub external: String,
    /// Where the agent keeps what it has to remember.
    pub run_dir: PathBuf,
}

/// Both directions of a pod's interface.
const BOTH: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// How long packets that are on their way into a pod are waited for before the programs that hand
/// them on are taken off: a hundred times what a full backlog of a processor takes.
const IN_FLIGHT: Duration = Duration::from_millis(50);

/// The fast path of a node; it goes on when this is dropped.
pub struct FastPath {
    spec: Spec,
    netlink: Netlink,
    programs: Option<Programs>,
    generation: u32,
    attached: BTreeSet<Endpoint>,
    unusable: Vec<(Endpoint, WhyNot)>,
    liberal: Liberal,
    /// Why it is not in use, if it is not.
    reasons: Vec<String>,
    flows: usize,
}

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A netlink call failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Programs or maps failed.
    #[error(transparent)]
    Programs(#[from] programs::Error),
    /// Conntrack would end healthy connections.
    #[error("set nf_conntrack_tcp_be_liberal")]
    Liberal(#[source] std::io::Error),
}

impl FastPath {
    /// Not in use yet.
    #[must_use]
    pub fn new(spec: Spec, netlink: Netlink) -> Self {
        let liberal = Liberal::new(&spec.run_dir);
        Self {
            spec,
            netlink,
            programs: None,
            generation: 0,
            attached: BTreeSet::new(),
            unusable: Vec::new(),
            liberal,
            reasons: Vec::new(),
            flows: 0,
        }
    }

    /// Takes another mode, from the next pass on.
    pub fn set_mode(&mut self, mode: FastPathMode) {
        self.spec.mode = mode;
    }

    /// Whether it has been asked for.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.spec.mode == FastPathMode::Auto
    }

    /// Makes the host what it should be: programs on the interfaces of all pods, or none.
    /// `obstacles` are why the fast path must not be used now, if anything.
    pub async fn reconcile(&mut self, own: Ipv4Network, mut obstacles: Vec<String>) {
        if !self.is_wanted() {
            self.close(vec!["asked for".into()]).await;
            return;
        }
        obstacles.extend(self.obstacle());
        if !obstacles.is_empty() {
            self.close(obstacles).await;
            return;
        }
        match self.open(own).await {
            Ok(()) => self.reasons.clear(),
            Err(error) => {
                let reasons = vec![chain(&error)];
                if self.reasons != reasons {
                    warn!(error = reasons[0], "the fast path is not in use");
                }
                self.close(reasons).await;
            }
        }
    }

    async fn open(&mut self, own: Ipv4Network) -> Result<(), Error> {
        self.liberal.set().map_err(Error::Liberal)?;
        if self.programs.is_none() {
            let programs = Programs::load(&self.spec.dataplane)?;
            // Those of an earlier run are over with the first change of this one.
            self.generation = programs.get()?.generation;
            self.programs = Some(programs);
            info!("fast path: on");
        }
        let host = self.read_host(own).await?;
        let mut found = find(&host, own);
        let (usable, foreign) = found
            .usable
            .into_iter()
            .partition(|endpoint| !Programs::has_foreign(&endpoint.name, &BOTH));
        found.usable = usable;
        let foreign: BTreeSet<Endpoint> = foreign;
        let foreign = foreign.into_iter().map(|it| (it, WhyNot::Program));
        found.unusable.extend(foreign);
        let Some(programs) = &mut self.programs else {
            return Ok(());
        };
        for endpoint in self.attached.difference(&found.usable) {
            // Most are gone with their pod, and their programs with them.
            if let Err(error) = programs.detach(endpoint) {
                warn!(%endpoint, error = chain(&error), "a program stays on an interface");
            }
        }
        let mut attached: BTreeSet<_> =
            self.attached.intersection(&found.usable).cloned().collect();
        for endpoint in found.usable.difference(&self.attached) {
            match programs.attach(endpoint) {
                Ok(()) => {
                    attached.insert(endpoint.clone());
                }
                // It may be gone already; if not, the next pass tries again.
                Err(error) => {
                    warn!(%endpoint, error = chain(&error), "a pod stays on the standard path");
                }
            }
        }
        programs.forget_all_but(&attached.iter().map(|endpoint| endpoint.index).collect());
        self.attached = attached;
        self.unusable = found.unusable;
        self.renew()?;
        Ok(())
    }

    /// Whether a program or a queueing discipline of somebody else has come to an interface since
    /// the last pass, of which nothing tells, or has gone.
    pub async fn has_news(&self, own: Ipv4Network) -> bool {
        if self.programs.is_none() {
            return false;
        }
        // What cannot be read is for a pass to say.
        let Ok(host) = self.read_host(own).await else {
            return true;
        };
        let mut usable = find(&host, own).usable;
        usable.retain(|endpoint| !Programs::has_foreign(&endpoint.name, &BOTH));
        usable != self.attached
    }

    /// Why packets must not leave by the external interface without the stack, if so.
    fn obstacle(&self) -> Option<String> {
        let external = &self.spec.external;
        Programs::has_foreign(external, &[TcAttachType::Egress])
            .then(|| format!("{external} has a TC program of somebody else on egress"))
    }

    /// Ends all admissions: every flow has to come through the rules again.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn renew(&mut self) -> Result<(), programs::Error> {
        let Some(programs) = &mut self.programs else {
            return Ok(());
        };
        self.generation = self.generation.wrapping_add(1);
        programs.set(abi::FastPath {
            bound: u64::try_from(self.spec.bound.as_nanos()).unwrap_or(u64::MAX),
            generation: self.generation,
            reserved: 0,
        })
    }

    /// Sends everything by the standard path again, and takes the programs off.
    async fn close(&mut self, reasons: Vec<String>) {
        if let Some(mut programs) = self.programs.take() {
            // First: no packet enters the fast path from here on.
            if let Err(error) = programs.set(bytemuck::Zeroable::zeroed()) {
                warn!(error = chain(&error), "the fast path is on until its bound");
            }
            tokio::time::sleep(IN_FLIGHT).await;
            for endpoint in std::mem::take(&mut self.attached) {
                if let Err(error) = programs.detach(&endpoint) {
                    warn!(%endpoint, error = chain(&error), "a program stays on an interface");
                }
            }
            programs.forget_all_but(&BTreeSet::new());
            info!(reason = reasons.join("; "), "fast path: off");
        }
        self.liberal.restore();
        self.unusable.clear();
        self.flows = 0;
        self.reasons = reasons;
    }

    /// Removes what has expired.
    pub fn sweep(&mut self) {
        if let Some(programs) = &mut self.programs {
            match programs.sweep() {
                Ok(flows) => self.flows = flows,
                Err(error) => warn!(error = chain(&error), "expired flows stay"),
            }
        }
    }

    async fn read_host(&self, own: Ipv4Network) -> Result<Host, Error> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.all_addresses().await?;
        let mut routed = BTreeSet::new();
        for link in unbridged(&links) {
            let routes = self.netlink.device_routes(link.index).await?;
            if routes.iter().any(|route| own.contains(route.subnet.ip())) {
                routed.insert(link.index);
            }
        }
        Ok(Host {
            links,
            addresses,
            routed,
        })
    }

    /// Its part of the status document.
    #[must_use]
    pub fn status(&self) -> status::FastPath {
        let is_on = self.programs.is_some();
        status::FastPath {
            requested: self.spec.mode.to_string(),
            active: is_on,
            reasons: self.reasons.clone(),
            bound_ms: u64::try_from(self.spec.bound.as_millis()).unwrap_or(u64::MAX),
            pods: self.attached.len(),
            flows: self.flows,
            skipped: self
                .unusable
                .iter()
                .map(|(endpoint, why)| format!("{endpoint} {why}"))
                .collect(),
        }
    }
}
