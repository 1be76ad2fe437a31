//! What is left of the fast path when it goes for good: nothing.

use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::CONFIG;
use flannel_tests::host::Host;

use super::cluster_with;
use super::row::Flows;

/// Conntrack's setting that the fast path changes.
const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// BPF programs that hang on interfaces of a host.
fn programs(host: &Host) -> String {
    let text = host.ns.run("bpftool", &["net", "show"]).expect("bpftool");
    let ours = ["from_pod", "to_pod"];
    let lines = text.lines();
    let lines = lines.filter(|line| ours.iter().any(|name| line.contains(name)));
    lines.collect::<Vec<_>>().join("\n")
}

fn liberal(host: &Host) -> String {
    let value = host.ns.run("cat", &[LIBERAL]).expect("conntrack");
    value.trim().to_owned()
}

#[test]
fn cleanup_takes_it_off_pods_interfaces() {
    for how in ["tcx", "clsact"] {
        let flag = format!("--tc-attach={how}");
        let mut cluster = cluster_with(CONFIG, BedOptions::default(), &[&flag]);
        drop(Flows::start(&cluster));
        let agent = &mut cluster.agents[0];
        agent.kill().expect("SIGKILL");
        let host = &cluster.bed.hosts[0];
        assert_eq!(programs(host).lines().count(), 2, "{}", programs(host));
        assert_eq!(liberal(host), "1");
        let said = agent.clean_up().expect("cleanup");
        println!("{how}: {said}");
        assert_eq!(programs(host), "");
        assert_eq!(liberal(host), "0");
    }
}

/// The next run goes by another mechanism, or without; neither leaves a program of the first.
#[test]
fn another_run_takes_it_off_clsact() {
    let mut cluster = cluster_with(CONFIG, BedOptions::default(), &["--tc-attach=clsact"]);
    for (flags, left) in [
        (["--fast-path=auto", "--tc-attach=tcx"], 2),
        (["--fast-path=off", "--tc-attach=clsact"], 0),
    ] {
        let agent = &mut cluster.agents[0];
        agent.kill().expect("SIGKILL");
        agent.flags = flags.map(str::to_owned).into();
        agent.start().expect("start");
        agent.wait_for_peers(1).expect("peers");
        let (agent, host) = (&cluster.agents[0], &cluster.bed.hosts[0]);
        flannel_tests::wait::until("programs", std::time::Duration::from_secs(5), || {
            let pods = agent.status()?.fast_path.pods;
            let programs = programs(host);
            anyhow::ensure!(
                pods * 2 == left && programs.lines().count() == left,
                "{programs}"
            );
            Ok(Some(()))
        })
        .expect("no others");
    }
}
