//! Commands for peers: what they are told, in which order, and how often.

use std::time::Duration;

use super::bed::{Bed, facts, run, subnet, wait};

#[test]
fn commands_know_their_peer() {
    run(async {
        let mut bed = Bed::new();
        let command = |name: &str| {
            format!(
                "{{ env | grep -v -e ^_= -e ^PWD= -e ^PATH= -e ^D= -e ^SHLVL= -e ^OLDPWD= | sort; cat; }} > $D/{name}.new; \
                 mv $D/{name}.new $D/{name}"
            )
        };
        bed.options.subnet_add = Some(command("add"));
        bed.options.subnet_remove = Some(command("remove"));
        let mut peers = bed.peers();
        peers.set_peers(&facts([(7, "line one\n\t<two> \"é\"")]));
        let told = "PUBLIC_IP=192.168.7.7\nSUBNET=10.5.7.0/24\nline one\n\t<two> \"é\"\n";
        bed.wait_for("add", told).await;
        peers.set_peers(&facts([]));
        bed.wait_for("remove", told).await;
        wait("the end", || peers.pending() == 0).await;
        peers.stop().await;
    });
}

#[test]
fn a_peer_is_added_again_only_when_it_has_changed() {
    run(async {
        let mut bed = Bed::new();
        bed.options.subnet_add = Some("echo \"$PUBLIC_IP $(cat)\" >> $D/log".into());
        bed.options.subnet_remove = Some("echo \"gone $(cat)\" >> $D/log".into());
        let mut peers = bed.peers();
        for data in ["a", "a", "b"] {
            peers.set_peers(&facts([(1, data)]));
            wait("the end", || peers.pending() == 0).await;
        }
        let expected = "192.168.7.1 a\n192.168.7.1 b\n";
        assert_eq!(bed.read("log"), expected);
        peers.stop().await;
        // A new agent has no memory, as flannel has none, and ends without taking back.
        let mut peers = bed.peers();
        peers.set_peers(&facts([(1, "b")]));
        bed.wait_for("log", &format!("{expected}192.168.7.1 b\n"))
            .await;
        peers.stop().await;
        assert!(!bed.read("log").contains("gone"));
    });
}

#[test]
fn a_lease_that_goes_during_its_add_is_removed_after_it() {
    run(async {
        let mut bed = Bed::new();
        bed.options.subnet_add = Some(
            "echo begins >> $D/log; while ! [ -e $D/go ]; do sleep 0.01; done; echo ends >> $D/log"
                .into(),
        );
        bed.options.subnet_remove = Some("echo removed >> $D/log".into());
        let mut peers = bed.peers();
        peers.set_peers(&facts([(1, "")]));
        bed.wait_for("log", "begins\n").await;
        peers.set_peers(&facts([]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(bed.read("log"), "begins\n");
        bed.write("go", "");
        bed.wait_for("log", "begins\nends\nremoved\n").await;
        peers.stop().await;
    });
}

#[test]
fn what_fails_is_told_and_tried_again_until_it_succeeds() {
    run(async {
        let mut bed = Bed::new();
        bed.options.subnet_add = Some(
            "echo $SUBNET >> $D/tries; [ $SUBNET = 10.5.2.0/24 ] || [ -e $D/works ] || { echo not yet >&2; exit 4; }"
                .into(),
        );
        let mut peers = bed.peers();
        peers.set_peers(&facts([(1, ""), (2, "")]));
        wait("a second try", || {
            bed.read("tries").matches("10.5.1.0/24").count() >= 2
        })
        .await;
        wait("a failure", || !peers.failures().is_empty()).await;
        let [(failed, reason)] = peers.failures().try_into().unwrap();
        assert_eq!(failed, subnet(1));
        assert!(reason.contains("SubnetAddCommand"), "{reason}");
        assert!(reason.ends_with("exit status: 4: not yet"), "{reason}");
        bed.write("works", "");
        wait("success", || {
            peers.failures().is_empty() && peers.pending() == 0
        })
        .await;
        assert_eq!(bed.read("tries").matches("10.5.2.0/24").count(), 1);
        peers.stop().await;
    });
}

#[test]
fn many_peers_are_added_a_few_at_a_time() {
    const PEERS: u8 = 60;
    run(async {
        let mut bed = Bed::new();
        bed.options.subnet_add = Some(
            "n=${SUBNET%.0/24}; mkdir -p $D/running/${n##*.}; ls $D/running | wc -l >> $D/counts; \
             sleep 0.05; rmdir $D/running/${n##*.}"
                .into(),
        );
        let mut peers = bed.peers();
        peers.set_peers(&facts((0..PEERS).map(|number| (number, ""))));
        assert!(peers.pending() > 8);
        wait("all added", || peers.pending() == 0).await;
        assert_eq!(peers.failures(), []);
        let counts = bed.read("counts");
        let counts: Vec<u32> = counts
            .lines()
            .map(|line| line.trim().parse().unwrap())
            .collect();
        assert_eq!(counts.len(), usize::from(PEERS));
        let most = *counts.iter().max().unwrap();
        assert!((2..=8).contains(&most), "{counts:?}");
        peers.stop().await;
    });
}

#[test]
fn without_commands_there_is_nothing_to_do() {
    run(async {
        let mut peers = Bed::new().peers();
        peers.set_peers(&facts((0..=255).map(|number| (number, ""))));
        wait("the end", || peers.pending() == 0).await;
        peers.set_peers(&facts([]));
        wait("the end", || peers.pending() == 0).await;
        assert_eq!(peers.failures(), []);
        peers.stop().await;
    });
}
