//! Hosts on which something is missing, made so in a mount namespace of the probe alone.

use super::super::place::Place;
use super::{Probed, place, probe};

/// Runs the probe after a line of shell in a mount namespace of its own.
fn without(place: &Place, line: &str, flags: &[&str]) -> Probed {
    let script = format!("{line} && exec \"$@\"");
    probe(place, &["unshare", "-m", "sh", "-c", &script, "sh"], flags)
}

#[test]
fn a_pin_path_on_disk_leaves_the_kernel_path() {
    let place = place();
    let probed = probe(&place, &[], &["--bpf-pin-path", "/dev/shm/pins"]);
    assert_eq!(probed.there("pin path"), "no");
    assert_eq!(probed.there("bpffs"), "yes");
    let (datapath, reason) = probed.backend("vxlan");
    assert_eq!(datapath, "kernel");
    assert!(
        reason.contains("/dev/shm/pins is not on a BPF file system"),
        "{reason}"
    );
    assert_eq!(probed.code, Some(0));
    let outside = place.ns.mounts().outside("/dev/shm/pins".as_ref()).unwrap();
    assert!(!outside.exists(), "nothing was made");
    let follows = probed.row("pin path")["follows"].as_str().unwrap();
    assert!(
        follows.contains("mount -t bpf bpf /sys/fs/bpf"),
        "{follows}"
    );
}

#[test]
fn a_read_only_pin_path_is_told() {
    let place = place();
    let probed = without(&place, "mount -o remount,ro,bind /sys/fs/bpf", &[]);
    assert_eq!(probed.there("pin path"), "no");
    assert!(probed.detail("pin path").contains("read-only"));
}

#[test]
fn without_dev_net_tun_only_udp_is_lost() {
    let place = place();
    let probed = without(&place, "mount -t tmpfs none /dev/net", &[]);
    assert_eq!(probed.there("tun"), "no", "{}", probed.report);
    assert_eq!(probed.backend("udp").0, "none");
    assert_eq!(probed.backend("vxlan").0, "ebpf");
    let follows = probed.row("tun")["follows"].as_str().unwrap();
    assert!(follows.contains("/dev/net/tun"), "{follows}");
    assert_eq!(probed.code, Some(0));
}

#[test]
fn without_nft_masquerade_is_lost() {
    let place = place();
    let probed = probe(&place, &["env", "PATH=/nonexistent"], &[]);
    assert_eq!(probed.there("nftables"), "no");
    assert!(probed.detail("nftables").contains("(package nftables)"));
    assert_eq!(probed.backend("vxlan").0, "ebpf");
}

#[test]
fn without_btf_nothing_is_lost() {
    let place = place();
    let probed = without(&place, "mount -t tmpfs none /sys/kernel/btf", &[]);
    assert_eq!(probed.there("BTF"), "no");
    assert_eq!(probed.backend("vxlan").0, "ebpf", "{}", probed.report);
}
