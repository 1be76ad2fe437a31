//! The table of decisions for iptables, a line each, by both of its kinds.

use std::path::Path;

use crate::bed::{
    assert_sound, assert_unsound, check, feed, in_namespace, nft, reasons, try_feed, verdict,
};

const BOTH: [&str; 2] = ["iptables-nft", "iptables-legacy"];

/// Rules that do not depend on the single packet: table, chain and rule.
const SOUND: &[&str] = &[
    "filter FORWARD -s 10.5.0.0/16 -d 10.6.0.1 -j DROP",
    "filter FORWARD -p tcp --dport 80 -j ACCEPT",
    "filter FORWARD -p udp -m multiport --dports 53,5353 -j ACCEPT",
    "filter FORWARD -i cni+ ! -o eth0 -j REJECT",
    "filter FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "filter FORWARD -m conntrack --ctstate INVALID -j DROP",
    "filter FORWARD -m conntrack --ctstate DNAT --ctdir ORIGINAL -j ACCEPT",
    "filter FORWARD -m state --state NEW -j ACCEPT",
    "filter FORWARD -m comment --comment \"a rule\" -j ACCEPT",
    "filter FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "filter FORWARD -m addrtype --dst-type LOCAL -j DROP",
    "filter FORWARD -m iprange --src-range 10.5.0.1-10.5.0.9 -j DROP",
    "filter FORWARD -m mac --mac-source 02:00:00:00:00:01 -j DROP",
    "filter FORWARD -m pkttype --pkt-type broadcast -j DROP",
    "filter FORWARD -m physdev --physdev-in v0 -j DROP",
    "filter FORWARD -m policy --dir in --pol none -j DROP",
    "filter FORWARD -m time --timestart 08:00 --timestop 18:00 -j DROP",
    "filter FORWARD -m connmark --mark 1 -j DROP",
    "filter FORWARD -j REJECT --reject-with icmp-host-prohibited",
    "filter FORWARD -j LOG --log-prefix \"all \"",
    "filter FORWARD -m limit --limit 3/min -j LOG",
    "filter FORWARD -m limit --limit 3/min -j NFLOG --nflog-group 7",
    "filter FORWARD -m limit --limit 3/min",
    "filter FORWARD -s 10.5.0.1",
    "filter FORWARD -p icmp -m limit --limit 5/s -j ACCEPT",
    "filter FORWARD -p icmp --icmp-type echo-request -m length --length 100 -j DROP",
    "filter FORWARD ! -p tcp -s 10.5.0.1 -j ACCEPT",
    "filter FORWARD -p tcp --syn -m limit --limit 5/s -j ACCEPT",
    "filter FORWARD -p tcp ! --syn -m conntrack --ctstate NEW -j DROP",
    "filter FORWARD -p tcp --tcp-flags ALL NONE -j DROP",
    "filter FORWARD -p tcp --tcp-flags ALL FIN,PSH,URG -j DROP",
    "filter FORWARD -p tcp --tcp-flags SYN,FIN SYN,FIN -j DROP",
    "filter FORWARD -p tcp --tcp-flags ACK,URG URG -j DROP",
    "filter FORWARD -f -m limit --limit 5/s -j DROP",
    "filter FORWARD -g OTHER",
    "filter INPUT -m limit --limit 5/s -j ACCEPT",
    "filter INPUT -j LOUD",
    "filter OUTPUT -m length --length 100 -j DROP",
    "mangle FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "mangle FORWARD -p tcp --syn -m tcpmss --mss 1400:1536 -j TCPMSS --set-mss 1360",
    "mangle PREROUTING -j MARK --set-mark 0x1",
    "mangle PREROUTING -j CONNMARK --restore-mark",
    "mangle POSTROUTING -p udp --dport 68 -j CHECKSUM --checksum-fill",
    "raw PREROUTING -m rpfilter --invert -j DROP",
    "raw PREROUTING -p udp --dport 53 -j CT --notrack",
    "raw PREROUTING -j CT --zone 5",
    "security FORWARD -s 10.5.0.1 -j DROP",
    "nat PREROUTING -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.5.0.1",
    "nat PREROUTING -m recent --name r --rcheck --seconds 9 --reap -j ACCEPT",
    "nat POSTROUTING -m limit --limit 5/s -j MASQUERADE",
];

