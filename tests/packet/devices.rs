//! Programs on real devices, for what a test run cannot make of a packet: a VLAN tag that the kernel
//! keeps beside it, and headers outside of the linear part. Those exist on ingress only: a packet
//! that goes out has been through code of the kernel that reads its IP header there.

use std::sync::Arc;
use std::time::Duration;

use aya::programs::TcAttachType::{Egress, Ingress};
use flannel_ebpf::abi::Config;
use flannel_tests::frame::{
    OWN_IP, OWN_MAC, PEER_IP, PEER_MAC, Tunnel, ethernet, pod_packet, tunnel, udp_tunnel,
};
use flannel_tests::host;
use flannel_tests::mounts::Mounts;
use flannel_tests::netns::NetNs;
use flannel_tests::raw::{Offload, Raw};
use flannel_tests::tun::Tun;
use flannel_tests::wait;

use super::program::{Programs, config, udp_config};

const DEVICE: &str = "flannel.1";
const EXTERNAL: &str = "eth0";

fn namespace(lines: &str) -> NetNs {
    let ns = NetNs::new(&Arc::new(Mounts::new().unwrap())).unwrap();
    ns.ip(lines).unwrap();
    ns
}

fn receive(at: &Raw) -> Vec<u8> {
    let next = || Ok(at.receive()?.map(|(frame, _)| frame));
    wait::until("the frame", Duration::from_secs(5), next).unwrap()
}

