//! Delivery over real devices, for what a test run only records: the device at which a packet comes
//! out; and for what it cannot make: a frame with a note of XDP beside it.
//!
//! ```text
//! sender ═══ eth0 ──▶ flannel.1       the standard path
//!              └────▶ pod0 ═══ eth0   straight, or through the queue; in a namespace of its own
//! ```

use std::sync::Arc;
use std::time::Duration;

use aya::programs::TcAttachType::Ingress;
use flannel_ebpf::abi::{Config, Flow};
use flannel_ebpf::wire::Addresses;
use flannel_tests::frame::{Tunnel, ethernet, tunnel, udp_tunnel};
use flannel_tests::host;
use flannel_tests::mounts::Mounts;
use flannel_tests::netns::NetNs;
use flannel_tests::raw::{Offload, Raw};
use flannel_tests::wait;

use super::flows::{BRIDGE_MAC, NEVER, hops, received, tcp_packet, to_us};
use super::program::{Programs, config, udp_config};

const DEVICE: &str = "flannel.1";
const EXTERNAL: &str = "eth0";
const POD: &str = "pod0";

/// A kind of tunnel.
struct Kind {
    decap: &'static str,
    xdp: &'static str,
    load: fn() -> Programs,
    config: fn() -> Config,
    tunnel: fn(&[u8]) -> Tunnel,
    /// Hops that a packet has behind it when it is in the pod.
    hops: usize,
    /// The frame that enters the tunnel device.
    standard: fn(&Tunnel) -> Vec<u8>,
}

const KINDS: [Kind; 2] = [
    Kind {
        decap: "vxlan_decap",
        xdp: "xdp_vxlan",
        load: Programs::load,
        config,
        tunnel,
        hops: 1,
        standard: Tunnel::inner_frame,
    },
    Kind {
        decap: "udp_decap",
        xdp: "xdp_udp",
        load: Programs::load_udp,
        config: udp_config,
        tunnel: udp_tunnel,
        hops: 2,
        standard: super::udp_decap::delivered,
    },
];

/// The node.
struct Node {
    programs: Programs,
    ns: NetNs,
    external_mac: [u8; 6],
    pod_mac: [u8; 6],
    sender: Raw,
    device: Raw,
    pod: Raw,
}

impl Node {
    fn new(kind: &Kind, has_xdp: bool) -> Self {
        let mounts = Arc::new(Mounts::new().unwrap());
        let (ns, pod_ns) = (NetNs::new(&mounts).unwrap(), NetNs::new(&mounts).unwrap());
        ns.ip(&format!(
            "link add {DEVICE} type veth peer name far\n\
             link add {EXTERNAL} type veth peer name sender\n\
             link add {POD} type veth peer name eth0 netns {}\n\
             link set {DEVICE} up\n\
             link set far up\n\
             link set {EXTERNAL} up\n\
             link set sender up\n\
             link set {POD} up",
            pod_ns.path()
        ))
        .unwrap();
        pod_ns.ip("link set eth0 up").unwrap();
        let external_mac = host::mac(&ns, EXTERNAL).unwrap();
        let mut programs = (kind.load)().with_fast_path();
        programs.set_config(&Config {
            device_ifindex: index(&ns, DEVICE),
            external_mac,
            ..(kind.config)()
        });
        programs.attach(kind.decap, &ns, EXTERNAL, Ingress);
        programs.attach("from_pod", &ns, POD, Ingress);
        if has_xdp {
            programs.attach_xdp(kind.xdp, &ns, EXTERNAL);
        }
        Self {
            programs,
            external_mac,
            pod_mac: host::mac(&pod_ns, "eth0").unwrap(),
            sender: Raw::open(&ns, "sender").unwrap(),
            device: Raw::open(&ns, DEVICE).unwrap(),
            pod: Raw::open(&pod_ns, "eth0").unwrap(),
            ns,
        }
    }
}

fn index(ns: &NetNs, name: &str) -> u32 {
    ns.enter(|| nix::net::if_::if_nametoindex(name))
        .unwrap()
        .unwrap()
}

/// The next frame between these pods.
fn receive(at: &Raw, packet: &[u8]) -> Vec<u8> {
    let is_ours = |frame: &[u8]| frame.get(26..34) == Some(&packet[12..20]);
    let next = || {
        let frame = at.receive()?.map(|(frame, _)| frame);
        Ok(frame.filter(|frame| is_ours(frame)))
    };
    wait::until("the frame", Duration::from_secs(5), next).unwrap()
}

#[test]
fn a_flow_goes_the_standard_path_then_through_the_queue_then_straight() {
    for kind in &KINDS {
        for has_xdp in [false, true] {
            let name = format!("{}, XDP {has_xdp}", kind.decap);
            let mut node = Node::new(kind, has_xdp);
            let packet = tcp_packet(&to_us(6));
            let tunnel = Tunnel {
                ethernet_destination: node.external_mac,
                ..(kind.tunnel)(&packet)
            };
            let (frame, standard) = (tunnel.frame(), (kind.standard)(&tunnel));
            let flow = Flow {
                ifindex: index(&node.ns, POD),
                addresses: Addresses::new(node.pod_mac, BRIDGE_MAC),
                expires: NEVER,
                ..received()
            };
            let inner = hops(&packet, kind.hops);
            let delivered = ethernet(node.pod_mac, BRIDGE_MAC, 0x0800, &inner);
            let (size, taken) = if has_xdp {
                (packet.len() as u64 + 14, "ingress stripped")
            } else {
                (frame.len() as u64, "ingress decapsulated")
            };
            // Where the packet comes out, as what, and how it counts.
            let rows = [
                (&node.device, standard, "fast not_admitted", Some(taken)),
                (&node.pod, delivered.clone(), "fast queued", None),
                (&node.pod, delivered, "fast delivered", None),
            ];
            for (at, expected, fast, outcome) in rows {
                let (out, counted) = node.programs.counted(|| {
                    node.sender.send(&frame, Offload::default()).unwrap();
                    receive(at, &packet)
                });
                assert_eq!(out, expected, "{name}, {fast}");
                let expected = [fast].into_iter().chain(outcome).map(|it| (it, (1, size)));
                assert_eq!(counted, expected.collect(), "{name}");
                if fast == "fast not_admitted" {
                    node.programs.admit(&packet, flow);
                    continue;
                }
                let flow = Flow {
                    queued: 1,
                    dequeued: 1,
                    ..flow
                };
                assert_eq!(node.programs.flow(&packet), Some(flow), "{name}");
            }
        }
    }
}
