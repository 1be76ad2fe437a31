//! A run that is killed leaves no container, no shim and no control group behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use flannel_tests::wait;

use crate::setting::{Hosts, LIMIT, containers};

/// Not a test: what `a_killed_run_leaves_nothing` runs as another process.
#[test]
#[ignore = "holds containers until it is killed"]
fn hold_containers() {
    let hosts = Hosts::new(&[]);
    let dockers = hosts.docker(&["--live-restore"]);
    let _pods = containers(&dockers, "one");
    println!("\ncontainers are up");
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_run_leaves_nothing() {
    let program = std::env::current_exe().expect("this program");
    let mut run = Command::new(program)
        .args([
            "--exact",
            "end::hold_containers",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("another run");
    let output = BufReader::new(run.stdout.take().expect("pipe"));
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "containers are up"));
    let groups = format!("/flannel-tests-{}-", run.id());
    let held = processes_in(&groups);
    let shims = held
        .iter()
        .filter(|name| name.starts_with("containerd-shim"));
    assert_eq!(shims.count(), 2, "{held:?}");
    run.kill().expect("SIGKILL");
    run.wait().expect("wait");
    wait::until("the end of all processes", LIMIT, || {
        let left = processes_in(&groups);
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .expect("nothing runs");
    // The hierarchy is mounted on every usual host; where it is not, nobody sees the groups.
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let hierarchy = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let Some(root) = hierarchy.and_then(|line| line.split(' ').nth(1)) else {
        return;
    };
    wait::until("the end of the control groups", LIMIT, || {
        let left: Vec<PathBuf> = fs::read_dir(root)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().contains(&groups))
            .collect();
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .expect("no control group is left");
}

/// Names of the processes in control groups whose path contains `groups`.
fn processes_in(groups: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter(|entry| {
            let text = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            text.contains(groups)
        })
        .filter_map(|entry| {
            // A process that has ended but was not waited for has no command line.
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let program = line
                .split('\0')
                .next()
                .filter(|program| !program.is_empty())?;
            Some(program.rsplit('/').next()?.to_owned())
        })
        .collect()
}
