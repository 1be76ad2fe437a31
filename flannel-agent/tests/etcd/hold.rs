//! A lease that is lost while the agent runs.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use flannel_agent::lease::Subnet;
use flannel_agent::subnet::Timing;
use flannel_agent::subnet::acquire::{Wish, acquire, find_lease, list_leases};
use flannel_agent::subnet::hold::{HoldError, Holder, LeaseEvent, OnLoss};
use flannel_agent::subnet::keep::Loss;
use flannel_agent::subnet::store::Store;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::node::{acquire_as, attrs, network, store, subnet, timing, try_acquire, value};
use super::server::{Etcd, PATIENCE};

const KEY: &str = "/coreos.com/network/subnets/10.5.7.0-24";

/// What a holder has told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Lost(Loss),
    Held(Subnet),
}

struct Held {
    told: mpsc::UnboundedReceiver<Told>,
    task: tokio::task::JoinHandle<Result<(), HoldError>>,
    cancel: CancellationToken,
}

/// Acquires 10.5.7.0/24 as node 11 and holds it.
async fn hold(store: &Store, timing: Timing, on_loss: OnLoss) -> Held {
    let wish = Wish {
        attrs: attrs(11),
        previous: Some(subnet("10.5.7.0/24")),
        former_ip: None,
    };
    let network = network(r#""SubnetMin":"10.5.7.0","SubnetMax":"10.5.8.0","#);
    let mut rng = StdRng::seed_from_u64(1);
    let cancel = CancellationToken::new();
    let lease = acquire(store, &network, &wish, &timing, &mut rng, None, &cancel).await;
    let lease = lease.unwrap().unwrap();
    assert_eq!(lease.subnet, subnet("10.5.7.0/24"));
    let (sender, told) = mpsc::unbounded_channel();
    let (term, _) = watch::channel(lease.term);
    let (store, stop) = (store.clone(), cancel.clone());
    let task = tokio::spawn(async move {
        let holder = Holder {
            store: &store,
            network: &network,
            wish: &wish,
            timing: &timing,
            on_loss,
            term: &term,
        };
        let events = |event: LeaseEvent<'_>| {
            let told = match event {
                LeaseEvent::Lost(loss) => Told::Lost(loss.clone()),
                LeaseEvent::Held(lease) => Told::Held(lease.subnet),
            };
            sender.send(told).unwrap();
        };
        holder.hold(lease, &mut rng, events, &stop).await
    });
    Held { told, task, cancel }
}

impl Held {
    async fn next(&mut self) -> Told {
        timeout(PATIENCE, self.told.recv()).await.unwrap().unwrap()
    }

    async fn end(self) -> Result<(), HoldError> {
        timeout(PATIENCE, self.task).await.unwrap().unwrap()
    }
}

fn gone() -> Told {
    let subnet = "10.5.7.0/24".into();
    Told::Lost(Loss::Gone { subnet })
}

/// A way to etcd that can be cut.
struct Wire {
    port: u16,
    open: watch::Sender<bool>,
}

impl Wire {
    async fn to(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(true);
        let target = etcd.port;
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                if !*is_open.borrow_and_update() {
                    continue;
                }
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { port, open }
    }

    fn store(&self) -> Store {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        store(&["-etcd-endpoints", &endpoint])
    }
}

