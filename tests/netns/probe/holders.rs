//! Programs that hang on the external interface already: named, and told ours from others'.

use aya::programs::TcAttachType::Ingress;
use flannel_agent::cli::TcAttach;
use flannel_tests::bpf::{self, XDP_PASS, XdpProgram};
use serde_json::Value;

use super::super::place::{EXTERNAL, mechanisms};
use super::{Probed, place, probe};

fn holders(probed: &Probed) -> &Vec<Value> {
    probed.report["interface"]["programs"].as_array().unwrap()
}

#[test]
fn a_running_agents_programs_are_ours() {
    for &how in mechanisms() {
        let place = place();
        let dataplane = place.start(how);
        let probed = probe(&place, &[], &["--iface", EXTERNAL]);
        let (hook, id) = match how {
            TcAttach::Clsact => ("clsact ingress", place.clsact(EXTERNAL, "ingress")[0]),
            _ => ("tcx ingress", place.tcx(EXTERNAL, Ingress)[0]),
        };
        let [holder] = &holders(&probed)[..] else {
            panic!("{how:?}: {}", probed.report);
        };
        assert_eq!(holder["hook"], hook);
        assert_eq!(holder["id"], id);
        assert_eq!(holder["name"], "vxlan_decap");
        assert_eq!(holder["is_ours"], true);
        assert!(place.ns.enter(|| dataplane.is_attached()).unwrap());
    }
}

#[test]
fn an_xdp_program_is_anothers() {
    let place = place();
    let program = XdpProgram::load(&[bpf::set(0, XDP_PASS), bpf::exit()]).unwrap();
    let id = program.id().unwrap();
    let attach = [
        "net",
        "attach",
        "xdpgeneric",
        "id",
        &id.to_string(),
        "dev",
        EXTERNAL,
    ];
    place.ns.run("bpftool", &attach).unwrap();
    let probed = probe(&place, &[], &["--iface", EXTERNAL]);
    let [holder] = &holders(&probed)[..] else {
        panic!("{}", probed.report);
    };
    assert_eq!(holder["hook"], "generic XDP");
    assert_eq!(holder["id"], id);
    assert_eq!(holder["is_ours"], false);
    let follows = probed.row("native XDP")["follows"].as_str().unwrap();
    assert!(
        follows.contains("foreign programs see packets"),
        "{follows}"
    );
}

#[test]
fn the_driver_and_its_features_are_told() {
    let place = place();
    let probed = probe(&place, &[], &["--iface", EXTERNAL]);
    let interface = &probed.report["interface"];
    assert_eq!(interface["driver"], "veth");
    assert_eq!(interface["mtu"], 1500);
    match interface["xdp_features"].as_array() {
        // veth has had native XDP since 4.19; Linux 6.3 tells.
        Some(features) => assert!(features.contains(&"basic".into()), "{features:?}"),
        None => assert_eq!(probed.there("native XDP"), "unknown"),
    }
    let bridge = "link add br0 type bridge\naddr add 198.51.100.1/24 dev br0\n";
    place.ns.ip(bridge).unwrap();
    let probed = probe(&place, &[], &["--iface", "br0"]);
    if !probed.report["interface"]["xdp_features"].is_null() {
        assert_eq!(probed.there("native XDP"), "no", "{}", probed.report);
    }
}
