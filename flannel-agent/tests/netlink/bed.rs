//! A network namespace with an underlay, and the parts of a node in it.

use std::future::Future;
use std::net::Ipv4Addr;
use std::process::Command;

use flannel_agent::backend::entries::{apply, read_actual};
use flannel_agent::backend::peer::Peer;
use flannel_agent::backend::vxlan::add_entries;
use flannel_agent::backend::vxlan::device::{
    Device, DeviceSpec, KnownAs, ensure_address, ensure_device,
};
use flannel_agent::netlink::{MacAddr, Netlink};
use flannel_agent::plan::{KernelState, plan};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 11);

/// Runs a test in a network namespace with an underlay: `eth0`, its other end `wire`.
pub(super) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        run("ip link set lo up");
        run("ip link add eth0 type veth peer name wire");
        run("ip addr add 192.168.7.11/24 dev eth0");
        run("ip link set eth0 up");
        run("ip link set wire up");
        runtime().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Output of a command, a line each without blanks at the end.
pub(super) fn run(command: &str) -> Vec<String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim_end().into()).collect()
}

pub(super) fn json(command: &str) -> Value {
    let value: Value = serde_json::from_str(&run(command).join("\n")).unwrap();
    value[0].clone()
}

pub(super) async fn spec(netlink: &Netlink) -> DeviceSpec {
    spec_of(netlink.link_by_name("eth0").await.unwrap().unwrap().index)
}

pub(super) fn spec_of(lower: u32) -> DeviceSpec {
    DeviceSpec {
        name: "flannel.1".into(),
        vni: 1,
        lower,
        local: LOCAL,
        port: None,
        mtu: 1450,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        learning: false,
        gbp: false,
    }
}

/// The device, as an agent with subnet 10.5.1.0/24 sets it up.
pub(super) async fn device(netlink: &Netlink) -> Device {
    let spec = spec(netlink).await;
    let (device, _) = ensure_device(netlink, &spec, KnownAs::Itself)
        .await
        .unwrap();
    let own = "10.5.1.0/24".parse().unwrap();
    let network = "10.5.0.0/16".parse().unwrap();
    ensure_address(netlink, &device, own, network)
        .await
        .unwrap();
    device
}

pub(super) fn peer(i: u16) -> Peer {
    let [high, low] = i.to_be_bytes();
    Peer {
        subnet: format!("10.{}.{low}.0/24", 5 + high).parse().unwrap(),
        mac: Some(MacAddr([2, 0, 0, 1, high, low])),
        direct: None,
        public_ip: [192, 168, 7 + high, low].into(),
    }
}

pub(super) fn desired_state(device: &Device, peers: &[Peer]) -> KernelState {
    let mut state = KernelState::default();
    for peer in peers {
        add_entries(device.index, peer, &mut state);
    }
    state
}

pub(super) async fn reconcile(netlink: &Netlink, device: &Device, desired: &KernelState) -> usize {
    let (actual, mut forms) = read_actual(netlink, Some(device.index)).await.unwrap();
    let actions = plan(desired, &actual);
    let count = actions.len();
    let failed = apply(netlink, Some(device.index), actions, &mut forms).await;
    assert!(failed.is_empty(), "{failed:?}");
    count
}
