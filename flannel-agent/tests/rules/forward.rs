//! Accepted forwarding, on hosts whose iptables drop what is forwarded, as Docker's do.

use std::time::Duration;

use flannel_agent::rules::{Forward, Spec};

use super::bed::{
    Bed, OTHER, OUTSIDE, POD, REMOTE, eventually, on_host, ruleset, run, sh, source, spec, start,
};

const BOTH: [&str; 2] = ["iptables-nft", "iptables-legacy"];

/// What Docker makes of a host, in the parts that matter: version 28, whose own chain drops what
/// comes to a container over another interface than the container's bridge.
fn docker(iptables: &str) {
    sh(&format!(
        "I='{iptables} -w'
         $I -P FORWARD DROP
         $I -N DOCKER-USER 2>/dev/null || true
         $I -C DOCKER-USER -j RETURN 2>/dev/null || $I -A DOCKER-USER -j RETURN
         $I -N DOCKER
         $I -A DOCKER ! -i docker0 -o docker0 -j DROP
         $I -A FORWARD -j DOCKER-USER
         $I -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         $I -A FORWARD -o docker0 -j DOCKER
         $I -A FORWARD -i docker0 ! -o docker0 -j ACCEPT"
    ));
}

fn assert_overlay_alone_is_forwarded(bed: &Bed, context: &str) {
    let Bed {
        pod,
        remote,
        outside,
    } = bed;
    let is_forwarded = [
        source(pod, remote, REMOTE).is_some(),
        source(outside, pod, POD).is_some(),
        source(remote, pod, POD).is_some(),
        source(outside, remote, REMOTE).is_some(),
    ];
    assert_eq!(is_forwarded, [true; 4], "{context}");
    assert_eq!(source(outside, remote, OTHER), None, "{context}");
    assert_eq!(source(remote, outside, OUTSIDE), None, "{context}");
}

fn listed(iptables: &str) -> String {
    run(&format!("{iptables} -w -S"))
}

#[test]
fn the_overlay_is_forwarded_beside_docker_and_nothing_else() {
    for iptables in BOTH {
        on_host(async move |bed| {
            docker(iptables);
            assert_eq!(source(&bed.outside, &bed.pod, POD), None);
            start(spec()).await;
            assert_overlay_alone_is_forwarded(&bed, iptables);
            let listed = listed(iptables);
            let ours = "-A DOCKER-USER -s 10.5.0.0/16 -m comment --comment \"flannel-agent \
                forward\" -j ACCEPT\n-A DOCKER-USER -d 10.5.0.0/16 -m comment --comment \
                \"flannel-agent forward\" -j ACCEPT\n-A DOCKER-USER -j RETURN\n";
            assert!(listed.contains(ours), "{listed}");
        });
    }
}

#[test]
fn a_bare_policy_of_drop_is_dealt_with() {
    for iptables in BOTH {
        on_host(async move |bed| {
            run(&format!("{iptables} -w -P FORWARD DROP"));
            start(spec()).await;
            assert_overlay_alone_is_forwarded(&bed, iptables);
        });
    }
}

#[test]
fn a_closing_reject_is_preceded() {
    for iptables in BOTH {
        on_host(async move |bed| {
            run(&format!("{iptables} -w -A FORWARD -i eth9 -j ACCEPT"));
            run(&format!("{iptables} -w -A FORWARD -j REJECT"));
            start(spec()).await;
            assert_overlay_alone_is_forwarded(&bed, iptables);
        });
    }
}

#[test]
fn what_an_administrator_drops_stays_dropped() {
    for iptables in BOTH {
        on_host(async move |bed| {
            docker(iptables);
            let admin = format!("{iptables} -w -I DOCKER-USER -s 192.168.7.1 -j DROP");
            run(&admin);
            start(spec()).await;
            assert_eq!(source(&bed.outside, &bed.pod, POD), None, "{iptables}");
            assert!(source(&bed.pod, &bed.remote, REMOTE).is_some());
        });
    }
}

#[test]
fn docker_that_comes_later_or_again_is_dealt_with() {
    for iptables in BOTH {
        on_host(async move |bed| {
            let mut rules = start(spec()).await;
            docker(iptables);
            rules.sync().await;
            assert_overlay_alone_is_forwarded(&bed, iptables);
            // Without Docker's chain they move, and back.
            sh(&format!(
                "{iptables} -w -F FORWARD; {iptables} -w -F DOCKER; {iptables} -w -X DOCKER"
            ));
            rules.sync().await;
            assert_overlay_alone_is_forwarded(&bed, iptables);
            let listed = listed(iptables);
            assert_eq!(listed.matches("flannel-agent").count(), 2, "{listed}");
            assert!(listed.contains("-A FORWARD -s 10.5.0.0/16"), "{listed}");
            sh(&format!(
                "{iptables} -w -F FORWARD; {iptables} -w -F DOCKER-USER"
            ));
            docker(iptables);
            rules.sync().await;
            assert_overlay_alone_is_forwarded(&bed, iptables);
        });
    }
}

#[test]
fn docker_under_iptables_nft_is_noticed_at_once() {
    on_host(async |bed| {
        let mut rules = start(spec()).await;
        let docker_comes = async {
            docker("iptables-nft");
            let is_accepted = || ruleset().contains("flannel-agent forward");
            eventually("the rules come", is_accepted).await;
            eventually("all of them", || {
                source(&bed.outside, &bed.pod, POD).is_some()
            })
            .await;
        };
        tokio::select! {
            never = rules.keep(Duration::from_secs(3600)) => match never {},
            () = docker_comes => {}
        }
    });
}

#[test]
fn both_kinds_of_iptables_at_once_are_dealt_with() {
    on_host(async |bed| {
        for iptables in BOTH {
            docker(iptables);
        }
        start(spec()).await;
        assert_overlay_alone_is_forwarded(&bed, "both");
    });
}

#[test]
fn rules_that_are_there_are_not_written_again() {
    for iptables in BOTH {
        on_host(async move |bed| {
            docker(iptables);
            start(spec()).await;
            // A rewrite would lose them.
            let counters = "-w -S -v";
            run(&format!("{iptables} -w -Z"));
            let sent = source(&bed.pod, &bed.remote, REMOTE);
            assert!(sent.is_some());
            let first = (run(&format!("{iptables} {counters}")), ruleset());
            start(spec()).await;
            assert_eq!(
                (run(&format!("{iptables} {counters}")), ruleset()),
                first,
                "{iptables}"
            );
        });
    }
}

#[test]
fn rules_of_another_network_or_without_a_wish_go() {
    for iptables in BOTH {
        on_host(async move |_bed| {
            docker(iptables);
            let before = listed(iptables);
            let network = "10.4.0.0/15".parse().unwrap();
            start(Spec { network, ..spec() }).await;
            start(spec()).await;
            let both = listed(iptables);
            assert_eq!(both.matches("flannel-agent").count(), 4, "{both}");
            assert!(!both.contains("10.4.0.0/15"), "{both}");
            let forward = Forward::Leave;
            start(Spec { forward, ..spec() }).await;
            assert_eq!(listed(iptables), before);
        });
    }
}

#[test]
fn a_host_without_iptables_rules_gets_none() {
    on_host(async |_bed| {
        start(Spec {
            masquerade: None,
            ..spec()
        })
        .await;
        assert_eq!(ruleset(), "");
        assert_eq!(run("cat /proc/thread-self/net/ip_tables_names"), "");
    });
}
