//! A restart with everything in place changes nothing on the host.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use flannel_tests::agent::{Datapath, PREFIX};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::Cluster;
use flannel_tests::command;
use flannel_tests::mounts::FILES;
use flannel_tests::wait;

/// Peers that exist in etcd alone, behind one next hop.
const LEASES: u8 = 200;

/// Starts an agent again while the kernel tells every change of links, addresses, routes, rules,
/// neighbours and nftables. Between two marks nothing may be told but what the kernel finds out
/// about the underlay's neighbours by itself.
fn restart_is_silent(datapath: Datapath) {
    let mut cluster = Cluster::new(BedOptions::default(), &[datapath; 2]).expect("cluster");
    let host = cluster.host(0).ns.clone();
    host.ip("route add 192.168.9.0/24 via 192.168.7.11")
        .expect("route");
    let taken = cluster.agents[1].status().expect("status").lease.subnet;
    let own = cluster.agents[0].status().expect("status").lease.subnet;
    let mut peers = 1;
    for number in 1..=LEASES {
        let subnet = format!("10.5.{number}.0");
        if taken.starts_with(&subnet) || own.starts_with(&subnet) {
            continue;
        }
        let value = format!(
            r#"{{"PublicIP":"192.168.9.{number}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:{number:02x}"}}}}"#
        );
        let key = format!("{PREFIX}/subnets/{subnet}-24");
        cluster.bed.etcd.put(&key, &value).expect("put");
        peers += 1;
    }
    cluster.agents[0].wait_for_peers(peers).expect("peers");
    cluster.agents[0].flags = vec!["--ip-masq".into(), "--ip-blackhole-route".into()];
    let restart = |cluster: &mut Cluster| {
        cluster.agents[0].terminate().expect("SIGTERM");
        let start = Instant::now();
        cluster.agents[0].start().expect("start");
        cluster.agents[0].wait_for_peers(peers).expect("peers");
        start.elapsed()
    };
    // With everything that the flags ask for in place.
    restart(&mut cluster);

    let record = |name: &str, program: &str, args: &[&str]| {
        let inside = Path::new(FILES).join(name);
        let path = host.mounts().outside(&inside).expect("path");
        let mut command = host.command(program);
        command
            .args(args)
            .stdout(Stdio::from(File::create(&path).expect("record")));
        (path, command::spawn(command).expect(program))
    };
    let (routes, _ip) = record("ip.monitor", "ip", &["-oneline", "monitor"]);
    let (rules, _nft) = record("nft.monitor", "nft", &["monitor"]);
    let heard = |mark: &str| {
        let told = || {
            let [routes, rules] =
                [&routes, &rules].map(|path| fs::read_to_string(path).expect("record"));
            let is_heard = routes.contains(mark) && rules.contains(mark);
            if !is_heard {
                // Recorders take a moment to listen.
                host.ip(&format!("link add {mark} type veth peer name {mark}p"))?;
                host.ip(&format!("link del {mark}"))?;
                host.run("nft", &["add", "table", "ip", mark])?;
                host.run("nft", &["delete", "table", "ip", mark])?;
            }
            Ok(is_heard.then_some((routes, rules)))
        };
        wait::until(mark, Duration::from_secs(10), told).expect("heard")
    };
    heard("before");
    let took = restart(&mut cluster);
    let (routes, rules) = heard("after");

    let is_mark = |line: &&str| !["before", "after"].iter().any(|mark| line.contains(mark));
    let is_underlay = |line: &&str| line.contains(" dev eth0 lladdr");
    let changes: Vec<&str> = routes
        .lines()
        .filter(is_mark)
        .filter(|line| !is_underlay(line))
        .collect();
    assert!(changes.is_empty(), "{changes:#?}");
    let changes: Vec<&str> = rules
        .lines()
        .filter(is_mark)
        .filter(|line| !line.starts_with("# new generation"))
        .collect();
    assert!(changes.is_empty(), "{changes:#?}");
    // Of an entry that is written as it is the kernel may tell nothing; the agent says what it sets.
    let log = cluster.agents[0].log_tail();
    let run = log.rfind("external interface").map(|start| &log[start..]);
    let run = run.expect("the last start");
    for words in ["programmed peers", "set up the tunnel device"] {
        assert!(!run.contains(words), "{run}");
    }
    println!("{datapath}: {peers} peers, ready {took:?} after the start, no change told");
}

#[test]
fn a_restart_writes_nothing_on_ebpf() {
    restart_is_silent(Datapath::Ebpf);
}

#[test]
fn a_restart_writes_nothing_on_the_kernel_path() {
    restart_is_silent(Datapath::Kernel);
}
