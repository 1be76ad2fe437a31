//! The fast path comes and goes, and so does the agent, under traffic: no packet notices.

use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use aya::programs::TcAttachType;
use flannel_agent::cli::DatapathMode;
use flannel_agent::control::{self, Request};
use flannel_agent::dataplane::pin::Pins;
use flannel_agent::status;
use flannel_ebpf::abi::{self, map_name};
use flannel_tests::agent::Agent;
use flannel_tests::bpf::TcProgram;
use flannel_tests::cluster::Cluster;
use flannel_tests::traffic::sequence::{Flow, Tally};
use flannel_tests::wait;
use tokio::runtime::Builder;

use super::{cluster, made_of, wait_for_pods};
use flannel_tests::exercise::wait_sent;

/// Datagrams per second of each flow.
const RATE: u32 = 2_000;

#[test]
fn switching_under_traffic_loses_nothing() {
    let cluster = cluster();
    let flows: Vec<Flow> = [(0, 1), (1, 0)]
        .map(|(from, to)| Flow::start(cluster.pod(from), cluster.pod(to), 200, RATE).expect("flow"))
        .into();
    for round in 0..10 {
        for word in ["off", "on"] {
            let agent = &cluster.agents[round % 2];
            let printed = agent.fast_path(&[word]).expect("switch");
            assert!(printed.starts_with(word), "{printed}");
            wait_sent(&flows[0], 200);
        }
    }
    for flow in flows {
        let tally = flow.finish().expect("count datagrams");
        assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
    }
}

/// Does this to the agent of one host, then of the other, while datagrams go at full rate from the
/// first host to the second.
fn at_full_rate(what: &str, disturb: impl Fn(&mut Agent)) {
    let mut cluster = cluster();
    let flow = Flow::start_full(cluster.pod(0), cluster.pod(1), 100, 1, 0).expect("flow");
    wait_sent(&flow, 20_000);
    for host in [0, 1] {
        disturb(&mut cluster.agents[host]);
        wait_for_pods(&cluster.agents[host], 1);
        is_admitted(&cluster, &flow);
    }
    let tally: Tally = flow.finish().expect("count datagrams");
    println!("{what}: {tally:?}");
    assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
}

/// A pod that comes to a fast path which is on already gets its programs one after the other, with
/// packets under way. A program of somebody else, which does nothing, is what it was kept off by.
#[test]
fn a_pod_that_comes_under_traffic_loses_nothing() {
    let cluster = cluster();
    let flow = Flow::start_full(cluster.pod(0), cluster.pod(1), 100, 1, 0).expect("flow");
    let foreign = TcProgram::pass_all().expect("program");
    for at in [0, 1].into_iter().cycle().take(10) {
        let (host, agent) = (cluster.host(at), &cluster.agents[at]);
        let index = host.device_index("veth0").expect("index");
        let attached = host
            .ns
            .enter(|| foreign.attach_to(index, TcAttachType::Egress));
        let link = attached.expect("namespace").expect("tcx");
        wait_for_pods(agent, 0);
        drop(link);
        wait_for_pods(agent, 1);
        is_admitted(&cluster, &flow);
    }
    let tally: Tally = flow.finish().expect("count datagrams");
    println!("{tally:?}");
    assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
}

/// Waits until nearly all that is sent is on the fast path.
fn is_admitted(cluster: &Cluster, flow: &Flow) {
    wait::until("admission", Duration::from_secs(10), || {
        let counts = || (made_of(&cluster.agents[0], "sent"), flow.sent());
        let (sent, all) = counts();
        thread::sleep(Duration::from_millis(200));
        let (sent_2, all_2) = counts();
        let is_most = sent_2.saturating_sub(sent) * 10 >= (all_2 - all) * 8;
        Ok((all_2 > all && is_most).then_some(()))
    })
    .expect("on the fast path");
}

#[test]
fn a_restart_loses_nothing() {
    at_full_rate("restart", |agent| {
        agent.terminate().expect("SIGTERM");
        thread::sleep(Duration::from_millis(500));
        agent.start().expect("start");
        agent.wait_for_peers(1).expect("peers");
    });
}

