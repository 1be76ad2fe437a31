//! The status document as a table for people.

use std::fmt::Write as _;

use crate::backend::udp::counters::Counters as Proxy;
use crate::status::{
    Counter, Datapath, DirectPeer, FastPath, KernelPeer, PeerCounts, Status, Store, Traffic,
};

/// Peers that are listed by name; the rest is counted.
const LISTED: usize = 10;

/// The fast path in one line.
#[must_use]
pub fn fast_path(fast_path: &FastPath) -> String {
    let FastPath {
        requested,
        active,
        reasons,
        bound_ms,
        pods,
        flows,
        skipped: _,
    } = fast_path;
    if *active {
        return format!("on for {pods} pods, {flows} flows, rules asked again every {bound_ms} ms");
    }
    match reasons.split_first() {
        Some((first, [])) => format!("off ({requested} asked for): {first}"),
        Some((first, others)) => {
            let more = others.len();
            format!("off ({requested} asked for): {first}; {more} more: see --json")
        }
        None => format!("off ({requested} asked for)"),
    }
}

/// Renders the document; ends with a line break.
#[must_use]
pub fn render(status: &Status) -> String {
    let Status {
        version,
        pid,
        uptime_secs,
        ready,
        problems,
        notices,
        backend,
        interface,
        lease,
        device,
        datapath,
        proxy,
        fast_path: fast_path_status,
        peers,
        store,
    } = status;
    let mut view = View::default();
    let up = duration(*uptime_secs);
    view.row(
        "agent",
        format!("flannel-agent {version}, pid {pid}, up {up}"),
    );
    view.row("ready", if *ready { "yes" } else { "no" });
    view.rows("problems", problems);
    view.rows("notice", notices);
    let until = match lease.expires_in_secs {
        Some(secs) => format!("ends in {} unless renewed", duration(secs)),
        None => "reserved".into(),
    };
    view.row(
        "lease",
        format!("{} of {}, {until}", lease.subnet, lease.network),
    );
    let nat = match lease.public_ip == interface.address {
        true => String::new(),
        false => format!(", advertised as {}", lease.public_ip),
    };
    view.row(
        "interface",
        format!(
            "{} ({}), MTU {}{nat}",
            interface.name, interface.address, interface.mtu
        ),
    );
    view.row("backend", backend);
    if let Some(device) = device {
        view.row("device", {
            let mac = device.mac.as_ref().map(|mac| format!(", MAC {mac}"));
            let vni = device.vni.map(|vni| format!(", VNI {vni}"));
            format!(
                "{}{}, MTU {}{}, port {}",
                device.name,
                mac.unwrap_or_default(),
                device.mtu,
                vni.unwrap_or_default(),
                device.port
            )
        });
    }
    view.datapath(datapath);
    view.row("fast path", fast_path(fast_path_status));
    view.rows("", &fast_path_status.skipped);
    view.peers(peers);
    view.store(store);
    view.counters(&datapath.counters);
    if let Some(proxy) = proxy {
        view.proxy(proxy);
    }
    view.0
}

#[derive(Default)]
struct View(String);

