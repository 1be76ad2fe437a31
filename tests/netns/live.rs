//! Packets that a test run cannot make, over a real wire: the far end of the external interface
//! sends, the counters tell.

use std::collections::BTreeMap;
use std::time::Duration;

use flannel_agent::cli::TcAttach;
use flannel_agent::dataplane::Dataplane;
use flannel_agent::dataplane::maps::Part;
use flannel_ebpf::abi::{Config, Remote};
use flannel_ebpf::wire::Vxlan;
use flannel_tests::host;
use flannel_tests::raw::{Offload, Raw};
use flannel_tests::wait;

use super::place::{DEVICE, EXTERNAL, Place, mechanisms};
use flannel_tests::frame::{OWN_IP, OWN_MAC, PEER_IP, pod_packet, tunnel};

fn index(place: &Place, name: &str) -> u32 {
    let read = || nix::net::if_::if_nametoindex(name).unwrap();
    place.ns.enter(read).unwrap()
}

/// A node that knows its one peer.
fn start(place: &Place, tc_attach: TcAttach) -> Dataplane {
    let mut dataplane = place.start(tc_attach);
    let config = Config {
        vxlan: Vxlan::new(1),
        subnet_mask: [255, 255, 255, 0],
        local_ip: OWN_IP,
        vtep_mac: OWN_MAC,
        udp_port: 8_472_u16.to_be_bytes(),
        device_ifindex: index(place, DEVICE),
        external_mac: [0; 6],
        reserved: [0; 6],
    };
    dataplane.maps().set_config(&config).unwrap();
    let remote = Remote::new([10, 5, 1, 0], 24);
    dataplane
        .maps()
        .sync_remotes(&BTreeMap::from([(PEER_IP, remote)]), Part::All)
        .unwrap();
    dataplane
}

/// A tunnel frame from the peer to the external interface.
fn frame(place: &Place) -> Vec<u8> {
    let mut tunnel = tunnel(&pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello"));
    tunnel.ethernet_destination = host::mac(&place.ns, EXTERNAL).unwrap();
    tunnel.frame()
}

fn send(place: &Place, frame: &[u8]) {
    let far = format!("{EXTERNAL}-far");
    place.ns.ip(&format!("link set {far} up")).unwrap();
    let far = Raw::open(&place.ns, &far).unwrap();
    far.send(frame, Offload::default()).unwrap();
}

fn expect(dataplane: &Dataplane, outcome: &str, packets: u64) {
    wait::until(outcome, Duration::from_secs(5), || {
        let counters = dataplane.counters()?;
        let counter = counters
            .iter()
            .find(|c| c.direction == "ingress" && c.outcome == outcome);
        Ok((counter.unwrap().packets == packets).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", dataplane.counters()));
}

#[test]
fn a_frame_from_the_wire_is_taken_through_tcx_and_clsact() {
    for &how in mechanisms() {
        let place = Place::new();
        let dataplane = start(&place, how);
        send(&place, &frame(&place));
        expect(&dataplane, "decapsulated", 1);
    }
}

#[test]
fn a_frame_with_a_vlan_tag_is_left() {
    let place = Place::new();
    let dataplane = start(&place, TcAttach::Auto);
    let plain = frame(&place);
    let tag = [0x81, 0x00, 0x00, 100];
    send(&place, &[&plain[..12], &tag, &plain[12..]].concat());
    expect(&dataplane, "vlan", 1);
    send(&place, &plain);
    expect(&dataplane, "decapsulated", 1);
}
