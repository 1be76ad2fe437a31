//! The udp backend's proxy: real TUN devices in two hosts, and a wire between.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use flannel_agent::backend::udp::counters::Counters;
use flannel_agent::backend::udp::device::{DeviceChange, DeviceError, remove_device};
use flannel_agent::backend::udp::socket::{SocketError, Sockets};
use flannel_agent::backend::udp::table::Table;
use flannel_agent::netlink::Netlink;
use flannel_tests::host::{Host, Pod};
use flannel_tests::traffic::ping::{Answer, Fragmentation, Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::traffic::stream;
use flannel_tests::udp::reference::Reference;
use flannel_tests::udp::{MTU, Node, PORT, Pair, device_spec, ensure};
use flannel_tests::wait;
use flannel_tests::wire::Wire;
use nix::sys::socket::{setsockopt, sockopt};

/// Octets of a stream that is checked: some thousand packets.
const STREAM: usize = 6 << 20;

fn pods(pair: &Pair) -> [&Pod; 2] {
    pair.hosts.each_ref().map(|host| &host.pods[0])
}

fn ping_once(pair: &Pair, size: u32, fragmentation: Fragmentation) -> Answer {
    let [a, b] = pods(pair);
    let options = Options {
        size,
        fragmentation,
        // Also how long ping waits for the last reply after quick ones.
        interval_ms: 50,
        ..Options::default()
    };
    ping(&a.ns, b.address, options).unwrap()
}

/// That every echo request of this size is answered; asks again where other work on the machine
/// kept a thread from its CPU for longer than ping waits. Loss is what [`Flow`] is for.
fn assert_answers(pair: &Pair, size: u32, fragmentation: Fragmentation) {
    wait::until("echo replies", Duration::from_secs(10), || {
        let answer = ping_once(pair, size, fragmentation);
        ensure!(answer.is_complete(), "{size}: {}", answer.text);
        Ok(Some(()))
    })
    .unwrap();
}

fn assert_reachable(pair: &Pair) {
    assert_answers(pair, 56, Fragmentation::Allowed);
}

/// That nothing was lost in the proxy.
fn assert_clean(counters: Counters) {
    let Counters {
        sent_packets: _,
        sent_bytes: _,
        received_packets: _,
        received_bytes: _,
        unfilled: _,
        // The kernel may look for IPv6 neighbours.
        not_ipv4: _,
        no_peer,
        icmp_sent,
        too_short,
        ttl_expired,
        malformed,
        send_failed,
        write_failed,
    } = counters;
    let lost = [
        no_peer,
        icmp_sent,
        too_short,
        ttl_expired,
        malformed,
        send_failed,
        write_failed,
    ];
    assert_eq!(lost, [0; 7], "{counters:?}");
}

fn lines(host: &Host, command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let text = host.ns.run(words[0], &words[1..]).unwrap();
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn packets_of_every_size_cross_both_ways() {
    for wire in [Wire::Mtu1500, Wire::SuperPacket] {
        let pair = Pair::new(wire).unwrap();
        let nodes = pair.start().unwrap();
        for size in [0, 1, 56, 1000, MTU - 29, MTU - 28] {
            assert_answers(&pair, size, Fragmentation::Forbidden);
        }
        // Beyond the MTU in fragments, of which none is more than that.
        for size in [MTU - 27, 4000, 30_000] {
            assert_answers(&pair, size, Fragmentation::Allowed);
        }
        let answer = ping_once(&pair, MTU - 27, Fragmentation::Forbidden);
        assert_eq!(answer.received, 0, "{}", answer.text);

        let [a, b] = pods(&pair);
        stream::check(a, b, 2, STREAM).unwrap();
        stream::check(b, a, 3, STREAM).unwrap();
        // A packet is counted after it has gone on. What one sends the other receives.
        wait::until("counts that agree", Duration::from_secs(5), || {
            let [first, second] = [0, 1].map(|number| nodes[number].proxy.counters());
            let agree = |from: Counters, to: Counters| {
                let packets = from.sent_packets >= to.received_packets;
                packets && from.sent_bytes >= to.received_bytes
            };
            Ok((agree(first, second) && agree(second, first)).then_some(()))
        })
        .unwrap();
        for node in &nodes {
            let counters = node.proxy.counters();
            assert_clean(counters);
            assert!(counters.sent_packets > STREAM as u64 / 1500, "{counters:?}");
        }
    }
}

#[test]
fn a_peer_without_offloads_gets_and_sends_the_same_packets() {
    // Its kernel checks every checksum, and its proxy cuts off what is longer than the MTU.
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let node = pair.start_one(0).unwrap();
    let [host, other] = &pair.hosts;
    let _reference = Reference::start(other, 1, host).unwrap();
    assert_reachable(&pair);
    assert_answers(&pair, 8000, Fragmentation::Allowed);
    let [a, b] = pods(&pair);
    stream::check(a, b, 1, STREAM).unwrap();
    stream::check(b, a, 1, STREAM).unwrap();
    assert_clean(node.proxy.counters());
    let bad: Vec<_> = lines(other, "nstat -asz TcpInCsumErrors")
        .into_iter()
        .filter(|line| line.starts_with("TcpInCsumErrors"))
        .collect();
    assert!(
        bad.iter()
            .all(|line| line.split_whitespace().nth(1) == Some("0")),
        "{bad:?}"
    );
}

#[test]
fn every_hop_counts_and_the_last_is_silent() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let nodes = pair.start().unwrap();
    // Each host forwards and each proxy takes one.
    let answer = ping_once(&pair, 56, Fragmentation::Allowed);
    assert!(answer.text.contains("ttl=60 "), "{}", answer.text);
    let [a, b] = pods(&pair);
    for (ttl, expired) in [("2", [1, 0]), ("3", [1, 1])] {
        let line = format!("ping -n -c 1 -W 1 -t {ttl} {}; true", b.address);
        let text = a.ns.run("sh", &["-c", &line]).unwrap();
        assert!(
            text.contains("100% packet loss") && !text.contains("exceeded"),
            "{text}"
        );
        let counted = [0, 1].map(|number| nodes[number].proxy.counters().ttl_expired);
        assert_eq!(counted, expired, "TTL {ttl}");
    }
}

#[test]
fn aggregates_of_datagrams_arrive_one_by_one() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let nodes = pair.start().unwrap();
    let [a, b] = pods(&pair);
    let bind = |pod: &Pod| {
        let socket = pod
            .ns
            .enter(|| UdpSocket::bind((pod.address, 0)))
            .unwrap()
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    };
    let (from, to) = (bind(a), bind(b));
    setsockopt(&from, sockopt::UdpGsoSegment, &1000).unwrap();
    let sent: Vec<u8> = (0..30_500).map(|place| (place % 251) as u8).collect();
    for _ in 0..20 {
        from.send_to(&sent, to.local_addr().unwrap()).unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 2000];
        while received.len() < sent.len() {
            let length = to.recv(&mut buffer).unwrap();
            let rest = sent.len() - received.len();
            assert_eq!(length, rest.min(1000));
            received.extend_from_slice(&buffer[..length]);
        }
        assert!(received == sent);
    }
    assert_clean(nodes[0].proxy.counters());
    assert_clean(nodes[1].proxy.counters());
    // A packet is counted after the pod has it.
    wait::until("all to be counted", Duration::from_secs(1), || {
        Ok((nodes[1].proxy.counters().received_packets == 20 * 31).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_smaller_path_mtu_costs_speed_and_no_packet() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let nodes = pair.start().unwrap();
    // The external interface shrinks under the device: the kernel refuses aggregates.
    pair.hosts[0].ns.ip("link set eth0 mtu 1300").unwrap();
    let [a, b] = pods(&pair);
    stream::check(a, b, 2, STREAM / 4).unwrap();
    assert_clean(nodes[0].proxy.counters());
    assert_clean(nodes[1].proxy.counters());
}

#[test]
fn who_sends_to_nobody_hears_so() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let node = Node::start(&pair.hosts[0], 0, Table::default()).unwrap();
    let [a, b] = pods(&pair);
    let socket =
        a.ns.enter(|| UdpSocket::bind((a.address, 0)))
            .unwrap()
            .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // Else the kernel keeps it for itself: it may be a passing state.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    socket.connect((b.address, 9)).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = socket.recv(&mut [0; 10]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
    // An answer is counted after the pod has it.
    wait::until("the count of answers", Duration::from_secs(1), || {
        let counters = node.proxy.counters();
        Ok(((counters.no_peer, counters.icmp_sent) == (1, 1)).then_some(()))
    })
    .unwrap();

    // ICMP is not answered with ICMP.
    assert_eq!(ping_once(&pair, 56, Fragmentation::Allowed).received, 0);
    let counters = node.proxy.counters();
    assert_eq!((counters.no_peer, counters.icmp_sent), (4, 1));

    // From the moment in which there is a peer, it is reached.
    let _other = pair.start_one(1).unwrap();
    node.proxy.set_peers(pair.peers_of(0));
    assert_reachable(&pair);
}

#[test]
fn a_table_is_replaced_under_traffic_without_loss() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let nodes = pair.start().unwrap();
    assert_reachable(&pair);
    let [a, b] = pods(&pair);
    let flow = Flow::start(a, b, 200, 2000).unwrap();
    let end = Instant::now() + Duration::from_millis(1500);
    let mut swaps = 0;
    while Instant::now() < end {
        // Others come and go; the one that is used stays.
        let others = (2..swaps % 50 + 3).map(|number| {
            let subnet = format!("10.5.{number}.0/24").parse().unwrap();
            (subnet, SocketAddrV4::new([192, 168, 7, 99].into(), PORT))
        });
        let peer = (
            "10.5.1.0/24".parse().unwrap(),
            SocketAddrV4::new(pair.hosts[1].address, PORT),
        );
        nodes[0].proxy.set_peers(Table::new(others.chain([peer])));
        swaps += 1;
    }
    let tally = flow.finish().unwrap();
    assert!(
        tally.is_lossless() && swaps > 100,
        "{tally:?} with {swaps} tables"
    );
    assert_clean(nodes[0].proxy.counters());
}

