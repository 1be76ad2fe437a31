//! The extension backend: the examples of `docs/extension.md`, and commands that fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::host::{Host, Pod};
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use flannel_tests::exercise::{run_for, wait_sent};

/// What may take a while on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The network configs of the document, in its order.
fn examples() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/extension.md");
    let text = fs::read_to_string(file).expect("docs/extension.md");
    let mut examples = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
        if line == "{" {
            examples.push(String::new());
        }
        let example: &mut String = examples.last_mut().expect("an example begins with {");
        *example += line;
        *example += "\n";
    }
    examples
}

/// A network config with these members of `Backend`.
fn config(commands: &str) -> String {
    format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"extension",{commands}}}}}"#)
}

/// A bed with an agent on both of its hosts. The agents end before what they use.
struct Pair {
    agents: Vec<Agent>,
    bed: Bed,
}

impl Pair {
    fn new(config: &str) -> Self {
        let bed = Bed::new(BedOptions::default()).expect("bed");
        bed.etcd
            .put(&format!("{PREFIX}/config"), config)
            .expect("config");
        let agents = bed.hosts.iter().map(|host| {
            let mut agent = Agent::new(host, Datapath::Auto).expect("agent");
            agent.start().expect("start");
            agent
        });
        Self {
            agents: agents.collect(),
            bed,
        }
    }

    fn pod(&self, host: usize) -> &Pod {
        &self.bed.hosts[host].pods[0]
    }

    /// Whether the pods reach each other, from either side.
    fn answers(&self) -> [bool; 2] {
        [(0, 1), (1, 0)].map(|(from, to)| {
            let options = Options::default();
            let answer = ping(&self.pod(from).ns, self.pod(to).address, options);
            answer.expect("ping").is_complete()
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        let inside = Path::new(flannel_tests::mounts::FILES).join(name);
        self.agents[0].outside(&inside).expect("path")
    }
}

/// All that commands for peers change.
fn state(host: &Host) -> String {
    let run = |words: &[&str]| host.ns.run(words[0], &words[1..]).expect(words[0]);
    let fdb = run(&["bridge", "fdb", "show"]);
    let remote: String = fdb.lines().filter(|line| line.contains(" dst ")).collect();
    run(&["ip", "-4", "route", "show"])
        + &run(&["ip", "-4", "neigh", "show", "nud", "permanent"])
        + &remote
}

fn carries_packets(example: &str) {
    let mut pair = Pair::new(example);
    for number in 0..2 {
        let subnet = pair.agents[number].wait_for_subnet().expect("lease");
        pair.bed.hosts[number].add_pod(&subnet).expect("pod");
        pair.agents[number].wait_for_peers(1).expect("peer");
    }
    wait::until("pods reach each other", LIMIT, || {
        Ok((pair.answers() == [true; 2]).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", pair.agents[0].log_tail()));

    // An agent that is started again runs all commands again, which these do not mind.
    let flows = [(0, 1), (1, 0)]
        .map(|(from, to)| Flow::start(pair.pod(from), pair.pod(to), 200, 1000).expect("flow"));
    wait_sent(&flows[0], 300);
    let agent = &mut pair.agents[0];
    agent.kill().expect("SIGKILL");
    agent.start().expect("start again");
    agent.wait_for_peers(1).expect("peer");
    wait_sent(&flows[0], 1000);
    agent.terminate().expect("SIGTERM");
    for flow in flows {
        let tally = run_for(flow, 300);
        println!("{tally:?}");
        assert!(tally.is_lossless(), "{tally:?}");
    }

    let subnet = pair.bed.hosts[0].pods[0].address.octets()[2];
    let subnet = format!("10.5.{subnet}.0/24");
    let before = state(&pair.bed.hosts[1]);
    assert!(before.contains(&subnet), "{before}");
    let key = format!("{PREFIX}/subnets/{}", subnet.replace('/', "-"));
    let value = pair.bed.etcd.get(&key).expect("lease");
    assert!(value.contains(r#""BackendType":"extension""#), "{value}");
    pair.bed.etcd.delete(&key).expect("delete the lease");
    pair.agents[1].wait_for_peers(0).expect("no peer");
    let gone = || {
        let after = state(&pair.bed.hosts[1]);
        let is_gone = !after.contains(&subnet) && !after.contains(" dst ");
        let has_no_neighbour = !after.contains("PERMANENT");
        Ok((is_gone && has_no_neighbour).then_some(()))
    };
    wait::until("the end of all that was for the peer", LIMIT, gone).expect("gone");
    assert_eq!(pair.answers(), [false; 2]);
}

#[test]
fn routes_by_hand_carry_packets() {
    carries_packets(&examples()[0]);
}

#[test]
fn a_tunnel_by_hand_carries_packets() {
    carries_packets(&examples()[1]);
}

#[test]
fn every_example_has_a_test() {
    assert_eq!(examples().len(), 2);
}

#[test]
fn a_startup_command_that_fails_ends_the_agent_with_its_last_words() {
    for key in ["PreStartupCommand", "PostStartupCommand"] {
        let command = r#""echo first >&2; echo no such luck >&2; exit 9""#;
        let mut pair = Pair::new(&config(&format!(r#""Shell":true,"{key}":{command}"#)));
        let status = pair.agents[0].wait_for_end().expect("the end");
        assert_eq!(status.code(), Some(1));
        let log = pair.agents[0].log_tail();
        for part in [key, "exit status: 9", "first; no such luck"] {
            assert!(log.contains(part), "{part:?} is not in: {log}");
        }
    }
}

#[test]
fn the_end_of_the_agent_is_the_end_of_its_startup_command() {
    let command = r#""Shell":true,"PreStartupCommand":"echo $$ > /dev/shm/started; sleep 50""#;
    let mut pair = Pair::new(&config(command));
    pair.agents[1].kill().expect("SIGKILL");
    let started = pair.path("started");
    let process = wait::until("the command", LIMIT, || {
        let text = fs::read_to_string(&started)?;
        Ok(text.ends_with('\n').then_some(text))
    });
    let process = process.expect("the number of the process");
    pair.agents[0].terminate().expect("SIGTERM");
    let process = Path::new("/proc").join(process.trim());
    wait::until("the end of the command", LIMIT, || {
        Ok((!process.exists()).then_some(()))
    })
    .expect("nothing is left");
}

#[test]
fn a_command_for_a_peer_that_fails_is_told_until_it_succeeds() {
    let mut pair = Pair::new(&config(r#""SubnetAddCommand":"cat /dev/shm/works""#));
    let problem = |agent: &Agent| -> anyhow::Result<Option<String>> {
        let problems = agent.status()?.problems;
        let is_it = |problem: &String| problem.contains("SubnetAddCommand");
        Ok(problems.into_iter().find(is_it))
    };
    let told = wait::until("the problem", LIMIT, || problem(&pair.agents[0]));
    let told = told.expect("told");
    for part in [
        "SubnetAddCommand",
        "1 peers",
        "exit status: 1",
        "/dev/shm/works",
    ] {
        assert!(told.contains(part), "{part:?} is not in: {told}");
    }
    fs::write(pair.path("works"), "it does\n").expect("write");
    pair.agents[0]
        .wait_for_log("it does")
        .expect("output in the log");
    wait::until("no problem", LIMIT, || {
        Ok(problem(&pair.agents[0])?.is_none().then_some(()))
    })
    .expect("healed");
}
