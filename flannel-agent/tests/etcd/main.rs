//! The subnet modules against a real etcd (3.4 or later on the path), one server per test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hold;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, CompactionOptions, GetOptions, PutOptions};
use flannel_agent::cli;
use flannel_agent::config::Config;
use flannel_agent::lease::{LeaseAttrs, LeaseChange, LeaseTable, Subnet};
use flannel_agent::network::NetworkConfig;
use flannel_agent::status;
use flannel_agent::subnet::Timing;
use flannel_agent::subnet::acquire::{AcquireError, HeldLease, Term, Wish, acquire, find_lease};
use flannel_agent::subnet::keep::{Loss, keep};
use flannel_agent::subnet::settings::{read_network, wait_for_network, watch_network};
use flannel_agent::subnet::store::Store;
use flannel_agent::subnet::watch::watch_leases;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const PREFIX: &str = "/coreos.com/network";
const SUBNETS: &str = "/coreos.com/network/subnets";

/// What may take a while on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An etcd of one member on free loopback ports; killed and removed on drop.
struct Etcd {
    dir: TempDir,
    port: u16,
    peer_port: u16,
    child: Child,
}

impl Etcd {
    async fn start() -> Self {
        let etcd = Self::launch(tempfile::tempdir().unwrap(), None);
        etcd.wait_until_up().await;
        etcd
    }

