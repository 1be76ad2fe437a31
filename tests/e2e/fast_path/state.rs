//! Rules that go by conntrack's state: accept what belongs to a connection, drop what is invalid.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use flannel_tests::cluster::Cluster;
use flannel_tests::traffic::pulse::{Protocol, Pulse};
use flannel_tests::wait;
use nix::sys::socket::{setsockopt, sockopt};

use super::row::{BOUND, Flows, Table};
use super::verdicts::Tool;
use super::{cluster, made_of};

/// As kube-proxy writes it, and as whoever lets only the first host open connections does.
fn rules(tool: Tool, host: usize) -> Vec<String> {
    if let Tool::Nft = tool {
        let new = match host {
            0 => "ct state new accept",
            _ => "ct state new iifname flannel.1 accept",
        };
        return vec![format!(
            "add table ip state; \
             add chain ip state forward {{ type filter hook forward priority 10; policy drop; }}; \
             add rule ip state forward ct state invalid counter drop; \
             add rule ip state forward ct state established,related accept; \
             add rule ip state forward {new}"
        )];
    }
    let new = match host {
        0 => "--ctstate NEW",
        _ => "--ctstate NEW -i flannel.1",
    };
    let lines = [
        "-N STATE",
        "-A STATE -m conntrack --ctstate INVALID -j DROP",
        "-A STATE -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        &format!("-A STATE -m conntrack {new} -j ACCEPT"),
        "-A STATE -j DROP",
        "-I FORWARD -j STATE",
    ];
    lines.map(str::to_owned).into()
}

fn cluster_with_state(tool: Tool) -> Cluster {
    let cluster = cluster();
    for host in 0..2 {
        for line in rules(tool, host) {
            tool.run(&cluster.host(host).ns, &line);
        }
    }
    cluster
}

/// Packets that were called invalid.
fn invalid(cluster: &Cluster, tool: Tool) -> [u64; 2] {
    [0, 1].map(|host| {
        let ns = &cluster.host(host).ns;
        let listed = match tool {
            Tool::Nft => ns.run("nft", &["list table ip state"]),
            Tool::Legacy | Tool::IptablesNft => ns.run(tool.name(), &["-vnxL", "STATE"]),
        };
        let text = listed.expect("rules");
        let count = match tool {
            Tool::Nft => text.split_once("counter packets ").map(|(_, rest)| rest),
            // Its line starts with the number of packets.
            Tool::Legacy | Tool::IptablesNft => text.lines().find(|it| it.contains("INVALID")),
        };
        let count = count.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        count.unwrap_or_else(|| panic!("no counter in:\n{text}"))
    })
}

/// One connection, and what both its ends have to say.
struct Connection {
    near: TcpStream,
    far: TcpStream,
}

const MEBIBYTE: usize = 1 << 20;
/// Mebibytes of a long connection: more than half of the sequence numbers.
const LONG: usize = 2_700;

impl Connection {
    fn open(cluster: &Cluster) -> Self {
        let (from, to) = (cluster.pod(0), cluster.pod(1));
        let listener = to.ns.enter(|| TcpListener::bind("0.0.0.0:0"));
        let listener = listener.expect("namespace").expect("listen");
        let target = (to.address, listener.local_addr().expect("port").port());
        let near = from.ns.enter(|| TcpStream::connect(target));
        let near = near.expect("namespace").expect("connect");
        let (far, _) = listener.accept().expect("accept");
        for end in [&near, &far] {
            end.set_read_timeout(Some(Duration::from_secs(20)))
                .expect("timeout");
            end.set_write_timeout(Some(Duration::from_secs(20)))
                .expect("timeout");
        }
        Self { near, far }
    }

    /// Sends so many mebibytes, and waits until they are there.
    fn send(&mut self, mebibytes: usize) {
        let Self { near, far } = self;
        thread::scope(|scope| {
            scope.spawn(move || {
                let octets = vec![7; MEBIBYTE];
                for number in 0..mebibytes {
                    let sent = near.write_all(&octets);
                    sent.unwrap_or_else(|error| panic!("mebibyte {number}: {error}"));
                }
            });
            let mut octets = vec![0; MEBIBYTE];
            for number in 0..mebibytes {
                let read = far.read_exact(&mut octets);
                read.unwrap_or_else(|error| panic!("mebibyte {number}: {error}"));
                assert!(octets.iter().all(|octet| *octet == 7));
            }
        });
    }
}

