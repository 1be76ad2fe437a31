//! The fast path: flows between pods that have been let through by routing and netfilter go around
//! both for a while (`flannel-ebpf/src/programs/fast/mod.rs` has how). This side finds the pods, puts
//! the programs on their interfaces, and ends all admissions whenever something has changed that a
//! packet's way depends on.
//!
//! What is admitted expires by itself, so nothing here has to happen for packets to obey the rules
//! within the bound: it only makes them do so earlier.

mod census;
pub mod earlier;
pub mod endpoints;
mod follow;
pub mod ip_tables;
pub mod judge;
pub mod liberal;
pub mod others;
pub mod programs;
pub mod rps;
pub mod rules;
pub mod ruleset;
pub mod run;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::time::sleep;
use tracing::{info, warn};

use self::census::Census;
use self::endpoints::{Endpoint, Found, Host, WhyNot, find, unbridged};
use self::liberal::Liberal;
use self::others::Sides;
use self::programs::Programs;
use crate::cli::FastPathMode;
use crate::dataplane::pin::Pins;
use crate::dataplane::{self, attach};
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
    /// Name of the tunnel device, for backends with one.
    pub device: Option<String>,
    /// Where the agent keeps what it has to remember.
    pub run_dir: PathBuf,
}

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
    /// What of others hangs on the interfaces that all pods' packets pass.
    others: Vec<String>,
    census: Census,
    /// Whether nothing of an earlier run is left where this one has nothing.
    is_clean: bool,
}

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A netlink call failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Programs or maps failed.
    #[error(transparent)]
    Programs(Box<programs::Error>),
    /// Conntrack would end healthy connections.
    #[error("set nf_conntrack_tcp_be_liberal")]
    Liberal(#[source] io::Error),
    /// A pin of an earlier run could not be removed.
    #[error("remove a pin of an earlier run")]
    Pin(#[source] io::Error),
}

impl From<programs::Error> for Error {
    fn from(error: programs::Error) -> Self {
        Self::Programs(Box::new(error))
    }
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
            others: Vec::new(),
            census: Census::default(),
            is_clean: false,
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
        if self.is_outdated() {
            self.close(vec!["the dataplane has been made anew".into()])
                .await;
        }
        let done = match self.read(own).await {
            Ok((found, others)) => {
                obstacles.extend(others.iter().cloned());
                self.others = others;
                if !obstacles.is_empty() {
                    self.close(obstacles).await;
                    return;
                }
                self.open(found).await
            }
            Err(error) => Err(error.into()),
        };
        let Err(error) = done else {
            self.reasons.clear();
            return;
        };
        // What could not be read says nothing about pods: those in use go on, by the next look's
        // leave, and what they send is judged by the rules once more.
        let is_unread = matches!(error, Error::Netlink(_)) && self.programs.is_some();
        if is_unread && obstacles.is_empty() && self.renew().is_ok() {
            warn!(error = chain(&error), "interfaces cannot be read");
            return;
        }
        obstacles.push(chain(&error));
        if self.reasons != obstacles {
            warn!(error = chain(&error), "the fast path is not in use");
        }
        self.close(obstacles).await;
    }

    async fn open(&mut self, found: Found) -> Result<(), Error> {
        let is_first = self.programs.is_none();
        if is_first {
            let programs = Programs::load(&self.spec.dataplane)?;
            // Those of an earlier run are over with the first change of this one.
            self.generation = programs.get()?.generation;
            self.programs = Some(programs);
            self.is_clean = false;
            info!("fast path: on");
        }
        let Some(programs) = &mut self.programs else {
            return Ok(());
        };
        // Those that are not used any more, and any that an earlier run may have used. Most are gone
        // with their pod, and their programs with them.
        let unused = found.unusable.iter().map(|(endpoint, _)| endpoint);
        let unused = unused.filter(|endpoint| is_first || self.attached.contains(endpoint));
        let former = self.attached.difference(&found.usable);
        let leaving: BTreeSet<Endpoint> = former.chain(unused).cloned().collect();
        let is_there = |it: &&Endpoint| attach::index(&it.name) == it.index;
        let leaving: Vec<_> = leaving.iter().filter(is_there).collect();
        if !leaving.is_empty() {
            // No packet may be on its way to a program that goes, and none that it still sees may
            // admit a flow: the kernel takes it off after a grace period only.
            programs.set(0, self.generation)?;
            sleep(IN_FLIGHT).await;
        }
        for endpoint in &leaving {
            if let Err(error) = programs.detach(endpoint) {
                warn!(%endpoint, error = chain(&error), "a program stays on an interface");
            }
        }
        if !leaving.is_empty() {
            sleep(IN_FLIGHT).await;
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
        self.renew()
    }

    /// Whether the programs use maps that the dataplane does not have any more.
    fn is_outdated(&self) -> bool {
        let mut programs = self.programs.iter();
        programs.any(|programs| !programs.is_current())
    }

    /// Whether a program or a queueing discipline of somebody else has come to an interface since
    /// the last pass, of which nothing tells, or has gone; or the dataplane is another one.
    pub async fn has_news(&self, own: Ipv4Network) -> bool {
        if !self.is_wanted() {
            return false;
        }
        if self.is_outdated() {
            return true;
        }
        // What cannot be read is for a pass to say.
        let Ok((found, others)) = self.read(own).await else {
            return self.programs.is_some();
        };
        others != self.others || (self.programs.is_some() && found.usable != self.attached)
    }

    /// Ends all admissions: every flow has to come through the rules again.
    ///
    /// # Errors
    /// The map, or what conntrack needs, could not be written.
    pub fn renew(&mut self) -> Result<(), Error> {
        let Some(programs) = &mut self.programs else {
            return Ok(());
        };
        self.liberal.set().map_err(Error::Liberal)?;
        self.generation = self.generation.wrapping_add(1);
        let bound = u64::try_from(self.spec.bound.as_nanos()).unwrap_or(u64::MAX);
        programs.set(bound, self.generation)?;
        Ok(())
    }

    /// Sends everything by the standard path again, and takes the programs off, also those of an
    /// earlier run.
    async fn close(&mut self, reasons: Vec<String>) {
        if let Some(mut programs) = self.programs.take() {
            // First: no packet enters the fast path from here on.
            if let Err(error) = programs.set(0, self.generation) {
                warn!(error = chain(&error), "the fast path is on until its bound");
            }
            sleep(IN_FLIGHT).await;
            for endpoint in std::mem::take(&mut self.attached) {
                if let Err(error) = programs.detach(&endpoint) {
                    warn!(%endpoint, error = chain(&error), "a program stays on an interface");
                }
            }
            programs.forget_all_but(&BTreeSet::new());
            self.is_clean = false;
            info!(reason = reasons.join("; "), "fast path: off");
        }
        if !self.is_clean {
            let pins = Pins::new(&self.spec.dataplane.pin_path);
            match earlier::remove(&self.netlink, &pins).await {
                Ok(removed) => {
                    self.is_clean = true;
                    if !removed.is_empty() {
                        info!(?removed, "took the fast path of an earlier run off");
                    }
                }
                Err(error) => warn!(error = chain(&error), "an earlier run's fast path stays"),
            }
        }
        self.unusable.clear();
        self.census = Census::default();
        self.reasons = reasons;
    }

    /// Counts the flows that are on the fast path, by how often one was admitted since the last time.
    fn count_flows(&mut self) {
        let admissions = self.programs.as_ref().map(Programs::admissions);
        let admissions = match admissions.transpose() {
            Ok(admissions) => admissions,
            Err(error) => {
                warn!(error = chain(&error), "flows cannot be counted");
                None
            }
        };
        self.census.take(admissions, self.spec.bound);
    }

    /// The pods' interfaces, and why packets must not go around the interfaces that all of them
    /// pass, if so.
    async fn read(&self, own: Ipv4Network) -> Result<(Found, Vec<String>), netlink::Error> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.all_addresses().await?;
        let mut routed = BTreeSet::new();
        for link in unbridged(&links) {
            let routes = self.netlink.device_routes(link.index).await?;
            if routes.iter().any(|route| own.contains(route.subnet.ip())) {
                routed.insert(link.index);
            }
        }
        let mut host = Host {
            links,
            addresses,
            routed,
            programs: BTreeSet::new(),
            spread: BTreeSet::new(),
        };
        let others = others::Programs::read(&self.netlink).await?;
        let (mut programs, mut spread) = (BTreeSet::new(), BTreeSet::new());
        for link in host.on_the_way(own) {
            if rps::is_spread(&link.name, link.index) {
                spread.insert(link.index);
            }
            if others
                .has_foreign(link.index, &link.name, Sides::Both)
                .await?
            {
                programs.insert(link.index);
            }
        }
        (host.programs, host.spread) = (programs, spread);
        let mut obstacles = Vec::new();
        for link in &host.links {
            let sides = if self.spec.device.as_ref() == Some(&link.name) {
                Sides::Both
            } else if self.spec.external == link.name {
                Sides::Egress
            } else {
                continue;
            };
            let has_foreign = others.has_foreign(link.index, &link.name, sides).await?;
            let mut found: Vec<_> = has_foreign.then_some(WhyNot::Program).into_iter().collect();
            if sides == Sides::Both {
                found.extend(others::shaper(link));
                let is_spread = rps::is_spread(&link.name, link.index);
                found.extend(is_spread.then_some(WhyNot::Rps));
            }
            let found = found.into_iter();
            obstacles.extend(found.map(|why| format!("{} {why}", link.name)));
        }
        Ok((find(&host, own), obstacles))
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
            flows: self.census.flows(),
            skipped: self
                .unusable
                .iter()
                .map(|(endpoint, why)| format!("{endpoint} {why}"))
                .collect(),
        }
    }
}
