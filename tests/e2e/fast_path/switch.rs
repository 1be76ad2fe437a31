//! The fast path comes and goes, and so does the agent, under traffic.

use flannel_tests::traffic::sequence::Flow;

use super::cluster;
use crate::exercise::wait_sent;

/// Datagrams per second of each flow.
const RATE: u32 = 2_000;

#[test]
fn switching_under_traffic_loses_nothing() {
    let cluster = cluster();
    let flows: Vec<Flow> = [(0, 1), (1, 0)]
        .map(|(from, to)| Flow::start(cluster.pod(from), cluster.pod(to), 200, RATE).expect("flow"))
        .into();
    for round in 0..10 {
        for (word, starts) in [("off", "off"), ("on", "on")] {
            let printed = cluster.agents[round % 2]
                .fast_path(&[word])
                .expect("switch");
            assert!(printed.starts_with(starts), "{printed}");
            wait_sent(&flows[0], 200);
        }
    }
    for flow in flows {
        let tally = flow.finish().expect("count datagrams");
        assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
    }
}