impl View {
    fn row(&mut self, name: &str, text: impl AsRef<str>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<11}{}", text.as_ref());
    }

    /// One row per text; the name stands before the first.
    fn rows(&mut self, name: &str, texts: &[String]) {
        for (n, text) in texts.iter().enumerate() {
            self.row(if n == 0 { name } else { "" }, text);
        }
    }

    fn datapath(&mut self, datapath: &Datapath) {
        let Datapath {
            requested,
            active,
            reason,
            programs,
            counters: _,
            xdp,
        } = datapath;
        self.row(
            "data path",
            format!("{active} ({requested} asked for): {reason}"),
        );
        if let Some(xdp) = xdp {
            let active = if xdp.active { "on" } else { "off" };
            let (requested, reason) = (&xdp.requested, &xdp.reason);
            self.row("XDP", format!("{active} ({requested} asked for): {reason}"));
        }
        let program = |program: &crate::status::Program| {
            let crate::status::Program {
                name,
                id,
                interface,
                direction,
                attach,
            } = program;
            format!("{name} (id {id}) on {interface} {direction}, {attach}")
        };
        self.rows(
            "programs",
            &programs.iter().map(program).collect::<Vec<_>>(),
        );
    }

    fn peers(&mut self, peers: &PeerCounts) {
        let PeerCounts {
            total,
            ebpf,
            direct,
            kernel,
            ignored,
        } = peers;
        let by_route = match direct.len() {
            0 => String::new(),
            direct => format!("{direct} by plain routes, "),
        };
        let by_kernel = total.saturating_sub(*ebpf + direct.len());
        self.row(
            "peers",
            format!("{total}: {ebpf} by eBPF, {by_route}{by_kernel} by the kernel path"),
        );
        self.list("route to", direct, direct_text);
        self.list("kernel path for", kernel, reason_text);
        self.list("ignored", ignored, reason_text);
    }

    /// The first peers in a line each, and how many there are more.
    fn list<P>(&mut self, what: &str, peers: &[P], text: impl Fn(&P) -> String) {
        for peer in peers.iter().take(LISTED) {
            self.row("", format!("{what} {}", text(peer)));
        }
        if let Some(more) = peers.len().checked_sub(LISTED).filter(|more| *more > 0) {
            self.row("", format!("{what} {more} more, see --json"));
        }
    }

    fn store(&mut self, store: &Store) {
        let Store {
            endpoints,
            connected,
            revision,
            error,
            unreadable,
        } = store;
        let endpoints = endpoints.join(", ");
        let state = match (connected, error) {
            (true, _) => format!("followed, revision {revision}"),
            (false, Some(error)) => format!("not followed since revision {revision}: {error}"),
            (false, None) => "not followed yet".into(),
        };
        self.row("etcd", format!("{endpoints}: {state}"));
        for key in unreadable.iter().take(LISTED) {
            self.row("", format!("skipped key {}: {}", key.key, key.reason));
        }
    }

    fn counters(&mut self, counters: &[Counter]) {
        for direction in ["egress", "ingress", "fast"] {
            let of_direction = || {
                counters
                    .iter()
                    .filter(|counter| counter.direction == direction)
            };
            if of_direction().next().is_none() {
                continue;
            }
            let sum = |handled_only: bool| {
                let counted = of_direction().filter(|counter| counter.handled || !handled_only);
                counted.map(|counter| counter.packets).sum::<u64>()
            };
            let share = match share(sum(true), sum(false)) {
                Some(share) if direction == "fast" => {
                    format!("{share} of the packets around the stack")
                }
                Some(share) => format!("{share} of the packets by eBPF"),
                None => "no packets".into(),
            };
            let _ = writeln!(self.0, "\n{direction}: {share}");
            let mut rows: Vec<_> = of_direction()
                .filter(|counter| counter.packets > 0)
                .collect();
            rows.sort_by_key(|counter| (!counter.handled, std::cmp::Reverse(counter.packets)));
            let width = rows
                .iter()
                .map(|counter| counter.outcome.len())
                .max()
                .unwrap_or(0);
            for counter in rows {
                let Counter {
                    outcome,
                    handled,
                    packets,
                    bytes,
                    direction: _,
                } = counter;
                let by = match (*handled, direction) {
                    (true, "fast") => "fast",
                    (false, "fast") => "standard",
                    (true, _) => "eBPF",
                    (false, _) => "kernel",
                };
                let _ = writeln!(
                    self.0,
                    "  {outcome:<width$}  {by:<8}  {packets:>14} packets  {bytes:>16} bytes"
                );
            }
        }
    }

    /// What it has carried, and in a line each what else has happened.
    fn proxy(&mut self, proxy: &Proxy) {
        let Proxy {
            sent_packets,
            sent_bytes,
            received_packets,
            received_bytes,
            ..
        } = proxy;
        let _ = writeln!(
            self.0,
            "\nproxy: sent {sent_packets} packets, {sent_bytes} bytes, received \
             {received_packets} packets, {received_bytes} bytes"
        );
        let others = proxy.named().into_iter().filter(|(name, count)| {
            let is_traffic = name.ends_with("_packets") || name.ends_with("_bytes");
            !is_traffic && *count > 0
        });
        for (name, count) in others {
            let _ = writeln!(self.0, "  {name:<12}  {count:>14} packets");
        }
    }
}

fn reason_text(peer: &KernelPeer) -> String {
    let KernelPeer { subnet, reason } = peer;
    format!("{subnet}: {reason}")
}

fn direct_text(peer: &DirectPeer) -> String {
    let DirectPeer {
        subnet,
        public_ip,
        traffic,
    } = peer;
    let way = format!("{subnet} via {public_ip}");
    let Some(traffic) = traffic else { return way };
    let Traffic {
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
    } = traffic;
    format!(
        "{way}: sent {sent_packets} packets, {sent_bytes} bytes, received {received_packets} \
         packets, {received_bytes} bytes"
    )
}

/// A share in per cent; not 100 % while anything is missing.
fn share(part: u64, whole: u64) -> Option<String> {
    if whole == 0 {
        return None;
    }
    let hundredths = u128::from(part) * 10_000 / u128::from(whole);
    Some(format!("{}.{:02} %", hundredths / 100, hundredths % 100))
}

