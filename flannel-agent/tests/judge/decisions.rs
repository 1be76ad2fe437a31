//! The table of decisions, a line each, on native nftables.

use crate::bed::{assert_sound, assert_unsound, check, in_namespace, nft, try_feed};

/// Rules of a chain of forwarded packets that do not depend on the single packet.
const SOUND: &[&str] = &[
    "ip saddr 10.5.0.0/16 ip daddr 10.6.0.1 drop",
    "tcp dport { 80, 443 } accept",
    "udp sport 53 udp dport 1024-65535 accept",
    "th dport vmap { 22 : drop, 23 : accept }",
    "ip saddr . tcp dport { 10.5.0.1 . 80 } drop",
    "iifname \"cni*\" oif lo drop",
    "meta mark & 0xff == 0x40 drop",
    "meta pkttype broadcast drop",
    "meta day Monday drop",
    "ether saddr 02:00:00:00:00:01 drop",
    "ct state established,related accept",
    "ct state invalid drop",
    "ct state new accept",
    "ct status dnat accept",
    "ct mark 7 meta mark set ct mark",
    "ct mark set meta mark",
    "ct direction original accept",
    "fib daddr type local drop",
    "fib saddr . iif oif missing drop",
    "rt classid 5 drop",
    "jhash ip saddr mod 4 == 1 drop",
    "counter",
    "counter accept",
    "reject with icmp type port-unreachable",
    "log prefix \"all \"",
    "limit rate 5/minute log prefix \"some \"",
    "limit rate 5/minute log group 7",
    "limit rate 5/second",
    "limit rate 5/second counter",
    // Not of packets on the fast path.
    "icmp type echo-request limit rate 5/second accept",
    "meta l4proto icmp limit rate 5/second accept",
    "ip protocol sctp meta length 100 drop",
    "ip6 hoplimit 1 drop",
    "meta nfproto ipv6 limit rate 5/second drop",
    "meta protocol arp limit rate 5/second drop",
    "tcp flags syn / syn,rst limit rate 5/second accept",
    "tcp flags & (fin|syn|rst|ack) == syn limit rate 5/second accept",
    "tcp flags syn tcp option maxseg size set rt mtu",
    "tcp flags & (fin|syn) == (fin|syn) drop",
    "tcp flags & (fin|syn|rst|psh|ack|urg) == 0 drop",
    "tcp flags & (fin|syn|rst|psh|ack|urg) == fin|psh|urg drop",
    "tcp flags & (ack|urg) == urg drop",
    "tcp flags == 0 drop",
    "ip frag-off & 0x1fff != 0 limit rate 5/second drop",
    "ip frag-off & 0x3fff != 0 drop",
    "ip version 4 accept",
    "ip hdrlength > 5 drop",
    // Sets that packets fill.
    "add @seen { ip saddr } drop",
    "update @seen { ip saddr timeout 1m counter }",
    "ip saddr @seen drop",
    "goto quiet",
    "meta l4proto icmp jump loud",
];

