//! Queueing disciplines and TC programs of others: they get every packet.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::TcAttachType::{self, Egress, Ingress};
use flannel_tests::bpf::{TcProgram, XDP_DROP, XdpMode, XdpProgram, exit, set};
use flannel_tests::cluster::Cluster;
use flannel_tests::mounts::BPFFS;
use flannel_tests::wait;
use nix::net::if_::if_nametoindex;

use super::row::{Flows, Table};
use super::{cluster, wait_for_pods};

/// Where a packet from the first host's pod to the second's goes through a hook: behind it on the
/// same interface hangs no program of ours, which would have taken the packet further before.
const HOOKS: [(usize, &str, TcAttachType); 6] = [
    (0, "veth0", Ingress),
    (0, "cni0", Ingress),
    (0, "eth0", Egress),
    (1, "flannel.1", Ingress),
    (1, "cni0", Egress),
    (1, "veth0", Egress),
];

/// Something that hangs where it hangs until it is taken off.
enum Hung {
    Tcx { _link: OwnedFd },
    Clsact,
}

fn word(direction: TcAttachType) -> &'static str {
    match direction {
        Ingress => "ingress",
        _ => "egress",
    }
}

fn hang(cluster: &Cluster, hook: (usize, &str, TcAttachType), on_tcx: bool) -> Hung {
    let (host, interface, direction) = hook;
    let ns = &cluster.host(host).ns;
    let program = TcProgram::drop_all().expect("program");
    if on_tcx {
        let index = cluster.host(host).device_index(interface).expect("index");
        let attached = ns.enter(|| program.attach_to(index, direction));
        let _link = attached.expect("namespace").expect("tcx");
        return Hung::Tcx { _link };
    }
    let path = Path::new(BPFFS).join("foreign");
    let outside = ns.mounts().outside(&path).expect("bpffs");
    program.pin(&outside).expect("pin");
    // It may be there from before.
    let _ = ns.run("tc", &["qdisc", "add", "dev", interface, "clsact"]);
    let line = format!(
        "filter add dev {interface} {} bpf da object-pinned {}",
        word(direction),
        path.display()
    );
    let added = ns.run("tc", &line.split(' ').collect::<Vec<_>>());
    std::fs::remove_file(&outside).expect("unpin");
    added.expect("filter");
    Hung::Clsact
}

fn take_off(cluster: &Cluster, hook: (usize, &str, TcAttachType), hung: Hung) {
    let (host, interface, _) = hook;
    if let Hung::Clsact = hung {
        let done = cluster
            .host(host)
            .ns
            .run("tc", &["qdisc", "del", "dev", interface, "clsact"]);
        done.expect("take the qdisc off");
    }
}

fn programs_hold(on_tcx: bool) {
    let how = if on_tcx { "tcx" } else { "clsact" };
    let (cluster, mut table) = (cluster(), Table::default());
    for hook in HOOKS {
        let (host, interface, direction) = hook;
        let flows = Flows::start(&cluster);
        let hung = hang(&cluster, hook, on_tcx);
        let changed = Instant::now();
        let side = ["sender", "receiver"][host];
        let name = format!("{how} {} of {interface} on the {side}", word(direction));
        table.push(flows.held(name, changed));
        wait::until("the reason in status", Duration::from_secs(5), || {
            let status = cluster.agents[host].status()?.fast_path;
            let says = [status.reasons, status.skipped].concat().join("; ");
            anyhow::ensure!(says.contains("TC program of somebody else"), "{says}");
            Ok(Some(()))
        })
        .expect("told");
        drop(flows);
        take_off(&cluster, hook, hung);
        wait_for_pods(&cluster.agents[host], 1);
    }
    table.check();
}

#[test]
fn programs_on_tcx_hold() {
    programs_hold(true);
}

#[test]
fn filters_on_clsact_hold() {
    programs_hold(false);
}

/// One that the driver runs, which packets from the other end's hooks would go around.
#[test]
fn an_xdp_program_within_a_pod_holds() {
    let (cluster, mut table) = (cluster(), Table::default());
    let (pod, agent) = (cluster.pod(1), &cluster.agents[1]);
    let flows = Flows::start(&cluster);
    let program = XdpProgram::load(&[set(0, XDP_DROP), exit()]).expect("program");
    let index = pod.ns.enter(|| if_nametoindex("eth0")).expect("namespace");
    let index = index.expect("index");
    let link = pod.ns.enter(|| program.attach(index, XdpMode::Native));
    let link = link.expect("namespace").expect("attach");
    let changed = Instant::now();
    table.push(flows.held("XDP within the receiving pod", changed));
    let status = agent.status().expect("status").fast_path;
    let says = |why: &String| why.contains("leads to a pod with an XDP program");
    let is_told = status.skipped.iter().any(says);
    assert!(status.pods == 0 && is_told, "{status:?}");
    drop(link);
    wait_for_pods(agent, 1);
    flows.wait_admitted();
    table.check();
}

/// Where a shaper stands in the way of packets from the first host's pod to the second's.
const SHAPED: [(usize, &str); 3] = [(0, "eth0"), (1, "cni0"), (1, "veth0")];
/// Bytes per second that it lets through, beside what it lets through at once.
const RATE: u64 = 10_000;
const BURST: u64 = 3_000;

#[test]
fn shapers_shape() {
    let (cluster, mut table) = (cluster(), Table::default());
    for (host, interface) in SHAPED {
        let flows = Flows::start(&cluster);
        let ns = &cluster.host(host).ns;
        let line = format!("qdisc add dev {interface} root tbf rate 80kbit burst 3000 limit 6000");
        ns.run("tc", &line.split(' ').collect::<Vec<_>>())
            .expect("shaper");
        let changed = Instant::now();
        let agent = &cluster.agents[host];
        if interface != "eth0" {
            wait::until("the pod to be left alone", Duration::from_secs(5), || {
                let status = agent.status()?.fast_path;
                let is_told = status.skipped.iter().any(|why| why.contains("tbf"));
                anyhow::ensure!(status.pods == 0 && is_told, "{status:?}");
                Ok(Some(()))
            })
            .expect("left alone, with the reason");
        }
        let off = changed.elapsed();
        // What the queue held has been sent.
        thread::sleep(Duration::from_millis(700));
        let udp = &flows.pulses[0];
        let (before, since) = (udp.received(), Instant::now());
        thread::sleep(Duration::from_millis(1000));
        let passed = udp.received() - before;
        // 64 octets of payload and 28 of headers.
        let most = (RATE as f64 * since.elapsed().as_secs_f64() + (BURST + 6_000) as f64) / 92.0;
        println!(
            "{interface}: shaped after {} ms, then {passed} of {most:.0}",
            off.as_millis()
        );
        assert!((passed as f64) < most, "{passed} of {most}");
        let name = format!(
            "shaper on {interface} of the {}",
            ["sender", "receiver"][host]
        );
        table.note(name, off);
        let line = format!("qdisc del dev {interface} root");
        ns.run("tc", &line.split(' ').collect::<Vec<_>>())
            .expect("shaper off");
        drop(flows);
        wait_for_pods(agent, 1);
    }
    table.check();
}
