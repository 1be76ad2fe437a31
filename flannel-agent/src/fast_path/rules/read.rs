//! All the rules of a network namespace, and what is kept of them between two looks.

use aya::programs::links::LinkType;
use aya::programs::loaded_links;

use super::netlink::{self, Nftables};
use super::news::News;
use super::sockopt::{self, Block, Legacy, Tables, has_automatic_helpers};
use crate::error::chain;
use crate::fast_path::judge::{Evidence, Needs, Place, Reason, Verdict, Why, judge};
use crate::fast_path::ruleset::Ruleset;

/// Why rules could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nftables.
    #[error(transparent)]
    Nftables(#[from] netlink::Error),
    /// Legacy iptables or ebtables.
    #[error(transparent)]
    Legacy(#[from] sockopt::Error),
}

/// Reads and judges, and remembers what has not changed. A call takes its thread for milliseconds.
pub struct Reader {
    nftables: Nftables,
    tables: Tables,
    evidence: Evidence,
    legacy: Legacy,
    /// Whether the remembered rules of nftables are those in force.
    is_current: bool,
}

impl Reader {
    /// Opens sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// They cannot be had.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            nftables: Nftables::open()?,
            tables: Tables::open()?,
            evidence: Evidence::default(),
            legacy: Legacy::default(),
            is_current: false,
        })
    }

    /// Reads and judges everything. What cannot be read is not sound.
    pub fn verdict(&mut self) -> Verdict {
        let look = self.look(News {
            everything: true,
            ..News::default()
        });
        look.verdict.unwrap_or_default()
    }

    /// Reads what the news is about, and what tells no news; judges if anything has changed.
    pub(super) fn look(&mut self, news: News) -> Look {
        let is_news = news != News::default();
        self.note(news);
        let outcome = self.poll().and_then(|has_untold_change| {
            let verdict = if is_news || has_untold_change || !self.is_current {
                Some(self.read()?)
            } else {
                None
            };
            Ok(Look {
                verdict,
                has_untold_change,
            })
        });
        outcome.unwrap_or_else(|error| {
            // All of it next time.
            self.is_current = false;
            self.evidence.nftables = Ruleset::default();
            self.evidence.elements.clear();
            let reason = Reason {
                place: Place::Unread,
                what: chain(&error),
                why: Why::Unknown,
            };
            Look {
                verdict: Some(Verdict::new(vec![reason])),
                has_untold_change: true,
            }
        })
    }

    /// Takes in what has changed in nftables.
    fn note(&mut self, news: News) {
        let News {
            structure,
            rules,
            sets,
            elements,
            shrunk,
            everything,
        } = news;
        self.is_current &= !structure && !everything;
        let Evidence {
            nftables,
            elements: known,
            quotas,
            ..
        } = &mut self.evidence;
        if everything {
            *nftables = Ruleset::default();
            known.clear();
        }
        if !rules.is_empty() {
            *quotas = None;
        }
        for ((table, chain), handle, rule) in rules {
            let table = nftables.tables.get_mut(&table);
            let chain = table.and_then(|table| table.chains.get_mut(&chain));
            let Some(known) = chain.and_then(|chain| chain.rules.as_mut()) else {
                continue;
            };
            match rule {
                Some(rule) => drop(known.insert(handle, rule)),
                None => drop(known.remove(&handle)),
            }
        }
        for (set, added) in elements {
            if let Some(known) = known.get_mut(&set) {
                known.extend(added);
            }
        }
        // Fewer keys are no news to a judge; fewer verdicts are.
        for set in shrunk {
            if known.get(&set).is_some_and(|it| !it.is_plain()) {
                known.remove(&set);
            }
        }
        for set in sets {
            known.remove(&set);
        }
    }

    /// Reads what tells nobody of its changes; whether it has changed.
    fn poll(&mut self) -> Result<bool, Error> {
        let legacy = self.tables.read()?;
        let bpf_hooks = bpf_hooks();
        let is_automatic = has_automatic_helpers();
        let evidence = &mut self.evidence;
        let has_changed = legacy != self.legacy
            || bpf_hooks != evidence.bpf_hooks
            || is_automatic != evidence.has_automatic_helpers;
        if legacy != self.legacy {
            let tables = legacy.ip_tables.iter().map(Block::parse);
            evidence.ip_tables = tables.collect::<Result<_, _>>()?;
            evidence.ebtables.clone_from(&legacy.ebtables);
            self.legacy = legacy;
        }
        evidence.bpf_hooks = bpf_hooks;
        evidence.has_automatic_helpers = is_automatic;
        Ok(has_changed)
    }

    /// Reads nftables as far as it is not known and matters, and judges.
    fn read(&mut self) -> Result<Verdict, Error> {
        let Self {
            nftables, evidence, ..
        } = self;
        if !self.is_current {
            let before = std::mem::replace(&mut evidence.nftables, nftables.ruleset()?);
            keep_rules(&mut evidence.nftables, before);
            self.is_current = true;
        }
        loop {
            let Needs {
                rules,
                elements,
                quotas,
            } = match judge(evidence) {
                Ok(verdict) => return Ok(verdict),
                Err(needs) => needs,
            };
            for id in rules {
                let read = nftables.rules(&id)?;
                let table = evidence.nftables.tables.get_mut(&id.0);
                if let Some(chain) = table.and_then(|table| table.chains.get_mut(&id.1)) {
                    chain.rules = Some(read);
                }
            }
            for set in elements {
                let read = nftables.elements(&set)?;
                evidence.elements.insert(set, read);
            }
            if quotas {
                evidence.quotas = Some(nftables.quotas()?);
            }
        }
    }
}

/// Keeps the rules of chains that are still there: if they have changed, news has said so.
fn keep_rules(ruleset: &mut Ruleset, before: Ruleset) {
    for (id, old) in before.tables {
        let Some(table) = ruleset.tables.get_mut(&id) else {
            continue;
        };
        for (name, old) in old.chains {
            if let Some(chain) = table.chains.get_mut(&name) {
                chain.rules = old.rules;
            }
        }
    }
}

/// What a look has come to.
#[derive(Debug)]
pub(super) struct Look {
    /// The verdict; none if nothing has changed.
    pub(super) verdict: Option<Verdict>,
    /// Whether something has changed that tells no news.
    pub(super) has_untold_change: bool,
}

/// BPF programs on netfilter hooks: the kernel does not say in which network namespace.
fn bpf_hooks() -> usize {
    let links = loaded_links().flatten();
    let kinds = links.filter_map(|link| link.link_type().ok());
    kinds.filter(|kind| *kind == LinkType::Netfilter).count()
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}