#[test]
fn a_deleted_device_is_made_anew_and_the_proxy_moves_over() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let mut nodes = pair.start().unwrap();
    let host = &pair.hosts[0];
    let spec = device_spec(0);
    for _ in 0..3 {
        assert_reachable(&pair);
        let before = nodes[0].device.clone();
        host.ns.ip("link del flannel0").unwrap();
        let (device, change) = ensure(host, &spec, Some(&before)).unwrap().unwrap();
        assert_eq!(change, DeviceChange::Created);
        assert_ne!(device.index, before.index);
        assert!(device.has_route);
        nodes[0].proxy.set_device(&device, spec.address);
        nodes[0].device = device;
        assert_reachable(&pair);
        // Nobody spins on the queues of the device that is gone.
        assert!(nodes[0].proxy.is_running());
    }
    let (_, change) = ensure(host, &spec, Some(&nodes[0].device))
        .unwrap()
        .unwrap();
    assert_eq!(change, DeviceChange::Kept);
    assert_reachable(&pair);
}

/// CPU time of the threads of a proxy on this host, in ticks of 10 ms: all threads in its namespace.
fn ticks(host: &Host) -> Vec<u64> {
    let namespace = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let own = namespace(host.ns.path().as_ref());
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|task| namespace(&task.path().join("ns/net")) == own)
        .filter_map(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            // User and system time, counted from behind the name.
            let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
            Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
        })
        .collect()
}

