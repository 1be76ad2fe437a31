//! The program that tells what helpers accept: what it says has to depend on what they do.

use aya::TestRun as _;
use aya::programs::{SchedClassifier, TestRunOptions};
use flannel_agent::dataplane::{object, probe};
use flannel_ebpf::abi::Encap;

/// EtherTypes, in the order of the wire.
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];

#[test]
fn it_says_what_the_kernel_does() {
    let cases = [
        ("vxlan", Encap::Vxlan as u8, IPV4, 1),
        ("udp", Encap::Udp as u8, IPV4, 1),
        // The helper refuses room for an IPv4 tunnel in a frame of another protocol.
        ("vxlan, refused", Encap::Vxlan as u8, ARP, 0),
        ("udp, refused", Encap::Udp as u8, ARP, 0),
        ("no tunnel", Encap::Direct as u8, IPV4, 0),
    ];
    let object = object::embedded().expect("built with FLANNEL_EBPF_OBJECT");
    let mut ebpf = object::load_unpinned(object).unwrap();
    let program = ebpf.program_mut(probe::PROGRAM).unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    program.load().unwrap();
    for (name, encap, ethertype, expected) in cases {
        let mut frame = [0; 64];
        frame[0] = encap;
        frame[12..14].copy_from_slice(&ethertype);
        let result = program.test_run(TestRunOptions {
            data_in: Some(&frame),
            ..TestRunOptions::new()
        });
        assert_eq!(result.unwrap().return_value, expected, "{name}");
    }
}

#[test]
fn every_need_is_met_here_and_the_program_goes_after_it() {
    let object = object::embedded().expect("built with FLANNEL_EBPF_OBJECT");
    let mut ebpf = object::load_unpinned(object).unwrap();
    let programs = probe::NEEDS.iter().map(|need| need.program);
    probe::check_helpers(&mut ebpf, programs).unwrap();
    let program = ebpf.program(probe::PROGRAM).unwrap();
    assert!(program.info().is_err(), "it is unloaded");
}
