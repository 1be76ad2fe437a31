//! What cannot work is refused with the thing and the remedy, and what can be waited for heals.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use flannel_tests::agent::{Agent, Bpf, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::cluster::CONFIG;
use flannel_tests::command;
use flannel_tests::etcd;
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::wait;

/// Runs the agent on the first host until it ends by itself.
fn refused(bed: &Bed, words: &[&str]) -> Output {
    let agent = Agent::new(&bed.hosts[0], Datapath::Auto).expect("agent");
    let mut command = bed.hosts[0].ns.command("timeout");
    command.arg("20").arg(agent.binary()).args(words);
    command.stdin(Stdio::null()).output().expect("run")
}

fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{:?}: {text}",
        output.status.signal()
    );
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    for part in ["panicked", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!text.contains(part), "{part:?} is in: {text}");
    }
}

#[test]
fn what_is_typed_wrongly_is_named_with_the_remedy() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let rows: [(&[&str], i32, &[&str]); 9] = [
        (
            &["--etcd-endpont=http://x"],
            2,
            &["--etcd-endpont", "--etcd-endpoints"],
        ),
        (&["-nonsense"], 2, &["--nonsense"]),
        (&["--datapath=fast"], 2, &["fast", "auto", "ebpf", "kernel"]),
        (
            &["--public-ip=1.2.3"],
            1,
            &["--public-ip=1.2.3", "IPv4 address"],
        ),
        (
            &["--etcd-endpoints=ftp://x:1"],
            1,
            &["ftp://x:1", "http://"],
        ),
        (
            &["--subnet-lease-renew-margin=1440"],
            1,
            &["1440", "1 to 1439"],
        ),
        (
            &["--bpf-pin-path=pins"],
            1,
            &["--bpf-pin-path=pins", "absolute path"],
        ),
        (&["--kube-subnet-mgr"], 2, &["--kube-subnet-mgr"]),
        (
            &["status", "--run-dir=/dev/shm/none"],
            3,
            &["no agent is running", "/dev/shm/none"],
        ),
    ];
    for (words, code, parts) in rows {
        assert_refused(&refused(&bed, words), code, parts);
    }
}

#[test]
fn a_pin_path_off_bpffs_is_refused_before_anything_is_touched() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let words = [
        "--datapath=ebpf",
        "--bpf-pin-path=/dev/shm/pins",
        "--run-dir=/dev/shm/run",
    ];
    let output = refused(&bed, &words);
    assert_refused(
        &output,
        1,
        &["/dev/shm/pins", "mount -t bpf bpf /sys/fs/bpf"],
    );
}

#[test]
fn without_root_the_missing_capability_is_named() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let agent = Agent::new(&bed.hosts[0], Datapath::Auto).expect("agent");
    let mut command = bed.hosts[0].ns.command("setpriv");
    command
        .args(["--bounding-set=-net_admin", "--inh-caps=-all"])
        .arg(agent.binary());
    assert_refused(
        &command.output().expect("run"),
        1,
        &["CAP_NET_ADMIN", "run it as root"],
    );
}

#[test]
fn an_interface_that_does_not_exist_is_named_beside_those_that_do() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    bed.etcd
        .put(&format!("{PREFIX}/config"), CONFIG)
        .expect("config");
    let endpoints = format!("--etcd-endpoints={}", etcd::ENDPOINT);
    let output = refused(
        &bed,
        &[&endpoints, "--iface=eth7", "--run-dir=/dev/shm/run"],
    );
    assert_refused(&output, 1, &["eth7", "eth0", "192.168.7.10"]);
}

