//! Blocks of entries made by hand.

use super::*;

/// A match or target: length, name, revision, structure.
fn extension(name: &str, revision: u8, info: &[u8]) -> Vec<u8> {
    let len = (EXTENSION_LEN + info.len()).next_multiple_of(8);
    let mut octets = vec![0; len];
    octets[..2].copy_from_slice(&(len as u16).to_ne_bytes());
    octets[2..2 + name.len()].copy_from_slice(name.as_bytes());
    octets[31] = revision;
    octets[32..32 + info.len()].copy_from_slice(info);
    octets
}

fn verdict(number: i32) -> Vec<u8> {
    extension("", 0, &number.to_ne_bytes())
}

fn entry(protocol: u16, matches: &[Vec<u8>], target: &[u8]) -> Vec<u8> {
    let matches = matches.concat();
    let target_at = ENTRY_LEN + matches.len();
    let mut octets = vec![0; ENTRY_LEN];
    octets[80..82].copy_from_slice(&protocol.to_ne_bytes());
    octets[88..90].copy_from_slice(&(target_at as u16).to_ne_bytes());
    octets[90..92].copy_from_slice(&((target_at + target.len()) as u16).to_ne_bytes());
    octets[COUNTERS].fill(0xaa);
    [&octets, &matches, target].concat()
}

const ACCEPT: i32 = -2;
const QUEUE: i32 = -4;
const RETURN: i32 = -5;

/// `FORWARD`: two rules and the policy; `INPUT`: the policy; then a chain of its own.
fn table() -> (Description, Vec<u8>) {
    let limit = extension("limit", 0, &[7; 40]);
    let plain = entry(0, &[], &verdict(ACCEPT));
    let len = plain.len() as u32;
    // `INPUT` before `FORWARD`, as the kernel has them; the jump leads behind the name.
    let first = len;
    let jump = entry(0, &[], &verdict(0));
    let queue = entry(6, std::slice::from_ref(&limit), &verdict(QUEUE));
    let name = entry(0, &[], &extension("ERROR", 0, b"OTHER\0\0\0"));
    let own = len + jump.len() as u32 + queue.len() as u32 + len + name.len() as u32;
    let jump = entry(0, &[], &verdict(own as i32));
    let through = entry(0, &[], &verdict((own + len) as i32));
    let reject = entry(17, &[], &extension("REJECT", 0, &[0; 4]));
    let back = entry(0, &[], &verdict(RETURN));
    let end = entry(0, &[], &extension("ERROR", 0, b"ERROR\0\0\0"));
    let entries = [
        plain.clone(),
        jump,
        queue,
        plain,
        name,
        through,
        reject,
        back,
        end,
    ]
    .concat();
    let description = Description {
        hooks: 0b110,
        starts: [0, 0, first, 0, 0],
        size: entries.len() as u32,
    };
    (description, entries)
}

#[test]
fn chains_rules_and_jumps_are_found() {
    let (description, entries) = table();
    let table = parse("filter", &description, &entries).unwrap();
    let names: Vec<_> = table.chains.iter().map(|it| (&*it.name, it.hook)).collect();
    let expected = [
        ("INPUT", Some(1)),
        ("FORWARD", Some(2)),
        ("OTHER", None),
        // Behind the entry that ends the table.
        ("ERROR", None),
    ];
    assert_eq!(names, expected);
    let targets = |chain: usize| -> Vec<_> {
        let rules = table.chains[chain].rules.iter();
        rules.map(|rule| rule.target.clone()).collect()
    };
    assert_eq!(targets(0), [Target::Plain]);
    assert_eq!(targets(1), [Target::Chain(2), Target::Queue, Target::Plain]);
    let reject = Extension {
        name: "REJECT".into(),
        revision: 0,
        info: vec![0; 8],
    };
    let other = [Target::None, Target::Extension(reject), Target::Plain];
    assert_eq!(targets(2), other);
    let limited = &table.chains[1].rules[1];
    assert_eq!((limited.protocol, limited.matches.len()), (6, 1));
    assert_eq!(limited.matches[0].name, "limit");
    assert_eq!(limited.matches[0].info, [7; 40]);
}

#[test]
fn counters_make_no_difference() {
    let (_, mut entries) = table();
    let mut others = entries.clone();
    others[COUNTERS].fill(0x55);
    assert_ne!(entries, others);
    clear_counters(&mut entries).unwrap();
    clear_counters(&mut others).unwrap();
    assert_eq!(entries, others);
}

#[test]
fn a_damaged_block_is_an_error_and_no_panic() {
    let (description, entries) = table();
    for len in 1..entries.len() {
        let cut = &entries[..len];
        let mut copy = cut.to_vec();
        // A block may end between two entries; then a jump leads nowhere.
        let _ = parse("filter", &description, cut);
        let _ = clear_counters(&mut copy);
        for value in [0, 1, 0xff] {
            let mut damaged = entries.clone();
            damaged[len] = value;
            let _ = parse("filter", &description, &damaged);
            let _ = clear_counters(&mut damaged);
        }
    }
    let cut = parse("filter", &description, &entries[..ENTRY_LEN]);
    assert_eq!(cut, Err(Unreadable("entry")));
    let nowhere = Description {
        starts: [1; 5],
        ..description
    };
    let headless = parse("filter", &nowhere, &entries);
    assert_eq!(headless, Err(Unreadable("chain")));
}

#[test]
fn tests_of_protocol_and_fragments_are_understood() {
    let rule = |protocol, flags, inversions| Rule {
        protocol,
        flags,
        inversions,
        matches: Vec::new(),
        target: Target::Plain,
    };
    let may_match = |rule: Rule| rule.may_match(&[6, 17]);
    assert!(may_match(rule(0, 0, 0)));
    assert!(may_match(rule(6, 0, 0)));
    assert!(may_match(rule(17, 0, 0x40)));
    assert!(may_match(rule(1, 0, 0x40)));
    assert!(!may_match(rule(1, 0, 0)));
    assert!(!may_match(rule(0, 1, 0)));
    assert!(may_match(rule(0, 1, 0x20)));
    // A goto.
    assert!(may_match(rule(0, 2, 0)));
}

#[test]
fn a_description_is_read_from_its_structure() {
    let mut octets = [0; Description::LEN];
    octets[..6].copy_from_slice(b"filter");
    for (index, word) in [0b1110_u32, 0, 0, 152, 304, 0].iter().enumerate() {
        octets[32 + 4 * index..][..4].copy_from_slice(&word.to_ne_bytes());
    }
    octets[80..84].copy_from_slice(&632_u32.to_ne_bytes());
    let expected = Description {
        hooks: 0b1110,
        starts: [0, 0, 152, 304, 0],
        size: 632,
    };
    assert_eq!(Description::parse(&octets), expected);
}