#[tokio::test]
async fn a_deleted_lease_is_acquired_again_with_its_subnet() {
    let etcd = Etcd::start().await;
    let mut held = hold(&etcd.store(), timing(), OnLoss::Reacquire).await;
    for _ in 0..2 {
        etcd.client().await.delete(KEY, None).await.unwrap();
        assert_eq!(held.next().await, gone());
        assert_eq!(held.next().await, Told::Held(subnet("10.5.7.0/24")));
    }
    let keys = etcd.keys().await;
    assert_eq!((keys[0].0.as_str(), &keys[0].1), (KEY, &value(11)));
    held.cancel.cancel();
    held.end().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_expires_while_etcd_is_away_is_acquired_again_with_its_subnet() {
    let etcd = Etcd::start().await;
    let wire = Wire::to(&etcd).await;
    let timing = Timing {
        lease_ttl: Duration::from_secs(3),
        renew_margin: Duration::from_secs(1),
        ..timing()
    };
    let mut held = hold(&wire.store(), timing, OnLoss::Reacquire).await;
    wire.open.send_replace(false);
    let expired = timeout(PATIENCE, async {
        while !etcd.keys().await.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    expired.await.unwrap();
    assert!(
        held.told.try_recv().is_err(),
        "nothing is concluded from silence"
    );
    wire.open.send_replace(true);
    assert_eq!(held.next().await, gone());
    assert_eq!(held.next().await, Told::Held(subnet("10.5.7.0/24")));
}

#[tokio::test]
async fn a_store_that_comes_back_empty_is_written_again() {
    let mut etcd = Etcd::start().await;
    // The revision of the store before is higher than that of the one after.
    for _ in 0..20 {
        etcd.client().await.put("x", "", None).await.unwrap();
    }
    let mut held = hold(&etcd.store(), timing(), OnLoss::Reacquire).await;
    etcd.kill();
    std::fs::remove_dir_all(etcd.dir.path().join("data")).unwrap();
    etcd.restart().await;
    assert_eq!(held.next().await, gone());
    assert_eq!(held.next().await, Told::Held(subnet("10.5.7.0/24")));
    assert_eq!(etcd.keys().await[0].1, value(11));
}

#[tokio::test]
async fn a_stolen_lease_is_replaced_by_another_until_there_is_none() {
    let etcd = Etcd::start().await;
    let mut held = hold(&etcd.store(), timing(), OnLoss::Reacquire).await;
    etcd.put("10.5.7.0-24", &value(12)).await;
    let loss = Loss::Taken {
        subnet: "10.5.7.0/24".into(),
        by: Ipv4Addr::new(192, 168, 7, 12),
    };
    assert_eq!(held.next().await, Told::Lost(loss));
    assert_eq!(held.next().await, Told::Held(subnet("10.5.8.0/24")));
    etcd.put("10.5.8.0-24", &value(13)).await;
    let error = held.end().await.unwrap_err();
    assert!(matches!(error, HoldError::NoOther { .. }), "{error}");
    assert_eq!(etcd.keys().await[0].1, value(12), "the thief is left alone");
}

#[tokio::test]
async fn a_lost_lease_is_the_end_when_that_is_asked_for() {
    let etcd = Etcd::start().await;
    let held = hold(&etcd.store(), timing(), OnLoss::Exit).await;
    etcd.client().await.delete(KEY, None).await.unwrap();
    let error = held.end().await.unwrap_err();
    assert!(
        matches!(error, HoldError::Lost(Loss::Gone { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn d17_of_two_nodes_with_one_public_ip_one_ends_with_the_reason() {
    let etcd = Etcd::start().await;
    let first = hold(&etcd.store(), timing(), OnLoss::Reacquire).await;
    // As a clone that has lost its state: it takes over even the MAC.
    let second = hold(&etcd.store(), timing(), OnLoss::Reacquire).await;
    let (first, second) = (first.task, second.task);
    let loser = timeout(PATIENCE, async {
        tokio::select! { ended = first => ended, ended = second => ended }
    });
    let error = loser.await.unwrap().unwrap().unwrap_err();
    let HoldError::Lost(loss @ Loss::SharedPublicIp { .. }) = error else {
        panic!("{error}");
    };
    assert!(loss.to_string().contains("--public-ip"), "{loss}");
}

#[tokio::test]
async fn d17_a_clone_with_another_mac_is_noticed_at_once() {
    let etcd = Etcd::start().await;
    let held = hold(&etcd.store(), timing(), OnLoss::Reacquire).await;
    let store = Arc::new(etcd.store());
    let mut clone = attrs(12);
    clone.public_ip = attrs(11).public_ip;
    let wish = Wish {
        attrs: clone,
        previous: None,
        former_ip: None,
    };
    let mut rng = StdRng::seed_from_u64(2);
    let (network, cancel) = (network(""), CancellationToken::new());
    let taken = acquire(&store, &network, &wish, &timing(), &mut rng, None, &cancel).await;
    assert_eq!(taken.unwrap().unwrap().subnet, subnet("10.5.7.0/24"));
    let error = held.end().await.unwrap_err();
    assert!(
        matches!(error, HoldError::Lost(Loss::SharedPublicIp { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn the_lease_of_a_public_ip_is_found_before_anything_is_acquired() {
    let etcd = Etcd::start().await;
    etcd.put("10.5.7.0-24", &value(12)).await;
    etcd.put("10.5.8.0-24", &value(11)).await;
    let cancel = CancellationToken::new();
    let listing = list_leases(&etcd.store(), &timing(), &cancel)
        .await
        .unwrap();
    let find = |last| find_lease(&listing, Ipv4Addr::new(192, 168, 7, last));
    assert_eq!(find(11).unwrap().subnet, subnet("10.5.8.0/24"));
    assert_eq!(find(13), None);
}

#[tokio::test]
async fn of_several_leases_with_the_own_public_ip_the_one_that_fits_is_taken() {
    let etcd = Etcd::start().await;
    etcd.put("10.4.1.0-24", &value(11)).await;
    etcd.put("10.5.7.0-24", &value(11)).await;
    etcd.put("10.5.8.0-24", &value(11)).await;
    let first = acquire_as(&etcd.store(), 11).await;
    assert_eq!(first.subnet, subnet("10.5.7.0/24"));
    let wish = Some(subnet("10.5.8.0/24"));
    let held = try_acquire(&etcd.store(), &network(""), 11, wish)
        .await
        .unwrap();
    assert_eq!(held.subnet, subnet("10.5.8.0/24"));
}