#[test]
fn a_kill_loses_nothing() {
    at_full_rate("kill -9", |agent| {
        for _ in 0..3 {
            agent.kill().expect("SIGKILL");
            agent.start().expect("start");
            agent.wait_for_peers(1).expect("peers");
        }
    });
}

/// The next run wants a table of another size: maps are made anew under the feet of the programs.
#[test]
fn an_upgrade_with_another_table_loses_nothing() {
    at_full_rate("upgrade", |agent| {
        agent.terminate().expect("SIGTERM");
        agent.flags.push("--fast-path-flows=4096".into());
        agent.start().expect("start");
        agent.wait_for_peers(1).expect("peers");
    });
}

#[test]
fn switching_at_full_rate_loses_nothing() {
    at_full_rate("off and on", |agent| {
        for word in ["off", "on"] {
            let printed = agent.fast_path(&[word]).expect("switch");
            assert!(printed.starts_with(word), "{printed}");
        }
    });
}

/// A run without the fast path takes off what the run before has left, and the next one puts it back.
#[test]
fn a_restart_without_the_fast_path_loses_nothing() {
    at_full_rate("restart without", |agent| {
        let flags = agent.flags.clone();
        agent.kill().expect("SIGKILL");
        agent.flags.retain(|flag| flag != "--fast-path=auto");
        agent.flags.push("--fast-path=off".into());
        agent.start().expect("start");
        agent.wait_for_peers(1).expect("peers");
        agent
            .wait_for_log("took the fast path of an earlier run off")
            .expect("taken off");
        agent.terminate().expect("SIGTERM");
        agent.flags = flags;
        agent.start().expect("start");
        agent.wait_for_peers(1).expect("peers");
    });
}

#[test]
fn a_change_of_the_data_path_loses_nothing() {
    at_full_rate("kernel and back", |agent| {
        for (word, active) in [("kernel", "kernel"), ("ebpf", "ebpf")] {
            let printed = agent.switch(&[word]).expect("switch");
            assert!(printed.starts_with(active), "{printed}");
            thread::sleep(Duration::from_millis(300));
        }
    });
}

/// The data path is another one before the fast path, which is busy with a pod, has heard that there
/// was none in between: its programs still have the maps of the one before.
#[test]
fn the_fast_path_follows_a_dataplane_that_is_made_anew() {
    let cluster = cluster();
    let flow = Flow::start_full(cluster.pod(0), cluster.pod(1), 100, 1, 0).expect("flow");
    is_admitted(&cluster, &flow);
    let tc = |line: &str| {
        let ns = &cluster.host(0).ns;
        ns.run("tc", &line.split(' ').collect::<Vec<_>>())
            .expect("tc")
    };
    // The pod leaves, for which what is on its way is waited for.
    tc("qdisc add dev veth0 root pfifo");
    let agent = &cluster.agents[0];
    wait_for_the_end_of_admissions(agent);
    change_at_once(agent, &[DatapathMode::Kernel, DatapathMode::Ebpf]);
    wait_for_pods(agent, 0);
    tc("qdisc del dev veth0 root");
    wait_for_pods(agent, 1);
    is_admitted(&cluster, &flow);
    let tally = flow.finish().expect("count datagrams");
    assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
}

/// Waits until the programs admit nothing any more.
fn wait_for_the_end_of_admissions(agent: &Agent) {
    let pin = Pins::new(&agent.places.pins).map(map_name::FAST_PATH);
    let map = MapData::from_pin(agent.outside(&pin).expect("path")).expect("map");
    let settings: Array<_, abi::FastPath> = Map::Array(map).try_into().expect("an array");
    wait::until("the end of admissions", Duration::from_secs(5), || {
        Ok((settings.get(&0, 0)?.bound == 0).then_some(()))
    })
    .expect("ended");
}

/// Changes the data path, time and again, without a process for each change.
fn change_at_once(agent: &Agent, modes: &[DatapathMode]) {
    let run_dir = agent.outside(&agent.places.run_dir).expect("path");
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(async {
        for mode in modes {
            let request = Request::Datapath { mode: *mode };
            let answer = control::request(&run_dir, request).await;
            let status: status::Datapath = answer.expect("another data path");
            assert_eq!(status.active, mode.to_string());
        }
    });
}
