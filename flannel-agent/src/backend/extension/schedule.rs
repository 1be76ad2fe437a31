//! Which command is due for which peer. Pure: time and chance are passed in.
//!
//! Per peer there is at most one command at a time, and commands come in the order in which leases
//! came and went. An add that was started, whatever became of it, is answered by a remove when the
//! lease goes, and by another add when address or data change. A peer that comes back as it was
//! before its remove has begun stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::Ipv4Network;
use rand::Rng;

use super::peers::PeerFacts;
use crate::backoff::Backoff;

/// First delay after a failure.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// Longest delay after a failure: as long as between the agent's own full comparisons.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// How often a remove is tried: what it is about may well have gone by itself.
const REMOVE_TRIES: u32 = 5;

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Add,
    Remove,
}

/// A command that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) subnet: Ipv4Network,
    pub(super) action: Action,
    pub(super) facts: PeerFacts,
}

/// What follows from the end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It has succeeded.
    Nothing,
    /// It is tried again after this time.
    Again(Duration),
    /// What it was about has changed meanwhile, so that it is not tried again.
    Superseded,
    /// It has failed too often.
    GivenUp,
}

/// All peers, and what is to be done about them.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    peers: BTreeMap<Ipv4Network, Peer>,
    /// Peers for which something is to be done and nothing is being done.
    queue: BTreeSet<(Instant, Ipv4Network)>,
}

#[derive(Debug)]
struct Peer {
    /// As its lease has it; absent when the lease is gone.
    desired: Option<PeerFacts>,
    /// What the last add was given that was started and not taken back.
    given: Option<Given>,
    removal: Removal,
    /// The command that runs.
    running: Option<Action>,
    /// When the next one is due; the key of its entry in the queue.
    due: Option<Instant>,
    backoff: Backoff,
    failure: Option<String>,
}

#[derive(Debug)]
struct Given {
    facts: PeerFacts,
    succeeded: bool,
}

/// How far taking back is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    NotDue,
    Due,
    /// So many tries have been started.
    Begun(u32),
}

impl Peer {
    fn new() -> Self {
        Self {
            desired: None,
            given: None,
            removal: Removal::NotDue,
            running: None,
            due: None,
            backoff: Backoff::new(FIRST_DELAY, LONGEST_DELAY),
            failure: None,
        }
    }

    fn next_action(&self) -> Option<Action> {
        if self.removal != Removal::NotDue {
            return Some(Action::Remove);
        }
        let desired = self.desired.as_ref()?;
        let is_done = |given: &Given| given.succeeded && given.facts == *desired;
        (!self.given.as_ref().is_some_and(is_done)).then_some(Action::Add)
    }

    fn set(&mut self, desired: Option<PeerFacts>) {
        if desired.is_none() && self.given.is_some() && self.removal == Removal::NotDue {
            self.removal = Removal::Due;
        }
        let given = self.given.as_ref().map(|given| &given.facts);
        if self.removal == Removal::Due && desired.is_some() && desired.as_ref() == given {
            self.removal = Removal::NotDue;
        }
        self.desired = desired;
        self.backoff.reset();
        self.failure = None;
    }

    /// What to run now.
    fn start(&mut self) -> Option<(Action, PeerFacts)> {
        let action = self.next_action()?;
        let facts = match action {
            Action::Add => self.desired.clone()?,
            Action::Remove => self.given.as_ref()?.facts.clone(),
        };
        match action {
            Action::Add => {
                self.given = Some(Given {
                    facts: facts.clone(),
                    succeeded: false,
                });
            }
            Action::Remove => {
                let tries = match self.removal {
                    Removal::Begun(tries) => tries,
                    Removal::NotDue | Removal::Due => 0,
                };
                self.removal = Removal::Begun(tries + 1);
            }
        }
        self.running = Some(action);
        Some((action, facts))
    }

