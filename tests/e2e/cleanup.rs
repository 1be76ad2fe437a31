//! `cleanup` leaves a host as it was before the agent.

use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::cluster::CONFIG;
use flannel_tests::host::Host;

/// All that an agent could leave in the kernel.
fn state(host: &Host) -> String {
    let run = |words: &[&str]| host.ns.run(words[0], &words[1..]).expect(words[0]);
    let links = run(&["ip", "-json", "link", "show"]);
    let links: serde_json::Value = serde_json::from_str(&links).expect("links");
    let links = links
        .as_array()
        .expect("links")
        .iter()
        .map(|link| link["ifname"].to_string());
    // Names only, and routes without their carrier: links of a fresh bed are still coming up.
    let mut parts = vec![links.collect::<Vec<_>>().join(" ")];
    parts.push(run(&["ip", "-4", "route", "show", "table", "all"]).replace(" linkdown", ""));
    parts.push(run(&["ip", "rule", "show"]));
    parts.push(run(&["nft", "list", "ruleset"]));
    parts.push(run(&["bpftool", "net", "show"]));
    parts.join("\n--\n")
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
