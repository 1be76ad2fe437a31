//! The agent goes and comes under traffic, and no packet notices.

use std::path::Path;
use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::{CONFIG, Cluster, config};
use flannel_tests::mounts::BPFFS;
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use flannel_tests::exercise::wait_sent;

/// Datagrams per second of each flow.
const RATE: u32 = 2000;

/// Runs `disturb` on the agent of the first host while datagrams flow both ways.
fn under_traffic(datapath: Datapath, disturb: impl Fn(&mut Agent)) {
    with_config(CONFIG, datapath, disturb);
}

/// The same in a network with this configuration.
fn with_config(config: &str, datapath: Datapath, disturb: impl Fn(&mut Agent)) {
    let options = BedOptions::default();
    let mut cluster = Cluster::with_config(config, options, &[datapath; 2]).expect("cluster");
    let flows: Vec<Flow> = [(0, 1), (1, 0)]
        .map(|(from, to)| Flow::start(cluster.pod(from), cluster.pod(to), 200, RATE).expect("flow"))
        .into();
    wait_sent(&flows[0], 500);
    disturb(&mut cluster.agents[0]);
    wait_sent(&flows[0], 2000);
    if cluster.agents[0].pid().is_none() {
        cluster.agents[0].start().expect("start again");
        cluster.agents[0]
            .wait_for_peers(1)
            .expect("peers after the restart");
        wait_sent(&flows[0], 2000);
    }
    for flow in flows {
        let tally = flow.finish().expect("count datagrams");
        println!("{datapath}: {tally:?}");
        assert!(tally.is_lossless(), "{tally:?}");
    }
}

fn terminate(agent: &mut Agent) {
    agent.terminate().expect("SIGTERM");
}

fn kill(agent: &mut Agent) {
    agent.kill().expect("SIGKILL");
}

#[test]
fn sigterm_and_start_lose_nothing_on_ebpf() {
    under_traffic(Datapath::Ebpf, terminate);
}

#[test]
fn sigterm_and_start_lose_nothing_on_the_kernel_path() {
    under_traffic(Datapath::Kernel, terminate);
}

#[test]
fn sigkill_and_start_lose_nothing_on_ebpf() {
    under_traffic(Datapath::Ebpf, kill);
}

#[test]
fn sigkill_and_start_lose_nothing_on_the_kernel_path() {
    under_traffic(Datapath::Kernel, kill);
}

#[test]
fn starts_in_quick_succession_lose_nothing() {
    under_traffic(Datapath::Ebpf, |agent| {
        for _ in 0..5 {
            agent.kill().expect("SIGKILL");
            agent.start().expect("start");
            agent.wait_for_subnet().expect("lease");
        }
        agent.wait_for_peers(1).expect("peers");
    });
}

/// Programs that are pinned elsewhere would go on before those of this run, with maps that nobody
/// writes.
#[test]
fn another_place_of_pins_loses_nothing_and_leaves_nothing() {
    under_traffic(Datapath::Ebpf, |agent| {
        terminate(agent);
        let former = agent.outside(&agent.places.pins).expect("path");
        assert!(former.join("links").exists());
        agent.places.pins = Path::new(BPFFS).join("elsewhere");
        agent.start().expect("start");
        agent.wait_for_peers(1).expect("peers");
        wait::until(
            "the end of the former pins",
            Duration::from_secs(15),
            || Ok((!former.exists()).then_some(())),
        )
        .expect("removed");
    });
}

#[test]
fn change_of_datapath_loses_nothing() {
    under_traffic(Datapath::Ebpf, |agent| {
        for datapath in [Datapath::Kernel, Datapath::Ebpf] {
            agent.terminate().expect("SIGTERM");
            agent.datapath = datapath;
            agent.start().expect("start");
            let status = agent.wait_for_peers(1).expect("peers");
            assert_eq!(status.datapath.active, datapath.to_string());
        }
    });
}

#[test]
fn change_of_datapath_of_a_running_agent_loses_nothing() {
    for backend in ["vxlan", "udp", "host-gw"] {
        let config = config(&format!(r#"{{"Type":"{backend}"}}"#));
        println!("{backend}");
        with_config(&config, Datapath::Ebpf, switch);
    }
}

fn switch(agent: &mut Agent) {
    for round in 0..3 {
        for (mode, active) in [("kernel", "kernel"), ("auto", "ebpf"), ("ebpf", "ebpf")] {
            let printed = agent.switch(&[mode]).expect("switch");
            assert!(printed.starts_with(active), "round {round}: {printed}");
            let status = agent.status().expect("status");
            assert!(status.ready, "{:?}", status.problems);
            assert_eq!(status.datapath.active, active);
            assert_eq!(status.datapath.requested, mode);
            assert_eq!(
                status.datapath.programs.len(),
                if active == "ebpf" { 2 } else { 0 }
            );
            // Some hundred packets each way.
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_data_path_that_cannot_be_had_is_refused_and_nothing_changes() {
    let cluster = Cluster::new(BedOptions::default(), &[Datapath::Kernel; 2]).expect("cluster");
    let agent = &cluster.agents[0];
    let refused = agent.switch(&["fast"]).expect_err("no such data path");
    assert!(
        format!("{refused:#}").contains("possible values"),
        "{refused:#}"
    );
    let printed = agent.switch(&[]).expect("the one in use");
    assert_eq!(printed.trim(), "kernel (asked for)");
}