/// Rules that do, and the words by which the reason is known.
const UNSOUND: &[(&str, &str)] = &[
    ("limit rate 5/second accept", "limit counts packets"),
    (
        "limit rate over 1 mbytes/second drop",
        "limit counts packets",
    ),
    (
        "ct state new limit rate 5/second accept",
        "limit counts packets",
    ),
    ("quota over 10 mbytes drop", "quota counts packets"),
    ("quota name \"much\" drop", "quota object counts packets"),
    ("limit name \"few\" accept", "limit object counts packets"),
    ("numgen random mod 2 == 0 drop", "numgen decides by chance"),
    ("meta random < 1000 drop", "meta random decides by chance"),
    ("numgen inc mod 2 vmap { 0 : drop, 1 : accept }", "numgen"),
    ("ct count over 20 drop", "ct count counts connections"),
    ("ct bytes > 1000 drop", "ct bytes counts packets"),
    ("ct packets > 10 drop", "ct packets counts packets"),
    ("ct avgpkt > 10 drop", "ct avgpkt counts packets"),
    ("ct expiration < 10s drop", "ct expiration differs"),
    ("meta length > 1000 drop", "meta length differs"),
    ("meta priority 1:2 drop", "meta priority differs"),
    ("meta cpu 1 drop", "meta cpu differs"),
    ("ip dscp cs1 drop", "ip dscp differs"),
    ("ip ecn ce drop", "ip dscp differs"),
    ("ip length > 1000 drop", "ip length differs"),
    ("ip id 7 drop", "ip id differs"),
    ("ip ttl 1 drop", "ip ttl differs"),
    ("ip frag-off & 0x4000 != 0 drop", "ip frag-off differs"),
    ("tcp flags & psh == psh drop", "tcp flags differs"),
    ("tcp flags & (ack|psh) == ack drop", "tcp flags differs"),
    ("tcp flags { ack, ack|psh } drop", "tcp flags differs"),
    (
        "tcp flags . tcp dport { ack . 80 } drop",
        "tcp flags differs",
    ),
    ("tcp window < 100 drop", "@th,112,16 differs"),
    ("tcp doff 5 drop", "@th,96,8 differs"),
    ("tcp sequence 7 drop", "@th,32,32 differs"),
    ("tcp option timestamp exists drop", "tcp option differs"),
    ("tcp option maxseg size set 1400", "tcp option set changes"),
    ("udp length > 100 drop", "@th,32,16 differs"),
    ("@th,64,8 0x16 drop", "@th,64,8 differs"),
    ("@nh,160,8 0x16 drop", "@nh,160,8 differs"),
    ("ip dscp set cs1", "payload set changes"),
    ("ip ttl set 64", "payload set changes"),
    ("meta priority set 0x10002", "meta priority set changes"),
    (
        "meta nftrace set 1",
        "meta nftrace set is to have every packet",
    ),
    ("log group 7", "log group 7 is to have every packet"),
    ("ct helper set \"ftp\"", "ct helper depends on the payload"),
    (
        "add @seen { ip saddr limit rate 5/second } drop",
        "limit counts packets",
    ),
    (
        "update @brief { ip saddr }",
        "set brief with a timeout of 2000 ms forgets",
    ),
    ("ip saddr @limited drop", "limit counts packets"),
    ("ip saddr @few drop", "limit counts packets"),
    ("jump loud", "chain inet t loud"),
    (
        "ip saddr vmap { 10.5.0.1 : jump loud }",
        "chain inet t loud",
    ),
    ("ip saddr vmap @verdicts", "chain inet t loud"),
    (
        "ip saddr 10.5.0.1 jump { limit rate 5/second drop; }",
        "limit counts packets",
    ),
];

