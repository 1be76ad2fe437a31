//! Changes of rules, and how long it takes until they are known.

use std::time::{Duration, Instant};

use flannel_agent::fast_path::rules::{Change, Watch};
use tokio::time::timeout;

use crate::bed::{feed, in_namespace, nft, reasons, wait};

/// Shortest bound of the fast path that is of use: a verdict has to be there by then.
const BOUND: Duration = Duration::from_secs(1);

const LIMIT: &str = "*filter\n-A FORWARD -m limit --limit 5/s -j ACCEPT\nCOMMIT\n";
const NO_LIMIT: &str = "*filter\n-A FORWARD -s 10.5.0.1 -j ACCEPT\nCOMMIT\n";

#[test]
fn a_rule_that_comes_and_goes_is_known_within_the_bound() {
    for (restore, limit) in [
        ("iptables-nft-restore", BOUND / 4),
        ("iptables-legacy-restore", BOUND),
    ] {
        in_namespace(async move || {
            let (mut watch, verdict) = Watch::open().unwrap();
            assert!(verdict.sound);
            for _ in 0..3 {
                for (script, sound) in [(LIMIT, false), (NO_LIMIT, true)] {
                    feed(restore, script);
                    let (_, took) = wait(&mut watch, sound, Instant::now()).await;
                    println!("{restore}: sound {sound} after {took:?}");
                    assert!(took < limit, "{restore}: {took:?}");
                }
            }
        });
    }
}

#[test]
fn every_change_of_a_rule_is_told_even_if_the_verdict_stays() {
    in_namespace(async || {
        nft("table ip t {
               set s { type ipv4_addr; }
               map v { type ipv4_addr : verdict; }
               chain other { drop; }
               chain c { type filter hook forward priority 0; ip saddr @s drop; ip saddr vmap @v; }
             }");
        let (mut watch, _) = Watch::open().unwrap();
        for script in [
            "add element ip t s { 10.5.0.1 }",
            "delete element ip t s { 10.5.0.1 }",
            "add element ip t v { 10.5.0.1 : goto other }",
            "add rule ip t other accept",
            "add table ip u",
            "delete table ip u",
            "flush chain ip t c",
        ] {
            nft(script);
            let change = timeout(BOUND / 4, watch.next()).await;
            assert_eq!(change, Ok(Change::Rules), "{script}");
        }
        for script in [
            NO_LIMIT,
            "*filter\n-A FORWARD -s 10.5.0.2 -j ACCEPT\nCOMMIT\n",
        ] {
            feed("iptables-legacy-restore", script);
            let change = timeout(BOUND, watch.next()).await;
            assert_eq!(change, Ok(Change::Rules), "{script}");
        }
    });
}

#[test]
fn a_host_at_rest_is_not_told_about() {
    in_namespace(async || {
        feed("iptables-legacy-restore", LIMIT);
        feed("iptables-nft-restore", NO_LIMIT);
        let (mut watch, _) = Watch::open().unwrap();
        let change = timeout(BOUND * 2, watch.next()).await;
        assert!(change.is_err(), "{change:?}");
    });
}

#[test]
fn elements_that_come_and_go_are_judged() {
    in_namespace(async || {
        nft("table ip t {
               set s { type ipv4_addr; size 9; flags dynamic; }
               map v { type ipv4_addr : verdict; }
               chain loud { limit rate 5/second drop; }
               chain c { type filter hook forward priority 0; ip saddr @s drop; ip saddr vmap @v; }
             }");
        let (mut watch, verdict) = Watch::open().unwrap();
        assert!(verdict.sound);
        for (add, delete, place) in [
            (
                "add element ip t v { 10.5.0.1 : jump loud }",
                "delete element ip t v { 10.5.0.1 }",
                "chain ip t loud",
            ),
            (
                "add element ip t s { 10.5.0.1 limit rate 5/second }",
                "delete element ip t s { 10.5.0.1 }",
                "chain ip t c",
            ),
        ] {
            nft(add);
            let (verdict, _) = wait(&mut watch, false, Instant::now()).await;
            assert!(reasons(&verdict)[0].contains(place), "{verdict:?}");
            nft(delete);
            wait(&mut watch, true, Instant::now()).await;
        }
    });
}

#[test]
fn a_set_of_the_same_name_is_another_set() {
    in_namespace(async || {
        let table = |elements: &str| {
            format!(
                "flush ruleset
                 table ip t {{
                   map v {{ type ipv4_addr : verdict; elements = {{ {elements} }}; }}
                   chain loud {{ limit rate 5/second drop; }}
                   chain c {{ type filter hook forward priority 0; ip saddr vmap @v; }}
                 }}"
            )
        };
        nft(&table("10.5.0.1 : jump loud"));
        let (mut watch, verdict) = Watch::open().unwrap();
        assert!(!verdict.sound);
        nft(&table("10.5.0.1 : drop"));
        wait(&mut watch, true, Instant::now()).await;
        nft(&table("10.5.0.1 : goto loud"));
        wait(&mut watch, false, Instant::now()).await;
    });
}

#[test]
fn nothing_is_lost_by_a_waiter_that_gives_up() {
    in_namespace(async || {
        let (mut watch, _) = Watch::open().unwrap();
        feed("iptables-nft-restore", LIMIT);
        let start = Instant::now();
        let mut has_verdict = false;
        while !has_verdict {
            assert!(start.elapsed() < BOUND, "no verdict");
            let change = timeout(Duration::from_micros(200), watch.next()).await;
            has_verdict = matches!(change, Ok(Change::Verdict(verdict)) if !verdict.sound);
        }
    });
}

/// As many rules as kube-proxy has for thousands of services.
fn many(rules: usize) -> String {
    use std::fmt::Write as _;
    let mut script = String::from("*filter\n:SERVICES - [0:0]\n-A FORWARD -j SERVICES\n");
    for n in 0..rules {
        let (high, low) = (n / 250, n % 250);
        let _ = writeln!(
            script,
            "-A SERVICES -d 10.{}.{}.{low}/32 -p tcp -m comment --comment \"service {n}\" \
             -m tcp --dport 80 -m conntrack --ctstate NEW -j REJECT",
            high / 250,
            high % 250
        );
    }
    script + "COMMIT\n"
}

#[test]
fn one_rule_among_many_is_known_within_the_bound() {
    for (iptables, restore) in [
        ("iptables-nft", "iptables-nft-restore"),
        ("iptables-legacy", "iptables-legacy-restore"),
    ] {
        in_namespace(async move || {
            feed(restore, &many(10_000));
            let start = Instant::now();
            let (mut watch, verdict) = Watch::open().unwrap();
            println!("{restore}: 10 000 rules in {:?}", start.elapsed());
            assert!(verdict.sound, "{:?}", reasons(&verdict));
            for (verb, sound) in [("-A", false), ("-D", true)] {
                feed(
                    &format!("{iptables} -w {verb} SERVICES -m ttl --ttl 9 -j DROP"),
                    "",
                );
                let (_, took) = wait(&mut watch, sound, Instant::now()).await;
                println!("{restore}: the last of them after {took:?}");
                assert!(took < BOUND, "{restore}: {took:?}");
            }
            // More at once than the kernel can tell.
            feed(
                restore,
                &many(11_000).replace("-j REJECT", "-m ttl --ttl 9 -j DROP"),
            );
            wait(&mut watch, false, Instant::now()).await;
            feed(restore, &many(10_000));
            wait(&mut watch, true, Instant::now()).await;
        });
    }
}
