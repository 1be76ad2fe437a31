//! Renewal, and the loss of a lease.

use std::net::Ipv4Addr;
use std::time::Duration;

use etcd_client::PutOptions;
use flannel_agent::subnet::Timing;
use flannel_agent::subnet::acquire::{Term, Wish, acquire};
use flannel_agent::subnet::keep::Loss;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::node::{attrs, keep_in_background, network, subnet, timing, try_acquire, value};
use super::server::{Etcd, PATIENCE, SUBNETS};

#[tokio::test]
async fn the_loss_of_a_lease_is_noticed_and_told_apart() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let wish = Some(subnet("10.5.7.0/24"));
    let hold = async || {
        let held = try_acquire(&store, &network(""), 11, wish).await.unwrap();
        keep_in_background(&store, held, timing())
    };
    let name = "10.5.7.0/24".to_owned();

    // Once the keeper has noticed a change, what comes after reaches it through its watch.
    let mut kept = hold().await;
    etcd.put("10.5.7.0-24", &value(11)).await;
    let noticed = kept.term.wait_for(|term| *term == Term::Reserved);
    drop(timeout(PATIENCE, noticed).await.unwrap().unwrap());
    let key = format!("{SUBNETS}/10.5.7.0-24");
    etcd.client().await.delete(key.clone(), None).await.unwrap();
    let subnet = name.clone();
    assert_eq!(kept.loss().await, Loss::Gone { subnet });

    // A deletion that the keeper did not see happen.
    let held = try_acquire(&store, &network(""), 11, wish).await.unwrap();
    etcd.client().await.delete(key.clone(), None).await.unwrap();
    let subnet = name.clone();
    let kept = keep_in_background(&store, held, timing());
    assert_eq!(kept.loss().await, Loss::Gone { subnet });

    let kept = hold().await;
    etcd.put("10.5.7.0-24", &value(12)).await;
    let by = Ipv4Addr::new(192, 168, 7, 12);
    assert_eq!(
        kept.loss().await,
        Loss::Taken {
            subnet: name.clone(),
            by
        }
    );

    etcd.client().await.delete(key, None).await.unwrap();
    let kept = hold().await;
    etcd.put("10.5.7.0-24", &value(11).replace("9c:0b", "9c:ff"))
        .await;
    let ip = Ipv4Addr::new(192, 168, 7, 11);
    assert_eq!(kept.loss().await, Loss::SharedPublicIp { subnet: name, ip });
}

#[tokio::test]
async fn garbage_in_the_own_key_is_written_over() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let held = try_acquire(&store, &network(""), 11, Some(subnet("10.5.7.0/24")))
        .await
        .unwrap();
    let lease = etcd.keys().await[0].2;
    let kept = keep_in_background(&store, held, timing());
    let options = PutOptions::new().with_lease(lease);
    let key = format!("{SUBNETS}/10.5.7.0-24");
    etcd.client()
        .await
        .put(key, "garbage", Some(options))
        .await
        .unwrap();
    let repaired = timeout(PATIENCE, async {
        while etcd.keys().await[0].1 != value(11) {
            sleep(Duration::from_millis(50)).await;
        }
    });
    repaired.await.unwrap();
    assert!(!kept.task.is_finished());
}

#[tokio::test]
async fn d4_a_lease_is_renewed_before_its_end_and_after_an_outage() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store();
    let timing = Timing {
        lease_ttl: Duration::from_secs(6),
        renew_margin: Duration::from_secs(4),
        ..timing()
    };
    let wish = Wish {
        attrs: attrs(11),
        previous: None,
        former_ip: None,
    };
    let mut rng = StdRng::seed_from_u64(1);
    let (network, cancel) = (network(""), CancellationToken::new());
    let held = acquire(&store, &network, &wish, &timing, &mut rng, None, &cancel).await;
    let held = held.unwrap().unwrap();
    let subnet = held.subnet;
    let first = etcd.keys().await;
    let mut kept = keep_in_background(&store, held, timing);
    timeout(PATIENCE, kept.term.changed())
        .await
        .unwrap()
        .unwrap();
    let second = etcd.keys().await;
    assert_eq!((&second[0].0, &second[0].1), (&first[0].0, &first[0].1));
    assert_ne!(second[0].2, first[0].2, "a renewal is a new etcd lease");

    // Longer than the time between two renewals.
    etcd.kill();
    sleep(Duration::from_secs(3)).await;
    assert!(!kept.task.is_finished());
    kept.term.mark_unchanged();
    etcd.restart().await;
    timeout(PATIENCE, kept.term.changed())
        .await
        .unwrap()
        .unwrap();
    let third = etcd.keys().await;
    assert_eq!(third[0].0, format!("{SUBNETS}/{}-24", subnet.v4.network()));
    assert!(!kept.task.is_finished());
}

/// A store that has gone back in time: its revisions are lower than that of the own last write.
#[tokio::test]
async fn a_lease_in_a_store_restored_from_older_data_is_written_again() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store();
    let held = try_acquire(&store, &network(""), 11, Some(subnet("10.5.7.0/24")))
        .await
        .unwrap();
    etcd.back_up().await;
    let restored = etcd.keys().await;
    // What has happened since: the lease has been renewed, at a higher revision.
    let timing = Timing {
        renew_margin: timing().lease_ttl - Duration::from_secs(1),
        ..timing()
    };
    let mut kept = keep_in_background(&store, held, timing);
    timeout(PATIENCE, kept.term.changed())
        .await
        .unwrap()
        .unwrap();
    assert_ne!(etcd.keys().await[0].2, restored[0].2);

    etcd.restore().await;
    let written = timeout(PATIENCE, async {
        loop {
            let keys = etcd.keys().await;
            assert_eq!((&keys[0].0, &keys[0].1), (&restored[0].0, &restored[0].1));
            if keys[0].2 != restored[0].2 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    written.await.expect("another lease of etcd");
    assert!(!kept.task.is_finished());
}

#[tokio::test]
async fn a_former_owner_in_a_store_restored_from_older_data_is_noticed() {
    for former in [Some(12), None] {
        let mut etcd = Etcd::start().await;
        let store = etcd.store();
        let key = format!("{SUBNETS}/10.5.7.0-24");
        if let Some(former) = former {
            etcd.put("10.5.7.0-24", &value(former)).await;
        }
        etcd.back_up().await;
        etcd.client().await.delete(key, None).await.unwrap();
        for number in 0..20 {
            etcd.put("10.5.9.0-24", &value(number)).await;
        }
        let held = try_acquire(&store, &network(""), 11, Some(subnet("10.5.7.0/24")))
            .await
            .unwrap();
        let kept = keep_in_background(&store, held, timing());
        etcd.restore().await;
        let subnet = "10.5.7.0/24".to_owned();
        let expected = match former {
            Some(former) => Loss::Taken {
                subnet,
                by: Ipv4Addr::new(192, 168, 7, former),
            },
            None => Loss::Gone { subnet },
        };
        assert_eq!(kept.loss().await, expected);
    }
}
