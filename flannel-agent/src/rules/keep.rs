//! Keeps the rules right: at start, when nftables says that it has changed, and from time to time.

use std::convert::Infallible;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::legacy::{self, Legacy};
use super::plan::{self, Actual, IptablesTable, Leftovers, STOCK_IPV6};
use super::{Error, Forward, Spec, blackhole, masquerade, nft};
use crate::error::chain;
use crate::netlink::Netlink;
use crate::netlink::nftables::Events;

/// How long news is gathered before a look at what it is about.
const SETTLE: Duration = Duration::from_millis(20);
/// Least time between two looks, on hosts where others change rules all the time; a look costs
/// about 10 ms of CPU time.
const PAUSE: Duration = Duration::from_millis(200);
/// Attempts at a change for which the listing turns out to be too old.
const ATTEMPTS: usize = 3;

/// The traffic rules of a node; they stay when this is dropped.
pub struct Rules {
    spec: Spec,
    netlink: Netlink,
    events: Option<Events>,
    /// Whether stock flannel's rules are still to be looked for, in nftables and legacy iptables.
    leftovers: (Leftovers, Leftovers),
    has_started: bool,
    problems: watch::Sender<Vec<String>>,
}

impl Rules {
    /// Sets the rules, in the network namespace of the calling thread, and takes over those of
    /// stock flannel: ours come first, then theirs go.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// Masquerade is asked for and cannot be had. Everything else is a problem to be told.
    pub async fn start(spec: Spec, netlink: Netlink) -> Result<Self, Error> {
        // Before anything is read, so that no change falls in between.
        let events = Events::open()
            .inspect_err(|error| debug!(%error, "no news from nftables"))
            .ok();
        let mut rules = Self {
            spec,
            netlink,
            events,
            leftovers: (Leftovers::Remove, Leftovers::Remove),
            has_started: false,
            problems: watch::Sender::default(),
        };
        let nft = rules.sync_nft().await;
        if spec.masquerade.is_some() {
            nft?;
            rules.sync_rest(Ok(())).await;
        } else {
            rules.sync_rest(nft).await;
        }
        rules.has_started = true;
        Ok(rules)
    }

    /// What is not as it should be, a sentence each.
    #[must_use]
    pub fn problems(&self) -> watch::Receiver<Vec<String>> {
        self.problems.subscribe()
    }

    /// Brings the rules in line with another own subnet.
    pub async fn set_subnet(&mut self, subnet: Ipv4Network) {
        self.spec.subnet = subnet;
        self.sync().await;
    }

