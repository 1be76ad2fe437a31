//! Users who may not do everything: what could not be tried is not called absent.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flannel_tests::agent::binary;
use flannel_tests::mounts::FILES;

use super::super::place::{EXTERNAL, Place};
use super::{Probed, place, probe};

/// What only root can try.
const PRIVILEGED: [&str; 7] = [
    "bpf(2)", "maps", "programs", "helpers", "JIT", "tcx", "clsact",
];

/// Runs the probe as a user without capabilities, from where that user can read it.
fn as_nobody(place: &Place) -> Probed {
    let inside = Path::new(FILES).join("flannel-agent");
    let outside = place.ns.mounts().outside(&inside).unwrap();
    fs::copy(binary().unwrap(), &outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = place.ns.command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .arg(&inside)
        .args(["probe", "--json", "--iface", EXTERNAL])
        .current_dir("/");
    Probed::of(&command.output().unwrap())
}

#[test]
fn nobody_learns_what_needs_root() {
    let probed = as_nobody(&place());
    for facility in PRIVILEGED {
        assert_eq!(probed.there(facility), "unknown", "{}", probed.report);
    }
    for backend in ["vxlan", "host-gw"] {
        assert_eq!(probed.backend(backend).0, "unknown", "{}", probed.report);
    }
    // Where user namespaces are allowed, the rest is tried in one.
    for facility in ["vxlan", "routes", "nftables"] {
        assert_ne!(probed.there(facility), "no", "{}", probed.report);
    }
    // Linux 6.3 tells everybody.
    assert_ne!(probed.there("native XDP"), "no");
    assert_eq!(probed.report["can_run"], false);
    assert_eq!(probed.code, Some(1));
    let verdict = probed.report["verdict"].as_str().unwrap();
    assert!(verdict.contains("needs CAP_NET_ADMIN"), "{verdict}");
}

#[test]
fn without_cap_bpf_the_kernel_path_is_not_doubted() {
    let refused = [
        "setpriv",
        "--bounding-set=-bpf,-sys_admin",
        "--inh-caps=-all",
    ];
    let probed = probe(&place(), &refused, &["--iface", EXTERNAL]);
    for facility in PRIVILEGED {
        assert_eq!(probed.there(facility), "unknown", "{}", probed.report);
    }
    assert_eq!(probed.report["can_run"], true, "{}", probed.report);
    assert_eq!(probed.code, Some(0));
}