fn duration(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A document for tests.
#[cfg(test)]
pub(crate) fn example() -> Status {
    use crate::status::{Device, Interface, OwnLease, Program};

    let counter = |direction: &str, outcome: &str, handled, packets| Counter {
        direction: direction.into(),
        outcome: outcome.into(),
        handled,
        packets,
        bytes: packets * 100,
    };
    Status {
        version: "0.1.0".into(),
        pid: 4711,
        uptime_secs: 3 * 3600 + 60,
        ready: false,
        problems: vec!["the watch is down".into(), "a peer is missing".into()],
        notices: vec!["the network config has changed".into()],
        backend: "vxlan".into(),
        interface: Interface {
            name: "eth0".into(),
            index: 2,
            mtu: 1500,
            address: [192, 168, 7, 11].into(),
        },
        lease: OwnLease {
            subnet: "10.5.34.0/24".into(),
            network: "10.5.0.0/16".into(),
            public_ip: [203, 0, 113, 9].into(),
            expires_in_secs: Some(80_000),
        },
        device: Some(Device {
            name: "flannel.1".into(),
            index: 7,
            mac: Some("5e:1a:0b:33:9c:02".into()),
            mtu: 1450,
            vni: Some(1),
            port: 8472,
        }),
        datapath: Datapath {
            requested: "auto".into(),
            active: "ebpf".into(),
            reason: "the kernel has what is needed".into(),
            programs: vec![Program {
                name: "vxlan_encap".into(),
                id: 42,
                interface: "flannel.1".into(),
                direction: "egress".into(),
                attach: "tcx".into(),
            }],
            counters: vec![
                counter("egress", "fragment", false, 1),
                counter("egress", "encapsulated", true, 99_999),
                counter("egress", "oversize", false, 0),
                counter("ingress", "decapsulated", true, 0),
            ],
            xdp: None,
        },
        proxy: Some(Proxy {
            sent_packets: 12,
            sent_bytes: 1_200,
            no_peer: 2,
            ..Proxy::default()
        }),
        fast_path: FastPath {
            requested: "off".into(),
            bound_ms: 1_000,
            ..FastPath::default()
        },
        peers: PeerCounts {
            total: 4,
            ebpf: 2,
            direct: vec![DirectPeer {
                subnet: "10.5.3.0/24".into(),
                public_ip: [192, 168, 7, 12].into(),
                traffic: Some(Traffic {
                    sent_packets: 3,
                    sent_bytes: 300,
                    received_packets: 2,
                    received_bytes: 200,
                }),
            }],
            kernel: vec![KernelPeer {
                subnet: "10.5.2.0/24".into(),
                reason: "several next hops".into(),
            }],
            ignored: Vec::new(),
        },
        store: Store {
            endpoints: vec!["http://10.0.0.1:2379".into()],
            connected: false,
            revision: 12,
            error: Some("connection refused".into()),
            unreadable: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_all_in_order() {
        let expected = "\
agent      flannel-agent 0.1.0, pid 4711, up 3 h 1 min
ready      no
problems   the watch is down
           a peer is missing
notice     the network config has changed
lease      10.5.34.0/24 of 10.5.0.0/16, ends in 22 h 13 min unless renewed
interface  eth0 (192.168.7.11), MTU 1500, advertised as 203.0.113.9
backend    vxlan
device     flannel.1, MAC 5e:1a:0b:33:9c:02, MTU 1450, VNI 1, port 8472
data path  ebpf (auto asked for): the kernel has what is needed
programs   vxlan_encap (id 42) on flannel.1 egress, tcx
fast path  off (off asked for)
peers      4: 2 by eBPF, 1 by plain routes, 1 by the kernel path
           route to 10.5.3.0/24 via 192.168.7.12: sent 3 packets, 300 bytes, received 2 packets, 200 bytes
           kernel path for 10.5.2.0/24: several next hops
etcd       http://10.0.0.1:2379: not followed since revision 12: connection refused

egress: 99.99 % of the packets by eBPF
  encapsulated  eBPF               99999 packets           9999900 bytes
  fragment      kernel                 1 packets               100 bytes

ingress: no packets

proxy: sent 12 packets, 1200 bytes, received 0 packets, 0 bytes
  no_peer                    2 packets
";
        assert_eq!(render(&example()), expected);
    }

    #[test]
    fn a_share_is_whole_only_when_nothing_is_missing() {
        assert_eq!(share(99_999, 100_000).as_deref(), Some("99.99 %"));
        assert_eq!(share(5, 5).as_deref(), Some("100.00 %"));
        assert_eq!(share(0, 0), None);
    }
}
