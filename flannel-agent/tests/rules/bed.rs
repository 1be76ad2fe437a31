//! The test bed: a host with a pod, a remote pod behind the overlay, and the outside.
//!
//! ```text
//!   pod 10.5.1.2 ── docker0 10.5.1.1 ┐      ┌ flannel.1 10.5.1.0, 172.16.9.1 ── remote 10.5.2.2
//!                                    ├ host ┤                                          172.16.9.2
//!                                    ┘      └ eth0 192.168.7.11 ── outside 192.168.7.1
//! ```

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flannel_agent::netlink::Netlink;
use flannel_agent::rules::{Blackhole, Forward, Rules, SourcePorts, Spec};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

pub(super) const POD: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 2);
pub(super) const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 2);
/// Address of the remote host that is none of the overlay.
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(172, 16, 9, 2);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 11);
/// The host in the overlay.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 0);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and the thread that lives in it.
pub(super) struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    pub(super) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            run("ip link set lo up");
            tell.send(gettid().as_raw()).unwrap();
            for job in queue {
                job();
            }
        });
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid: told.recv().unwrap(),
        }
    }

    /// Runs something inside; a panic is passed on.
    pub(super) fn within<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv().expect("a panic inside")
    }

    /// The same without waiting for the end.
    pub(super) fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move || drop(answer.send(job())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result
    }

    pub(super) fn run(&self, command: &'static str) {
        self.within(move || run(command));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A panic inside has been reported where it was waited for.
        let _ = self.thread.take().unwrap().join();
    }
}

/// The namespaces around the host, which is the thread's own.
pub(super) struct Bed {
    pub(super) pod: Namespace,
    pub(super) remote: Namespace,
    pub(super) outside: Namespace,
}

/// Runs a test on the host of a new bed.
pub(super) fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Bed) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        run("ip link set lo up");
        for (name, value) in [
            ("ip_forward", "1"),
            ("conf/all/rp_filter", "0"),
            ("conf/default/rp_filter", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
        }
        let bed = Bed {
            pod: Namespace::new(),
            remote: Namespace::new(),
            outside: Namespace::new(),
        };
        for (device, namespace) in [
            ("docker0", &bed.pod),
            ("flannel.1", &bed.remote),
            ("eth0", &bed.outside),
        ] {
            let tid = namespace.tid;
            run(&format!(
                "ip link add {device} type veth peer name far netns {tid}"
            ));
            run(&format!("ip link set {device} up"));
            namespace.run("ip link set far up");
        }
        run("ip addr add 10.5.1.1/24 dev docker0");
        run("ip addr add 10.5.1.0/32 dev flannel.1");
        run("ip addr add 172.16.9.1/24 dev flannel.1");
        run("ip route add 10.5.2.0/24 dev flannel.1 src 10.5.1.0");
        run("ip addr add 192.168.7.11/24 dev eth0");
        bed.pod.run("ip addr add 10.5.1.2/24 dev far");
        bed.pod.run("ip route add default via 10.5.1.1");
        bed.remote.run("ip addr add 10.5.2.2/24 dev far");
        bed.remote.run("ip addr add 172.16.9.2/24 dev far");
        bed.remote.run("ip route add default via 172.16.9.1");
        bed.outside.run("ip addr add 192.168.7.1/24 dev far");
        bed.outside.run("ip route add default via 192.168.7.11");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test(bed));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What an agent wants by default, and masquerade.
pub(super) fn spec() -> Spec {
    Spec {
        network: "10.5.0.0/16".parse().unwrap(),
        subnet: "10.5.1.0/24".parse().unwrap(),
        masquerade: Some(SourcePorts::FullyRandom),
        forward: Forward::Accept,
        blackhole: Blackhole::None,
    }
}

pub(super) async fn start(spec: Spec) -> Rules {
    let rules = Rules::start(spec, Netlink::open().unwrap()).await.unwrap();
    assert_eq!(*rules.problems().borrow(), Vec::<String>::new());
    rules
}

/// Output of a command.
pub(super) fn run(command: &str) -> String {
    let words: Vec<_> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A script for a shell, for what has quotes.
pub(super) fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
}

/// The whole ruleset of nftables with handles, without counters: what is written anew differs.
pub(super) fn ruleset() -> String {
    run("nft -a -s list ruleset")
}

/// Any source address, and any port.
pub(super) const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Sends a packet of a flow of its own.
pub(super) fn send(from: Ipv4Addr, to: Ipv4Addr, port: u16) {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    // A rule may refuse it, which is what the receiver finds out.
    let _ = socket.send_to(b"new", (to, port));
}

/// Source of the packet that arrives at a port of the receiver (0 for any) when `send` has run;
/// `None` if none does.
pub(super) fn seen(at: &Namespace, port: u16, send: impl FnOnce(u16)) -> Option<Ipv4Addr> {
    let socket = at.within(move || UdpSocket::bind((ANY, port)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    send(socket.local_addr().unwrap().port());
    let mut buffer = [0; 16];
    match socket.recv_from(&mut buffer).ok()?.1 {
        SocketAddr::V4(source) => Some(*source.ip()),
        SocketAddr::V6(_) => None,
    }
}

/// Source of a packet from one place to another, as it arrives.
pub(super) fn source(from: &Namespace, at: &Namespace, to: Ipv4Addr) -> Option<Ipv4Addr> {
    seen(at, 0, |port| from.within(move || send(ANY, to, port)))
}

/// Waits until it is so.
pub(super) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