#[test]
fn without_a_device_the_threads_sleep() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let node = pair.start_one(0).unwrap();
    let host = &pair.hosts[0];
    host.ns.ip("link del flannel0").unwrap();
    let before = ticks(host);
    assert_eq!(before.len(), device_spec(0).queues);
    std::thread::sleep(Duration::from_millis(500));
    let after = ticks(host);
    let spent: u64 = after.iter().zip(&before).map(|(a, b)| a - b).sum();
    assert!(spent < 10, "{before:?} {after:?}");
    assert!(node.proxy.is_running());
}

#[test]
fn a_device_outlives_the_proxy_and_is_opened_again() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let [node, _other] = pair.start().unwrap();
    let host = &pair.hosts[0];
    let before = node.device.index;
    let start = Instant::now();
    drop(node);
    assert!(start.elapsed() < Duration::from_secs(1), "it ends promptly");

    let addresses = lines(host, "ip -4 -o addr show dev flannel0");
    assert!(
        addresses[0].contains("inet 10.5.0.0/32 scope global flannel0"),
        "{addresses:?}"
    );
    let routes = lines(host, "ip -4 -d route show dev flannel0");
    assert_eq!(routes.len(), 1);
    assert!(
        routes[0].starts_with("unicast 10.5.0.0/16 proto boot scope global"),
        "{routes:?}"
    );

    // Processes that other tests start have copies of its descriptors for a moment.
    let again = || Ok(Some(pair.start_one(0)?));
    let again = wait::until("the port", Duration::from_secs(5), again).unwrap();
    assert_eq!(again.device.index, before);
    assert_reachable(&pair);
}

#[test]
fn a_kept_device_is_brought_into_line() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let host = &pair.hosts[0];
    let spec = device_spec(0);
    let (device, change) = ensure(host, &spec, None).unwrap().unwrap();
    assert_eq!(
        (change, device.mtu, device.has_route),
        (DeviceChange::Created, MTU, true)
    );
    host.ns
        .ip("addr add 10.5.9.0/32 dev flannel0\n\
             addr add 192.0.2.1/32 dev flannel0\n\
             link set flannel0 mtu 1400\n\
             link set flannel0 down\n")
        .unwrap();
    let (adjusted, change) = ensure(host, &spec, Some(&device)).unwrap().unwrap();
    assert_eq!(
        (change, adjusted.mtu, adjusted.has_route),
        (DeviceChange::Adjusted, MTU, true)
    );
    let mut addresses: Vec<_> = lines(host, "ip -4 -o addr show dev flannel0")
        .iter()
        .filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned))
        .collect();
    addresses.sort();
    assert_eq!(addresses, ["10.5.0.0/32", "192.0.2.1/32"]);
    let (_, change) = ensure(host, &spec, Some(&adjusted)).unwrap().unwrap();
    assert_eq!(change, DeviceChange::Kept);
}

