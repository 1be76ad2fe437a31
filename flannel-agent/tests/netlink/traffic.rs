//! Packets, between two nodes.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use flannel_agent::backend::peer::Peer;
use flannel_agent::backend::vxlan::device::{
    Device, DeviceSpec, KnownAs, ensure_address, ensure_device,
};
use flannel_agent::netlink::{MacAddr, Netlink};
use nix::sched::{CloneFlags, unshare};

use super::bed::{desired_state, in_namespace, reconcile, run, runtime, spec_of};

/// A node of two: sets up its device and the other as its peer.
async fn join(netlink: &Netlink, lower: &str, own: u8, other: u8, other_mac: MacAddr) -> Device {
    let underlay = |i: u8| Ipv4Addr::new(192, 168, 7, 10 + i);
    let lower = netlink.link_by_name(lower).await.unwrap().unwrap().index;
    let spec = DeviceSpec {
        lower,
        local: underlay(own),
        mac: MacAddr([2, 0, 0, 0, 0, own]),
        ..spec_of(lower)
    };
    let (device, _) = ensure_device(netlink, &spec, KnownAs::Itself)
        .await
        .unwrap();
    let subnet = |i: u8| format!("10.5.{i}.0/24").parse().unwrap();
    let network = "10.5.0.0/16".parse().unwrap();
    ensure_address(netlink, &device, subnet(own), network)
        .await
        .unwrap();
    let peer = Peer {
        subnet: subnet(other),
        mac: Some(other_mac),
        direct: None,
        public_ip: underlay(other),
    };
    reconcile(netlink, &device, &desired_state(&device, &[peer])).await;
    device
}

#[test]
fn packets_pass_between_two_nodes_also_after_one_has_a_new_mac() {
    let (ready, other_is_ready) = mpsc::channel();
    let (go, start) = mpsc::channel();
    // The other node: answers each datagram, and takes another MAC after the first.
    let other = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ready.send(nix::unistd::gettid()).unwrap();
        start.recv().unwrap();
        run("ip addr add 192.168.7.12/24 dev wire");
        run("ip link set wire up");
        runtime().block_on(async {
            let netlink = Netlink::open().unwrap();
            let peer_mac = MacAddr([2, 0, 0, 0, 0, 1]);
            let device = join(&netlink, "wire", 2, 1, peer_mac).await;
            let socket = UdpSocket::bind("10.5.2.0:9000").unwrap();
            ready.send(nix::unistd::gettid()).unwrap();
            for mac in [77, 78] {
                // What is left of the round before does not count.
                let mut word = [0];
                let from = loop {
                    let (_, from) = socket.recv_from(&mut word).unwrap();
                    if word == [mac] {
                        break from;
                    }
                };
                socket.send_to(&word, from).unwrap();
                let mac = MacAddr([2, 0, 0, 0, 0, mac]);
                netlink.set_mac(device.index, mac).await.unwrap();
                // Linux flushes the neighbours of a device with a new address.
                join(&netlink, "wire", 2, 1, peer_mac).await;
                ready.send(nix::unistd::gettid()).unwrap();
            }
        });
    });
    in_namespace(async move || {
        let thread = other_is_ready.recv().unwrap();
        run(&format!("ip link set wire netns {thread}"));
        go.send(()).unwrap();
        other_is_ready.recv().unwrap();
        let netlink = Netlink::open().unwrap();
        for (mac, next) in [(2, 77), (77, 78)] {
            join(&netlink, "eth0", 1, 2, MacAddr([2, 0, 0, 0, 0, mac])).await;
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let moment = Duration::from_millis(100);
            socket.set_read_timeout(Some(moment)).unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            // The first ones may be lost: a link takes a moment to notice that it has a carrier.
            let from = loop {
                socket.send_to(&[next], "10.5.2.0:9000").unwrap();
                if let Ok((_, from)) = socket.recv_from(&mut [0]) {
                    break from;
                }
                assert!(Instant::now() < deadline, "no answer in round {next}");
            };
            assert_eq!(from.to_string(), "10.5.2.0:9000");
            other_is_ready.recv().unwrap();
        }
    });
    other.join().unwrap();
}
