//! Rules that stock flannel has left, made with the tools that it uses, and gone without a moment
//! without rules.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::bed::{
    ANY, Bed, HOST, NODE, OTHER, OUTSIDE, POD, REMOTE, on_host, ruleset, run, seen, send, sh,
    source, spec, start,
};

const BOTH: [&str; 2] = ["iptables-nft", "iptables-legacy"];

/// The rules of flannel v0.28 in its iptables mode.
fn stock_iptables(iptables: &str, network: &str, subnet: &str, multicast: &str) {
    sh(&format!(
        "I='{iptables} -w'
         M='-m comment --comment \"flanneld masq\"'
         F='-m comment --comment \"flanneld forward\"'
         $I -t nat -N FLANNEL-POSTRTG
         eval $I -t nat -A POSTROUTING $M -j FLANNEL-POSTRTG
         add() {{ eval $I -t nat -A FLANNEL-POSTRTG \"$*\"; }}
         add -m mark --mark 0x4000/0x4000 $M -j RETURN
         add -s {subnet} -d {network} $M -j RETURN
         add -s {network} -d {subnet} $M -j RETURN
         add '!' -s {network} -d {subnet} $M -j RETURN
         add -s {network} '!' -d {multicast} $M -j MASQUERADE --random-fully
         add '!' -s {network} -d {network} $M -j MASQUERADE --random-fully
         $I -N FLANNEL-FWD
         eval $I -A FORWARD $F -j FLANNEL-FWD
         eval $I -A FLANNEL-FWD -s {network} $F -j ACCEPT
         eval $I -A FLANNEL-FWD -d {network} $F -j ACCEPT"
    ));
}

/// The rules of flannel v0.28 in its nftables mode, with the defect.
fn stock_nft() {
    sh("nft -f - <<'END'
        table ip6 flannel-ipv6 { comment \"rules for flannel-ipv6\"; }
        table ip flannel-ipv4 {
          comment \"rules for flannel-ipv4\";
          chain forward {
            type filter hook forward priority filter; policy accept;
            ip saddr 10.5.0.0/16 accept
            ip daddr 10.5.0.0/16 accept
          }
          chain postrtg {
            type nat hook postrouting priority srcnat; policy accept;
            meta mark 0x4000 return
            ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
            ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
            ip saddr != 10.5.1.0/24 ip daddr 10.5.0.0/16 return
            ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
            ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
          }
        }
END");
}

/// Has the pod open flow after flow to the outside while `change` runs. Returns how many flows
/// there were, and how many arrived from each source.
async fn under_a_flood(
    bed: &Bed,
    change: impl AsyncFnOnce(),
) -> (usize, BTreeMap<Ipv4Addr, usize>) {
    let socket = bed.outside.within(|| UdpSocket::bind((ANY, 0)).unwrap());
    let port = socket.local_addr().unwrap().port();
    let stop = Arc::new(AtomicBool::new(false));
    let arrived = Arc::new(AtomicUsize::new(0));
    let received = bed.outside.start({
        let (stop, arrived) = (Arc::clone(&stop), Arc::clone(&arrived));
        move || {
            let mut sources = BTreeMap::new();
            let wait = Some(Duration::from_millis(200));
            socket.set_read_timeout(wait).unwrap();
            loop {
                match socket.recv_from(&mut [0; 16]) {
                    Ok((_, SocketAddr::V4(from))) => {
                        *sources.entry(*from.ip()).or_default() += 1;
                        arrived.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(_) => {}
                    Err(_) if stop.load(Ordering::Relaxed) => return sources,
                    Err(_) => {}
                }
            }
        }
    });
    let sent = bed.pod.start({
        let stop = Arc::clone(&stop);
        move || {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                send(ANY, OUTSIDE, port);
                sent += 1;
                // Not faster than they are received; one that never arrives is not waited for long.
                let deadline = Instant::now() + Duration::from_millis(100);
                while sent > arrived.load(Ordering::Relaxed) + 32 && Instant::now() < deadline {
                    std::thread::yield_now();
                }
            }
            sent
        }
    });
    // Flows before, during and after.
    tokio::time::sleep(Duration::from_millis(50)).await;
    change().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.store(true, Ordering::Relaxed);
    (sent.recv().unwrap(), received.recv().unwrap())
}

fn assert_all_from_host((sent, sources): (usize, BTreeMap<Ipv4Addr, usize>)) {
    assert!(sent > 100, "{sent}");
    assert_eq!(sources, BTreeMap::from([(HOST, sent)]));
}

#[test]
fn a_flood_without_rules_shows_the_pod() {
    on_host(async |bed| {
        let (sent, sources) = under_a_flood(&bed, async || {}).await;
        assert_eq!(sources, BTreeMap::from([(POD, sent)]));
    });
}

#[test]
fn rules_of_iptables_go_without_a_moment_without_masquerade_and_forwarding() {
    for iptables in BOTH {
        on_host(async move |bed| {
            run(&format!(
                "{iptables} -w -t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE"
            ));
            run(&format!(
                "{iptables} -w -A FORWARD -s 10.9.0.0/16 -j ACCEPT"
            ));
            run(&format!("{iptables} -w -P FORWARD DROP"));
            let before = run(&format!("{iptables} -w -t nat -S"));
            stock_iptables(iptables, "10.5.0.0/16", "10.5.1.0/24", "224.0.0.0/4");
            let flood = under_a_flood(&bed, async || drop(start(spec()).await)).await;
            assert_all_from_host(flood);
            assert_eq!(run(&format!("{iptables} -w -t nat -S")), before);
            let filter = run(&format!("{iptables} -w -S"));
            assert!(
                !filter.contains("FLANNEL") && !filter.contains("flanneld"),
                "{filter}"
            );
            assert!(
                filter.contains("-A FORWARD -s 10.9.0.0/16 -j ACCEPT"),
                "{filter}"
            );
            assert_eq!(source(&bed.outside, &bed.remote, OTHER), None);
        });
    }
}

#[test]
fn rules_for_ipv6_go_as_well() {
    for iptables in ["ip6tables-nft", "ip6tables-legacy"] {
        on_host(async move |_bed| {
            run(&format!("{iptables} -w -t nat -L"));
            let before = run(&format!("{iptables} -w -t nat -S"));
            stock_iptables(iptables, "fd00:5::/48", "fd00:5:0:1::/64", "ff00::/8");
            start(spec()).await;
            assert_eq!(run(&format!("{iptables} -w -t nat -S")), before);
            assert!(!run(&format!("{iptables} -w -S")).contains("FLANNEL"));
        });
    }
}

#[test]
fn d10_the_tables_of_nftables_mode_are_replaced_without_a_moment_without_masquerade() {
    on_host(async |bed| {
        stock_nft();
        let from_host = |port| send(HOST, REMOTE, port);
        assert_eq!(seen(&bed.remote, 0, from_host), Some(HOST), "the defect");
        let flood = under_a_flood(&bed, async || drop(start(spec()).await)).await;
        assert_all_from_host(flood);
        assert_eq!(seen(&bed.remote, 0, from_host), Some(NODE));
        let tables = run("nft list tables");
        assert_eq!(tables, "table ip flannel-ipv4\n");
        assert!(!ruleset().contains("chain forward"));
    });
}

#[test]
fn repair_leaves_no_moment_either() {
    on_host(async |bed| {
        let mut rules = start(spec()).await;
        let flood = under_a_flood(&bed, async || {
            for _ in 0..20 {
                run("nft add rule ip flannel-ipv4 postrtg accept");
                rules.sync().await;
            }
        });
        assert_all_from_host(flood.await);
    });
}

#[test]
fn rules_of_older_versions_go_if_they_are_of_our_network() {
    for iptables in BOTH {
        on_host(async move |_bed| {
            // v0.5, and v0.6 to v0.19, of two networks.
            let old = |network: &str, subnet: &str| {
                sh(&format!(
                    "I='{iptables} -w -t nat'
                     $I -A POSTROUTING -s {network} -d {network} -j RETURN
                     $I -A POSTROUTING -s {network} ! -d 224.0.0.0/4 -j MASQUERADE
                     $I -A POSTROUTING ! -s {network} -d {subnet} -m comment --comment 'flanneld masq' -j RETURN
                     $I -A POSTROUTING ! -s {network} -d {network} -j MASQUERADE --random-fully
                     {iptables} -w -A FORWARD -s {network} -j ACCEPT
                     {iptables} -w -A FORWARD -d {network} -j ACCEPT"
                ));
            };
            sh(&format!(
                "I='{iptables} -w -t nat'
                 $I -A POSTROUTING -s 10.5.0.0/16 -o eth0 -j MASQUERADE
                 $I -A POSTROUTING ! -s 10.5.0.0/16 -d 10.7.1.0/24 -j RETURN
                 {iptables} -w -A FORWARD -s 10.5.0.0/16 -i eth0 -j ACCEPT"
            ));
            old("10.6.0.0/16", "10.6.1.0/24");
            let nat = format!("{iptables} -w -t nat -S");
            let filter = format!("{iptables} -w -S");
            let before = (run(&nat), run(&filter));
            // The subnet of an earlier lease.
            old("10.5.0.0/16", "10.5.77.0/24");
            sh(&format!(
                "I='{iptables} -w -t nat'
                 $I -N FLANNEL
                 $I -A FLANNEL -d 10.5.0.0/16 -j ACCEPT
                 $I -A FLANNEL ! -d 224.0.0.0/4 -j MASQUERADE
                 $I -A POSTROUTING -s 10.5.0.0/16 -j FLANNEL
                 $I -A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE"
            ));
            start(spec()).await;
            let ours = |line: &&str| !line.contains("flannel-agent");
            let kept: String = run(&filter).split_inclusive('\n').filter(ours).collect();
            assert_eq!((run(&nat), kept), before, "{iptables}");
        });
    }
}

#[test]
fn a_chain_of_the_old_name_with_other_rules_stays() {
    for iptables in BOTH {
        on_host(async move |_bed| {
            sh(&format!(
                "I='{iptables} -w -t nat'
                 $I -N FLANNEL
                 $I -A FLANNEL -d 10.5.0.0/16 -j ACCEPT
                 $I -A FLANNEL -p tcp -j ACCEPT
                 $I -A POSTROUTING -s 10.5.0.0/16 -j FLANNEL"
            ));
            let before = run(&format!("{iptables} -w -t nat -S"));
            start(spec()).await;
            assert_eq!(run(&format!("{iptables} -w -t nat -S")), before);
        });
    }
}

#[test]
fn leftovers_that_cannot_go_do_not_keep_ours_away() {
    on_host(async |bed| {
        stock_iptables("iptables-nft", "10.5.0.0/16", "10.5.1.0/24", "224.0.0.0/4");
        // A use of the chain that no listing of rules by iptables would have.
        sh("nft 'add rule ip nat POSTROUTING ip protocol vmap { tcp : jump FLANNEL-POSTRTG }'");
        start(spec()).await;
        assert!(ruleset().contains("flannel-agent masq"));
        assert_eq!(source(&bed.pod, &bed.outside, OUTSIDE), Some(HOST));
    });
}