    fn launch(dir: TempDir, tls: Option<&[String; 2]>) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [bind(), bind()].map(|socket| socket.local_addr().unwrap().port());
        let [port, peer_port] = ports;
        let child = spawn(&dir, port, peer_port, tls);
        Self {
            dir,
            port,
            peer_port,
            child,
        }
    }

    async fn wait_until_up(&self) {
        let start = Instant::now();
        loop {
            let answer = timeout(Duration::from_secs(2), async {
                self.client().await.get("up", None).await
            });
            if let Ok(Ok(_)) = answer.await {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "etcd does not come up");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the server as `kill -9` does.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn restart(&mut self) {
        self.child = spawn(&self.dir, self.port, self.peer_port, None);
        self.wait_until_up().await;
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn client(&self) -> Client {
        Client::connect([self.endpoint()], None).await.unwrap()
    }

    fn store(&self) -> Store {
        store(&["-etcd-endpoints", &self.endpoint()])
    }

    async fn put(&self, name: &str, value: &str) {
        let key = format!("{SUBNETS}/{name}");
        self.client().await.put(key, value, None).await.unwrap();
    }

    async fn keys(&self) -> Vec<(String, String, i64)> {
        let options = GetOptions::new().with_prefix();
        let answer = self
            .client()
            .await
            .get(PREFIX, Some(options))
            .await
            .unwrap();
        let key = |kv: &etcd_client::KeyValue| {
            let (key, value) = (kv.key_str().unwrap(), kv.value_str().unwrap());
            (key.to_owned(), value.to_owned(), kv.lease())
        };
        answer.kvs().iter().map(key).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, port: u16, peer_port: u16, tls: Option<&[String; 2]>) -> Child {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new("etcd");
    if let Some([cert, key]) = tls {
        command.args(["--cert-file", cert, "--key-file", key]);
    }
    command
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--log-level", "error", "--unsafe-no-fsync"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A certificate of an authority of its own, for 127.0.0.1: its file and that of the key.
fn self_signed(dir: &TempDir) -> [String; 2] {
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-subj",
            "/CN=etcd",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-days",
            "2",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success(), "openssl makes a certificate");
    [cert, key].map(|path| path.to_str().unwrap().to_owned())
}

fn store(args: &[&str]) -> Store {
    let parsed = cli::parse(args.iter().map(OsString::from), |_| None).unwrap();
    let cli::Command::Run(args) = parsed.command else {
        panic!("{parsed:?}");
    };
    let (config, _) = Config::new(*args, |_| None).unwrap();
    Store::new(&config.etcd).unwrap()
}

fn network(subnets: &str) -> NetworkConfig {
    let text = format!(r#"{{"Network":"10.5.0.0/16",{subnets}"Backend":{{"Type":"vxlan"}}}}"#);
    NetworkConfig::parse(&text).unwrap().0
}

fn attrs(last: u8) -> LeaseAttrs {
    let data = format!(r#"{{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:{last:02x}"}}"#);
    LeaseAttrs {
        public_ip: Ipv4Addr::new(192, 168, 7, last),
        public_ipv6: None,
        backend_type: "vxlan".into(),
        backend_data: Some(RawValue::from_string(data).unwrap()),
        backend_v6_data: None,
    }
}

fn value(last: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.7.{last}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:{last:02x}"}}}}"#
    )
}

fn subnet(text: &str) -> Subnet {
    Subnet {
        v4: text.parse().unwrap(),
        v6: None,
    }
}

fn timing() -> Timing {
    Timing {
        retry: Duration::from_millis(100),
        backoff_first: Duration::from_millis(50),
        backoff_limit: Duration::from_millis(500),
        ..Timing::new(Duration::from_secs(3600))
    }
}

async fn try_acquire(
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
    let acquired = acquire(store, network, &wish, &timing, &mut rng, &cancel);
    timeout(PATIENCE, acquired).await.unwrap().unwrap()
}

async fn acquire_as(store: &Store, last: u8) -> HeldLease {
    try_acquire(store, &network(""), last, None).await.unwrap()
}

/// A lease kept in the background.
struct Kept {
    task: tokio::task::JoinHandle<Option<Loss>>,
    term: watch::Receiver<Term>,
    cancel: CancellationToken,
}

fn keep_in_background(store: &Store, lease: HeldLease, timing: Timing) -> Kept {
    let (sender, term) = watch::channel(lease.term);
    let cancel = CancellationToken::new();
    let (store, stop) = (store.clone(), cancel.clone());
    let task = tokio::spawn(async move { keep(&store, lease, &timing, &sender, &stop).await });
    Kept { task, term, cancel }
}

impl Kept {
    async fn loss(self) -> Loss {
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }
}

/// The table of leases as the agent would see it.
struct Watched {
    changes: mpsc::Receiver<LeaseChange>,
    health: watch::Receiver<status::Store>,
    table: LeaseTable,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn watch_in_background(store: &Store) -> Watched {
    let (sender, changes) = mpsc::channel(16);
    let (report, health) = watch::channel(status::Store::default());
    let cancel = CancellationToken::new();
    let (store, stop) = (store.clone(), cancel.clone());
    let task = tokio::spawn(async move {
        watch_leases(&store, &timing(), sender, report, &stop).await;
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
    fn subnets(&self) -> Vec<String> {
        let nobody = "127.0.0.0/8".parse().unwrap();
        let peers = self.table.peers(nobody);
        peers.map(|lease| lease.subnet.to_string()).collect()
    }

    /// Applies changes until the table holds exactly these subnets.
    async fn until(&mut self, expected: &[&str]) {
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

    async fn until_health(&mut self, is_right: impl FnMut(&status::Store) -> bool) {
        timeout(PATIENCE, self.health.wait_for(is_right))
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_lease_is_written_byte_for_byte_as_flannel_writes_it() {
    let etcd = Etcd::start().await;
    let wish = Some(subnet("10.5.34.0/24"));
    let held = try_acquire(&etcd.store(), &network(""), 11, wish)
        .await
        .unwrap();
    assert_eq!(held.subnet, subnet("10.5.34.0/24"));
    let keys = etcd.keys().await;
    let [(key, written, lease)] = keys.as_slice() else {
        panic!("{keys:?}");
    };
    assert_eq!(key, "/coreos.com/network/subnets/10.5.34.0-24");
    assert_eq!(
        written,
        r#"{"PublicIP":"192.168.7.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:0b"}}"#
    );
    let left = etcd
        .client()
        .await
        .lease_time_to_live(*lease, None)
        .await
        .unwrap();
    assert!((86_300..=86_400).contains(&left.ttl()), "{}", left.ttl());
}

#[tokio::test]
async fn a_node_takes_its_lease_back_by_its_public_ip() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let first = acquire_as(&store, 11).await;
    let before = etcd.keys().await;
    let again = acquire_as(&store, 11).await;
    let after = etcd.keys().await;
    assert_eq!(again.subnet, first.subnet);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].0, before[0].0);
    assert_ne!(after[0].2, before[0].2, "the time of the lease starts anew");
}

#[tokio::test]
async fn of_several_leases_with_the_own_public_ip_the_earlier_subnet_is_taken_back() {
    let etcd = Etcd::start().await;
    for name in ["10.5.1.0-24", "10.5.34.0-24", "10.9.1.0-24"] {
        etcd.put(name, &value(11)).await;
    }
    let (store, network) = (etcd.store(), network(""));
    let with = async |previous| {
        let held = try_acquire(&store, &network, 11, previous);
        held.await.unwrap().subnet
    };
    let kept = subnet("10.5.34.0/24");
    assert_eq!(with(Some(kept)).await, kept);
    let unfit = Some(subnet("10.9.1.0/24"));
    assert_eq!(with(unfit).await, subnet("10.5.1.0/24"));
    assert_eq!(with(None).await, subnet("10.5.1.0/24"));
    assert_eq!(etcd.keys().await.len(), 3, "the others are left alone");
}

#[tokio::test]
async fn a_lease_that_does_not_fit_is_given_up_and_a_taken_wish_is_not_granted() {
    let etcd = Etcd::start().await;
    etcd.put("10.9.1.0-24", &value(11)).await;
    etcd.put("10.5.8.0-22", &value(12)).await;
    let wish = Some(subnet("10.5.9.0/24"));
    let held = try_acquire(&etcd.store(), &network(""), 11, wish)
        .await
        .unwrap();
    assert!(
        !subnet("10.5.8.0/22").v4.overlaps(held.subnet.v4),
        "{}",
        held.subnet
    );
    let keys: Vec<_> = etcd.keys().await.into_iter().map(|(key, ..)| key).collect();
    assert!(!keys.iter().any(|key| key.contains("10.9.1.0")), "{keys:?}");
    assert_eq!(keys.len(), 2);
}

#[tokio::test]
async fn d1_twenty_nodes_at_once_get_twenty_subnets_and_the_next_one_is_told() {
    let etcd = Etcd::start().await;
    let network = network(r#""SubnetMin":"10.5.1.0","SubnetMax":"10.5.20.0","#);
    let mut nodes = tokio::task::JoinSet::new();
    for last in 1..=20 {
        let (store, network) = (etcd.store(), network.clone());
        nodes.spawn(async move {
            try_acquire(&store, &network, last, None)
                .await
                .unwrap()
                .subnet
                .v4
        });
    }
    let subnets: BTreeSet<_> = nodes.join_all().await.into_iter().collect();
    assert_eq!(subnets.len(), 20);
    assert_eq!(etcd.keys().await.len(), 20);
    let error = try_acquire(&etcd.store(), &network, 21, None)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10.5.1.0/24 to 10.5.20.0/24"), "{text}");
}

#[tokio::test]
async fn d2_a_reservation_stays_one() {
    let etcd = Etcd::start().await;
    etcd.put("10.5.7.0-24", r#"{ "PublicIP": "192.168.7.11" }"#)
        .await;
    let store = etcd.store();
    let held = acquire_as(&store, 11).await;
    assert_eq!(held.subnet, subnet("10.5.7.0/24"));
    assert_eq!(held.term, Term::Reserved);
    let reserved = (
        "/coreos.com/network/subnets/10.5.7.0-24".to_owned(),
        value(11),
        0,
    );
    assert_eq!(etcd.keys().await, std::slice::from_ref(&reserved));
    let kept = keep_in_background(&store, held, timing());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(etcd.keys().await, [reserved]);
    kept.cancel.cancel();
    assert_eq!(timeout(PATIENCE, kept.task).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_lease_becomes_a_reservation_when_an_operator_takes_its_time_away() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let held = try_acquire(&store, &network(""), 11, Some(subnet("10.5.7.0/24")))
        .await
        .unwrap();
    let mut kept = keep_in_background(&store, held, timing());
    etcd.put("10.5.7.0-24", &value(11)).await;
    let reserved = kept.term.wait_for(|term| *term == Term::Reserved);
    timeout(PATIENCE, reserved).await.unwrap().unwrap();
    assert_eq!(etcd.keys().await[0].2, 0);
}

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
    let held = acquire(&store, &network, &wish, &timing, &mut rng, &cancel).await;
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

#[tokio::test]
async fn d3_d5_the_watch_outlives_poison_outage_and_compaction() {
    let mut etcd = Etcd::start().await;
    etcd.put("10.5.1.0-24", &value(1)).await;
    etcd.put("junk", &value(9)).await;
    let client = etcd
        .client()
        .await
        .put(format!("{SUBNETS}-old/10.5.9.0-24"), value(9), None)
        .await;
    client.unwrap();
    let store = etcd.store();
    let mut watched = watch_in_background(&store);
    watched.until(&["10.5.1.0/24"]).await;
    watched
        .until_health(|health| health.connected && health.unreadable.len() == 1)
        .await;

    etcd.put("10.5.2.0-24", &value(2)).await;
    etcd.put("10.5.3.0-24", "poison").await;
    etcd.put("10.5.4.0-24", &value(4)).await;
    watched
        .until(&["10.5.1.0/24", "10.5.2.0/24", "10.5.4.0/24"])
        .await;
    watched
        .until_health(|health| health.unreadable.len() == 2)
        .await;

    etcd.kill();
    watched
        .until_health(|health| !health.connected && health.error.is_some())
        .await;
    assert_eq!(watched.table.len(), 3, "an outage removes nobody");
    etcd.restart().await;
    // History is gone before the agent is back, whoever comes first.
    etcd.client()
        .await
        .delete(format!("{SUBNETS}/10.5.1.0-24"), None)
        .await
        .unwrap();
    etcd.put("10.5.5.0-24", &value(5)).await;
    let revision = etcd.client().await.get("x", None).await.unwrap();
    let revision = revision.header().unwrap().revision();
    let options = CompactionOptions::new().with_physical();
    etcd.client()
        .await
        .compact(revision, Some(options))
        .await
        .unwrap();
    watched
        .until(&["10.5.2.0/24", "10.5.4.0/24", "10.5.5.0/24"])
        .await;
    watched
        .until_health(|health| health.connected && health.revision >= revision)
        .await;
    etcd.put("10.5.6.0-24", &value(6)).await;
    watched
        .until(&["10.5.2.0/24", "10.5.4.0/24", "10.5.5.0/24", "10.5.6.0/24"])
        .await;

    watched.cancel.cancel();
    timeout(PATIENCE, watched.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lease_that_runs_out_is_removed_by_the_word_of_the_store_alone() {
    let etcd = Etcd::start().await;
    let mut watched = watch_in_background(&etcd.store());
    let mut client = etcd.client().await;
    let lease = client.lease_grant(2, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client
        .put(format!("{SUBNETS}/10.5.1.0-24"), value(1), Some(options))
        .await
        .unwrap();
    watched.until(&["10.5.1.0/24"]).await;
    watched.until(&[]).await;
}

#[tokio::test]
async fn the_network_config_is_waited_for_and_heals_when_corrected() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let cancel = CancellationToken::new();
    let waiting = tokio::spawn(async move { wait_for_network(&store, &timing(), &cancel).await });
    let key = format!("{PREFIX}/config");
    for wrong in [
        "{",
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlna"}}"#,
        r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48",
            "Backend": {"Type": "vxlan"}}"#,
    ] {
        sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished());
        etcd.client()
            .await
            .put(key.clone(), wrong, None)
            .await
            .unwrap();
    }
    let right = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#;
    etcd.client().await.put(key, right, None).await.unwrap();
    let found = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(found, Some(network("")));
}

#[tokio::test]
async fn a_dead_endpoint_in_the_list_does_not_matter() {
    let etcd = Etcd::start().await;
    let endpoints = format!("http://127.0.0.1:1,{}", etcd.endpoint());
    let store = store(&["-etcd-endpoints", &endpoints]);
    let first = acquire_as(&store, 11).await;
    for _ in 0..20 {
        assert_eq!(acquire_as(&store, 11).await.subnet, first.subnet);
    }
    watch_in_background(&store)
        .until_health(|health| health.connected)
        .await;
}

#[tokio::test]
async fn user_and_password_are_used() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client.role_add("root").await.unwrap();
    client.user_add("root", "hunter2", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let with = |password: &str| {
        let flags = ["-etcd-username=root", "-etcd-endpoints", &etcd.endpoint()];
        let password = format!("-etcd-password={password}");
        store(&[flags[0], flags[1], flags[2], &password])
    };
    acquire_as(&with("hunter2"), 11).await;
    let cancel = CancellationToken::new();
    let wrong = with("wrong");
    let timing = timing();
    let refused = wait_for_network(&wrong, &timing, &cancel);
    let refused = timeout(Duration::from_secs(1), refused);
    assert!(refused.await.is_err(), "a wrong password is waited out");
}

#[tokio::test]
async fn d13_an_authority_alone_makes_tls_work_and_another_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let strangers = tempfile::tempdir().unwrap();
    let (files, stranger) = (self_signed(&dir), self_signed(&strangers));
    let etcd = Etcd::launch(dir, Some(&files));
    let endpoint = format!("https://127.0.0.1:{}", etcd.port);
    let with = |ca: &str| store(&["-etcd-endpoints", &endpoint, "-etcd-cafile", ca]);
    // Acquiring waits until the server is up.
    acquire_as(&with(&files[0]), 11).await;

    let (timing, cancel) = (timing(), CancellationToken::new());
    let refused = with(&stranger[0]);
    let refused = wait_for_network(&refused, &timing, &cancel);
    assert!(timeout(Duration::from_secs(1), refused).await.is_err());
    let read = read_network(&with(&stranger[0]))
        .await
        .unwrap_err()
        .to_string();
    assert!(read.contains("certificate"), "{read}");
}

#[tokio::test]
async fn a_member_that_hangs_is_noticed_and_does_not_hold_up_the_rest() {
    let (hung, etcd) = (Etcd::start().await, Etcd::start().await);
    let signal = |signal| {
        let pid = nix::unistd::Pid::from_raw(hung.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    let endpoints = format!("{},{}", hung.endpoint(), etcd.endpoint());
    let mut watched = watch_in_background(&hung.store());
    watched.until_health(|health| health.connected).await;
    signal(nix::sys::signal::Signal::SIGSTOP);
    // The second member of this list answers instead.
    acquire_as(&store(&["-etcd-endpoints", &endpoints]), 11).await;
    assert_eq!(etcd.keys().await.len(), 1);
    watched.until_health(|health| !health.connected).await;
    signal(nix::sys::signal::Signal::SIGCONT);
    watched.until_health(|health| health.connected).await;
}

#[tokio::test]
async fn a_change_of_the_network_config_is_told_and_not_applied() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let client = etcd.client().await;
    let write = async |text: &str| {
        let key = format!("{PREFIX}/config");
        client.clone().put(key, text, None).await.unwrap();
    };
    let first = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
    write(first).await;
    let (notice, mut told) = watch::channel(None);
    let cancel = CancellationToken::new();
    let (running, timing) = (read_network(&store).await.unwrap(), timing());
    let watched = watch_network(&store, &running, &timing, &notice, &cancel);
    let look = async {
        for (text, expected) in [
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#,
                "Backend.VNI 1 -> 7",
            ),
            (r#"{"Network":"#, "unusable"),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}"#,
                "ipip is not supported",
            ),
        ] {
            write(text).await;
            let is_told = |notice: &Option<String>| {
                notice
                    .as_ref()
                    .is_some_and(|notice| notice.contains(expected))
            };
            let reached = timeout(PATIENCE, told.wait_for(is_told)).await;
            assert!(reached.is_ok(), "{expected}");
        }
        // White space and order do not matter.
        write(r#"{ "Backend": {"Type":"vxlan"}, "Network":"10.5.0.0/16" }"#).await;
        let is_over = timeout(PATIENCE, told.wait_for(Option::is_none)).await;
        is_over.unwrap().unwrap();
        client
            .clone()
            .delete(format!("{PREFIX}/config"), None)
            .await
            .unwrap();
        let is_told = |notice: &Option<String>| {
            notice
                .as_ref()
                .is_some_and(|notice| notice.contains("ETCDCTL_API=2"))
        };
        timeout(PATIENCE, told.wait_for(is_told))
            .await
            .unwrap()
            .unwrap();
        cancel.cancel();
    };
    tokio::join!(watched, look);
}
