//! Starting: on a host that has nothing, and on one that has everything.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::bed::LeaseBed;
use super::notifications::{Change, Heard, Notifications};
use super::process::{self, Process};
use super::report::Start;
use super::subject::Subject;
use crate::host::Host;

/// The tunnel device of VNI 1.
pub(super) const DEVICE: &str = "flannel.1";
/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks; the error of a time.
const STEP: Duration = Duration::from_millis(1);
/// After the end of a start: what it has set off ends here, and counts.
const SETTLE: Duration = Duration::from_secs(1);

/// Starts an agent with nothing there, then again with everything in place.
pub(super) fn measure(bed: &LeaseBed, subject: &Subject) -> Result<(Start, Start)> {
    clear(bed, subject)?;
    let (mut process, cold) = start(bed, subject, true)?;
    process.check_peers(bed)?;
    process.terminate()?;
    let (mut process, warm) = start(bed, subject, false)?;
    process.check_peers(bed)?;
    process.terminate()?;
    clear(bed, subject)?;
    Ok((cold, warm))
}

/// Starts an agent with nothing there, and waits until it has all peers.
pub(super) fn ready(bed: &LeaseBed, subject: &Subject) -> Result<Process> {
    clear(bed, subject)?;
    Ok(start(bed, subject, true)?.0)
}

/// Removes all that the agent, which has ended, left on the host and in etcd.
pub(super) fn clear(bed: &LeaseBed, subject: &Subject) -> Result<()> {
    let host = bed.host();
    let mounts = host.ns.mounts();
    if subject.is_own() {
        let run_dir = process::directory(host).join("run");
        host.ns.run(
            &subject.binary().to_string_lossy(),
            &[
                "cleanup",
                &format!("--run-dir={}", run_dir.display()),
                &format!("--bpf-pin-path={}", process::pins(host).display()),
            ],
        )?;
    }
    // Absent is as good as removed, for all three.
    let _ = host.ns.ip(&format!("link del {DEVICE}"));
    for directory in [process::pins(host), process::directory(host)] {
        let _ = fs::remove_dir_all(mounts.outside(&directory)?);
    }
    bed.forget_own_lease()
}

fn start(bed: &LeaseBed, subject: &Subject, is_first: bool) -> Result<(Process, Start)> {
    let (host, count) = (bed.host(), bed.count as usize);
    let file = process::subnet_file(host)?;
    let before = identity(&file);
    let notifications = Notifications::listen(&host.ns)?;
    let mut process = Process::start(bed, subject)?;
    let started = process.started;
    let (mut written, mut ready, mut programmed) = (None, None, !is_first);
    while written.is_none() || ready.is_none() || !programmed {
        ensure!(
            started.elapsed() < LIMIT,
            "after {LIMIT:?}: subnet.env {written:?}, READY {ready:?}, all entries: {programmed}"
        );
        if written.is_none() && identity(&file) != before {
            written = Some(started.elapsed());
        }
        if ready.is_none() && process.is_ready(host)? {
            ready = Some(started.elapsed());
        }
        programmed = programmed
            || notifications.heard(|heard| heard.len() >= 3 * count && has_all(heard, count));
        thread::sleep(STEP);
    }
    thread::sleep(SETTLE);
    let cost = process.cost()?;
    let heard = notifications.finish()?;
    if let Some(missing) = missing_entries(host, count)? {
        bail!("it left out entries: {missing}");
    }
    let last = heard
        .iter()
        .rev()
        .find(|(_, change)| *change != Change::Other);
    let last = last.map(|(at, _)| at.saturating_duration_since(started));
    Ok((
        process,
        Start {
            subnet_file_secs: secs(written),
            // Some say that they are ready before they have programmed a peer.
            peers_secs: secs(ready.max(last)),
            cpu_secs: cost.cpu_secs,
            peak_mib: cost.peak_mib,
            changes: heard.len(),
        },
    ))
}

fn secs(time: Option<Duration>) -> f64 {
    time.map_or(f64::NAN, |time| time.as_secs_f64())
}

/// Tells a file from the one that takes its place, or is written over it.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec()))
}

/// Whether every peer has its route, neighbour and FDB entry.
fn has_all(heard: &[Heard], count: usize) -> bool {
    let (mut routes, mut neighbours, mut fdb) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (_, change) in heard {
        match change {
            Change::RouteSet(subnet) => drop(routes.insert(subnet)),
            Change::NeighbourSet(ip, _) => drop(neighbours.insert(ip)),
            Change::FdbSet(mac) => drop(fdb.insert(mac)),
            Change::RouteRemoved(_) | Change::Other => {}
        }
    }
    routes.len() >= count && neighbours.len() >= count && fdb.len() >= count
}

/// What the tunnel device lacks, by the tools that people look with.
fn missing_entries(host: &Host, count: usize) -> Result<Option<String>> {
    let lines = |program: &str, words: &str, wanted: &str| -> Result<usize> {
        let words: Vec<&str> = words.split(' ').chain([DEVICE]).collect();
        let text = host.ns.run(program, &words)?;
        Ok(text.lines().filter(|line| line.contains(wanted)).count())
    };
    let found = [
        ("routes", lines("ip", "route show dev", "onlink")?),
        ("neighbours", lines("ip", "neigh show dev", "PERMANENT")?),
        ("FDB entries", lines("bridge", "fdb show dev", "permanent")?),
    ];
    let few = found.iter().any(|(_, number)| *number < count);
    Ok(few.then(|| format!("{found:?}")))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_peer_is_programmed_with_its_last_entry() {
        let now = Instant::now();
        let (ip, mac) = ([10, 0, 1, 0].into(), [2; 6]);
        let changes = [
            Change::FdbSet(mac),
            Change::NeighbourSet(ip, mac),
            Change::RouteSet(ip),
        ];
        let heard = changes.map(|change| (now, change));
        assert!(has_all(&heard, 1));
        assert!(!has_all(&heard, 2));
        assert!(!has_all(&heard[..2], 1));
    }
}
