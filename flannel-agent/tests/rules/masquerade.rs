//! Masquerade: the listing, and what arrives where with which source.

use std::time::Duration;

use flannel_agent::netlink::Netlink;
use flannel_agent::rules::{Forward, SourcePorts, Spec, list_ours, remove_ours};

use super::bed::{
    HOST, NODE, OTHER, OUTSIDE, POD, REMOTE, eventually, on_host, ruleset, run, seen, send, source,
    spec, start,
};

/// The table without its comments, as nft shows it.
const LISTING: &str = "\
table ip flannel-ipv4 {
\tchain postrtg {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tmeta mark & 0x00004000 == 0x00004000 return
\t\tip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
\t\tip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
\t\tip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
\t\tip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
\t\tip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
\t}
}
";

fn listing() -> String {
    let text = run("nft list table ip flannel-ipv4");
    let without_comment = |line: &str| {
        let rule = line.split(" comment \"flannel-agent masq ").next();
        rule.unwrap().to_owned() + "\n"
    };
    text.lines().map(without_comment).collect()
}

#[test]
fn the_table_is_as_listed() {
    on_host(async |_bed| {
        start(spec()).await;
        assert_eq!(listing(), LISTING);
        start(Spec {
            masquerade: Some(SourcePorts::Kept),
            ..spec()
        })
        .await;
        assert_eq!(listing(), LISTING.replace(" fully-random", ""));
        start(Spec {
            masquerade: None,
            ..spec()
        })
        .await;
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn packets_have_the_source_that_flannel_gives_them() {
    on_host(async |bed| {
        let (pod, remote, outside) = (&bed.pod, &bed.remote, &bed.outside);
        start(spec()).await;
        assert_eq!(source(pod, outside, OUTSIDE), Some(HOST));
        assert_eq!(source(pod, remote, REMOTE), Some(POD));
        assert_eq!(source(remote, pod, POD), Some(OTHER), "not of the overlay");
        let from_remote_pod = |port| remote.within(move || send(REMOTE, POD, port));
        assert_eq!(seen(pod, 0, from_remote_pod), Some(REMOTE));
        assert_eq!(source(outside, pod, POD), Some(OUTSIDE));
        let from_host = |port| send(HOST, REMOTE, port);
        assert_eq!(seen(remote, 0, from_host), Some(NODE), "host to remote pod");
        // What has nothing to do with the overlay stays as it is.
        assert_eq!(source(outside, remote, OTHER), Some(OUTSIDE));
    });
}

#[test]
fn d10_outside_to_remote_pod_is_masqueraded() {
    on_host(async |bed| {
        start(spec()).await;
        assert_eq!(source(&bed.outside, &bed.remote, REMOTE), Some(NODE));
    });
}

#[test]
fn d10_the_mark_is_found_among_other_bits() {
    on_host(async |bed| {
        start(spec()).await;
        run("nft add table ip marks");
        run("nft add chain ip marks out { type route hook output priority mangle; }");
        run("nft add rule ip marks out udp dport 9001 meta mark set 0x4003");
        run("nft add rule ip marks out udp dport 9002 meta mark set 0x8003");
        for (port, expected) in [(9001, HOST), (9002, NODE)] {
            let from_host = |port| send(HOST, REMOTE, port);
            assert_eq!(seen(&bed.remote, port, from_host), Some(expected));
        }
    });
}

#[test]
fn nothing_is_written_when_all_is_right() {
    on_host(async |_bed| {
        run("iptables-nft -w -P FORWARD DROP");
        let mut rules = start(spec()).await;
        let first = ruleset();
        assert!(first.contains("flannel-agent forward"), "{first}");
        rules.sync().await;
        start(spec()).await;
        assert_eq!(ruleset(), first);
    });
}

#[test]
fn what_somebody_breaks_is_repaired_at_once() {
    on_host(async |_bed| {
        let mut rules = start(spec()).await;
        let break_it = async {
            let second = "nft delete rule ip flannel-ipv4 postrtg handle";
            for command in [
                "nft flush ruleset",
                "nft delete table ip flannel-ipv4",
                "nft flush chain ip flannel-ipv4 postrtg",
                "nft add rule ip flannel-ipv4 postrtg accept",
                "nft insert rule ip flannel-ipv4 postrtg drop",
                "nft add chain ip flannel-ipv4 forward",
                second,
            ] {
                let handle = run("nft -a list table ip flannel-ipv4");
                let line = handle
                    .lines()
                    .find(|line| line.contains("saddr 10.5.1.0/24"));
                let handle = line.unwrap().rsplit(' ').next().unwrap();
                match command == second {
                    true => run(&format!("{command} {handle}")),
                    false => run(command),
                };
                let is_right = || {
                    let tables = run("nft list tables");
                    tables.contains("flannel-ipv4") && listing() == LISTING
                };
                eventually(command, is_right).await;
            }
        };
        tokio::select! {
            // The period alone would be too long for the deadline of each step.
            never = rules.keep(Duration::from_secs(3600)) => match never {},
            () = break_it => {}
        }
    });
}

#[test]
fn the_periodic_check_repairs_as_well() {
    on_host(async |_bed| {
        let mut rules = start(spec()).await;
        run("nft flush ruleset");
        rules.sync().await;
        assert_eq!(listing(), LISTING);
    });
}

#[test]
fn cleanup_removes_ours_and_nothing_else() {
    on_host(async |_bed| {
        let netlink = Netlink::open().unwrap();
        run("nft add table ip flannel-ipv4");
        run("iptables-nft -w -P FORWARD DROP");
        run("iptables-nft -w -A FORWARD -s 10.5.0.0/16 -i eth0 -j ACCEPT");
        run("iptables-legacy -w -A FORWARD -s 10.6.0.0/16 -j ACCEPT");
        let nft = "iptables-nft -w -S";
        let legacy = "iptables-legacy -w -S";
        let before = (run(nft), run(legacy));
        // A table of that name without a rule of ours is stock flannel's.
        assert_eq!(list_ours(&netlink).await.unwrap(), Vec::<String>::new());

        start(spec()).await;
        assert!(run(nft).contains("flannel-agent") && run(legacy).contains("flannel-agent"));
        let lines = list_ours(&netlink).await.unwrap();
        assert_eq!(
            lines,
            [
                "nftables table ip flannel-ipv4",
                "accept rules in nftables table ip filter",
                "accept rules in legacy iptables table filter"
            ]
        );
        assert_eq!(remove_ours(&netlink).await.unwrap(), lines);
        assert_eq!((run(nft), run(legacy)), before);
        assert!(!run("nft list tables").contains("flannel"));
        assert_eq!(remove_ours(&netlink).await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn without_any_flag_nothing_is_written() {
    on_host(async |_bed| {
        run("iptables-nft -w -P FORWARD DROP");
        let before = ruleset();
        start(Spec {
            masquerade: None,
            forward: Forward::Leave,
            ..spec()
        })
        .await;
        assert_eq!(ruleset(), before);
    });
}
