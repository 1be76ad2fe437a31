//! The maps, typed: the desired content is written as a difference to what stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use flannel_ebpf::abi::{
    self, Config, EgressCounters, EgressOutcome, FastCounters, FastOutcome, IngressCounters,
    IngressOutcome, Peer, Remote, Traffic, map_name,
};

use super::patience::Patience;
use super::pin::Pins;
use crate::status::Counter;

/// An IPv4 address as maps have it: four octets.
pub type Key = [u8; 4];

/// Which entries of a map are meant.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// All: what is not desired is removed.
    All,
    /// Those of these keys; others stay.
    Keys(&'a BTreeSet<Key>),
}

/// Handles of all maps.
pub struct Maps {
    config: Array<MapData, Config>,
    peers: Table<Peer>,
    remotes: Table<Remote>,
    egress: PerCpuArray<MapData, EgressCounters>,
    ingress: PerCpuArray<MapData, IngressCounters>,
    fast: PerCpuArray<MapData, FastCounters>,
    traffic: PerCpuHashMap<MapData, Key, Traffic>,
    /// Keys of `traffic`.
    counted: BTreeSet<Key>,
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object has no map of this name.
    #[error("the BPF object has no map {0:?}")]
    Absent(&'static str),
    /// The kernel refused.
    #[error("map {map}: {operation}")]
    Map {
        /// Which map.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
}

/// Sends everything by the standard path from here on, whoever has admitted it. What is on its way
/// into a pod still needs the programs there for a moment.
///
/// # Errors
/// The pinned map could not be written; one that is not there is fine.
pub fn end_admissions(pins: &Pins) -> Result<(), Error> {
    let map = map_name::FAST_PATH;
    let path = pins.map(map);
    if !path.exists() {
        return Ok(());
    }
    let at = |operation| {
        move |source| Error::Map {
            map,
            operation,
            source,
        }
    };
    let data = MapData::from_pin(path).map_err(at("open"))?;
    let mut settings: Array<_, abi::FastPath> = Map::Array(data).try_into().map_err(at("open"))?;
    // Where flows stand in the table has to be found by those that are still queued.
    let off = abi::FastPath {
        bound: 0,
        ..settings.get(&0, 0).map_err(at("read"))?
    };
    settings.set(0, off, 0).map_err(at("write"))
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// A map that is missing or has another type.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        fn open<T>(ebpf: &mut Ebpf, map: &'static str) -> Result<T, Error>
        where
            T: TryFrom<Map, Error = MapError>,
        {
            let taken = ebpf.take_map(map).ok_or(Error::Absent(map))?;
            taken.try_into().map_err(|source| Error::Map {
                map,
                operation: "open",
                source,
            })
        }
        let traffic: PerCpuHashMap<_, Key, Traffic> = open(ebpf, map_name::TRAFFIC)?;
        let counted = traffic.keys().collect::<Result<_, _>>();
        let counted = counted.map_err(|source| Error::Map {
            map: map_name::TRAFFIC,
            operation: "read",
            source,
        })?;
        Ok(Self {
            config: open(ebpf, map_name::CONFIG)?,
            peers: Table::read(map_name::PEERS, open(ebpf, map_name::PEERS)?)?,
            remotes: Table::read(map_name::REMOTES, open(ebpf, map_name::REMOTES)?)?,
            egress: open(ebpf, map_name::EGRESS)?,
            ingress: open(ebpf, map_name::INGRESS)?,
            fast: open(ebpf, map_name::FAST)?,
            traffic,
            counted,
        })
    }

    /// Writes the node's own entry, if it differs.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        let map = map_name::CONFIG;
        let at = |operation| {
            move |source| Error::Map {
                map,
                operation,
                source,
            }
        };
        if self.config.get(&0, 0).map_err(at("read"))? != *config {
            self.config.set(0, config, 0).map_err(at("write"))?;
        }
        Ok(())
    }

    /// Makes a part of the peers what they should be; returns the number of entries written and
    /// removed.
    ///
    /// # Errors
    /// What the kernel said to the first entry that failed; the others are done all the same.
    pub fn sync_peers(
        &mut self,
        desired: &BTreeMap<Key, Peer>,
        part: Part<'_>,
    ) -> Result<usize, Error> {
        self.peers.sync(desired, part)
    }

    /// Makes the accepted senders what they should be; as [`sync_peers`](Self::sync_peers).
    ///
    /// # Errors
    /// As there.
    pub fn sync_remotes(
        &mut self,
        desired: &BTreeMap<Key, Remote>,
        part: Part<'_>,
    ) -> Result<usize, Error> {
        self.remotes.sync(desired, part)
    }

