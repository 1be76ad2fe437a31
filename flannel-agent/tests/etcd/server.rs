//! A real etcd.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use flannel_agent::subnet::store::Store;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::node::store;

pub(super) const PREFIX: &str = "/coreos.com/network";
pub(super) const SUBNETS: &str = "/coreos.com/network/subnets";

/// What may take a while on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// An etcd of one member on free loopback ports; killed and removed on drop.
pub(super) struct Etcd {
    pub(super) dir: TempDir,
    pub(super) port: u16,
    pub(super) peer_port: u16,
    pub(super) child: Child,
}

impl Etcd {
    pub(super) async fn start() -> Self {
        let etcd = Self::launch(tempfile::tempdir().unwrap(), None);
        etcd.wait_until_up().await;
        etcd
    }

    pub(super) fn launch(dir: TempDir, tls: Option<&[String; 2]>) -> Self {
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

    pub(super) async fn wait_until_up(&self) {
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
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) async fn restart(&mut self) {
        self.child = spawn(&self.dir, self.port, self.peer_port, None);
        self.wait_until_up().await;
    }

    /// Keeps its data as they are now; it is not up meanwhile.
    pub(super) async fn back_up(&mut self) {
        self.kill();
        self.copy("data", "backup");
        self.restart().await;
    }

    /// Goes back to the data of the last backup, as an operator does after an accident.
    pub(super) async fn restore(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
        self.copy("backup", "data");
        self.restart().await;
    }

    fn copy(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|name| self.dir.path().join(name));
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect([self.endpoint()], None).await.unwrap()
    }

    pub(super) fn store(&self) -> Store {
        store(&["-etcd-endpoints", &self.endpoint()])
    }

    pub(super) async fn put(&self, name: &str, value: &str) {
        let key = format!("{SUBNETS}/{name}");
        self.client().await.put(key, value, None).await.unwrap();
    }

    pub(super) async fn keys(&self) -> Vec<(String, String, i64)> {
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

pub(super) fn spawn(dir: &TempDir, port: u16, peer_port: u16, tls: Option<&[String; 2]>) -> Child {
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
pub(super) fn self_signed(dir: &TempDir) -> [String; 2] {
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
