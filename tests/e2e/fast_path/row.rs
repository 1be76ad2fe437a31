//! One change on one host, and how long flows that the fast path has admitted before go on as if
//! nothing had happened.
//!
//! What is measured is the time from the return of the command that makes the change until the last
//! packet that it forbids has been received.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use flannel_tests::cluster::Cluster;
use flannel_tests::host::Pod;
use flannel_tests::traffic::pulse::{Protocol, Pulse};
use flannel_tests::wait;

use super::made_of;

/// The bound of an admission: the default of `--fast-path-bound`.
pub(super) const BOUND: Duration = Duration::from_secs(1);
/// What is added to it: a tick of the kernel's coarse clock (10 ms at most), a packet's way, and the
/// time until the receiving thread gets the processor on a machine that runs other tests, too.
pub(super) const MARGIN: Duration = Duration::from_millis(200);
/// Longest wait for something that has to come about.
const LIMIT: Duration = Duration::from_secs(10);
/// Share of the packets that has to be on the fast path before the change. The others are those by
/// which the standard path is asked once in a bound, and first ones.
const ADMITTED: f64 = 0.9;
/// Time over which that is measured: shorter than the bound, so that one of two flows alone would
/// not do.
const WINDOW: Duration = Duration::from_millis(200);

/// A pulse of each protocol from the first host's pod to the second's, on the fast path as far as
/// they may be.
pub(super) struct Flows<'a> {
    cluster: &'a Cluster,
    pub(super) pulses: Vec<Pulse>,
}

impl<'a> Flows<'a> {
    /// Starts them, and waits until they are admitted on both hosts.
    pub(super) fn start(cluster: &'a Cluster) -> Self {
        Self::between(cluster, cluster.pod(0), cluster.pod(1))
    }

    /// As [`start`](Self::start), with packets of so many octets of payload.
    pub(super) fn sized(cluster: &'a Cluster, size: usize) -> Self {
        Self::open(cluster, cluster.pod(0), cluster.pod(1), size)
    }

    /// As [`start`](Self::start), between two other pods of the two hosts.
    pub(super) fn between(cluster: &'a Cluster, from: &Pod, to: &Pod) -> Self {
        Self::open(cluster, from, to, 64)
    }

    fn open(cluster: &'a Cluster, from: &Pod, to: &Pod, size: usize) -> Self {
        let target = (to.address, 0).into();
        let start = |protocol| Pulse::sized(from, to, target, protocol, size).expect("pulse");
        let flows = Self {
            cluster,
            pulses: Protocol::ALL.map(start).into(),
        };
        flows.wait_admitted();
        flows
    }

    /// Packets on the fast path, sent and received, and all that have been sent.
    pub(super) fn counts(&self) -> [u64; 3] {
        let [sender, receiver] = [0, 1].map(|host| &self.cluster.agents[host]);
        let received = ["queued", "delivered"].map(|outcome| made_of(receiver, outcome));
        [made_of(sender, "sent"), received.iter().sum(), self.sent()]
    }

    /// Waits until nearly all of their packets are on the fast path, sending and receiving.
    pub(super) fn wait_admitted(&self) {
        wait::until("admission", LIMIT, || {
            let before = self.counts();
            thread::sleep(WINDOW);
            let after = self.counts();
            let [sent, received, all] = [0, 1, 2].map(|it| (after[it] - before[it]) as f64);
            anyhow::ensure!(
                sent.min(received) >= ADMITTED * all,
                "{sent} sent, {received} received of {all}"
            );
            Ok(Some(()))
        })
        .expect("on the fast path");
    }

    /// Packets sent of flows that may be on the fast path.
    fn sent(&self) -> u64 {
        let pulses = self.pulses.iter();
        let may_be = pulses.filter(|pulse| pulse.protocol != Protocol::Icmp);
        may_be.map(Pulse::sent).sum()
    }

    /// Watches, from the time of a change on, until the bound is over and nothing comes any more.
    pub(super) fn held(&self, change: impl Into<String>, changed: Instant) -> Row {
        let after = |pulse: &Pulse| pulse.last().saturating_duration_since(changed);
        let over = changed + BOUND + MARGIN;
        thread::sleep(over.saturating_duration_since(Instant::now()));
        // Long enough for each of them to show that it goes on.
        thread::sleep(WINDOW);
        Row {
            change: change.into(),
            times: self
                .pulses
                .iter()
                .map(|it| (it.protocol, after(it)))
                .collect(),
        }
    }

    /// Waits until more comes of each flow; of TCP, after the next retransmission.
    pub(super) fn wait_received(&self) {
        for pulse in &self.pulses {
            let target = pulse.received() + 20;
            let name = pulse.protocol.name();
            wait::until(name, LIMIT, || {
                Ok((pulse.received() >= target).then_some(()))
            })
            .expect("the flow goes on");
        }
    }
}

/// A change by commands, in which `{from}` and `{to}` stand for the pods' addresses and `{subnet}` for
/// that of the changed host.
pub(super) struct Change {
    pub(super) name: &'static str,
    pub(super) apply: &'static [&'static str],
    pub(super) undo: &'static [&'static str],
}

impl Change {
    fn run(cluster: &Cluster, host: usize, lines: &[&str]) {
        let [from, to] = [0, 1].map(|host| cluster.pod(host).address);
        let [a, b, c, _] = cluster.pod(host).address.octets();
        for line in lines {
            let line = line
                .replace("{from}", &from.to_string())
                .replace("{to}", &to.to_string())
                .replace("{subnet}", &format!("{a}.{b}.{c}.0/24"));
            let words: Vec<_> = line.split(' ').collect();
            let done = cluster.host(host).ns.run(words[0], &words[1..]);
            done.expect("change the host");
        }
    }
}

/// Makes each of the changes on a host, one after the other, and undoes it.
pub(super) fn hold(cluster: &Cluster, host: usize, changes: &[Change], table: &mut Table) {
    let side = ["sender", "receiver"][host];
    for Change { name, apply, undo } in changes {
        let flows = Flows::start(cluster);
        Change::run(cluster, host, apply);
        let changed = Instant::now();
        table.push(flows.held(format!("{name} on the {side}"), changed));
        drop(flows);
        Change::run(cluster, host, undo);
    }
}

/// How long flows have gone on after a change.
pub(super) struct Row {
    pub(super) change: String,
    pub(super) times: Vec<(Protocol, Duration)>,
}

/// Rows, printed at the end and held against the bound.
#[derive(Default)]
pub(super) struct Table(Vec<Row>);

impl Table {
    pub(super) fn push(&mut self, row: Row) {
        println!("{row}");
        self.0.push(row);
    }

    /// A change that concerns datagrams alone.
    pub(super) fn note(&mut self, change: String, time: Duration) {
        self.0.push(Row {
            change,
            times: vec![(Protocol::Udp, time)],
        });
    }

    /// # Panics
    /// A flow has gone on for longer than the bound.
    pub(super) fn check(&self) {
        println!(
            "\n{:<58} {:>7} {:>7} {:>7}",
            "last packet, ms after", "udp", "tcp", "icmp"
        );
        self.0.iter().for_each(|row| println!("{row}"));
        let late = |row: &&Row| row.times.iter().any(|(_, time)| *time > BOUND + MARGIN);
        let late: Vec<_> = self.0.iter().filter(late).map(|row| &row.change).collect();
        assert!(late.is_empty(), "did not hold within the bound: {late:?}");
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<58}", self.change)?;
        for (_, time) in &self.times {
            write!(f, " {:>7.1}", time.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}