    /// Compares and repairs for ever, at least once in `period`. What is interrupted is made up for
    /// by the next comparison.
    pub async fn keep(&mut self, period: Duration) -> Infallible {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut earliest = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = news(&mut self.events) => {
                    sleep(SETTLE).await;
                    sleep_until(earliest).await;
                }
            }
            self.sync().await;
            earliest = Instant::now() + PAUSE;
        }
    }

    /// One comparison, and the repair if it finds something; nothing is written otherwise.
    pub async fn sync(&mut self) {
        let nft = self.sync_nft().await;
        self.sync_rest(nft).await;
    }

    /// Everything but nftables, whose outcome is known.
    async fn sync_rest(&mut self, nft: Result<(), Error>) {
        let mut problems = Vec::new();
        let is_masqueraded = nft.is_ok();
        if let Err(error) = nft
            && let Some(effect) = effect(&self.spec)
        {
            problems.push(format!("{}: {effect}", chain(&error)));
        }
        let mut has_failed = false;
        for table in IptablesTable::ALL {
            match self.sync_legacy(table, is_masqueraded).await {
                Ok(None) => {}
                Ok(Some(problem)) => problems.push(problem),
                Err(error) => {
                    problems.push(chain(&error));
                    has_failed = true;
                }
            }
        }
        if is_masqueraded && !has_failed {
            self.leftovers.1 = Leftovers::Leave;
        }
        match blackhole::ensure(&self.netlink, &self.spec).await {
            Ok(changes) => {
                for change in changes {
                    info!("{change}");
                }
            }
            Err(error) => problems.push(chain(&error)),
        }
        self.tell(problems);
    }

    fn tell(&self, problems: Vec<String>) {
        let before = self.problems.borrow().clone();
        // Once per change, not once per try.
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            warn!(problem, "traffic rules are not as they should be");
        }
        if !before.is_empty() && problems.is_empty() {
            info!("traffic rules are as they should be");
        }
        self.problems.send_replace(problems);
    }

    async fn sync_nft(&mut self) -> Result<(), Error> {
        let mut attempts = 1;
        loop {
            let actual = self.read_nft().await?;
            let script = plan::script(&self.spec, &actual, self.leftovers.0);
            if script.is_empty() {
                break;
            }
            match nft::apply(&script).await {
                Ok(()) => {
                    self.log("nftables", &script);
                    break;
                }
                // A rule that the script names may have gone since it was listed.
                Err(error @ Error::Refused { .. }) if attempts < ATTEMPTS => {
                    debug!(error = chain(&error), script, "nft refused; once more");
                    attempts += 1;
                }
                // Ours do not depend on it that theirs go.
                Err(error @ Error::Refused { .. }) if self.leftovers.0 == Leftovers::Remove => {
                    warn!(error = chain(&error), "rules of stock flannel may be left");
                    self.leftovers.0 = Leftovers::Leave;
                }
                Err(error) => return Err(error),
            }
        }
        self.leftovers.0 = Leftovers::Leave;
        Ok(())
    }

    async fn read_nft(&self) -> Result<Actual, Error> {
        let there = nft::tables().await?;
        let has = |family: &str, name: &str| there.contains(&(family.into(), name.into()));
        let mut actual = Actual {
            has_stock_ipv6: has(STOCK_IPV6.0, STOCK_IPV6.1),
            ..Actual::default()
        };
        if has("ip", masquerade::TABLE) {
            actual.own = Some(nft::table("ip", masquerade::TABLE).await?);
        }
        for table in IptablesTable::ALL {
            let (family, name) = (table.family_name(), table.name());
            if self.concerns(table, self.leftovers.0) && has(family, name) {
                let chains = nft::table(family, name).await?;
                actual.iptables.push((table, chains));
            }
        }
        Ok(actual)
    }

    /// Brings a table of legacy iptables in line, if there is one; or says what is in the way.
    async fn sync_legacy(
        &self,
        table: IptablesTable,
        is_masqueraded: bool,
    ) -> Result<Option<String>, Error> {
        // Theirs stay until ours are there.
        let leftovers = match is_masqueraded {
            true => self.leftovers.1,
            false => Leftovers::Leave,
        };
        let is_concerned = self.concerns(table, leftovers);
        if !is_concerned || !legacy::tables_in_use(table.family).contains(table.name()) {
            return Ok(None);
        }
        let Some(tools) = Legacy::find(table.family).await? else {
            return Ok(self.without_legacy(table));
        };
        let chains = tools.table(table).await?;
        let edits = plan::edits(&self.spec, table, &chains, leftovers);
        let script = legacy::script(table, &edits);
        if !script.is_empty() {
            tools.apply(&script).await?;
            self.log("legacy iptables", &script);
        }
        Ok(None)
    }

    /// What is wrong where legacy iptables has the table but no binary is at hand.
    fn without_legacy(&self, table: IptablesTable) -> Option<String> {
        let network = self.spec.network;
        (table.has_forward() && self.spec.forward == Forward::Accept).then(|| {
            format!(
                "this host uses legacy iptables, which may drop what is forwarded for {network}, \
                 and iptables-legacy (package iptables) is not installed to accept it: install \
                 it, or type \"iptables -A FORWARD -s {network} -j ACCEPT; iptables -A FORWARD \
                 -d {network} -j ACCEPT\" where that iptables is and run with \
                 --iptables-forward-rules=false"
            )
        })
    }

    /// Whether a table of iptables can have something of ours or of stock flannel's.
    fn concerns(&self, table: IptablesTable, leftovers: Leftovers) -> bool {
        let has_ours = table.has_forward() && self.spec.forward == Forward::Accept;
        has_ours || leftovers == Leftovers::Remove
    }

    fn log(&self, place: &str, script: &str) {
        debug!(place, script, "wrote traffic rules");
        match self.has_started {
            false => info!(place, "set the traffic rules"),
            true => warn!(
                place,
                "the host's rules have changed, and ours are set again"
            ),
        }
    }
}

/// What is missing when nftables cannot be used; nothing if no rule is asked for.
fn effect(spec: &Spec) -> Option<&'static str> {
    match (spec.masquerade, spec.forward) {
        (Some(_), _) => Some("masquerade and accepted forwarding are not looked after"),
        (None, Forward::Accept) => {
            Some("if iptables drops what is forwarded, the overlay is not accepted")
        }
        (None, Forward::Leave) => None,
    }
}

/// Waits for news; for ever where none can be had.
async fn news(events: &mut Option<Events>) {
    if let Some(subscription) = events {
        match subscription.next().await {
            // What it is costs as much to read as everything.
            Ok(_) => return,
            Err(error) => warn!(%error, "no more news from nftables; the periodic check goes on"),
        }
        *events = None;
    }
    std::future::pending::<()>().await;
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Rules");
        shown.field("spec", &self.spec).finish_non_exhaustive()
    }
}
