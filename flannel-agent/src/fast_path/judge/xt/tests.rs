//! Structures of matches and targets, made by hand.

use super::*;

fn extension(name: &str, revision: u32, info: &[u8]) -> Extension {
    Extension {
        name: name.into(),
        revision,
        info: info.to_vec(),
    }
}

fn test_of(name: &str, revision: u32, info: &[u8]) -> Test {
    test(&extension(name, revision, info), |_| Some(false))
}

fn varies(what: &str, why: Why) -> Test {
    Test::Varies(Finding::new(what, why))
}

/// Findings of a rule that is nothing but the target.
fn target_of(name: &str, info: &[u8]) -> Vec<Finding> {
    let mut tally = Tally::default();
    target(&extension(name, 0, info), &mut tally);
    tally.findings().collect()
}

#[test]
fn flags_of_tcp_are_known_as_far_as_the_fast_path_fixes_them() {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const PSH: u8 = 8;
    const ACK: u8 = 16;
    const ALL: u8 = 63;
    let test = |mask: u8, flags: u8, inversions: u8| {
        let mut info = [0xff; 12];
        info[8..].copy_from_slice(&[0, mask, flags, inversions]);
        test_of("tcp", 0, &info)
    };
    let differs = varies("match tcp flags", Why::Field);
    assert_eq!(test(0, 0, 0), Test::Constant);
    assert_eq!(test(SYN | RST | ACK | FIN, SYN, 0), Test::Never);
    assert_eq!(test(SYN | RST | ACK | FIN, SYN, 4), Test::Constant);
    assert_eq!(test(SYN | FIN, 0, 0), Test::Constant);
    assert_eq!(test(ACK, ACK, 0), Test::Constant);
    assert_eq!(test(ALL, 0, 0), Test::Never);
    assert_eq!(test(ALL, ALL, 0), Test::Never);
    assert_eq!(test(PSH, PSH, 0), differs);
    assert_eq!(test(PSH, PSH, 4), differs);
    assert_eq!(test(ACK | PSH, ACK, 0), differs);
    // An option differs, but not in packets that do not come.
    let option = |mask| {
        let info = [0, 0, 0, 0, 0, 0, 0, 0, 8, mask, mask, 0];
        test_of("tcp", 0, &info)
    };
    assert_eq!(option(0), varies("match tcp option", Why::Field));
    assert_eq!(option(SYN), Test::Never);
    assert_eq!(
        test_of("tcp", 0, &[0; 11]),
        varies("match tcp", Why::Unknown)
    );
}

#[test]
fn a_conntrack_match_is_constant_unless_it_looks_at_the_timeout() {
    let mut info = [0; 164];
    for revision in 1..=3 {
        info[146..148].copy_from_slice(&0x3001_u16.to_ne_bytes());
        assert_eq!(test_of("conntrack", revision, &info), Test::Constant);
        info[146..148].copy_from_slice(&0x0080_u16.to_ne_bytes());
        let expected = varies("match conntrack", Why::Field);
        assert_eq!(test_of("conntrack", revision, &info), expected);
    }
    let other = varies("match conntrack", Why::Field);
    assert_eq!(test_of("conntrack", 4, &[0; 164]), other);
    assert_eq!(test_of("conntrack", 3, &[0; 10]), other);
}

#[test]
fn an_ipset_match_is_constant_unless_it_looks_at_counters() {
    let with = |at: usize| {
        let mut info = [0; 48];
        info[at] = 1;
        info
    };
    let counts = varies("match set", Why::Counts);
    // The value of a counter, then its operator, in revision 4; the other way round in 3.
    for (revision, operators, values) in [(3, [8, 24], [16, 32]), (4, [16, 32], [8, 24])] {
        for at in operators {
            assert_eq!(
                test_of("set", revision, &with(at)),
                counts,
                "{revision} {at}"
            );
        }
        for at in values {
            assert_eq!(
                test_of("set", revision, &with(at)),
                Test::Constant,
                "{revision} {at}"
            );
        }
    }
    assert_eq!(test_of("set", 1, &with(8)), Test::Constant);
    assert_eq!(test_of("set", 5, &[0; 48]), counts);
}

#[test]
fn an_accounting_match_counts_if_its_object_has_a_quota() {
    let mut info = [0; 40];
    info[..4].copy_from_slice(b"much");
    let it = extension("nfacct", 0, &info);
    let quota = |name: &str| {
        assert_eq!(name, "much");
        Some(true)
    };
    assert_eq!(test(&it, quota), varies("match nfacct", Why::Counts));
    assert_eq!(test(&it, |_| Some(false)), Test::Constant);
}

#[test]
fn a_conntrack_target_matters_if_it_sets_a_helper() {
    let mut info = [0; 72];
    assert_eq!(target_of("CT", &info), []);
    info[12..15].copy_from_slice(b"ftp");
    let helper = Finding::new("target CT with a helper", Why::Payload);
    assert_eq!(target_of("CT", &info), [helper]);
}

#[test]
fn what_nobody_knows_is_not_sound() {
    assert_eq!(
        test_of("geoip", 0, &[]),
        varies("match geoip", Why::Unknown)
    );
    let unknown = Finding::new("target MIRROR", Why::Unknown);
    assert_eq!(target_of("MIRROR", &[]), [unknown]);
}

#[test]
fn a_copy_of_every_packet_is_one_unless_the_rule_takes_a_sample() {
    let log = |tests: &[Why]| -> Vec<_> {
        let mut tally = Tally::default();
        for why in tests {
            tally.test(Finding::new("test", *why));
        }
        target(&extension("NFLOG", 1, &[]), &mut tally);
        tally.findings().map(|finding| finding.what).collect()
    };
    assert_eq!(log(&[]), ["target NFLOG"]);
    assert_eq!(log(&[Why::Counts]), [""; 0]);
    assert_eq!(log(&[Why::Chance]), [""; 0]);
    assert_eq!(log(&[Why::Field]), ["target NFLOG"]);
}
