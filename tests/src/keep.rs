//! What to type to look around in hosts that a demo keeps up.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::host::{BRIDGE, Host};

/// Commands for each host of a running cluster, to paste into another terminal as root.
///
/// # Errors
/// An agent does not run or does not answer.
pub fn commands(cluster: &Cluster) -> Result<String> {
    let mut text = String::new();
    let hosts = &cluster.bed.hosts;
    for (number, (host, agent)) in hosts.iter().zip(&cluster.agents).enumerate() {
        let remote = cluster.pod((number + 1) % hosts.len()).address;
        push_host(&mut text, host, agent, &remote.to_string())?;
    }
    Ok(text)
}

fn push_host(text: &mut String, host: &Host, agent: &Agent, remote: &str) -> Result<()> {
    let pid = agent.pid().context("the agent does not run")?;
    let inside = format!("nsenter -t {pid} -m -n");
    let status = agent.status()?;
    let mut section = |title: &str, lines: &[String]| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  # {title}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    };
    section(
        &format!(
            "host {}: {} on {}, subnet {}",
            host.name, host.address, host.external, status.lease.subnet
        ),
        &[format!("{inside} bash")],
    );
    for pod in &host.pods {
        let enter = format!("nsenter --net={}", pod.ns.path());
        section(
            &format!(
                "pod {} of host {}: a shell, a ping to the other host",
                pod.address, host.name
            ),
            &[
                format!("{enter} bash"),
                format!("{enter} ping -c 3 {remote}"),
            ],
        );
        let mut stages = vec![pod.veth.as_str(), BRIDGE];
        stages.extend(status.device.as_ref().map(|device| device.name.as_str()));
        stages.push(&host.external);
        let lines: Vec<String> = stages
            .iter()
            .map(|stage| format!("{inside} tcpdump -lni {stage}"))
            .collect();
        section("the way of a packet, stage by stage", &lines);
    }
    let binary = agent.binary().display();
    let run_dir = agent.places.run_dir.display();
    section(
        "status",
        &[format!("{inside} {binary} status --run-dir {run_dir}")],
    );
    let pins = agent.outside(&agent.places.pins)?;
    let maps: Vec<String> = pinned_files(&pins)?
        .iter()
        .filter_map(|path| path.strip_prefix(&pins).ok())
        .filter(|path| !is_link_or_program(path))
        .map(|path| {
            let path = agent.places.pins.join(path);
            format!("{inside} bpftool map dump pinned {}", path.display())
        })
        .collect();
    if !maps.is_empty() {
        section("maps", &maps);
    }
    text.push('\n');
    Ok(())
}

/// Files below a directory of pins.
pub(crate) fn pinned_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(files);
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(pinned_files(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Pins of other kinds lie in directories of their own.
fn is_link_or_program(path: &Path) -> bool {
    path.iter()
        .any(|part| part == "links" || part == "programs")
}
