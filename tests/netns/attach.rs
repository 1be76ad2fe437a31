//! Attaching: replaced in place, beside others, after a lost device, on the other mechanism.

use aya::programs::SchedClassifier;
use std::time::Duration;

use aya::programs::TcAttachType::{Egress, Ingress};
use aya::programs::links::LinkOrder;
use aya::programs::tc::TcAttachOptions;
use aya::{Ebpf, EbpfLoader};
use flannel_agent::backend::ALL_PROGRAMS;
use flannel_agent::cli::TcAttach;
use flannel_agent::dataplane::{self, object};
use flannel_ebpf::abi;

use flannel_tests::wait;

use super::place::{DEVICE, EXTERNAL, INTERFACES, Place, has_tcx, mechanisms};

fn ids(dataplane: &dataplane::Dataplane) -> (u32, u32) {
    let id = |name| {
        dataplane
            .programs()
            .iter()
            .find(|p| p.name == name)
            .unwrap()
            .id
    };
    (id("vxlan_decap"), id("vxlan_encap"))
}

#[test]
fn programs_outlive_the_agent_and_are_replaced_in_place() {
    if !has_tcx() {
        println!("skipped: this kernel has no tcx (Linux 6.6)");
        return;
    }
    let place = Place::new();
    let first = place.start(TcAttach::Auto);
    let (decap, encap) = ids(&first);
    assert!(
        first
            .programs()
            .iter()
            .all(|program| program.attach == "tcx")
    );
    drop(first);
    assert_eq!(place.tcx(EXTERNAL, Ingress), [decap]);
    assert_eq!(place.tcx(DEVICE, Egress), [encap]);
    let second = place.start(TcAttach::Auto);
    let (decap_2, encap_2) = ids(&second);
    assert_ne!((decap, encap), (decap_2, encap_2));
    assert_eq!(place.tcx(EXTERNAL, Ingress), [decap_2]);
    assert_eq!(place.tcx(DEVICE, Egress), [encap_2]);
}

#[test]
fn clsact_serves_where_tcx_is_not_wanted() {
    let place = Place::new();
    let first = place.start(TcAttach::Clsact);
    let (decap, encap) = ids(&first);
    drop(first);
    assert_eq!(place.clsact(EXTERNAL, "ingress"), [decap]);
    assert_eq!(place.clsact(DEVICE, "egress"), [encap]);
    assert_eq!(place.tcx(EXTERNAL, Ingress), [0_u32; 0]);
    let second = place.start(TcAttach::Clsact);
    let (decap, encap) = ids(&second);
    assert_eq!(place.clsact(EXTERNAL, "ingress"), [decap]);
    assert_eq!(place.clsact(DEVICE, "egress"), [encap]);
}

#[test]
fn a_change_of_mechanism_leaves_one_program_per_hook() {
    if !has_tcx() {
        println!("skipped: this kernel has no tcx (Linux 6.6)");
        return;
    }
    let place = Place::new();
    for how in [TcAttach::Tcx, TcAttach::Clsact, TcAttach::Tcx] {
        let dataplane = place.start(how);
        let (decap, _) = ids(&dataplane);
        let (tcx, clsact) = (
            place.tcx(EXTERNAL, Ingress),
            place.clsact(EXTERNAL, "ingress"),
        );
        let expected = vec![decap];
        match how {
            TcAttach::Tcx => assert_eq!((tcx, clsact), (expected, vec![])),
            _ => assert_eq!((tcx, clsact), (vec![], expected)),
        }
    }
}

#[test]
fn a_device_made_anew_gets_its_program_again() {
    for &how in mechanisms() {
        let place = Place::new();
        let mut dataplane = place.start(how);
        let is_attached =
            |dataplane: &dataplane::Dataplane| place.ns.enter(|| dataplane.is_attached()).unwrap();
        assert!(is_attached(&dataplane), "{how:?}");
        place.ns.ip(&format!("link delete {DEVICE}")).unwrap();
        assert!(!is_attached(&dataplane), "{how:?}");
        place.add_link(DEVICE);
        assert!(!is_attached(&dataplane), "{how:?}");
        place
            .ns
            .enter(|| dataplane.attach(INTERFACES).unwrap())
            .unwrap();
        assert!(is_attached(&dataplane), "{how:?}");
        let on_device = match how {
            TcAttach::Clsact => place.clsact(DEVICE, "egress"),
            _ => place.tcx(DEVICE, Egress),
        };
        assert_eq!(on_device, [ids(&dataplane).1], "{how:?}");
    }
}

