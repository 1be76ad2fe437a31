//! `flannel-agent probe`, the real binary: what it says against what the kernel's own tools say.

mod absent;
mod holders;
mod traces;
mod unprivileged;

use std::path::PathBuf;
use std::process::Output;

use flannel_agent::backend::ALL_PROGRAMS;
use flannel_tests::agent::binary;
use serde_json::Value;

use super::place::{EXTERNAL, Place, has_tcx};

/// What a probe said.
struct Probed {
    report: Value,
    code: Option<i32>,
}

impl Probed {
    /// Reads the output of `flannel-agent probe --json`.
    fn of(output: &Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout);
        Self {
            report: report.unwrap_or_else(|error| panic!("{error}: {stderr}")),
            code: output.status.code(),
        }
    }

    /// A row of the table.
    fn row(&self, facility: &str) -> &Value {
        let rows = self.report["facilities"].as_array().unwrap();
        let row = rows.iter().find(|row| row["facility"] == facility);
        row.unwrap_or_else(|| panic!("no {facility} in {}", self.report))
    }

    fn there(&self, facility: &str) -> &str {
        self.row(facility)["there"].as_str().unwrap()
    }

    fn detail(&self, facility: &str) -> &str {
        self.row(facility)["detail"].as_str().unwrap()
    }

    /// What carries the packets of a backend, and why.
    fn backend(&self, name: &str) -> (&str, &str) {
        let backends = self.report["backends"].as_array().unwrap();
        let found = backends.iter().find(|backend| backend["backend"] == name);
        let found = found.unwrap();
        (
            found["datapath"].as_str().unwrap(),
            found["reason"].as_str().unwrap(),
        )
    }
}

/// A host whose external interface has an address.
fn place() -> Place {
    let place = Place::new();
    let address = format!("addr add 192.0.2.1/24 dev {EXTERNAL}");
    place.ns.ip(&address).unwrap();
    place
}

/// Runs the probe on a host, after the words of `before`.
fn probe(place: &Place, before: &[&str], flags: &[&str]) -> Probed {
    let agent: PathBuf = binary().unwrap();
    let agent = agent.to_string_lossy();
    let words = [before, &[&agent, "probe", "--json"], flags].concat();
    let mut command = place.ns.command(words[0]);
    Probed::of(&command.args(&words[1..]).output().unwrap())
}

/// `yes` or `no`.
fn word(is_there: bool) -> &'static str {
    if is_there { "yes" } else { "no" }
}

#[test]
fn facts_are_those_of_the_kernel() {
    let place = place();
    let probed = probe(&place, &[], &["--iface", EXTERNAL]);
    assert_eq!(probed.code, Some(0), "{}", probed.report);
    let run = |program: &str, args: &[&str]| place.ns.run(program, args);

    let release = run("uname", &["-r"]).unwrap();
    assert_eq!(probed.report["kernel"], release.trim());
    let has_btf = run("bpftool", &["btf", "list"])
        .unwrap()
        .contains("vmlinux");
    assert_eq!(probed.there("BTF"), word(has_btf));
    assert_eq!(probed.there("tcx"), word(has_tcx()));
    let clsact = run("tc", &["qdisc", "add", "dev", "lo", "clsact"]);
    assert_eq!(probed.there("clsact"), word(clsact.is_ok()));
    let vxlan = "link add vx type vxlan id 7 dev lo dstport 8472";
    assert_eq!(probed.there("vxlan"), word(place.ns.ip(vxlan).is_ok()));
    let tun = run(
        "ip",
        &["tuntap", "add", "tun7", "mode", "tun", "multi_queue"],
    );
    assert_eq!(probed.there("tun"), word(tun.is_ok()));
    let nft = run(
        "nft",
        &[
            "add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c masquerade",
        ],
    );
    assert_eq!(probed.there("nftables"), word(nft.is_ok()));

    let programs = probed.report["programs"].as_array().unwrap();
    for program in programs {
        assert_eq!(program["there"], "yes", "{program}");
    }
    for attachment in ALL_PROGRAMS.iter().copied().flatten() {
        let found = programs.iter().find(|p| p["name"] == attachment.program);
        assert_eq!(found.unwrap()["there"], "yes", "{attachment:?}");
    }
    for backend in ["vxlan", "host-gw", "udp"] {
        assert_eq!(probed.backend(backend).0, "ebpf", "{}", probed.report);
    }
    assert_eq!(probed.backend("alloc").0, "kernel");
    assert_eq!(probed.report["can_run"], true);
}

#[test]
fn compiled_programs_tell_the_jit() {
    let place = place();
    let probed = probe(&place, &[], &[]);
    // bpftool's own trial: its interpreter-or-compiler line is the sysctl, which is the host's.
    let setting = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    if let Ok(setting) = setting {
        assert_eq!(probed.there("JIT"), word(setting.trim() != "0"));
    }
    // In another network namespace than the host's the setting cannot be seen, and is not needed.
    assert!(
        probed.detail("JIT").contains("is not shown"),
        "{}",
        probed.report
    );
}

#[test]
fn the_external_interface_is_the_agents_choice() {
    let place = place();
    let probed = probe(&place, &[], &[]);
    assert_eq!(probed.there("native XDP"), "unknown");
    assert!(
        probed
            .detail("native XDP")
            .contains("default route: there is none")
    );
    assert_eq!(probed.report["interface"], Value::Null);
    // The same by address, and by flag of the agent or its variable.
    let by_address = probe(&place, &[], &["--iface", "192.0.2.1"]);
    assert_eq!(by_address.report["interface"]["name"], EXTERNAL);
    let by_variable = probe(&place, &["env", "FLANNELD_IFACE_REGEX=^192[.]0"], &[]);
    assert_eq!(by_variable.report["interface"]["name"], EXTERNAL);
}
