//! The lanes: where packets go in, of which kind they are, and what must have happened to them.

use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_agent::status::Counter;
use flannel_tests::cpu;
use flannel_tests::wire::Wire;

use crate::backend::Backend;
use crate::generate::Dice;
use crate::known;
use crate::pair::Pair;
use crate::reduce::{Reduced, reduce};
use crate::rows::{self, ROWS};
use crate::socket::Frame;
use crate::twin::{Entrance, Path};

/// Packets that are sent before anything is compared.
const BATCH: usize = 512;
/// The same where a process has to keep up. A TUN device holds 500 packets.
const PROXIED_BATCH: usize = 64;
/// Differences after which a lane gives up.
const MOST_FINDINGS: usize = 5;
/// Batches between two lines that tell how far it is.
const PROGRESS: u64 = 100;

/// One way through the data path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    pub name: &'static str,
    pub backend: Backend,
    /// The path under test.
    pub path: Path,
    /// The one that it is compared with.
    pub model: Path,
    pub entrance: Entrance,
    /// Whether aggregates cross the wire whole.
    pub wire: Wire,
    /// Whether the node drops what comes from where it would not send.
    pub rp_filter: bool,
    /// Whether the peers have shown before that they are kin: eBPF sends no others what the udp
    /// backend's proxy would have to finish.
    pub is_among_kin: bool,
    /// Whether the first peer is a node on the same path, with a pod.
    pub has_real_peer: bool,
    /// Makes one packet.
    pub generate: fn(&mut Dice) -> Frame,
    /// The core that the lane runs on, if there are so many: softirqs run where the sender does,
    /// and so in order.
    pub core: usize,
    /// Packets of a run.
    pub packets: u64,
    /// Direction whose counters tell what the packets met.
    pub direction: &'static str,
    /// Outcomes that must have been counted, so that a run cannot pass by testing nothing.
    pub outcomes: &'static [&'static str],
    /// Share of the counted packets that the path under test must have carried, per cent.
    pub carried: u64,
}