#[test]
fn another_external_interface_takes_the_program_over() {
    if !has_tcx() {
        println!("skipped: this kernel has no tcx (Linux 6.6)");
        return;
    }
    let place = Place::new();
    drop(place.start(TcAttach::Auto));
    place.add_link("eth1");
    let moved = place.start_on(TcAttach::Auto, "eth1");
    assert_eq!(place.tcx("eth1", Ingress), [ids(&moved).0]);
    expect_tcx(&place, &[]);
}

#[test]
fn a_former_external_interface_is_left_on_clsact_too() {
    let place = Place::new();
    drop(place.start(TcAttach::Clsact));
    place.add_link("eth1");
    drop(place.start_on(TcAttach::Clsact, "eth1"));
    assert_eq!(
        place.clsact(EXTERNAL, "ingress").len(),
        1,
        "nobody else knows of it"
    );
    let leave = || dataplane::leave(EXTERNAL, &ALL_PROGRAMS).unwrap();
    assert_eq!(
        place.ns.enter(leave).unwrap(),
        [format!("filter vxlan_decap on {EXTERNAL}")]
    );
    assert_eq!(place.clsact(EXTERNAL, "ingress"), [0_u32; 0]);
    assert_eq!(place.clsact("eth1", "ingress").len(), 1);
    assert!(
        place.ns.enter(leave).unwrap().is_empty(),
        "a second time there is nothing"
    );
}

/// Some other program on the external interface; it stays as long as this is held.
fn attach_foreign(place: &Place, order: LinkOrder) -> (Ebpf, u32) {
    let mut ebpf = EbpfLoader::new().load(object::embedded().unwrap()).unwrap();
    let program: &mut SchedClassifier =
        ebpf.program_mut("vxlan_encap").unwrap().try_into().unwrap();
    program.load().unwrap();
    let options = TcAttachOptions::TcxOrder(order);
    place
        .ns
        .enter(|| {
            program
                .attach_with_options(EXTERNAL, Ingress, options)
                .unwrap();
        })
        .unwrap();
    let id = program.info().unwrap().id();
    (ebpf, id)
}

#[test]
fn foreign_programs_stay_and_come_first() {
    if !has_tcx() {
        println!("skipped: this kernel has no tcx (Linux 6.6)");
        return;
    }
    let place = Place::new();
    let (_before, before) = attach_foreign(&place, LinkOrder::last());
    let (decap, _) = ids(&place.start(TcAttach::Auto));
    assert_eq!(place.tcx(EXTERNAL, Ingress), [before, decap]);
    let (_after, after) = attach_foreign(&place, LinkOrder::last());
    let (decap, _) = ids(&place.start(TcAttach::Auto));
    assert_eq!(
        place.tcx(EXTERNAL, Ingress),
        [before, decap, after],
        "replaced in its place"
    );
    place
        .ns
        .enter(|| dataplane::remove(&place.pins, &ALL_PROGRAMS, INTERFACES).unwrap())
        .unwrap();
    expect_tcx(&place, &[before, after]);
}

/// Waits for the programs on the external interface: the kernel ends a link some time after its
/// pin is gone.
fn expect_tcx(place: &Place, expected: &[u32]) {
    wait::until("tcx programs", Duration::from_secs(5), || {
        Ok((place.tcx(EXTERNAL, Ingress) == expected).then_some(()))
    })
    .unwrap();
}

#[test]
fn removing_leaves_nothing_and_says_what_it_was() {
    for &how in mechanisms() {
        let place = Place::new();
        drop(place.start(how));
        let remove = || dataplane::remove(&place.pins, &ALL_PROGRAMS, INTERFACES).unwrap();
        let removed = place.ns.enter(remove).unwrap();
        let peers = format!("/maps-v{}/peers", abi::VERSION);
        assert!(
            removed.iter().any(|line| line.ends_with(&peers)),
            "{removed:?}"
        );
        expect_tcx(&place, &[]);
        assert_eq!(place.clsact(EXTERNAL, "ingress"), [0_u32; 0]);
        assert_eq!(place.clsact(DEVICE, "egress"), [0_u32; 0]);
        assert!(!place.pins.exists());
        assert!(
            place.ns.enter(remove).unwrap().is_empty(),
            "a second time there is nothing"
        );
    }
}