#[test]
fn a_config_that_is_missing_or_malformed_is_named_and_heals() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let mut agent = Agent::new(&bed.hosts[0], Datapath::Auto).expect("agent");
    let key = format!("{PREFIX}/config");
    let expect = |agent: &Agent, parts: &[&str]| {
        wait::until(
            &format!("{parts:?} in the log"),
            Duration::from_secs(10),
            || {
                let log = agent.log_tail();
                Ok(parts.iter().all(|part| log.contains(part)).then_some(()))
            },
        )
        .unwrap_or_else(|error| panic!("{error:#}: {}", agent.log_tail()));
    };
    agent.start().expect("start");
    expect(&agent, &[&key]);
    bed.etcd
        .put(&key, "{\"Network\": \"10.5.0.0/16\",}")
        .expect("put");
    expect(&agent, &["line 1 column"]);
    bed.etcd
        .put(&key, "{\"Network\": \"10.5.0.0/33\"}")
        .expect("put");
    expect(&agent, &["Network", "10.5.0.0/33"]);
    bed.etcd.put(&key, CONFIG).expect("put");
    agent.wait_for_subnet().expect("healed");
    assert!(!agent.log_tail().contains("panicked"));
}

#[test]
fn an_unreachable_etcd_is_said_once_and_then_ever_more_rarely() {
    let mut bed = Bed::new(BedOptions::default()).expect("bed");
    bed.etcd
        .put(&format!("{PREFIX}/config"), CONFIG)
        .expect("config");
    bed.etcd.stop();
    let mut agent = Agent::new(&bed.hosts[0], Datapath::Auto).expect("agent");
    agent.start().expect("start");
    let said = |agent: &Agent| agent.log_tail().matches(etcd::ENDPOINT).count();
    wait::until("a first word", Duration::from_secs(10), || {
        Ok((said(&agent) > 0).then_some(()))
    })
    .expect("said");
    std::thread::sleep(Duration::from_secs(5));
    // At 0, 1 and 3 seconds, though it is tried each second.
    assert!((2..=4).contains(&said(&agent)), "{}", agent.log_tail());
    bed.etcd.resume().expect("etcd");
    agent.wait_for_subnet().expect("heals");
}

#[test]
fn without_bpf_auto_takes_the_kernel_path_and_ebpf_refuses() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    bed.etcd
        .put(&format!("{PREFIX}/config"), CONFIG)
        .expect("config");
    let mut agents = Vec::new();
    for (host, datapath) in bed.hosts.iter().zip([Datapath::Auto, Datapath::Kernel]) {
        let mut agent = Agent::new(host, datapath).expect("agent");
        agent.bpf = Bpf::Refused;
        agent.start().expect("start");
        agents.push(agent);
    }
    for agent in &mut agents {
        let status = agent.wait_for_peers(1).expect("peer");
        assert_eq!(status.datapath.active, "kernel");
    }
    let log = agents[0].log_tail();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("datapath: kernel"))
        .collect();
    assert_eq!(lines.len(), 1, "one clear line: {log}");
    assert!(lines[0].contains("CAP_BPF"), "{}", lines[0]);
    // The hosts themselves talk over the overlay: their addresses are those of the devices.
    let far = agents[1].status().expect("status").lease.subnet;
    let far = far
        .split('/')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("address");
    let answer = ping(&bed.hosts[0].ns, far, Options::default()).expect("ping");
    assert!(answer.is_complete(), "{}", answer.text);

    agents[0].terminate().expect("stop");
    agents[0].datapath = Datapath::Ebpf;
    agents[0].start().expect("start");
    wait::until("the refusal", Duration::from_secs(10), || {
        Ok(agents[0]
            .log_tail()
            .contains("--datapath=ebpf cannot be used here")
            .then_some(()))
    })
    .expect("refused");
}

/// A disk that is full has to be somebody else's trouble.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let agent = Agent::new(&bed.hosts[0], Datapath::Kernel).expect("agent");
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let (reader, gone) = std::io::pipe().expect("pipe");
    drop(reader);
    for log in [Stdio::from(full), Stdio::from(gone)] {
        let run_dir = bed.hosts[0].files().join("run");
        let mut command = bed.hosts[0].ns.command(&agent.binary().to_string_lossy());
        command
            .arg("--etcd-endpoints=http://127.0.0.1:1")
            .arg(format!("--run-dir={}", run_dir.display()))
            .stderr(log);
        let mut running = command::spawn(command).expect("start");
        // It says several times that there is no etcd.
        let ended = running.wait(Duration::from_secs(3));
        assert!(ended.is_err(), "it ended: {ended:?}");
        running.kill().expect("SIGKILL");
    }
}
