//! Messages made by hand.

use super::*;

/// `struct nfgenmsg` of family `inet`, then attributes.
pub(super) fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
    [&[1, 0, 0, 0][..], &attributes.concat()].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut octets = [&(len as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    octets.resize(len.next_multiple_of(4), 0);
    octets
}

fn nest(kind: u16, members: &[Vec<u8>]) -> Vec<u8> {
    // With the flag that the kernel sets on some (`NLA_F_NESTED`).
    attribute(kind | 0x8000, &members.concat())
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, format!("{text}\0").as_bytes())
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

fn step(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    nest(LIST_ELEM, &[text(1, name), nest(2, attributes)])
}

fn rule(steps: &[Vec<u8>]) -> Vec<u8> {
    message(&[
        text(1, "t"),
        text(2, "c"),
        attribute(3, &7_u64.to_be_bytes()),
        nest(4, steps),
    ])
}

fn data(kind: u16, octets: &[u8]) -> Vec<u8> {
    nest(kind, &[attribute(1, octets)])
}

fn verdict_data(kind: u16, code: i32, chain: Option<&str>) -> Vec<u8> {
    let mut attributes = vec![attribute(1, &code.to_be_bytes())];
    attributes.extend(chain.map(|chain| text(2, chain)));
    nest(kind, &[nest(2, &attributes)])
}

fn id() -> TableId {
    TableId {
        family: Family::INET,
        name: "t".into(),
    }
}

#[test]
fn every_expression_is_understood() {
    let message = rule(&[
        step("meta", &[number(2, 16), number(1, 1)]),
        step("meta", &[number(2, 3), number(3, 1)]),
        step(
            "payload",
            &[number(1, 8), number(2, 2), number(3, 13), number(4, 1)],
        ),
        step("ct", &[number(2, 0), number(1, 1)]),
        step("exthdr", &[number(1, 1), number(6, 1)]),
        step(
            "bitwise",
            &[
                number(1, 1),
                number(2, 2),
                number(3, 1),
                data(4, &[2]),
                data(5, &[0]),
            ],
        ),
        step("byteorder", &[number(1, 1), number(2, 1)]),
        step("cmp", &[number(1, 1), number(2, 1), data(3, &[6])]),
        step("range", &[number(1, 1)]),
        step("lookup", &[text(1, "s"), number(2, 1)]),
        step("immediate", &[number(1, 1), data(2, &[1, 2, 3, 4])]),
        step("log", &[attribute(1, &[0, 7])]),
        step("log", &[]),
        step("objref", &[number(1, 4), text(2, "few")]),
        step("objref", &[number(3, 1), text(4, "m")]),
        step(
            "match",
            &[text(1, "tcp"), number(2, 1), attribute(3, &[1; 12])],
        ),
        step("target", &[text(1, "LOG")]),
        step("something", &[]),
        step(
            "immediate",
            &[number(1, 0), verdict_data(2, -3, Some("other"))],
        ),
    ]);
    let load = Access::Load(Register(1));
    let bitwise = |to: u32, mask: &[u8], xor: &[u8]| Expression::Bitwise {
        from: Register(1),
        to: Register(to),
        mask: mask.to_vec(),
        xor: xor.to_vec(),
    };
    let extension = |name: &str, revision, info: &[u8]| Extension {
        name: name.into(),
        revision,
        info: info.to_vec(),
    };
    let expected = vec![
        Expression::Meta {
            key: 16,
            access: load,
        },
        Expression::Meta {
            key: 3,
            access: Access::Store,
        },
        Expression::Payload {
            base: 2,
            offset: 13,
            len: 1,
            access: Access::Load(Register(8)),
        },
        Expression::Conntrack {
            key: 0,
            access: load,
        },
        Expression::Option {
            kind: 1,
            access: load,
        },
        bitwise(2, &[2], &[0]),
        bitwise(1, &[], &[]),
        Expression::Compare {
            register: Register(1),
            operator: 1,
            value: vec![6],
        },
        Expression::Range {
            register: Register(1),
        },
        Expression::Lookup { set: "s".into() },
        Expression::Constant { to: Register(1) },
        Expression::Log { group: Some(7) },
        Expression::Log { group: None },
        Expression::Object { kind: 4 },
        Expression::ObjectMap { set: "m".into() },
        Expression::Match(extension("tcp", 1, &[1; 12])),
        Expression::Target(extension("LOG", 0, &[])),
        Expression::Other {
            name: "something".into(),
        },
        Expression::Verdict(Verdict::Chain("other".into())),
    ];
    assert_eq!(parse_rule(&message), Ok(Some(expected)));
    assert_eq!(parse_handle(&message), Ok(7));
    assert_eq!(parse_member(&message), Ok(Some((id(), "c".into()))));
}

#[test]
fn verdicts_are_told_apart() {
    let parse = |code| {
        let message = rule(&[step(
            "immediate",
            &[number(1, 0), verdict_data(2, code, None)],
        )]);
        parse_rule(&message).unwrap().unwrap()
    };
    // Drop, accept, continue, break, return.
    for code in [0, 1, -1, -2, -5] {
        assert_eq!(parse(code), [Expression::Verdict(Verdict::Plain)], "{code}");
    }
    // To a queue by its number, with and without bypass.
    for code in [3, 0x0007_0003, 0x0007_8003] {
        assert_eq!(parse(code), [Expression::Verdict(Verdict::Queue)], "{code}");
    }
}

#[test]
fn tables_chains_and_sets_come_together() {
    let mut ruleset = Ruleset::default();
    let hook = nest(
        4,
        &[
            number(1, 0),
            number(2, 0),
            nest(4, &[text(1, "eth0"), text(1, "eth1")]),
        ],
    );
    let chain = [text(1, "t"), text(3, "c"), hook, text(7, "filter")];
    ruleset.add_chain(&message(&chain)).unwrap();
    ruleset
        .add_table(&message(&[text(1, "t"), number(2, 1)]))
        .unwrap();
    let limit = nest(17, &[text(1, "limit"), nest(2, &[])]);
    let timeout = attribute(11, &2000_u64.to_be_bytes());
    let set = [text(1, "t"), text(2, "s"), timeout, number(15, 4), limit];
    ruleset.add_set(&message(&set)).unwrap();
    let table = &ruleset.tables[&id()];
    assert!(table.is_dormant);
    let base = Base {
        hook: 0,
        kind: "filter".into(),
        devices: vec!["eth0".into(), "eth1".into()],
    };
    assert_eq!(table.chains["c"].base, Some(base));
    let set = Set {
        timeout_ms: 2000,
        object: 4,
        expressions: vec![Expression::Other {
            name: "limit".into(),
        }],
    };
    assert_eq!(table.sets["s"], set);
}

#[test]
fn elements_are_taken_together() {
    let key = || data(1, &[10, 5, 0, 1]);
    let limit = || nest(LIST_ELEM, &[text(1, "limit"), nest(2, &[])]);
    let members = [
        nest(LIST_ELEM, &[key()]),
        nest(LIST_ELEM, &[key(), verdict_data(2, -4, Some("other"))]),
        nest(LIST_ELEM, &[key(), verdict_data(2, -4, Some("other"))]),
        nest(LIST_ELEM, &[key(), nest(11, &[limit()])]),
    ];
    let message = message(&[text(1, "t"), text(2, "m"), nest(3, &members)]);
    let (set, elements) = parse_elements(&message).unwrap().unwrap();
    assert_eq!(set, (id(), "m".into()));
    let verdict = Verdict::Chain("other".into());
    assert_eq!(elements.verdicts, [verdict].into());
    let limit = Expression::Other {
        name: "limit".into(),
    };
    assert_eq!(elements.expressions, [limit].into());
    assert!(!elements.is_plain());
}

#[test]
fn other_families_are_passed_over() {
    let mut of_ipv6 = rule(&[]);
    of_ipv6[0] = 10;
    assert_eq!(parse_rule(&of_ipv6), Ok(None));
    assert_eq!(parse_member(&of_ipv6), Ok(None));
    let mut ruleset = Ruleset::default();
    ruleset.add_table(&of_ipv6).unwrap();
    assert_eq!(ruleset, Ruleset::default());
}

#[test]
fn a_damaged_message_is_an_error_and_no_panic() {
    let message = rule(&[
        step("cmp", &[number(1, 1), number(2, 1), data(3, &[6])]),
        step(
            "immediate",
            &[number(1, 0), verdict_data(2, -3, Some("other"))],
        ),
    ]);
    for len in 0..message.len() {
        let _ = parse_rule(&message[..len]);
        let _ = parse_elements(&message[..len]);
        for value in [0, 1, 0xff] {
            let mut damaged = message.clone();
            damaged[len] = value;
            let _ = parse_rule(&damaged);
            let _ = parse_elements(&damaged);
        }
    }
    // What is cut off is not taken for a rule without it.
    assert!(parse_rule(&message[..message.len() - 4]).is_err());
    assert!(parse_rule(&[]).is_err());
    let nameless = rule(&[nest(LIST_ELEM, &[nest(2, &[])])]);
    assert_eq!(parse_rule(&nameless), Err(Unreadable("expression name")));
}
