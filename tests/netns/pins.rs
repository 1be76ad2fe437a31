//! Pins: taken over when they are ours, refused with every difference when they are not.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use bytemuck::Zeroable as _;
use flannel_agent::backend::vxlan;
use flannel_agent::cli::{TcAttach, XdpMode};
use flannel_agent::dataplane::maps::{Maps, Part};
use flannel_agent::dataplane::{Dataplane, Options};
use flannel_agent::error::chain;
use flannel_ebpf::abi::{self, Encap, Peer, Remote};
use flannel_ebpf::wire::Headers;

use super::place::Place;

/// The folder of this version's maps below the pin path.
fn own_maps() -> String {
    format!("maps-v{}", abi::VERSION)
}

fn peer(number: u8) -> ([u8; 4], Peer) {
    let mut headers = Headers::zeroed();
    headers.ip.destination = [192, 168, 7, number];
    (
        [10, 5, number, 0],
        Peer::new(headers, Encap::Vxlan, 1450, 3),
    )
}

#[test]
fn peers_of_an_earlier_run_work_on_until_they_are_compared() {
    let place = Place::new();
    let desired: BTreeMap<_, _> = [peer(1), peer(2)].into();
    {
        let mut first = place.start(TcAttach::Auto);
        assert_eq!(first.maps().sync_peers(&desired, Part::All).unwrap(), 2);
        assert_eq!(
            first.maps().sync_peers(&desired, Part::All).unwrap(),
            0,
            "nothing to do"
        );
    }
    let mut second = place.start(TcAttach::Auto);
    assert_eq!(
        second.maps().sync_peers(&desired, Part::All).unwrap(),
        0,
        "they are still there"
    );
    let other: BTreeMap<_, _> = [peer(2), peer(3)].into();
    assert_eq!(
        second.maps().sync_peers(&other, Part::All).unwrap(),
        2,
        "one goes, one comes"
    );
}

#[test]
fn what_programs_have_learnt_of_a_sender_outlives_all_but_a_new_lease() {
    let place = Place::new();
    let address = [192, 168, 7, 2];
    let learnt = Remote {
        is_kin: 1,
        ..Remote::new([10, 5, 2, 0], 24)
    };
    let read = || -> HashMap<MapData, [u8; 4], Remote> {
        let map = MapData::from_pin(place.pins.join(own_maps()).join("remotes")).unwrap();
        Map::HashMap(map).try_into().unwrap()
    };
    let desired = |subnet| BTreeMap::from([(address, Remote::new(subnet, 24))]);

    let mut dataplane = place.start(TcAttach::Auto);
    let mut sync = |subnet| {
        let maps = dataplane.maps();
        maps.sync_remotes(&desired(subnet), Part::All).unwrap()
    };
    assert_eq!(sync(learnt.subnet), 1);
    // As a program does.
    read().insert(address, learnt, 0).unwrap();
    assert_eq!(sync(learnt.subnet), 0, "it is no difference");
    assert_eq!(read().get(&address, 0).unwrap(), learnt);
    assert_eq!(sync([10, 5, 3, 0]), 1);
    let moved = Remote {
        subnet: [10, 5, 3, 0],
        ..learnt
    };
    assert_eq!(read().get(&address, 0).unwrap(), moved);
    drop(dataplane);

    let mut dataplane = place.start(TcAttach::Auto);
    let maps = dataplane.maps();
    assert_eq!(
        maps.sync_remotes(&desired(moved.subnet), Part::All)
            .unwrap(),
        0
    );
    assert_eq!(read().get(&address, 0).unwrap(), moved);
    maps.forget_kin([192, 168, 7, 99]).unwrap();
    assert_eq!(read().keys().count(), 1, "nobody is made a sender");
    for forget in [
        (|maps: &mut Maps| maps.forget_kin([192, 168, 7, 2])) as fn(&mut Maps) -> _,
        Maps::forget_all_kin,
    ] {
        read().insert(address, moved, 0).unwrap();
        forget(maps).unwrap();
        let stranger = Remote { is_kin: 0, ..moved };
        assert_eq!(read().get(&address, 0).unwrap(), stranger);
    }
}

#[test]
fn a_full_map_is_an_error_that_costs_only_what_did_not_fit() {
    let place = Place::new();
    let mut dataplane = place.start(TcAttach::Auto);
    let many: BTreeMap<_, _> = (0..=65_536_u32)
        .map(|i| {
            let address = i.to_be_bytes();
            (address, Remote::new(address, 24))
        })
        .collect();
    let error = chain(&dataplane.maps().sync_remotes(&many, Part::All).unwrap_err());
    // Not for memory, which is a passing thing.
    let full = std::io::Error::from_raw_os_error(libc::E2BIG).to_string();
    assert!(error.starts_with("map remotes: write: "), "{error}");
    assert!(error.contains(&full), "{error}");
    let fitting: BTreeMap<_, _> = many.into_iter().skip(1).collect();
    assert_eq!(
        dataplane.maps().sync_remotes(&fitting, Part::All).unwrap(),
        2,
        "one goes, the last one comes"
    );
}

#[test]
fn a_foreign_map_at_a_pin_is_refused_with_every_difference() {
    let place = Place::new();
    let maps = place.pins.join(own_maps());
    std::fs::create_dir_all(&maps).unwrap();
    let foreign: Array<MapData, u64> = Array::create(4, 0).unwrap();
    foreign.pin(maps.join("peers")).unwrap();
    let error = place
        .ns
        .enter(|| Dataplane::open(&place.options(TcAttach::Auto), &vxlan::PROGRAMS).err())
        .unwrap();
    let error = chain(&error.expect("refused"));
    for part in [
        &format!("/{}/peers is not the map of this agent", own_maps()),
        "type 2 instead of 1",
        "value size 8 instead of 88",
        "capacity 4 instead of 65536",
        "flannel-agent cleanup",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn maps_of_another_version_go_once_programs_are_replaced() {
    let place = Place::new();
    let old = place.pins.join("maps-v0");
    std::fs::create_dir_all(&old).unwrap();
    let map: PerCpuArray<MapData, u64> = PerCpuArray::create(1, 0).unwrap();
    map.pin(old.join("counters")).unwrap();
    drop(place.start(TcAttach::Auto));
    assert!(!old.exists());
    assert!(place.pins.join(own_maps()).join("peers").exists());
}

#[test]
fn a_pin_path_off_bpffs_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        pin_path: dir.path().join("pins"),
        tc_attach: TcAttach::Auto,
        xdp: XdpMode::Off,
        log_level: 0,
        flows: 1_024,
    };
    let error = chain(
        &Dataplane::open(&options, &vxlan::PROGRAMS)
            .err()
            .expect("refused"),
    );
    assert!(error.contains("is not on a BPF file system"), "{error}");
    assert!(error.contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    assert!(!options.pin_path.exists(), "nothing was made");
}
