//! Queues of the external interface go by the priority that forwarding derives from a packet's type
//! of service: what is urgent overtakes what waits.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use flannel_tests::agent::Agent;
use flannel_tests::host::Pod;
use flannel_tests::wait;
use nix::sys::socket::{setsockopt, sockopt};

use super::{cluster, made_of};

/// The kernel's queues of three bands behind a shaper that lets 50 datagrams a second through, and a
/// few at once.
const QUEUES: [&str; 2] = [
    "qdisc add dev eth0 root handle 1: tbf rate 80kbit burst 3000 limit 100000",
    "qdisc add dev eth0 parent 1: pfifo_fast",
];
/// Type of service of the urgent: minimize delay (RFC 1349).
const URGENT: i32 = 0x10;
/// Datagrams that wait, and octets of each.
const WAITING: usize = 60;
const PAYLOAD: usize = 150;
/// How long it may take to send them: a small part of how long they wait.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How long any of them may take.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn the_urgent_overtake_as_without_the_fast_path() {
    let cluster = cluster();
    let (ns, agent) = (&cluster.host(0).ns, &cluster.agents[0]);
    let tc = |line: &str| {
        let done = ns.run("tc", &line.split(' ').collect::<Vec<_>>());
        done.expect("tc")
    };
    let usual = Flow::new(cluster.pod(0), cluster.pod(1), 0);
    let urgent = Flow::new(cluster.pod(0), cluster.pod(1), URGENT);
    for is_fast in [true, false] {
        for line in QUEUES {
            tc(line);
        }
        if is_fast {
            usual.wait_admitted(agent);
            urgent.wait_admitted(agent);
        } else {
            agent.fast_path(&["off"]).expect("off");
        }
        let sample = (0..5).find_map(|_| {
            let (before, start) = (made_of(agent, "sent"), Instant::now());
            (0..WAITING).for_each(|_| usual.send());
            urgent.send();
            let took = start.elapsed();
            let sent = made_of(agent, "sent") - before;
            urgent.receive();
            let overtaken = WAITING - usual.drain();
            // The others have gone on their way if the processor was somebody else's meanwhile.
            let is_at_once = took < AT_ONCE;
            (0..if is_at_once { 0 } else { overtaken }).for_each(|_| usual.receive());
            is_at_once.then_some((sent, overtaken))
        });
        let (sent, overtaken) = sample.expect("sent at once");
        println!("fast path {is_fast}: {sent} sent by it, {overtaken} of {WAITING} overtaken");
        assert_eq!(sent >= WAITING as u64, is_fast, "{sent}");
        assert!(overtaken >= WAITING / 2, "{overtaken} of {WAITING}");
        tc("qdisc del dev eth0 root");
        // What waited went with the queue.
        thread::sleep(Duration::from_millis(100));
        usual.drain();
    }
}

/// A socket in a pod, and the one in another pod that it sends to.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Flow {
    fn new(from: &Pod, to: &Pod, service: i32) -> Self {
        let bind = |pod: &Pod| {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let socket = pod.ns.enter(|| UdpSocket::bind(any));
            socket.expect("enter the pod").expect("socket")
        };
        let (sender, receiver) = (bind(from), bind(to));
        receiver.set_read_timeout(Some(LIMIT)).expect("limit");
        let port = receiver.local_addr().expect("address").port();
        sender.connect((to.address, port)).expect("connect");
        setsockopt(&sender, sockopt::Ipv4Tos, &service).expect("type of service");
        // Which the type of service has raised, too.
        setsockopt(&sender, sockopt::Priority, &0).expect("the socket's own priority");
        Self { sender, receiver }
    }

    fn send(&self) {
        self.sender.send(&[0; PAYLOAD]).expect("send");
    }

    fn receive(&self) {
        self.receiver.recv(&mut [0; PAYLOAD]).expect("receive");
    }

    /// Takes what has arrived.
    fn drain(&self) -> usize {
        self.receiver.set_nonblocking(true).expect("not blocking");
        let arrived = || self.receiver.recv(&mut [0; PAYLOAD]).ok();
        let count = std::iter::from_fn(arrived).count();
        self.receiver.set_nonblocking(false).expect("blocking");
        count
    }

    fn wait_admitted(&self, agent: &Agent) {
        wait::until("admission", LIMIT, || {
            let before = made_of(agent, "sent");
            self.send();
            self.receive();
            Ok((made_of(agent, "sent") > before).then_some(()))
        })
        .expect("admitted");
    }
}
