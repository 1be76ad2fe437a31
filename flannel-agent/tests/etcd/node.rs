//! What a node asks for, writes and keeps.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::time::Duration;

use flannel_agent::config::Config;
use flannel_agent::lease::{LeaseAttrs, LeaseChange, LeaseTable, Subnet};
use flannel_agent::network::NetworkConfig;
use flannel_agent::subnet::Timing;
use flannel_agent::subnet::acquire::{AcquireError, HeldLease, Term, Wish, acquire};
use flannel_agent::subnet::keep::{Loss, keep};
use flannel_agent::subnet::store::Store;
use flannel_agent::subnet::watch::watch_leases;
use flannel_agent::{cli, status};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::server::PATIENCE;

pub(super) fn store(args: &[&str]) -> Store {
    let parsed = cli::parse(args.iter().map(OsString::from), |_| None).unwrap();
    let cli::Command::Run(args) = parsed.command else {
        panic!("{parsed:?}");
    };
    let (config, _) = Config::new(*args, |_| None).unwrap();
    Store::new(&config.etcd).unwrap()
}

pub(super) fn network(subnets: &str) -> NetworkConfig {
    let text = format!(r#"{{"Network":"10.5.0.0/16",{subnets}"Backend":{{"Type":"vxlan"}}}}"#);
    NetworkConfig::parse(&text).unwrap().0
}

pub(super) fn attrs(last: u8) -> LeaseAttrs {
    let data = format!(r#"{{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:{last:02x}"}}"#);
    LeaseAttrs {
        public_ip: Ipv4Addr::new(192, 168, 7, last),
        public_ipv6: None,
        backend_type: "vxlan".into(),
        backend_data: Some(RawValue::from_string(data).unwrap()),
        backend_v6_data: None,
    }
}

pub(super) fn value(last: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.7.{last}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:{last:02x}"}}}}"#
    )
}

pub(super) fn subnet(text: &str) -> Subnet {
    Subnet {
        v4: text.parse().unwrap(),
        v6: None,
    }
}

pub(super) fn timing() -> Timing {
    Timing {
        retry: Duration::from_millis(100),
        backoff_first: Duration::from_millis(50),
        backoff_limit: Duration::from_millis(500),
        ..Timing::new(Duration::from_secs(3600))
    }
}

pub(super) async fn try_acquire(
    store: &Store,
    network: &NetworkConfig,
    last: u8,
    previous: Option<Subnet>,
) -> Result<HeldLease, AcquireError> {
    let wish = Wish {
        attrs: attrs(last),
        previous,
        former_ip: None,
    };
    let mut rng = StdRng::seed_from_u64(last.into());
    let cancel = CancellationToken::new();
    let timing = timing();
    let acquired = acquire(store, network, &wish, &timing, &mut rng, None, &cancel);
    timeout(PATIENCE, acquired).await.unwrap().unwrap()
}

pub(super) async fn acquire_as(store: &Store, last: u8) -> HeldLease {
    try_acquire(store, &network(""), last, None).await.unwrap()
}

/// A lease kept in the background.
pub(super) struct Kept {
    pub(super) task: tokio::task::JoinHandle<Option<Loss>>,
    pub(super) term: watch::Receiver<Term>,
    pub(super) cancel: CancellationToken,
}

pub(super) fn keep_in_background(store: &Store, lease: HeldLease, timing: Timing) -> Kept {
    let (sender, term) = watch::channel(lease.term);
    let cancel = CancellationToken::new();
    let (store, stop) = (store.clone(), cancel.clone());
    let task = tokio::spawn(async move { keep(&store, lease, &timing, &sender, &stop).await });
    Kept { task, term, cancel }
}

impl Kept {
    pub(super) async fn loss(self) -> Loss {
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }
}

/// The table of leases as the agent would see it.
pub(super) struct Watched {
    pub(super) changes: mpsc::Receiver<LeaseChange>,
    pub(super) health: watch::Receiver<status::Store>,
    pub(super) table: LeaseTable,
    pub(super) cancel: CancellationToken,
    pub(super) task: tokio::task::JoinHandle<()>,
}

pub(super) fn watch_in_background(store: &Store) -> Watched {
    let (sender, changes) = mpsc::channel(16);
    let (report, health) = watch::channel(status::Store::default());
    let cancel = CancellationToken::new();
    let (store, stop) = (store.clone(), cancel.clone());
    let task = tokio::spawn(async move {
        watch_leases(&store, &timing(), None, sender, report, &stop).await;
    });
    Watched {
        changes,
        health,
        table: LeaseTable::default(),
        cancel,
        task,
    }
}

impl Watched {
    pub(super) fn subnets(&self) -> Vec<String> {
        let nobody = "127.0.0.0/8".parse().unwrap();
        let peers = self.table.peers(nobody);
        peers.map(|lease| lease.subnet.to_string()).collect()
    }

    /// Applies changes until the table holds exactly these subnets.
    pub(super) async fn until(&mut self, expected: &[&str]) {
        let reached = timeout(PATIENCE, async {
            while self.subnets() != expected {
                let change = self.changes.recv().await.unwrap();
                self.table.apply(change);
            }
        });
        let reached = reached.await;
        assert!(
            reached.is_ok(),
            "{:?} instead of {expected:?}",
            self.subnets()
        );
    }

    pub(super) async fn until_health(&mut self, is_right: impl FnMut(&status::Store) -> bool) {
        timeout(PATIENCE, self.health.wait_for(is_right))
            .await
            .unwrap()
            .unwrap();
    }
}
