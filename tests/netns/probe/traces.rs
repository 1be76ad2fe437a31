//! The host is left as it was, however the probe ends.

use std::fs;
use std::thread;
use std::time::Duration;

use aya::programs::TcAttachType::Ingress;
use flannel_agent::cli::TcAttach;
use flannel_tests::agent::binary;

use super::super::place::{EXTERNAL, Place};
use super::{place, probe};

/// Everything that a probe makes somewhere else.
fn state(place: &Place) -> Vec<String> {
    let run = |program: &str, args: &[&str]| place.ns.run(program, args).unwrap();
    let pins = place.ns.mounts().outside("/sys/fs/bpf".as_ref()).unwrap();
    vec![
        run("ip", &["-o", "link"]),
        run("ip", &["-o", "addr"]),
        run("ip", &["route", "show", "table", "all"]),
        run("tc", &["qdisc", "show"]),
        run("nft", &["list", "ruleset"]),
        run("find", &[&pins.to_string_lossy()]),
    ]
}

#[test]
fn nothing_is_left_and_a_running_agent_goes_on() {
    let place = place();
    let dataplane = place.start(TcAttach::Auto);
    let before = state(&place);
    let programs = place.tcx(EXTERNAL, Ingress);
    assert_eq!(probe(&place, &[], &["--iface", EXTERNAL]).code, Some(0));
    assert_eq!(state(&place), before);
    assert_eq!(place.tcx(EXTERNAL, Ingress), programs);
    assert!(place.ns.enter(|| dataplane.is_attached()).unwrap());
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let place = place();
    let before = state(&place);
    let namespaces = network_namespaces();
    // From before the first trial to after the last one.
    for delay in (0..200).step_by(20) {
        let agent = binary().unwrap();
        let args = ["probe", "--iface", EXTERNAL];
        let mut running = place.ns.spawn(&agent.to_string_lossy(), &args).unwrap();
        let pid = running.pid();
        thread::sleep(Duration::from_millis(delay));
        running.kill().unwrap();
        assert!(!fs::exists(format!("/proc/{pid}/ns/net")).unwrap());
    }
    assert_eq!(state(&place), before);
    assert_eq!(network_namespaces(), namespaces, "namespaces with a name");
}

/// Namespaces that have been given a name, which would keep them.
fn network_namespaces() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_namespace = |line: &&str| line.contains(" - nsfs ");
    mounts
        .lines()
        .filter(is_namespace)
        .map(str::to_owned)
        .collect()
}