/// Rules that do, and the words by which the reason is known; `limit` is native in iptables-nft.
const UNSOUND: &[(&str, &str)] = &[
    (
        "filter FORWARD -m limit --limit 5/s -j ACCEPT",
        "limit counts packets",
    ),
    (
        "filter FORWARD -m conntrack --ctstate NEW -m limit --limit 5/s -j ACCEPT",
        "limit counts",
    ),
    (
        "filter FORWARD -m hashlimit --hashlimit-above 5/s --hashlimit-name h -j DROP",
        "match hashlimit counts packets",
    ),
    (
        "filter FORWARD -m quota --quota 1000 -j ACCEPT",
        "match quota counts packets",
    ),
    (
        "filter FORWARD -m statistic --mode random --probability 0.1 -j DROP",
        "match statistic decides by chance",
    ),
    (
        "filter FORWARD -m statistic --mode nth --every 3 --packet 0 -j DROP",
        "match statistic",
    ),
    (
        "filter FORWARD -m connbytes --connbytes 10000 --connbytes-dir both --connbytes-mode bytes \
         -j DROP",
        "match connbytes counts packets",
    ),
    (
        "filter FORWARD -p tcp -m connlimit --connlimit-above 9 -j DROP",
        "connlimit counts conn",
    ),
    (
        "filter FORWARD -m recent --name r --update --seconds 9 --hitcount 4 -j DROP",
        "match recent",
    ),
    (
        "filter FORWARD -m conntrack --ctexpire 1:9 -j DROP",
        "match conntrack differs",
    ),
    (
        "filter FORWARD -m length --length 1000: -j DROP",
        "match length differs",
    ),
    ("filter FORWARD -m ttl --ttl-lt 5 -j DROP", "ttl differs"),
    (
        "filter FORWARD -m tos --tos 0x10 -j DROP",
        "match tos differs",
    ),
    ("filter FORWARD -m dscp --dscp 8 -j DROP", "dscp differs"),
    (
        "filter FORWARD -p tcp -m ecn --ecn-tcp-ece -j DROP",
        "match ecn differs",
    ),
    ("filter FORWARD -m cpu --cpu 0 -j DROP", "match cpu differs"),
    (
        "filter FORWARD -m string --algo bm --string x -j DROP",
        "match string depends on the",
    ),
    (
        "filter FORWARD -m u32 --u32 0=1 -j DROP",
        "match u32 depends on the payload",
    ),
    (
        "filter FORWARD -m bpf --bytecode \"1,6 0 0 1\" -j DROP",
        "match bpf depends on the payload",
    ),
    (
        "filter FORWARD -p tcp --tcp-flags PSH PSH -j DROP",
        "tcp flags differs",
    ),
    ("filter FORWARD -p tcp --tcp-option 8 -j DROP", "tcp option"),
    (
        "filter FORWARD -p tcp -m tcpmss --mss 500 -j DROP",
        "match tcpmss differs",
    ),
    (
        "filter FORWARD -j NFQUEUE --queue-num 0",
        "NFQUEUE is to have every packet",
    ),
    (
        "filter FORWARD -j NFLOG --nflog-group 7",
        "is to have every packet",
    ),
    (
        "filter FORWARD -j AUDIT --type accept",
        "target AUDIT is to have every packet",
    ),
    ("filter FORWARD -j LOUD", "LOUD"),
    ("filter FORWARD -g LOUD", "LOUD"),
    (
        "mangle FORWARD -j TOS --set-tos 0x10",
        "target TOS changes each packet",
    ),
    (
        "mangle FORWARD -j DSCP --set-dscp 8",
        "target DSCP changes each packet",
    ),
    (
        "mangle FORWARD -j TTL --ttl-set 64",
        "target TTL changes each packet",
    ),
    (
        "mangle FORWARD -p tcp -j TCPOPTSTRIP --strip-options timestamp",
        "TCPOPTSTRIP changes",
    ),
    (
        "mangle FORWARD -j CLASSIFY --set-class 1:2",
        "target CLASSIFY changes each packet",
    ),
    (
        "mangle FORWARD -j TEE --gateway 10.5.0.1",
        "target TEE is to have every packet",
    ),
    (
        "mangle PREROUTING -p tcp -j TPROXY --on-port 3128",
        "TPROXY is to have every packet",
    ),
    (
        "mangle POSTROUTING -m length --length 100 -j MARK --set-mark 1",
        "match length differs",
    ),
    ("raw PREROUTING -j TRACE", "is to have every packet"),
    (
        "raw PREROUTING -p tcp --dport 21 -j CT --helper ftp",
        "CT with a helper depends on the",
    ),
    (
        "security FORWARD -m limit --limit 5/s -j DROP",
        "limit counts packets",
    ),
];

