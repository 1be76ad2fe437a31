//! What any two pods of different hosts must be able to do, whatever carries their packets.

use std::time::Duration;

use crate::bed::Bed;
use crate::cluster::Cluster;
use crate::host::Pod;
use crate::traffic::ping::{Options, ping};
use crate::traffic::sequence::{Flow, Tally};
use crate::traffic::stream;
use crate::wait;
use flannel_agent::status::Status;

/// Payloads of echo requests, up to what fits a pod's MTU and what must be fragmented: 1450 with
/// vxlan, 1472 with udp, 1500 with host-gw.
pub const SIZES: [u32; 15] = [
    0, 1, 7, 8, 56, 512, 1024, 1421, 1422, 1423, 1444, 1445, 1472, 1473, 4000,
];

/// Pings of all sizes, TCP with checked content and large datagrams, in both directions.
pub fn everything(cluster: &Cluster) {
    between(cluster.pod(0), cluster.pod(1));
}

/// As [`everything`], between two pods.
pub fn between(a: &Pod, b: &Pod) {
    between_at(1000, a, b);
}

/// As [`between`], with flows of so many datagrams a second: stock's proxy has a socket and a queue
/// of the default sizes, and loses what comes faster than it gets to run.
pub fn between_at(per_second: u32, a: &Pod, b: &Pod) {
    for (from, to) in [(a, b), (b, a)] {
        pings(from, to);
        stream::check(from, to, 8, 2 << 20).expect("TCP streams");
    }
    let flows = [(a, b, 8000), (b, a, 8000), (a, b, 20), (b, a, 1422)]
        .map(|(from, to, size)| (size, Flow::start(from, to, size, per_second).expect("flow")));
    for (size, flow) in flows {
        wait_sent(&flow, 300_u64.saturating_sub(flow.sent()));
        let tally = flow.finish().expect("count datagrams");
        assert!(tally.is_lossless(), "{size} octets: {tally:?}");
    }
}

/// Puts checksums on the wire, as physical NICs do. On a virtual wire they are left to a device, and
/// there is none: what eBPF sends in the place of a proxy arrives without, and a proxy at the other
/// end, which reads bytes, hands on what nobody has filled in.
pub fn fill_in_checksums(cluster: &Cluster) {
    for host in &cluster.bed.hosts {
        let args = ["-K", host.external.as_str(), "tx", "off"];
        host.ns.run("ethtool", &args).expect("checksums filled in");
    }
}

/// Lets pods put fragments together however far they come apart. What a proxy writes waits for the
/// processor it was written on: when that is busy and the proxy has moved to the other one, later
/// packets overtake it, and by default more than 64 of them cost the datagram.
pub fn bear_disorder(bed: &Bed) {
    for host in &bed.hosts {
        let sysctl = host.pods[0].ns.sysctl("net/ipv4/ipfrag_max_dist", "0");
        sysctl.expect("sysctl");
    }
}

/// Pings of all sizes.
pub fn pings(from: &Pod, to: &Pod) {
    for size in SIZES {
        let answer = ping(
            &from.ns,
            to.address,
            Options {
                size,
                ..Options::default()
            },
        );
        let answer = answer.expect("ping");
        assert!(answer.is_complete(), "size {size}:\n{}", answer.text);
    }
}

/// Waits until a flow has sent `count` more datagrams.
pub fn wait_sent(flow: &Flow, count: u64) {
    let target = flow.sent() + count;
    let sent = || Ok((flow.sent() >= target).then_some(()));
    wait::until(&format!("{count} datagrams"), Duration::from_secs(30), sent).expect("traffic");
}

/// Ends a flow once it has sent `count` more datagrams.
pub fn run_for(flow: Flow, count: u64) -> Tally {
    wait_sent(&flow, count);
    flow.finish().expect("count datagrams")
}

/// Packets of a direction: carried by eBPF, and all.
pub fn packets(status: &Status, direction: &str) -> (u64, u64) {
    let counters = || {
        status
            .datapath
            .counters
            .iter()
            .filter(|c| c.direction == direction)
    };
    let handled = counters()
        .filter(|counter| counter.handled)
        .map(|c| c.packets)
        .sum();
    (handled, counters().map(|counter| counter.packets).sum())
}