    /// Lets a sender show anew whether it is kin ([`Remote::is_kin`]).
    ///
    /// # Errors
    /// What the kernel said.
    pub fn forget_kin(&mut self, sender: Key) -> Result<(), Error> {
        self.remotes.forget(&sender)
    }

    /// As [`forget_kin`](Self::forget_kin), of all senders.
    ///
    /// # Errors
    /// What the kernel said to the first that failed; the others are done all the same.
    pub fn forget_all_kin(&mut self) -> Result<(), Error> {
        let senders: Vec<Key> = self.remotes.actual.keys().copied().collect();
        let forgotten = senders.iter().map(|sender| self.remotes.forget(sender));
        forgotten.fold(Ok(()), Result::and)
    }

    /// Makes the direct peers whose packets are counted what they should be; as
    /// [`sync_peers`](Self::sync_peers). Counts of peers that stay are kept.
    ///
    /// # Errors
    /// As there.
    pub fn sync_traffic(&mut self, desired: &BTreeSet<Key>, part: Part<'_>) -> Result<(), Error> {
        let map = map_name::TRAFFIC;
        let at = |operation| {
            move |source| Error::Map {
                map,
                operation,
                source,
            }
        };
        let stale: Vec<Key> = match part {
            Part::All => self.counted.difference(desired).copied().collect(),
            Part::Keys(keys) => (keys - desired)
                .intersection(&self.counted)
                .copied()
                .collect(),
        };
        for key in stale {
            self.traffic.remove(&key).map_err(at("remove"))?;
            self.counted.remove(&key);
        }
        let patience = Patience::new();
        for key in desired - &self.counted {
            let cpus = nr_cpus().map_err(|(_, error)| at("write")(MapError::IoError(error)))?;
            let insert = || {
                let zero = PerCpuValues::try_from(vec![Traffic::default(); cpus])?;
                self.traffic.insert(key, zero, 0)
            };
            patience.write(insert).map_err(at("write"))?;
            self.counted.insert(key);
        }
        Ok(())
    }

    /// What went straight to direct peers and came from them, by the address of their subnet.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn traffic(&self) -> Result<BTreeMap<Key, Traffic>, Error> {
        let sum = |sum: abi::Counter, add: abi::Counter| abi::Counter {
            packets: sum.packets + add.packets,
            bytes: sum.bytes + add.bytes,
        };
        let entries = self.traffic.iter().map(|entry| {
            let (key, cpus) = entry.map_err(|source| Error::Map {
                map: map_name::TRAFFIC,
                operation: "read",
                source,
            })?;
            let total = cpus.iter().fold(Traffic::default(), |total, cpu| Traffic {
                sent: sum(total.sent, cpu.sent),
                received: sum(total.received, cpu.received),
            });
            Ok((key, total))
        });
        entries.collect()
    }

    /// All counters, summed over CPUs.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn counters(&self) -> Result<Vec<Counter>, Error> {
        let at = |map| {
            move |source| Error::Map {
                map,
                operation: "read",
                source,
            }
        };
        let egress = self.egress.get(&0, 0).map_err(at(map_name::EGRESS))?;
        let ingress = self.ingress.get(&0, 0).map_err(at(map_name::INGRESS))?;
        let fast = self.fast.get(&0, 0).map_err(at(map_name::FAST))?;
        let egress = EgressOutcome::ALL.iter().map(|outcome| {
            let values = egress.iter().map(|cpu| cpu.get(*outcome));
            counter("egress", outcome.name(), outcome.is_handled(), values)
        });
        let ingress = IngressOutcome::ALL.iter().map(|outcome| {
            let values = ingress.iter().map(|cpu| cpu.get(*outcome));
            counter("ingress", outcome.name(), outcome.is_handled(), values)
        });
        let on_fast_path = |direction, outcomes: &'static [FastOutcome]| {
            let values = fast
                .iter()
                .flat_map(|cpu| outcomes.iter().map(|it| cpu.get(*it)));
            counter(direction, "fast", true, values)
        };
        // Programs count those once, as what the fast path made of them.
        let sent = on_fast_path("egress", &[FastOutcome::Sent]);
        let received = on_fast_path("ingress", &[FastOutcome::Delivered, FastOutcome::Queued]);
        let fast = FastOutcome::ALL.iter().map(|outcome| {
            let values = fast.iter().map(|cpu| cpu.get(*outcome));
            counter("fast", outcome.name(), outcome.is_handled(), values)
        });
        let egress = egress.chain([sent]);
        let ingress = ingress.chain([received]);
        Ok(egress.chain(ingress).chain(fast).collect())
    }
}