/// What a line of the tables makes of an empty host.
fn script(line: &str) -> String {
    let (table, rule) = line.split_once(' ').unwrap();
    let filter = match table {
        "filter" => ":LOUD - [0:0]\n:OTHER - [0:0]\n-A LOUD -m limit --limit 5/s -j DROP\n",
        _ => "",
    };
    format!("*{table}\n{filter}-A {rule}\nCOMMIT\n")
}

fn failures(iptables: &str) -> String {
    let restore = format!("{iptables}-restore");
    let sound = SOUND.iter().map(|line| (*line, None));
    let unsound = UNSOUND.iter().map(|(line, words)| (*line, Some(*words)));
    let lines = sound.chain(unsound);
    let failures = lines.filter_map(|(line, words)| {
        let set = try_feed(&restore, &script(line));
        let outcome = set.and_then(|()| check(line, words)).err();
        let (table, _) = line.split_once(' ').unwrap();
        feed(&restore, &format!("*{table}\nCOMMIT\n"));
        outcome
    });
    failures.collect()
}

#[test]
fn every_rule_of_iptables_nft_is_decided_as_the_table_says() {
    in_namespace(async || {
        let failures = failures("iptables-nft");
        assert!(failures.is_empty(), "{failures}");
    });
}

#[test]
fn every_rule_of_iptables_legacy_is_decided_as_the_table_says() {
    in_namespace(async || {
        let failures = failures("iptables-legacy");
        assert!(failures.is_empty(), "{failures}");
    });
}

#[test]
fn rules_are_numbered_as_iptables_numbers_them() {
    in_namespace(async || {
        feed(
            "iptables-legacy-restore",
            "*filter\n:FORWARD DROP [7:700]\n:OTHER - [0:0]\n:DEEP - [0:0]\n-A FORWARD -j ACCEPT\n\
             -A FORWARD -s 10.5.0.1\n-A FORWARD -j OTHER\n-A OTHER -j ACCEPT\n-A OTHER -j DEEP\n\
             -A DEEP -s 10.5.0.1 -j RETURN\n-A DEEP -j ACCEPT\n\
             -A DEEP -m length --length 9 -m ttl --ttl 9 -j DROP\nCOMMIT\n",
        );
        assert_eq!(
            reasons(&verdict()),
            [
                "iptables-legacy -t filter, chain DEEP, rule 3: match length differs between \
                 packets of a flow",
                "iptables-legacy -t filter, chain DEEP, rule 3: match ttl differs between packets \
                 of a flow",
            ]
        );
    });
}

#[test]
fn looking_makes_no_table_of_legacy_iptables() {
    in_namespace(async || {
        let names = "/proc/thread-self/net/ip_tables_names";
        assert!(Path::new(names).exists(), "a kernel with legacy iptables");
        assert_sound("nothing");
        assert_eq!(std::fs::read_to_string(names).unwrap(), "");
    });
}

#[test]
fn both_kinds_are_looked_at() {
    in_namespace(async || {
        for iptables in BOTH {
            feed(
                &format!("{iptables}-restore"),
                &script("filter FORWARD -m statistic --mode nth --every 3 --packet 0 -j DROP"),
            );
        }
        let reasons = reasons(&verdict());
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert_unsound("both", "iptables-legacy -t filter, chain FORWARD, rule 1");
        assert_unsound("both", "nft chain ip filter FORWARD, handle");
        nft("flush ruleset");
        assert_unsound("legacy alone", "iptables-legacy");
    });
}
