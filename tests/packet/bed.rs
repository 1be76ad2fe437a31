//! A node with real devices, for packets that a test run cannot make: a TUN device has no
//! link-layer header, which every test run has, and only a device makes real aggregates.
//!
//! ```text
//! sender ─▶ flannel0 (TUN) ─▶ eth0 ═══ eth0-far     carried by eBPF
//!               └──────────▶ the proxy's end        left to it
//! ```

use std::sync::Arc;
use std::time::Duration;

use aya::programs::TcAttachType::Egress;
use flannel_ebpf::abi::Peer;
use flannel_tests::mounts::Mounts;
use flannel_tests::netns::NetNs;
use flannel_tests::programs::Counted;
use flannel_tests::raw::{Offload, Raw};
use flannel_tests::tun::Tun;
use flannel_tests::wait;
use flannel_tests::wire::Wire;

use super::program::{Programs, udp_peer};

const DEVICE: &str = "flannel0";
const EXTERNAL: &str = "eth0";

/// Where a packet came out.
#[derive(Debug, PartialEq)]
pub(crate) enum Out {
    /// At the far end of the external interface: these frames.
    Wire(Vec<Vec<u8>>),
    /// At the proxy's end of the TUN device: these packets.
    Proxy(Vec<Vec<u8>>),
}

/// The node, with `udp_encap` on its TUN device.
pub(crate) struct Bed {
    pub(crate) programs: Programs,
    ns: NetNs,
    tun: Tun,
    device: Raw,
    far: Raw,
}

impl Bed {
    pub(crate) fn new(wire: Wire) -> Self {
        let ns = NetNs::new(&Arc::new(Mounts::new().unwrap())).unwrap();
        let tun = Tun::open(&ns, DEVICE).unwrap();
        ns.ip(&format!(
            "link add {EXTERNAL} type veth peer name {EXTERNAL}-far\n\
             link set {EXTERNAL} up\n\
             link set {EXTERNAL}-far up\n\
             link set {DEVICE} mtu 1472 up"
        ))
        .unwrap();
        wire.apply(&ns, EXTERNAL).unwrap();
        if wire == Wire::Mtu1500 {
            // Nobody fills checksums in behind it either.
            ns.run("ethtool", &["-K", EXTERNAL, "tx", "off"]).unwrap();
        }
        // What it merges again would hide what the wire saw.
        let far = format!("{EXTERNAL}-far");
        ns.run("ethtool", &["-K", &far, "gro", "off"]).unwrap();
        let mut programs = Programs::load_udp();
        programs.attach("udp_encap", &ns, DEVICE, Egress);
        let (device, far) = (Raw::open(&ns, DEVICE), Raw::open(&ns, &far));
        let mut bed = Self {
            programs,
            ns,
            tun,
            device: device.unwrap(),
            far: far.unwrap(),
        };
        bed.set_peer(udp_peer());
        bed
    }

    /// Changes the way to node A; whatever it says, out of our external interface.
    pub(crate) fn set_peer(&mut self, peer: Peer) {
        let index = || nix::net::if_::if_nametoindex(EXTERNAL).unwrap();
        let ifindex = self.ns.enter(index).unwrap();
        self.programs.set_peer(&Peer { ifindex, ..peer });
    }

    /// Sends one packet into the device, and waits until it is out as `pieces` packets.
    pub(crate) fn run(
        &mut self,
        protocol: u16,
        packet: &[u8],
        offload: Offload,
        pieces: usize,
    ) -> (Out, Counted) {
        let Self {
            programs,
            ns: _,
            tun,
            device,
            far,
        } = self;
        let (mut frames, mut left) = (Vec::new(), Vec::new());
        let ((), counted) = programs.counted(|| {
            device.send_as(protocol, packet, offload).unwrap();
            wait::until("the packet", Duration::from_secs(5), || {
                frames.extend(far.receive()?.map(|(frame, _)| frame));
                left.extend(tun.read()?);
                Ok((frames.len() + left.len() >= pieces).then_some(()))
            })
            .unwrap();
        });
        assert!(
            far.receive().unwrap().is_none() && tun.read().unwrap().is_none(),
            "more than {pieces} came out"
        );
        match (frames.is_empty(), left.is_empty()) {
            (false, true) => (Out::Wire(frames), counted),
            (true, false) => (Out::Proxy(left), counted),
            _ => panic!("came out both ways"),
        }
    }
}
