//! XDP on a NIC whose driver runs it by itself: virtio_net, of a virtual machine that has two of them
//! on one wire (`tests/qemu/boot.sh` makes one). Skipped where there is none.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::traffic::iperf::{Placement, Server};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use flannel_tests::exercise;

const DRIVER: &str = "virtio_net";
/// How long one figure is measured.
const TIME: Duration = Duration::from_secs(5);

/// NICs of the machine itself.
fn nics() -> Vec<String> {
    let devices = fs::read_dir("/sys/class/net").expect("sysfs").flatten();
    let is_nic = |device: &fs::DirEntry| {
        let driver = fs::read_link(device.path().join("device/driver"));
        driver.is_ok_and(|driver| driver.ends_with(DRIVER))
    };
    let names = devices.filter(is_nic).map(|device| device.file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

/// Two hosts with a NIC each as their external interface.
fn cluster(nics: &[String], xdp: &str) -> Cluster {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    // The wire that they have so far, both ends of it.
    bed.hosts[0].ns.ip("link del eth0").expect("no wire");
    for (host, nic) in bed.hosts.iter().zip(nics) {
        let path = host.ns.path().to_string();
        let args = ["link", "set", nic, "netns", &path, "name", "eth0"];
        let moved = Command::new("ip").args(args).status().expect("ip");
        assert!(moved.success(), "{nic} to {}", host.name);
        let address = host.address;
        let lines = format!("addr add {address}/24 dev eth0\nlink set eth0 up");
        host.ns.ip(&lines).expect("address");
    }
    let put = bed.etcd.put(&format!("{PREFIX}/config"), CONFIG);
    put.expect("configuration");
    let mut cluster = Cluster {
        agents: Vec::new(),
        bed,
    };
    for host in 0..2 {
        let mut agent = Agent::new(&cluster.bed.hosts[host], Datapath::Ebpf).expect("agent");
        agent.flags = [xdp, "--fast-path=off"].map(str::to_owned).into();
        agent.start().expect("start");
        cluster.agents.push(agent);
        cluster.add_pod(host).expect("pod");
    }
    cluster.wait_for_peers(1).expect("peers");
    cluster
}

/// Packets that XDP has taken the headers off.
fn stripped(agent: &Agent) -> u64 {
    let status = agent.status().expect("status");
    let mut counters = status.datapath.counters.iter();
    let found = counters.find(|it| it.direction == "ingress" && it.outcome == "stripped");
    found.expect("a counter").packets
}

#[test]
fn xdp_is_taken_by_itself_where_the_driver_runs_it() {
    if nics().len() < 2 {
        println!("skipped: no two NICs of {DRIVER}");
        return;
    }
    for xdp in ["--xdp=off", "--xdp=auto"] {
        // Those of a namespace that is gone come back after a while.
        let nics = wait::until("two NICs", Duration::from_secs(30), || {
            let nics = nics();
            ensure!(nics.len() >= 2, "{nics:?}");
            Ok(Some(nics))
        });
        let cluster = cluster(&nics.expect("NICs"), xdp);
        let is_wanted = xdp == "--xdp=auto";
        for (host, agent) in cluster.bed.hosts.iter().zip(&cluster.agents) {
            let status = agent.status().expect("status").datapath.xdp;
            let is_active = status.as_ref().is_some_and(|it| it.active);
            assert_eq!(is_active, is_wanted, "{xdp}: {status:?}");
            // The driver's mode is `xdp`; the stack's would be `xdpgeneric`.
            let shown = host.ns.run("ip", &["link", "show", "dev", "eth0"]);
            let shown = shown.expect("link");
            assert_eq!(shown.contains(" xdp "), is_wanted, "{shown}");
        }
        exercise::everything(&cluster);
        let count = stripped(&cluster.agents[1]);
        assert_eq!(count > 1_000, is_wanted, "{count} stripped");
        let (a, b) = (cluster.pod(0), cluster.pod(1));
        let server = Server::start(b, Placement::Free).expect("iperf3");
        let gigabits = server.measure(a, TIME).expect("TCP");
        let flow = Flow::start_full(a, b, 64, 1, 0).expect("flow");
        std::thread::sleep(TIME);
        let received = flow.received();
        let tally = flow.finish().expect("count");
        assert!(tally.is_lossless(), "{tally:?}");
        println!(
            "{xdp}: {gigabits:.3} Gbit/s of TCP, {:.1} thousand datagrams a second, {count} stripped",
            received as f64 / TIME.as_secs_f64() / 1e3
        );
    }
}
