//! What is left of the fast path when it goes for good: nothing.

use std::time::Duration;

use aya::programs::SchedClassifier;
use aya::programs::TcAttachType::{Egress, Ingress};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::CONFIG;
use flannel_tests::host::Host;
use flannel_tests::wait;

use super::cluster_with;
use super::row::Flows;

/// Conntrack's setting that the fast path changes.
const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// BPF programs of ours that hang on a pod's interface.
fn programs(host: &Host) -> Vec<String> {
    let veth = &host.pods[0].veth;
    let mut found = Vec::new();
    for (direction, word) in [(Ingress, "ingress"), (Egress, "egress")] {
        let tcx = host
            .ns
            .enter(|| SchedClassifier::query_tcx(veth, direction));
        let (_, tcx) = tcx.expect("namespace").expect("tcx");
        found.extend(
            tcx.iter()
                .filter_map(|it| it.name_as_str().map(str::to_owned)),
        );
        let args = ["filter", "show", "dev", veth.as_str(), word];
        let text = host.ns.run("tc", &args).expect("filters");
        let names = ["from_pod", "to_pod"].into_iter();
        let hung = names.filter(|name| text.contains(name));
        found.extend(hung.map(str::to_owned));
    }
    found
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
        assert_eq!(programs(host), ["from_pod", "to_pod"], "{how}");
        assert_eq!(liberal(host), "1");
        let said = agent.clean_up().expect("cleanup");
        println!("{how}: {said}");
        assert_eq!(programs(host), [""; 0], "{how}");
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
        wait::until("programs", Duration::from_secs(5), || {
            let pods = agent.status()?.fast_path.pods;
            let programs = programs(host);
            anyhow::ensure!(pods * 2 == left && programs.len() == left, "{programs:?}");
            Ok(Some(()))
        })
        .expect("no others");
    }
}