    /// Notes the end of what ran.
    fn finish(&mut self, result: Result<(), String>, rng: &mut impl Rng) -> Next {
        let Some(action) = self.running.take() else {
            return Next::Nothing;
        };
        let given = self.given.as_ref().map(|given| &given.facts);
        let is_wanted_still = match action {
            Action::Add => self.removal == Removal::NotDue && self.desired.as_ref() == given,
            Action::Remove => self.desired.is_none(),
        };
        let has_succeeded = result.is_ok();
        let next = match result {
            Ok(()) => Next::Nothing,
            Err(_) if !is_wanted_still => Next::Superseded,
            Err(_) if self.removal == Removal::Begun(REMOVE_TRIES) => Next::GivenUp,
            Err(reason) => {
                self.failure = Some(reason);
                return Next::Again(self.backoff.next_delay(rng));
            }
        };
        match (action, &mut self.given) {
            (Action::Add, Some(given)) => given.succeeded = has_succeeded,
            (Action::Add, None) => {}
            (Action::Remove, given) => {
                *given = None;
                self.removal = Removal::NotDue;
            }
        }
        self.failure = None;
        self.backoff.reset();
        next
    }
}

impl Schedule {
    /// Takes over what the leases say: these peers and no others.
    pub(super) fn set(&mut self, desired: &BTreeMap<Ipv4Network, PeerFacts>, now: Instant) {
        let is_gone = |(subnet, peer): &(&Ipv4Network, &Peer)| {
            peer.desired.is_some() && !desired.contains_key(subnet)
        };
        let gone = self.peers.iter().filter(is_gone);
        let gone: Vec<_> = gone.map(|(subnet, _)| *subnet).collect();
        for subnet in gone {
            self.change(subnet, now, |peer| peer.set(None));
        }
        for (subnet, facts) in desired {
            let known = self.peers.get(subnet);
            if known.and_then(|peer| peer.desired.as_ref()) != Some(facts) {
                self.change(*subnet, now, |peer| peer.set(Some(facts.clone())));
            }
        }
    }

    /// The next command that is due, which from now on runs.
    pub(super) fn take(&mut self, now: Instant) -> Option<Job> {
        let (due, subnet) = *self.queue.first()?;
        if due > now {
            return None;
        }
        let (action, facts) = self.change(subnet, now, Peer::start)?;
        Some(Job {
            subnet,
            action,
            facts,
        })
    }

    /// When the next command is due, of those that do not run.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Notes the end of a peer's command.
    pub(super) fn finish(
        &mut self,
        subnet: Ipv4Network,
        result: Result<(), String>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Next {
        let next = self.change(subnet, now, |peer| peer.finish(result, rng));
        if let Next::Again(delay) = next {
            self.change(subnet, now + delay, |_| ());
        }
        next
    }

    /// Peers whose last command has failed, with the reason.
    pub(super) fn failures(&self) -> Vec<(Ipv4Network, String)> {
        let failure = |(subnet, peer): (&Ipv4Network, &Peer)| {
            let reason = peer.failure.clone()?;
            Some((*subnet, reason))
        };
        self.peers.iter().filter_map(failure).collect()
    }

    /// How many peers wait for a command that was not tried yet, or for the end of one.
    pub(super) fn pending(&self) -> usize {
        let is_pending =
            |peer: &&Peer| peer.running.is_some() || (peer.due.is_some() && peer.failure.is_none());
        self.peers.values().filter(is_pending).count()
    }

    /// Changes a peer; what is then to be done about it, if anything, is due at `due`.
    fn change<T>(
        &mut self,
        subnet: Ipv4Network,
        due: Instant,
        change: impl FnOnce(&mut Peer) -> T,
    ) -> T {
        let peer = self.peers.entry(subnet).or_insert_with(Peer::new);
        if let Some(due) = peer.due.take() {
            self.queue.remove(&(due, subnet));
        }
        let result = change(peer);
        if peer.running.is_none() {
            if peer.next_action().is_some() {
                peer.due = Some(due);
                self.queue.insert((due, subnet));
            } else if peer.desired.is_none() {
                self.peers.remove(&subnet);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