#[test]
fn a_frame_with_a_vlan_tag_is_left_on_egress() {
    // The tunnel device as port of a bridge that cares for no tags: the kernel takes the tag off
    // where the frame comes in, keeps it beside, and would put it on again where it goes out.
    let ns = namespace(&format!(
        "link add br0 type bridge mcast_snooping 0\n\
         link add {DEVICE} type veth peer name far\n\
         link add in type veth peer name sender\n\
         link set {DEVICE} master br0 up\n\
         link set in master br0 up\n\
         link set br0 up\n\
         link set far up\n\
         link set sender up"
    ));
    let (sender, far) = (Raw::open(&ns, "sender"), Raw::open(&ns, "far"));
    let (sender, far) = (sender.unwrap(), far.unwrap());
    let mut programs = Programs::load();
    programs.attach("vxlan_encap", &ns, DEVICE, Egress);
    let packet = pod_packet([10, 5, 2, 2], [10, 5, 1, 2], b"hello");
    let frame = ethernet(PEER_MAC, OWN_MAC, 0x0800, &packet);
    let tagged = [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat();
    let (out, counted) = programs.counted(|| {
        sender.send(&tagged, Offload::default()).unwrap();
        receive(&far)
    });
    assert_eq!(out, frame, "the tag is beside the frame again");
    assert_eq!(
        counted.into_iter().collect::<Vec<_>>(),
        [("egress vlan", (1, frame.len() as u64))]
    );
}

#[test]
fn a_frame_with_a_vlan_tag_is_left_on_ingress() {
    let inner = pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello");
    let rows = [
        ("vxlan_decap", Programs::load(), config(), tunnel(&inner)),
        (
            "udp_decap",
            Programs::load_udp(),
            udp_config(),
            udp_tunnel(&inner),
        ),
    ];
    for (program, mut programs, config, tunnel) in rows {
        let ns = namespace(&format!(
            "link add {DEVICE} type veth peer name far\n\
             link add {EXTERNAL} type veth peer name sender\n\
             link set {DEVICE} up\n\
             link set far up\n\
             link set {EXTERNAL} up\n\
             link set sender up"
        ));
        let (sender, device) = (Raw::open(&ns, "sender"), Raw::open(&ns, DEVICE));
        let (sender, device) = (sender.unwrap(), device.unwrap());
        let index = || nix::net::if_::if_nametoindex(DEVICE).unwrap();
        programs.set_config(&Config {
            device_ifindex: ns.enter(index).unwrap(),
            ..config
        });
        programs.attach(program, &ns, EXTERNAL, Ingress);
        let plain = Tunnel {
            ethernet_destination: host::mac(&ns, EXTERNAL).unwrap(),
            ..tunnel
        }
        .frame();
        let tagged = [&plain[..12], &[0x81, 0, 0, 100], &plain[12..]].concat();
        let ((), counted) = programs.counted(|| {
            for frame in [&tagged, &plain] {
                sender.send(frame, Offload::default()).unwrap();
            }
            // The plain one, before which the other has passed.
            let came = || {
                Ok(device
                    .receive()?
                    .filter(|(frame, _)| frame.ends_with(b"hello")))
            };
            wait::until("the frame", Duration::from_secs(5), came).unwrap();
        });
        let len = plain.len() as u64;
        let expected = [
            ("ingress decapsulated", (1, len)),
            ("ingress vlan", (1, len)),
        ];
        assert_eq!(
            counted.into_iter().collect::<Vec<_>>(),
            expected,
            "{program}"
        );
    }
}

/// A node whose NIC leaves all but the first bytes of a frame outside of the linear part.
struct Split {
    ns: NetNs,
    nic: Tun,
    programs: Programs,
}

impl Split {
    fn new(mut programs: Programs, program: &str) -> Self {
        let ns = namespace(&format!(
            "link add {DEVICE} type veth peer name far\n\
             link set {DEVICE} address 5e:01:02:03:04:0c up\n\
             link set far up"
        ));
        let nic = Tun::open_in_parts(&ns, EXTERNAL).unwrap();
        ns.ip(&format!("link set {EXTERNAL} up")).unwrap();
        // GRO would read the headers, and put them into the linear part on its way.
        ns.run("ethtool", &["-K", EXTERNAL, "gro", "off"]).unwrap();
        programs.attach(program, &ns, EXTERNAL, Ingress);
        Self { ns, nic, programs }
    }

    /// Lets the programs deliver into a device, and gives that.
    fn set_device(&mut self, name: &str, config: Config) -> Raw {
        let index = || nix::net::if_::if_nametoindex(name).unwrap();
        let device_ifindex = self.ns.enter(index).unwrap();
        self.programs.set_config(&Config {
            device_ifindex,
            ..config
        });
        Raw::open(&self.ns, name).unwrap()
    }

    /// The tunnel, to this NIC.
    fn frame(&self, tunnel: &Tunnel) -> Vec<u8> {
        Tunnel {
            ethernet_destination: host::mac(&self.ns, EXTERNAL).unwrap(),
            ..tunnel.clone()
        }
        .frame()
    }
}

#[test]
fn headers_outside_the_linear_part_are_fetched() {
    let mut split = Split::new(Programs::load(), "vxlan_decap");
    let device = split.set_device(DEVICE, config());
    let tunnel = tunnel(&pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello"));
    let frame = split.frame(&tunnel);
    for linear in [14, 34, 41, 42, 64, 83, 84] {
        let Split { nic, programs, .. } = &mut split;
        let (out, counted) = programs.counted(|| {
            nic.write_parts(&frame, linear).unwrap();
            receive(&device)
        });
        assert_eq!(out, tunnel.inner_frame(), "{linear}");
        assert_eq!(
            counted.into_iter().collect::<Vec<_>>(),
            [("ingress decapsulated", (1, frame.len() as u64))],
            "{linear}"
        );
    }
}

#[test]
fn headers_of_the_udp_backend_are_fetched_as_well() {
    let mut split = Split::new(Programs::load_udp(), "udp_decap");
    let tun = Tun::open(&split.ns, "flannel0").unwrap();
    split.ns.ip("link set flannel0 up").unwrap();
    let device = split.set_device("flannel0", udp_config());
    let tunnel = udp_tunnel(&pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello"));
    let frame = split.frame(&tunnel);
    for linear in [14, 42, 61, 62] {
        split.nic.write_parts(&frame, linear).unwrap();
        // What enters the device has no link-layer header any more.
        assert_eq!(
            receive(&device),
            super::udp_decap::delivered(&tunnel)[14..],
            "{linear}"
        );
    }
    drop(tun);
}

#[test]
fn a_count_is_not_worth_fetching_headers() {
    // And this is how we know that they are outside.
    let mut split = Split::new(Programs::load(), "direct_ingress");
    split.programs.count_traffic();
    let mac = host::mac(&split.ns, EXTERNAL).unwrap();
    let frame = ethernet(
        mac,
        [2; 6],
        0x0800,
        &pod_packet([10, 5, 1, 2], OWN_IP, b"x"),
    );
    let other = ethernet(mac, [2; 6], 0x0800, &pod_packet(PEER_IP, OWN_IP, b"x"));
    let seen = Raw::open(&split.ns, EXTERNAL).unwrap();
    for (linear, packets) in [(14, 0), (33, 0), (34, 1)] {
        split.nic.write_parts(&frame, linear).unwrap();
        assert_eq!(receive(&seen), frame);
        // A tap sees a frame before the program does; once the next one is there, it has.
        split.nic.write_parts(&other, linear).unwrap();
        assert_eq!(receive(&seen), other);
        let [_, received] = split.programs.traffic();
        assert_eq!(received.0, packets, "{linear}");
    }
}