fn counter(
    direction: &str,
    outcome: &str,
    handled: bool,
    cpus: impl Iterator<Item = abi::Counter>,
) -> Counter {
    let (packets, bytes) = cpus.fold((0, 0), |(packets, bytes), cpu| {
        (packets + cpu.packets, bytes + cpu.bytes)
    });
    Counter {
        direction: direction.into(),
        outcome: outcome.into(),
        handled,
        packets,
        bytes,
    }
}

/// A value that programs may have written to since the agent wrote it.
trait Value: Pod + PartialEq + Debug {
    /// This value, with what the programs have written to the one that is there.
    fn keep_learnt(self, found: &Self) -> Self;
}

impl Value for Peer {
    fn keep_learnt(self, _: &Self) -> Self {
        self
    }
}

impl Value for Remote {
    fn keep_learnt(self, found: &Self) -> Self {
        let Self {
            subnet,
            prefix_len,
            is_kin: _,
        } = self;
        Self {
            subnet,
            prefix_len,
            is_kin: found.is_kin,
        }
    }
}

/// A hash map with a copy of what it holds, so that a change costs only its difference. Of what
/// programs write, the copy may be old.
struct Table<V: Pod> {
    name: &'static str,
    map: HashMap<MapData, Key, V>,
    actual: BTreeMap<Key, V>,
}

impl<V: Value> Table<V>
where
    Key: Pod + Ord + Hash,
{
    fn read(name: &'static str, map: HashMap<MapData, Key, V>) -> Result<Self, Error> {
        let mut table = Self {
            name,
            map,
            actual: BTreeMap::new(),
        };
        table.reread()?;
        Ok(table)
    }

    fn reread(&mut self) -> Result<(), Error> {
        self.actual = self
            .map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|source| Error::Map {
                map: self.name,
                operation: "read",
                source,
            })?;
        Ok(())
    }

    fn sync(&mut self, desired: &BTreeMap<Key, V>, part: Part<'_>) -> Result<usize, Error> {
        let (name, mut changes, mut failed) = (self.name, 0, None);
        let mut note = |operation, result: Result<(), MapError>| match result {
            Ok(()) => {
                changes += 1;
                true
            }
            Err(source) => {
                failed.get_or_insert(Error::Map {
                    map: name,
                    operation,
                    source,
                });
                false
            }
        };
        let is_stale = |key: &&Key| !desired.contains_key(*key);
        let stale: Vec<Key> = match part {
            Part::All => self.actual.keys().filter(is_stale).copied().collect(),
            Part::Keys(keys) => {
                let stale = keys.iter().filter(is_stale);
                stale
                    .filter(|key| self.actual.contains_key(*key))
                    .copied()
                    .collect()
            }
        };
        // Stale entries first: in a full map they make room.
        for key in &stale {
            if note("remove", self.map.remove(key)) {
                self.actual.remove(key);
            }
        }
        let patience = Patience::new();
        for (key, value) in desired {
            let known = self.actual.get(key);
            if known.is_some_and(|known| value.keep_learnt(known) == *known) {
                continue;
            }
            let found = known.and_then(|_| self.map.get(key, 0).ok());
            let value = found.map_or(*value, |found| value.keep_learnt(&found));
            let written = patience.write(|| self.map.insert(key, value, 0));
            if note("write", written) {
                self.actual.insert(*key, value);
            }
        }
        if failed.is_some() {
            self.reread()?;
        }
        failed.map_or(Ok(changes), Err)
    }
}

impl Table<Remote> {
    /// Takes back what programs have written to an entry. It is not made if it is not there.
    fn forget(&mut self, key: &Key) -> Result<(), Error> {
        let at = |operation| {
            let map = self.name;
            move |source| Error::Map {
                map,
                operation,
                source,
            }
        };
        match self.map.get(key, 0) {
            Ok(Remote { is_kin: 0, .. }) | Err(MapError::KeyNotFound) => Ok(()),
            Ok(found) => {
                let Remote {
                    subnet, prefix_len, ..
                } = found;
                let fresh = Remote::new(subnet, prefix_len);
                let written = Patience::new().write(|| self.map.insert(key, fresh, 0));
                written.map_err(at("write"))
            }
            Err(error) => Err(at("read")(error)),
        }
    }
}