#[test]
fn the_route_of_somebody_else_is_left_alone() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let host = &pair.hosts[0];
    host.ns
        .ip("route add 10.5.0.0/16 via 192.168.7.11")
        .unwrap();
    let (device, _) = ensure(host, &device_spec(0), None).unwrap().unwrap();
    assert!(!device.has_route);
    let routes = lines(host, "ip -4 route show 10.5.0.0/16");
    assert_eq!(routes, ["10.5.0.0/16 via 192.168.7.11 dev eth0"]);
}

#[test]
fn what_belongs_to_others_is_refused_with_a_remedy() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let [host, other] = &pair.hosts;
    let spec = device_spec(0);
    let refused = || -> String {
        let links = lines(host, "ip -o link show dev flannel0");
        let error = ensure(host, &spec, None).unwrap().unwrap_err();
        assert_eq!(
            lines(host, "ip -o link show dev flannel0"),
            links,
            "it is not touched"
        );
        error.to_string()
    };

    host.ns.ip("link add flannel0 type bridge").unwrap();
    let text = refused();
    assert!(
        text.starts_with("flannel0 exists but is a bridge"),
        "{text}"
    );
    host.ns.ip("link del flannel0").unwrap();

    host.ns.ip("tuntap add flannel0 mode tap").unwrap();
    let text = refused();
    assert!(
        text.starts_with("flannel0 exists but is a TAP device"),
        "{text}"
    );
    host.ns.ip("link del flannel0").unwrap();

    // As stock flannel runs.
    let reference = Reference::start(host, 0, other).unwrap();
    let text = refused();
    assert!(text.contains("if stock flanneld runs, end it"), "{text}");
    drop(reference);

    // As another agent runs. The reference's device goes when processes that other tests start have
    // no copy of its descriptor any more.
    let made = || Ok(Some(ensure(host, &spec, None)??));
    let (device, _) = wait::until("the name", Duration::from_secs(5), made).unwrap();
    let text = refused();
    assert!(
        text.starts_with("flannel0 is in use by another process"),
        "{text}"
    );
    let remove = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let netlink = Netlink::open().unwrap();
            remove_device(&netlink, "flannel0").await
        })
    };
    let error = host.ns.enter(remove).unwrap().unwrap_err();
    assert!(matches!(error, DeviceError::Busy { .. }), "{error}");
    drop(device);
    assert!(host.ns.enter(remove).unwrap().unwrap());
    assert!(!host.ns.enter(remove).unwrap().unwrap());
}

#[test]
fn a_taken_port_is_told_before_anything_is_made() {
    let pair = Pair::new(Wire::Mtu1500).unwrap();
    let host = &pair.hosts[0];
    let address = SocketAddrV4::new(host.address, PORT);
    let bind = || host.ns.enter(|| Sockets::bind(address, 2)).unwrap();
    let open = |ip: Ipv4Addr| -> io::Result<UdpSocket> {
        host.ns.enter(|| UdpSocket::bind((ip, PORT))).unwrap()
    };
    // Processes that other tests start have copies of a descriptor for a moment.
    let limit = Duration::from_secs(5);
    for ip in [host.address, Ipv4Addr::UNSPECIFIED] {
        let holder = wait::until("the port", limit, || Ok(Some(open(ip)?))).unwrap();
        let error = bind().unwrap_err();
        assert!(matches!(error, SocketError::PortTaken(_)), "{error}");
        assert!(
            error.to_string().contains("ss -lunp 'sport = :8285'"),
            "{error}"
        );
        drop(holder);
    }
    // Another agent of this user shares the port among its own sockets, and with nobody else.
    let free = || wait::until("the port", limit, || Ok(Some(bind()?))).unwrap();
    let sockets = free();
    assert!(matches!(bind().unwrap_err(), SocketError::PortTaken(_)));
    drop(sockets);
    drop(free());

    let elsewhere = SocketAddrV4::new([192, 0, 2, 1].into(), PORT);
    let error = host
        .ns
        .enter(|| Sockets::bind(elsewhere, 1))
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, SocketError::NoAddress(_)), "{error}");
}
