//! A host with two interfaces and a bpffs, for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use flannel_agent::backend::vxlan;
use flannel_agent::cli::{TcAttach, XdpMode};
use flannel_agent::dataplane::{Dataplane, Interfaces, Options};
use flannel_tests::mounts::{BPFFS, Mounts};
use flannel_tests::netns::NetNs;

/// The interface that stands for the external one.
pub(crate) const EXTERNAL: &str = "eth0";
/// The interface that stands for the tunnel device.
pub(crate) const DEVICE: &str = "flannel.1";
/// Both.
pub(crate) const INTERFACES: Interfaces<'static> = Interfaces {
    external: EXTERNAL,
    device: Some(DEVICE),
};

/// Whether this kernel has tcx (Linux 6.6).
pub(crate) fn has_tcx() -> bool {
    KernelVersion::current().unwrap() >= KernelVersion::new(6, 6, 0)
}

/// The ways to attach that this kernel has.
pub(crate) fn mechanisms() -> &'static [TcAttach] {
    const ALL: [TcAttach; 2] = [TcAttach::Clsact, TcAttach::Tcx];
    if has_tcx() { &ALL } else { &ALL[..1] }
}

/// The host.
pub(crate) struct Place {
    pub(crate) ns: NetNs,
    pub(crate) pins: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let mounts = Arc::new(Mounts::new().unwrap());
        let ns = NetNs::new(&mounts).unwrap();
        let place = Self {
            ns,
            pins: mounts.outside(&Path::new(BPFFS).join("flannel")).unwrap(),
        };
        place.add_link(EXTERNAL);
        place.add_link(DEVICE);
        place
    }

    /// A veth pair whose other end nobody uses.
    pub(crate) fn add_link(&self, name: &str) {
        let lines = format!("link add {name} type veth peer name {name}-far\nlink set {name} up\n");
        self.ns.ip(&lines).unwrap();
    }

    pub(crate) fn options(&self, tc_attach: TcAttach) -> Options {
        Options {
            pin_path: self.pins.clone(),
            tc_attach,
            xdp: XdpMode::Off,
            log_level: 0,
            flows: 1_024,
        }
    }

    /// Opens and attaches, as an agent that starts does.
    pub(crate) fn start(&self, tc_attach: TcAttach) -> Dataplane {
        self.start_on(tc_attach, EXTERNAL)
    }

    pub(crate) fn start_on(&self, tc_attach: TcAttach, external: &str) -> Dataplane {
        let options = self.options(tc_attach);
        let open = || {
            let mut dataplane = Dataplane::open(&options, &vxlan::PROGRAMS).expect("open");
            dataplane
                .attach(Interfaces {
                    external,
                    ..INTERFACES
                })
                .expect("attach");
            dataplane
        };
        self.ns.enter(open).unwrap()
    }

    /// Ids of the tcx programs on an interface, in order.
    pub(crate) fn tcx(&self, interface: &str, direction: TcAttachType) -> Vec<u32> {
        if !has_tcx() {
            return Vec::new();
        }
        let query = || {
            let (_, programs) = SchedClassifier::query_tcx(interface, direction).unwrap();
            programs
                .iter()
                .map(aya::programs::ProgramInfo::id)
                .collect()
        };
        self.ns.enter(query).unwrap()
    }

    /// Ids of our filters on clsact, as tc shows them.
    pub(crate) fn clsact(&self, interface: &str, direction: &str) -> Vec<u32> {
        let shown = self
            .ns
            .run("tc", &["-j", "filter", "show", "dev", interface, direction])
            .unwrap();
        let filters: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let id = |filter: &serde_json::Value| filter["options"]["prog"]["id"].as_u64();
        filters
            .as_array()
            .unwrap()
            .iter()
            .filter_map(id)
            .map(|id| id as u32)
            .collect()
    }
}
