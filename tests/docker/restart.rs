//! Agent and dockerd go and come, in either order, under traffic between containers.

use flannel_tests::dockerd::Docker;
use flannel_tests::host::Pod;
use flannel_tests::traffic::ping::{self, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use crate::setting::{Hosts, LIMIT, containers};

/// Datagrams per second of each flow.
const RATE: u32 = 2000;

/// Flows between two containers, both ways.
struct Traffic([Flow; 2]);

impl Traffic {
    fn start(a: &Pod, b: &Pod) -> Self {
        let flow = |from, to| Flow::start(from, to, 200, RATE).expect("flow");
        let traffic = Self([flow(a, b), flow(b, a)]);
        traffic.go_on();
        traffic
    }

    /// Waits for half a second's datagrams.
    fn go_on(&self) {
        let target = self.0[0].sent() + u64::from(RATE) / 2;
        let sent = || Ok((self.0[0].sent() >= target).then_some(()));
        wait::until("traffic", LIMIT, sent).expect("traffic");
    }

    fn check(self) {
        self.go_on();
        for flow in self.0 {
            let tally = flow.finish().expect("count datagrams");
            println!("{tally:?}");
            assert!(tally.is_lossless(), "{tally:?}");
        }
    }
}

/// Ends the first host's agent with SIGTERM and starts it again.
fn restart_agent(hosts: &mut Hosts) {
    hosts.agents[0].terminate().expect("SIGTERM");
    hosts.agents[0].start().expect("start again");
    hosts.wait_for_peers();
}

fn restart_dockerd(docker: &mut Docker, signal: &str) {
    docker.end(signal).expect("end dockerd");
    docker.resume().expect("start dockerd again");
}

#[test]
fn agent_restarts_lose_nothing_between_containers() {
    let mut hosts = Hosts::new(&["--ip-masq"]);
    let dockers = hosts.docker(&[]);
    let [a, b] = &containers(&dockers, "one");
    let traffic = Traffic::start(a, b);
    restart_agent(&mut hosts);
    traffic.go_on();
    hosts.agents[0].kill().expect("SIGKILL");
    traffic.go_on();
    hosts.agents[0].start().expect("start again");
    hosts.wait_for_peers();
    traffic.check();
}

/// Both hosts restart what `first` and the rest say while containers stay and talk.
fn live_restore(restart: impl Fn(&mut Hosts, &mut [Docker; 2], &Traffic)) {
    let mut hosts = Hosts::new(&["--ip-masq"]);
    let mut dockers = hosts.docker(&["--live-restore"]);
    let [a, b] = &containers(&dockers, "one");
    let traffic = Traffic::start(a, b);
    restart(&mut hosts, &mut dockers, &traffic);
    traffic.check();
    // Docker knows its containers again, and new ones join them.
    let later = containers(&dockers, "two");
    let answer = ping(&later[0].ns, b.address, ping::Options::default()).expect("ping");
    assert!(answer.is_complete(), "{}", answer.text);
    dockers[0].docker(&["exec", "one", "true"]).expect("exec");
}

#[test]
fn agent_then_dockerd_lose_nothing_with_live_restore() {
    live_restore(|hosts, dockers, traffic| {
        restart_agent(hosts);
        traffic.go_on();
        for docker in dockers {
            restart_dockerd(docker, "TERM");
            traffic.go_on();
        }
    });
}

#[test]
fn dockerd_then_agent_lose_nothing_with_live_restore() {
    live_restore(|hosts, dockers, traffic| {
        for docker in dockers {
            restart_dockerd(docker, "KILL");
            traffic.go_on();
        }
        restart_agent(hosts);
    });
}

#[test]
fn dockerd_restarts_while_the_agent_is_away() {
    live_restore(|hosts, dockers, traffic| {
        hosts.agents[0].terminate().expect("SIGTERM");
        traffic.go_on();
        restart_dockerd(&mut dockers[0], "TERM");
        traffic.go_on();
        hosts.agents[0].start().expect("start again");
        hosts.wait_for_peers();
    });
}

#[test]
fn new_containers_talk_after_restarts_in_either_order() {
    let mut hosts = Hosts::new(&["--ip-masq"]);
    let mut dockers = hosts.docker(&[]);
    let [_, remote] = containers(&dockers, "one");
    for (name, is_agent_first) in [("two", true), ("three", false)] {
        if is_agent_first {
            restart_agent(&mut hosts);
        }
        restart_dockerd(&mut dockers[0], "TERM");
        if !is_agent_first {
            restart_agent(&mut hosts);
        }
        hosts.wait_for_forwarding(&dockers);
        let pod = dockers[0].container(name, &[], &crate::setting::SLEEP);
        let pod = pod.expect("container");
        for (from, to) in [(&pod, &remote), (&remote, &pod)] {
            let answer = ping(&from.ns, to.address, ping::Options::default()).expect("ping");
            assert!(answer.is_complete(), "{name}:\n{}", answer.text);
        }
    }
}
