//! The BPF programs without an agent: loaded, over maps that a test fills, attached where it says,
//! and their counters.

mod fast;

pub use self::fast::{flow, set_flow};

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use flannel_agent::dataplane::object;
use flannel_ebpf::abi::{
    Config, Counter, EgressCounters, EgressOutcome, FastCounters, FastOutcome, IngressCounters,
    IngressOutcome, MAX_FLOWS, Peer, Remote, Traffic, map_name,
};

use crate::netns::NetNs;

/// Packets and bytes by counter: `egress too_big`, `ingress decapsulated`, `fast sent`, ….
pub type Counted = BTreeMap<&'static str, (u64, u64)>;

/// The programs of one host, without pins; they go when this does.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Makes the maps and fills in the node.
    ///
    /// # Errors
    /// The kernel refuses them, or the tests were built without the BPF object.
    pub fn load(config: &Config) -> Result<Self> {
        Self::load_for(config, MAX_FLOWS as u32)
    }

    /// The same, with room for `flows` flows on the fast path.
    ///
    /// # Errors
    /// As there.
    pub fn load_for(config: &Config, flows: u32) -> Result<Self> {
        let object = object::embedded().context("built without FLANNEL_EBPF_OBJECT")?;
        let ebpf = EbpfLoader::new()
            .override_global("AYA_LOG_LEVEL", &0_u8, false)
            .map_max_entries(map_name::FLOWS, flows)
            .load(object)
            .context("load the BPF object")?;
        let mut programs = Self { ebpf };
        programs.set_config(config)?;
        Ok(programs)
    }

    /// A program, loaded with its first use: a table asks for one.
    ///
    /// # Errors
    /// There is none of this name, or the verifier refuses it.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        let program: &mut SchedClassifier = program.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(program)
    }

    /// One of those that run before there is a socket buffer; as [`program`](Self::program).
    ///
    /// # Errors
    /// As there.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(program)
    }

    /// Lets a program see the packets of an interface, for as long as this lives.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach(
        &mut self,
        name: &str,
        ns: &NetNs,
        interface: &str,
        direction: TcAttachType,
    ) -> Result<()> {
        let program = self.program(name)?;
        ns.enter(|| {
            // Where there is no tcx (Linux 6.6), aya takes this; it may be there already.
            let _ = tc::qdisc_add_clsact(interface);
            program.attach(interface, direction).map(drop)
        })?
        .with_context(|| format!("attach {name} to {interface}"))
    }

    /// Lets a program see the frames of an interface before there is a socket buffer, by its driver,
    /// for as long as this lives.
    ///
    /// # Errors
    /// What the kernel says; not every driver runs such programs.
    pub fn attach_xdp(&mut self, name: &str, ns: &NetNs, interface: &str) -> Result<()> {
        let program = self.xdp(name)?;
        ns.enter(|| program.attach(interface, XdpMode::Driver).map(drop))?
            .with_context(|| format!("attach {name} to {interface}"))
    }

    /// Sets what the programs know of their node.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_config(&mut self, config: &Config) -> Result<()> {
        let map = self.ebpf.map_mut(map_name::CONFIG).context("no map")?;
        let mut map: Array<_, Config> = map.try_into()?;
        map.set(0, config, 0).context("write the node")
    }

    /// Sets the way to a subnet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_peer(&mut self, subnet: [u8; 4], peer: &Peer) -> Result<()> {
        let map = self.ebpf.map_mut(map_name::PEERS).context("no map")?;
        let mut map: HashMap<_, [u8; 4], Peer> = map.try_into()?;
        map.insert(subnet, peer, 0).context("write a peer")
    }

    /// Accepts a sender.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_remote(&mut self, address: [u8; 4], remote: Remote) -> Result<()> {
        let map = self.ebpf.map_mut(map_name::REMOTES).context("no map")?;
        let mut map: HashMap<_, [u8; 4], Remote> = map.try_into()?;
        map.insert(address, remote, 0).context("write a sender")
    }

    /// What the programs know of a sender.
    ///
    /// # Errors
    /// It is none.
    pub fn remote(&self, address: [u8; 4]) -> Result<Remote> {
        let map = self.ebpf.map(map_name::REMOTES).context("no map")?;
        let map: HashMap<_, [u8; 4], Remote> = map.try_into()?;
        map.get(&address, 0).context("read a sender")
    }

    /// Makes a subnet that of a direct peer.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn count_traffic(&mut self, subnet: [u8; 4]) -> Result<()> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zeros = vec![Traffic::default(); cpus].try_into()?;
        let map = self.ebpf.map_mut(map_name::TRAFFIC).context("no map")?;
        let mut map: PerCpuHashMap<_, [u8; 4], Traffic> = map.try_into()?;
        map.insert(subnet, zeros, 0).context("write a direct peer")
    }

    /// What has been counted for a direct peer: sent, received; each packets and bytes.
    ///
    /// # Errors
    /// It is none.
    pub fn traffic(&self, subnet: [u8; 4]) -> Result<[(u64, u64); 2]> {
        let map = self.ebpf.map(map_name::TRAFFIC).context("no map")?;
        let map: PerCpuHashMap<_, [u8; 4], Traffic> = map.try_into()?;
        let values = map.get(&subnet, 0).context("read a direct peer")?;
        Ok([
            sum(values.iter().map(|cpu| cpu.sent)),
            sum(values.iter().map(|cpu| cpu.received)),
        ])
    }

    /// Runs `work` and tells which counters it moves, and by how much.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn counted<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<(T, Counted)> {
        let before = self.counters()?;
        let result = work(self);
        let mut counted = self.counters()?;
        for (name, (packets, bytes)) in &mut counted {
            let (old_packets, old_bytes) = before[name];
            *packets -= old_packets;
            *bytes -= old_bytes;
        }
        counted.retain(|_, (packets, _)| *packets > 0);
        Ok((result, counted))
    }

    /// All counters.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn counters(&self) -> Result<Counted> {
        let map = self.ebpf.map(map_name::EGRESS).context("no map")?;
        let egress: PerCpuArray<_, EgressCounters> = map.try_into()?;
        let map = self.ebpf.map(map_name::INGRESS).context("no map")?;
        let ingress: PerCpuArray<_, IngressCounters> = map.try_into()?;
        let map = self.ebpf.map(map_name::FAST).context("no map")?;
        let fast: PerCpuArray<_, FastCounters> = map.try_into()?;
        let (egress, ingress) = (egress.get(&0, 0)?, ingress.get(&0, 0)?);
        let fast = fast.get(&0, 0)?;
        let mut all = Counted::new();
        for outcome in EgressOutcome::ALL {
            let name = leak(format!("egress {}", outcome.name()));
            all.insert(name, sum(egress.iter().map(|cpu| cpu.get(*outcome))));
        }
        for outcome in IngressOutcome::ALL {
            let name = leak(format!("ingress {}", outcome.name()));
            all.insert(name, sum(ingress.iter().map(|cpu| cpu.get(*outcome))));
        }
        for outcome in FastOutcome::ALL {
            let name = leak(format!("fast {}", outcome.name()));
            all.insert(name, sum(fast.iter().map(|cpu| cpu.get(*outcome))));
        }
        Ok(all)
    }
}

/// Packets and bytes over all CPUs.
fn sum(values: impl Iterator<Item = Counter>) -> (u64, u64) {
    values.fold((0, 0), |(packets, bytes), cpu| {
        (packets + cpu.packets, bytes + cpu.bytes)
    })
}

/// Names live as long as the test process.
fn leak(name: String) -> &'static str {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let name: &'static str = Box::leak(name.into_boxed_str());
    names.insert(name);
    name
}
