//! `cleanup` leaves a host as it was before the agent.

use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::cluster::CONFIG;
use flannel_tests::host::Host;

/// All that an agent could leave in the kernel.
fn state(host: &Host) -> String {
    let commands: [&[&str]; 5] = [
        &["ip", "-o", "-br", "link", "show"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "rule", "show"],
        &["nft", "list", "ruleset"],
        &["bpftool", "net", "show"],
    ];
    let outputs = commands.map(|words| host.ns.run(words[0], &words[1..]).expect(words[0]));
    outputs.join("--\n")
}

fn leaves_nothing(datapath: Datapath) {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    bed.etcd
        .put(&format!("{PREFIX}/config"), CONFIG)
        .expect("config");
    let before: Vec<String> = bed.hosts.iter().map(state).collect();
    let mut agents: Vec<Agent> = Vec::new();
    for host in &bed.hosts {
        let mut agent = Agent::new(host, datapath).expect("agent");
        agent.start().expect("start");
        agents.push(agent);
    }
    for agent in &mut agents {
        agent.wait_for_peers(1).expect("peer");
    }
    agents[0].terminate().expect("SIGTERM");
    agents[1].kill().expect("SIGKILL");
    for ((host, agent), before) in bed.hosts.iter().zip(&agents).zip(before) {
        assert_ne!(state(host), before, "the data path outlives the agent");
        let said = agent.clean_up().expect("cleanup");
        println!("{datapath}: cleanup says:\n{said}");
        assert_eq!(state(host), before, "cleanup on host {}", host.name);
        let pins = agent.outside(&agent.places.pins).expect("path");
        assert!(!pins.exists(), "{} is left", pins.display());
        agent.clean_up().expect("nothing to clean up is fine too");
    }
}

#[test]
fn leaves_nothing_of_the_ebpf_path() {
    leaves_nothing(Datapath::Ebpf);
}

#[test]
fn leaves_nothing_of_the_kernel_path() {
    leaves_nothing(Datapath::Kernel);
}