/// A table with a chain of that hook that has the rule, and what rules refer to.
fn table(hook: &str, rule: &str) -> String {
    format!(
        "flush ruleset
         table inet t {{
           quota much {{ over 10 mbytes }}
           limit few {{ rate 5/second }}
           ct helper ftp {{ type \"ftp\" protocol tcp; }}
           set seen {{ type ipv4_addr; size 100; flags dynamic,timeout; timeout 1h; }}
           set brief {{ type ipv4_addr; size 100; flags dynamic,timeout; timeout 2s; }}
           set limited {{ type ipv4_addr; size 100; limit rate 5/second; flags dynamic; }}
           set few {{ type ipv4_addr; size 100; flags dynamic;
                     elements = {{ 10.5.0.1 limit rate 5/second }}; }}
           map verdicts {{ type ipv4_addr : verdict; elements = {{ 10.5.0.1 : goto loud }}; }}
           chain loud {{ limit rate 5/second drop; }}
           chain quiet {{ ip saddr 10.5.0.1 drop; }}
           chain c {{ type filter hook {hook} priority 0; {rule}; }}
         }}"
    )
}

#[test]
fn every_rule_is_decided_as_the_table_says() {
    in_namespace(async || {
        let sound = SOUND.iter().map(|rule| (*rule, None));
        let unsound = UNSOUND.iter().map(|(rule, words)| (*rule, Some(*words)));
        let failures: String = sound
            .chain(unsound)
            .filter_map(|(rule, words)| {
                let set = try_feed("nft -f -", &table("forward", rule));
                set.and_then(|()| check(rule, words)).err()
            })
            .collect();
        assert!(failures.is_empty(), "{failures}");
    });
}

#[test]
fn only_hooks_of_forwarded_packets_matter() {
    in_namespace(async || {
        let rule = "limit rate 5/second accept";
        for hook in ["prerouting", "forward", "postrouting"] {
            nft(&table(hook, rule));
            assert_unsound(hook, "nft chain inet t c, handle");
        }
        for hook in ["input", "output"] {
            nft(&table(hook, rule));
            assert_sound(hook);
        }
    });
}

#[test]
fn chains_of_type_nat_are_asked_once_per_connection() {
    in_namespace(async || {
        let rules = "numgen random mod 2 vmap { 0 : jump lot, 1 : accept }
            limit rate 5/second masquerade";
        let table = |kind: &str, hook: &str| {
            format!(
                "flush ruleset
                 table ip t {{
                   chain lot {{ meta length > 100 dnat to 10.5.0.1; }}
                   chain c {{ type {kind} hook {hook} priority -100; {rules}; }}
                 }}"
            )
        };
        nft(&table("nat", "prerouting").replace("masquerade", "accept"));
        assert_sound("nat");
    });
}

#[test]
fn other_families_matter_where_they_are_on_the_way() {
    in_namespace(async || {
        crate::bed::feed("ip -b -", "link add v0 type veth peer name v1\n");
        let chain = |family: &str, hook: &str| {
            format!(
                "flush ruleset
                 table {family} t {{
                   chain c {{ type filter hook {hook} priority 0; limit rate 5/second accept; }}
                 }}"
            )
        };
        for (family, hook) in [
            ("netdev", "ingress device v0"),
            ("netdev", "egress device v0"),
            ("inet", "ingress device v0"),
            ("netdev", "ingress devices = { v0, v1 }"),
            ("bridge", "prerouting"),
            ("bridge", "input"),
            ("bridge", "output"),
            ("bridge", "postrouting"),
        ] {
            nft(&chain(family, hook));
            assert_unsound(hook, &format!("nft chain {family} t c"));
        }
        for (family, hook) in [
            ("netdev", "ingress device lo"),
            ("inet", "ingress device lo"),
            ("bridge", "forward"),
            ("arp", "input"),
            ("ip6", "forward"),
        ] {
            nft(&chain(family, hook));
            assert_sound(hook);
        }
    });
}

#[test]
fn what_only_some_hooks_have_is_decided_as_well() {
    in_namespace(async || {
        for (family, hook, rule, words) in [
            (
                "ip",
                "forward",
                "dup to 10.5.0.9",
                Some("dup is to have every packet"),
            ),
            (
                "netdev",
                "ingress device eth9",
                "dup to eth9",
                Some("dup is to have"),
            ),
            ("netdev", "ingress device eth9", "fwd to eth9", None),
            ("inet", "prerouting", "socket transparent 1 drop", None),
            ("inet", "prerouting", "notrack", None),
            ("inet", "prerouting", "osf name \"Linux\" drop", None),
            ("inet", "prerouting", "rt ipsec exists drop", None),
            (
                "ip",
                "prerouting",
                "tcp dport 80 tproxy to :3128",
                Some("tproxy is to have every packet"),
            ),
            (
                "ip",
                "forward",
                "tcp dport 80 synproxy mss 1460 wscale 7",
                Some("synproxy changes each packet"),
            ),
        ] {
            let _ = try_feed("ip -b -", "link add eth9 type veth peer name eth8\n");
            nft(&format!(
                "flush ruleset
                 table {family} t {{
                   chain c {{ type filter hook {hook} priority 0; {rule}; }}
                 }}"
            ));
            check(rule, words).unwrap_or_else(|error| panic!("{error}"));
        }
    });
}

#[test]
fn a_dormant_table_is_not_in_force() {
    in_namespace(async || {
        nft(&table("forward", "limit rate 5/second accept"));
        assert_unsound("awake", "limit");
        nft("add table inet t { flags dormant; }");
        assert_sound("dormant");
    });
}

#[test]
fn a_host_without_rules_is_sound() {
    in_namespace(async || assert_sound("nothing"));
}
