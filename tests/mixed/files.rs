//! What both write for others is the same, byte by byte.

use std::fs;

use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};

use crate::neighbours::{bed, flanneld};

/// Network configs and flags of one host that change what is written.
const ROWS: &[(&str, &[&str])] = &[
    (r#"{"Network":"10.5.0.0/16"}"#, &[]),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
        &[],
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
        &["-ip-masq"],
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
        &["-ip-masq=false"],
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":1400}}"#,
        &[],
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#,
        &[],
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
        &[],
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#,
        &[],
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetLen":28,"Backend":{"Type":"udp","Port":7890}}"#,
        &[],
    ),
    (
        r#"{"Network":"10.5.0.0/20","Backend":{"Type":"host-gw"}}"#,
        &[],
    ),
    (
        r#"{"network":"10.5.0.0/16","subnetlen":24,"backend":{"type":"host-gw"}}"#,
        &[],
    ),
    (
        r#"{"Network":"10.5.3.4/16","Backend":{"Type":"host-gw"}}"#,
        &[],
    ),
    (
        r#"{"EnableIPv4":true,"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
        &["-public-ip=192.0.2.7"],
    ),
];

/// The lease's key and value, and the subnet file.
fn written(bed: &Bed) -> (Vec<(String, String)>, String) {
    let keys = bed.etcd.keys(&format!("{PREFIX}/subnets/")).expect("keys");
    let value = |key: String| (key.clone(), bed.etcd.get(&key).expect("value"));
    let host = &bed.hosts[0];
    let file = host.ns.mounts().outside(&host.files().join("subnet.env"));
    let text = fs::read_to_string(file.expect("path")).expect("subnet.env");
    (keys.into_iter().map(value).collect(), text)
}

/// What a host writes by stock flannel, and what the same host writes by ours after it.
fn by_both(config: &str, flags: &[&str]) -> [(Vec<(String, String)>, String); 2] {
    let bed = bed(config, BedOptions::default());
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    let mut stock = flanneld(&bed.hosts[0]);
    stock.flags.clone_from(&flags);
    stock.start().expect("start of stock flannel");
    stock
        .wait_for_subnet()
        .expect("subnet.env of stock flannel");
    // Not asked to: its proxy would not.
    stock.kill().expect("end of stock flannel");
    let of_stock = written(&bed);

    let file = bed.hosts[0].files().join("subnet.env");
    let outside = bed.hosts[0].ns.mounts().outside(&file).expect("path");
    fs::remove_file(outside).expect("remove the subnet file");
    let mut ours = Agent::new(&bed.hosts[0], Datapath::Kernel).expect("agent");
    ours.flags = flags;
    ours.start().expect("start");
    ours.wait_for_subnet().expect("subnet.env");
    ours.wait_for_peers(0).expect("ready");
    [of_stock, written(&bed)]
}

#[test]
fn leases_and_subnet_files_are_the_same() {
    for (config, flags) in ROWS {
        let [stock, ours] = by_both(config, flags);
        assert_eq!(ours, stock, "{config}");
        println!("{config}: {stock:?}");
    }
}

/// B2 of `docs/compatibility.md`: the kernel's device has an MTU of 1450 with both.
#[test]
fn b2_an_mtu_above_that_of_the_interface_is_not_told_to_pods() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":9000}}"#;
    let [(stock_leases, stock_file), (leases, file)] = by_both(config, &[]);
    assert_eq!(leases, stock_leases);
    assert!(stock_file.contains("FLANNEL_MTU=8950\n"), "{stock_file}");
    let expected = stock_file.replace("FLANNEL_MTU=8950", "FLANNEL_MTU=1450");
    assert_eq!(file, expected);
}
