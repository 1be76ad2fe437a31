//! The harness itself, with an overlay that was set up by hand: no agent takes part.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::by_hand;
use flannel_tests::measure::{Side, compare};
use flannel_tests::render;
use flannel_tests::source::{Frames, SMALL, Source};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::traffic::stream;
use flannel_tests::wait;

use flannel_tests::exercise;

#[test]
fn reference_overlay_carries_packets() {
    let options = BedOptions {
        hosts: 3,
        underlay: Underlay::Switch,
        ..BedOptions::default()
    };
    let bed = by_hand::overlay(options, 1).expect("bed");
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let (from, to) = (&bed.hosts[from].pods[0], &bed.hosts[to].pods[0]);
        exercise::pings(from, to);
        stream::check(from, to, 2, 1 << 20).expect("stream");
    }
}

#[test]
fn every_injected_packet_arrives() {
    let bed = by_hand::overlay(BedOptions::default(), 1).expect("bed");
    let (a, b) = (&bed.hosts[0], &bed.hosts[1]);
    let frames = Frames::new(a, SMALL).expect("frames");
    let source = Source::new(a, &a.pods[0], &b.pods[0], frames).expect("source");
    let rate = source
        .measure(0, Duration::from_millis(300))
        .expect("measure");
    println!("{rate:?}");
    assert_eq!(rate.injected, rate.arrived);
}

#[test]
fn loss_is_counted() {
    let bed = by_hand::overlay(BedOptions::default(), 1).expect("bed");
    let (a, b) = (&bed.hosts[0], &bed.hosts[1]);
    let flow = Flow::start(&a.pods[0], &b.pods[0], 100, 1000).expect("flow");
    exercise::wait_sent(&flow, 50);
    b.ns.ip("link set flannel.1 down").expect("down");
    exercise::wait_sent(&flow, 50);
    b.ns.ip("link set flannel.1 up").expect("up");
    let tally = exercise::run_for(flow, 50);
    println!("{tally:?}");
    assert!((50..=tally.sent - 50).contains(&tally.lost), "{tally:?}");
    assert_eq!((tally.duplicated, tally.damaged), (0, 0));
}

#[test]
fn equal_paths_measure_alike() {
    let beds = [(); 2].map(|()| by_hand::overlay(BedOptions::default(), 1).expect("bed"));
    let [kernel, ebpf] = [0, 1].map(|index| Side {
        name: "reference",
        bed: &beds[index],
        agents: &[],
    });
    let report = compare(kernel, ebpf, Duration::ZERO, &mut |_| ()).expect("compare");
    println!("{}", render::table(&report));
    for wire in report.wires {
        assert_eq!(wire.kernel.pings_received, wire.kernel.pings_sent);
        // Other tests run beside this one, so only a gross error can be told from noise.
        assert!((0.5..2.0).contains(&wire.ratios.small), "{:?}", wire.ratios);
    }
}

/// Not a test: what `a_killed_run_leaves_nothing` runs as another process.
#[test]
#[ignore = "holds a bed until it is killed"]
fn hold_a_bed() {
    let bed = by_hand::overlay(BedOptions::default(), 1).expect("bed");
    println!("\nbed is up");
    exercise::wait_sent(
        &Flow::start(&bed.hosts[0].pods[0], &bed.hosts[1].pods[0], 100, 1000).expect("flow"),
        25_000,
    );
}

#[test]
fn a_killed_run_leaves_nothing() {
    let program = std::env::current_exe().expect("this program");
    let mut run = Command::new(program)
        .args(["--exact", "beds::hold_a_bed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("another run");
    let output = BufReader::new(run.stdout.take().expect("pipe"));
    let up = output
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "bed is up");
    assert!(up, "the other run has a bed");
    let held = namespaces_of_descendants(run.id());
    assert!(!held.is_empty(), "etcd runs in a namespace of the bed");
    run.kill().expect("SIGKILL");
    run.wait().expect("wait");
    let users = || {
        let users: Vec<PathBuf> = processes()
            .into_iter()
            .filter(|process| namespaces(process).iter().any(|ns| held.contains(ns)))
            .collect();
        if users.is_empty() {
            Ok(Some(()))
        } else {
            anyhow::bail!("{users:?}")
        }
    };
    wait::until(
        "the end of all processes of the bed",
        Duration::from_secs(5),
        users,
    )
    .expect("nothing is left");
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    assert!(
        !mounts.lines().any(|line| line.starts_with("bed ")),
        "{mounts}"
    );
}

fn processes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .map(|entry| entry.path());
    entries.filter(|path| path.join("ns").is_dir()).collect()
}

/// Network and mount namespace of a process; nothing once it has ended.
fn namespaces(process: &Path) -> BTreeSet<PathBuf> {
    ["net", "mnt"]
        .iter()
        .flat_map(|kind| fs::read_link(process.join("ns").join(kind)))
        .collect()
}

/// Namespaces of children that are not this process's own.
fn namespaces_of_descendants(parent: u32) -> BTreeSet<PathBuf> {
    let own = namespaces(Path::new("/proc/self"));
    let is_child = |process: &PathBuf| {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line == format!("PPid:\t{parent}"))
    };
    let children = processes().into_iter().filter(is_child);
    children
        .flat_map(|child| namespaces(&child))
        .filter(|ns| !own.contains(ns))
        .collect()
}
