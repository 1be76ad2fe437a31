//! `flannel-agent flows` shows what is on the fast path.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;
use serde_json::Value;

use super::cluster;

/// How long a flow may take to be admitted, or to be no more.
const LIMIT: Duration = Duration::from_secs(10);

/// The flows of a host.
fn flows(agent: &Agent) -> Result<Vec<Value>> {
    let report: Value = serde_json::from_str(&agent.flows(&["--json"])?)?;
    let flows = report["flows"].as_array().context("no list")?;
    Ok(flows.clone())
}

/// Waits until each host shows the one flow, and gives both rows.
fn wait_shown(cluster: &Cluster) -> [Value; 2] {
    [0, 1].map(|host| {
        wait::until("the flow", LIMIT, || {
            let rows = flows(&cluster.agents[host])?;
            let [row] = rows.as_slice() else {
                ensure!(rows.is_empty(), "{rows:?}");
                return Ok(None);
            };
            Ok(Some(row.clone()))
        })
        .expect("one flow")
    })
}

#[test]
fn flows_are_shown_with_and_without_an_agent() {
    let mut cluster = cluster();
    assert_eq!(flows(&cluster.agents[0]).expect("flows"), [] as [Value; 0]);
    let (from, to) = (cluster.pod(0).address, cluster.pod(1).address);
    let flow = Flow::start(cluster.pod(0), cluster.pod(1), 100, 500).expect("flow");
    let [sent, received] = wait_shown(&cluster);
    println!("{sent}\n{received}");
    for (row, direction) in [(&sent, "sent"), (&received, "received")] {
        let end = |field: &str| row[field].as_str().and_then(|end| end.split(':').next());
        assert_eq!(end("source"), Some(from.to_string().as_str()), "{row}");
        assert_eq!(end("destination"), Some(to.to_string().as_str()), "{row}");
        assert_eq!(
            (&row["protocol"], &row["direction"]),
            (&"udp".into(), &direction.into())
        );
        assert_eq!(row["interface"], "veth0");
        assert!(row["asked_again_in_ms"].as_u64() <= Some(1_000), "{row}");
    }
    let node = cluster.host(0).address.to_string();
    assert_eq!((sent.get("node"), &received["node"]), (None, &node.into()));
    // Between two admissions there is none.
    wait::until("the flow as a text", LIMIT, || {
        let text = cluster.agents[1].flows(&[])?;
        let is_shown = text.contains("received") && text.contains("1 of at most 262144 flows");
        Ok(is_shown.then_some(()))
    })
    .expect("shown");
    // Nobody but the table is asked.
    cluster.agents[1].terminate().expect("SIGTERM");
    wait_shown(&cluster);
    cluster.agents[1].start().expect("start");
    flow.finish().expect("count datagrams");
    wait::until("the end of the flow", LIMIT, || {
        Ok(flows(&cluster.agents[0])?.is_empty().then_some(()))
    })
    .expect("gone");
    cluster.agents[0].fast_path(&["off"]).expect("off");
    let text = cluster.agents[0].flows(&[]).expect("text");
    assert!(text.contains("the fast path is off"), "{text}");
}

#[test]
fn where_there_is_no_table_flows_says_so() {
    let datapaths = [Datapath::Kernel; 2];
    let cluster = Cluster::with_flags(CONFIG, BedOptions::default(), &datapaths, &[]);
    let cluster = cluster.expect("cluster");
    let error = cluster.agents[0].flows(&[]).expect_err("no table");
    let text = format!("{error:#}");
    let is_told = ["no table of flows", "--bpf-pin-path"]
        .iter()
        .all(|part| text.contains(part));
    assert!(is_told, "{text}");
}