impl Lane {
    /// Sends all packets of the lane, and fails if one makes a difference.
    pub(crate) fn run(&self) -> Result<()> {
        let seed = seed()?;
        let size = self.batch_size();
        let batches = packets(self.packets)?.div_ceil(size as u64);
        say(&format!(
            "{}: seed {seed}, {batches} batches of {size} packets",
            self.name
        ));
        cpu::pin(self.core())?;
        let start = Instant::now();
        let mut pair = Pair::new(self)?;
        let mut findings = self.run_rows(&mut pair)?;
        let before = pair.tested.counters()?;
        let mut sent = 0;
        for number in 0..batches {
            let batch = self.batch(seed, number);
            sent += batch.len();
            findings.extend(self.run_batch(&mut pair, seed, number, batch)?);
            if findings.len() >= MOST_FINDINGS {
                break;
            }
            if (number + 1).is_multiple_of(PROGRESS * (BATCH / size) as u64) {
                let rate = sent as f64 / start.elapsed().as_secs_f64() / 1000.0;
                say(&format!(
                    "{}: {sent} packets, {rate:.0} thousand a second",
                    self.name
                ));
            }
        }
        if !findings.is_empty() {
            bail!(
                "{} differences (repeat with FLANNEL_DIFFERENTIAL_SEED={seed}):\n\n{}",
                findings.len(),
                findings.join("\n\n")
            );
        }
        let report = self.check_outcomes(&before, &pair.tested.counters()?)?;
        say(&format!(
            "{}: {sent} packets, no difference, {:.1} s; {report}",
            self.name,
            start.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// The core that everything of the lane runs on.
    pub(crate) fn core(&self) -> usize {
        self.core % cpu::count()
    }

    fn batch_size(&self) -> usize {
        if self.backend.is_proxied {
            PROXIED_BATCH
        } else {
            BATCH
        }
    }

    fn batch(&self, seed: u64, number: u64) -> Vec<Frame> {
        let mut dice = Dice::new(seed, self.name, number);
        let size = self.batch_size();
        let mut batch: Vec<Frame> = Vec::with_capacity(size);
        while batch.len() < size {
            // Duplicates happen on any network.
            let frame = match batch.last() {
                Some(last) if dice.in_thousand(5) => last.clone(),
                _ => (self.generate)(&mut dice),
            };
            let is_known = self.model == Path::Kernel
                && self.entrance == Entrance::Wire
                && self
                    .backend
                    .encap
                    .is_some_and(|encap| known::is_damaged_payload(&frame, encap));
            if !is_known {
                batch.push(frame);
            }
        }
        batch
    }

    /// Packets that once made a difference.
    fn run_rows(&self, pair: &mut Pair) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        for row in ROWS.iter().filter(|row| row.lane == self.name) {
            let frames = row.frames()?;
            if let Some(difference) = pair.compare(self.entrance, &frames)? {
                findings.push(format!("row {:?}: {difference}", row.what));
            }
        }
        Ok(findings)
    }

    /// Sends a batch; of every difference in it there is a row for the table.
    fn run_batch(
        &self,
        pair: &mut Pair,
        seed: u64,
        number: u64,
        mut batch: Vec<Frame>,
    ) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        while findings.len() < MOST_FINDINGS {
            let Some(difference) = pair
                .compare(self.entrance, &batch)
                .with_context(|| format!("{}: seed {seed}, batch {number}", self.name))?
            else {
                break;
            };
            let Some(Reduced { places, difference }) = reduce(pair, self.entrance, &batch)? else {
                findings.push(format!(
                    "seed {seed}, batch {number}: once and not again: {difference}"
                ));
                break;
            };
            let frames: Vec<&Frame> = places.iter().map(|place| &batch[*place]).collect();
            let origin = format!("seed {seed}, batch {number}, packets {places:?}");
            let finding = format!("{difference}\n{}", rows::text(self.name, &origin, &frames));
            say(&finding);
            findings.push(finding);
            batch = batch
                .into_iter()
                .enumerate()
                .filter_map(|(place, frame)| (!places.contains(&place)).then_some(frame))
                .collect();
        }
        Ok(findings)
    }

    /// Checks that the packets met what they were made to meet.
    fn check_outcomes(&self, before: &[Counter], after: &[Counter]) -> Result<String> {
        let mut report = String::new();
        let (mut carried, mut all) = (0, 0);
        let mut missing = self.outcomes.to_vec();
        for counter in after.iter().filter(|c| c.direction == self.direction) {
            let is_same =
                |b: &&Counter| b.direction == counter.direction && b.outcome == counter.outcome;
            let packets = counter.packets - before.iter().find(is_same).map_or(0, |b| b.packets);
            if packets > 0 {
                missing.retain(|outcome| *outcome != counter.outcome);
                write!(report, " {} {packets}", counter.outcome)?;
            }
            all += packets;
            carried += if counter.handled { packets } else { 0 };
        }
        ensure!(
            missing.is_empty(),
            "no packet was counted as {missing:?}:{report}"
        );
        ensure!(
            carried * 100 >= all * self.carried,
            "the {} path carried {carried} of {all} packets, less than {} %:{report}",
            self.path,
            self.carried
        );
        Ok(format!("{}:{report}", self.direction))
    }
}

/// The seed of this run: of `FLANNEL_DIFFERENTIAL_SEED`, else a new one.
pub(crate) fn seed() -> Result<u64> {
    match env::var("FLANNEL_DIFFERENTIAL_SEED") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("FLANNEL_DIFFERENTIAL_SEED={text}")),
        Err(_) => Ok(rand::random::<u32>().into()),
    }
}

/// How many packets to send: `FLANNEL_DIFFERENTIAL_PERCENT` of the usual number.
fn packets(usual: u64) -> Result<u64> {
    match env::var("FLANNEL_DIFFERENTIAL_PERCENT") {
        Ok(text) => {
            let percent: u64 = text
                .parse()
                .with_context(|| format!("FLANNEL_DIFFERENTIAL_PERCENT={text}"))?;
            Ok(usual * percent / 100)
        }
        Err(_) => Ok(usual),
    }
}

/// Tells how it goes, past the test harness, which would keep it until the end.
pub(crate) fn say(line: &str) {
    // Nobody listening is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{line}");
}