/// Behind two gigabytes that conntrack has not seen, the reset looks like an old one to it: half of all
/// sequence numbers are before the one that it knows.
#[test]
fn a_reset_ends_a_long_connection() {
    let cluster = cluster_with_state(Tool::Nft);
    let Connection { mut near, mut far } = Connection::open(&cluster);
    thread::scope(|scope| {
        scope.spawn(|| {
            let octets = vec![7; MEBIBYTE];
            (0..LONG).for_each(|_| near.write_all(&octets).expect("send"));
        });
        let mut octets = vec![0; MEBIBYTE];
        (0..LONG).for_each(|_| far.read_exact(&mut octets).expect("receive"));
    });
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&near, sockopt::Linger, &at_once).expect("linger");
    drop(near);
    let end = far.read(&mut [0; 1]).expect_err("a reset");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{end}");
    assert_eq!(invalid(&cluster, Tool::Nft), [0, 0]);
}

/// The line of conntrack for a port, as the kernel prints it.
fn tracked(cluster: &Cluster, host: usize, port: u16) -> String {
    let text = cluster
        .host(host)
        .ns
        .run("cat", &["/proc/net/nf_conntrack"]);
    let text = text.unwrap_or_default();
    let needle = format!("dport={port} ");
    let mut lines = text.lines().filter(|line| line.contains(&needle));
    lines.next().unwrap_or("nothing").to_owned()
}

#[test]
fn long_and_idle_connections_survive_rules_by_state_of_nft() {
    long_and_idle_connections_survive(Tool::Nft);
}

#[test]
fn long_and_idle_connections_survive_rules_by_state_of_legacy_iptables() {
    long_and_idle_connections_survive(Tool::Legacy);
}

#[test]
fn long_and_idle_connections_survive_rules_by_state_of_iptables_nft() {
    long_and_idle_connections_survive(Tool::IptablesNft);
}

fn long_and_idle_connections_survive(tool: Tool) {
    let cluster = cluster_with_state(tool);
    let sender = &cluster.agents[0];
    let before = made_of(sender, "sent");
    let mut connection = Connection::open(&cluster);
    let port = connection.near.peer_addr().expect("peer").port();
    connection.send(1_100);
    let sent = made_of(sender, "sent") - before;
    println!("1100 MiB in {sent} packets on the fast path");
    assert!(sent > 10_000, "{sent} packets on the fast path");
    for host in 0..2 {
        println!("host {host}: {}", tracked(&cluster, host, port));
    }
    // Idle until no admission is left; then conntrack judges the first packet.
    thread::sleep(BOUND * 3);
    connection.send(20);
    for word in ["off", "on", "off"] {
        for agent in &cluster.agents {
            let printed = agent.fast_path(&[word]).expect("switch");
            assert!(printed.starts_with(word), "{printed}");
        }
        connection.send(50);
        thread::sleep(BOUND + BOUND / 4);
        connection.send(50);
    }
    let invalid = invalid(&cluster, tool);
    println!("{}: invalid: {invalid:?}", tool.name());
    assert_eq!(invalid, [0, 0]);
}

#[test]
fn what_belongs_to_no_connection_stays_out() {
    let (cluster, mut table) = (cluster_with_state(Tool::Nft), Table::default());
    let flows = Flows::start(&cluster);
    // The other way a connection may not be opened, whatever is admitted.
    for protocol in [Protocol::Udp, Protocol::Icmp] {
        let back = Pulse::start(cluster.pod(1), cluster.pod(0), protocol).expect("pulse");
        wait::until("attempts", Duration::from_secs(5), || {
            Ok((back.sent() > 200).then_some(()))
        })
        .expect("sent");
        assert_eq!(back.received(), 0, "{protocol:?}");
    }
    flows.wait_admitted();
    // Where no new connections are let in any more, those that have been answered go on; datagrams
    // that nobody has answered belong to none.
    let deny = "delete chain ip state forward; \
         add chain ip state forward { type filter hook forward priority 10; policy drop; }; \
         add rule ip state forward ct state established accept";
    let ns = &cluster.host(1).ns;
    ns.run("nft", &[deny]).expect("rules");
    let changed = Instant::now();
    let row = flows.held("unanswered datagrams on the receiver", changed);
    table.note(row.change.clone(), row.times[0].1);
    for pulse in &flows.pulses[1..] {
        assert!(
            pulse.last().elapsed() < BOUND,
            "{:?} goes on",
            pulse.protocol
        );
    }
    table.check();
}
