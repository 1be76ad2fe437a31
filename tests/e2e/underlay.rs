//! Underlays other than the plain wire: a VLAN, a switch.

use flannel_tests::agent::Datapath;
use flannel_tests::bed::{BedOptions, Underlay, has_vlan_devices};
use flannel_tests::cluster::Cluster;

use flannel_tests::exercise;

fn exercise(options: BedOptions, datapaths: [Datapath; 2]) {
    let cluster = Cluster::new(options, &datapaths).expect("cluster");
    exercise::everything(&cluster);
    for agent in &cluster.agents {
        let status = agent.status().expect("status");
        let [egress, ingress] = ["egress", "ingress"].map(|d| exercise::packets(&status, d));
        println!("{options:?}: carried by eBPF: egress {egress:?}, ingress {ingress:?}");
        for counter in &status.datapath.counters {
            if !counter.handled && counter.packets > 0 {
                println!(
                    "  {} {}: {}",
                    counter.direction, counter.outcome, counter.packets
                );
            }
        }
    }
}

fn exercise_on_a_vlan(datapaths: [Datapath; 2]) {
    if !has_vlan_devices().expect("probe") {
        println!("skipped: this kernel has no VLAN devices (CONFIG_VLAN_8021Q)");
        return;
    }
    exercise(
        BedOptions {
            vlan: Some(100),
            ..BedOptions::default()
        },
        datapaths,
    );
}

#[test]
fn external_interface_on_a_vlan() {
    exercise_on_a_vlan([Datapath::Ebpf; 2]);
}

#[test]
fn external_interface_on_a_vlan_towards_the_kernel_path() {
    exercise_on_a_vlan([Datapath::Kernel, Datapath::Ebpf]);
}

#[test]
fn hosts_on_a_switch() {
    let options = BedOptions {
        underlay: Underlay::Switch,
        ..BedOptions::default()
    };
    exercise(options, [Datapath::Ebpf; 2]);
}
