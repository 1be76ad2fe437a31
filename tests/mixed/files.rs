//! What both write for others is the same, byte by byte.

use std::fs;

use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::BedOptions;

use crate::neighbours::{Said, bed, flanneld, said};

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

/// What a host writes by stock flannel, and what the same host writes by ours after it.
fn by_both(config: &str, flags: &[&str]) -> [Said; 2] {
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
    let of_stock = said(&bed, 0);

    let file = bed.hosts[0].files().join("subnet.env");
    let outside = bed.hosts[0].ns.mounts().outside(&file).expect("path");
    fs::remove_file(outside).expect("remove the subnet file");
    let mut ours = Agent::new(&bed.hosts[0], Datapath::Kernel).expect("agent");
    ours.flags = flags;
    ours.start().expect("start");
    ours.wait_for_subnet().expect("subnet.env");
    ours.wait_for_peers(0).expect("ready");
    [of_stock, said(&bed, 0)]
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
    let [mut stock, ours] = by_both(config, &[]);
    let text = &mut stock.subnet_file;
    assert!(text.contains("FLANNEL_MTU=8950\n"), "{text}");
    *text = text.replace("FLANNEL_MTU=8950", "FLANNEL_MTU=1450");
    assert_eq!(ours, stock);
}
