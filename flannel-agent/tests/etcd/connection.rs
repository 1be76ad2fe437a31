//! Endpoints, users and certificates.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use flannel_agent::subnet::settings::{read_network, wait_for_network};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::node::{acquire_as, store, timing, watch_in_background};
use super::server::{Etcd, self_signed};

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
    // Whoever introduces authentication, or has to give it up, does the nodes and etcd one after the
    // other.
    let store = with("hunter2");
    let subnet = acquire_as(&store, 12).await.subnet;
    client = signed_in(&etcd).await;
    client.auth_disable().await.unwrap();
    let mut watched = watch_in_background(&store);
    watched.until_health(|health| health.connected).await;
    assert_eq!(acquire_as(&with("hunter2"), 12).await.subnet, subnet);
    assert_eq!(acquire_as(&store, 12).await.subnet, subnet);
    etcd.client().await.auth_enable().await.unwrap();
    assert_eq!(acquire_as(&store, 12).await.subnet, subnet);
    let cancel = CancellationToken::new();
    let wrong = with("wrong");
    let timing = timing();
    let refused = wait_for_network(&wrong, &timing, &cancel);
    let refused = timeout(Duration::from_secs(1), refused);
    assert!(refused.await.is_err(), "a wrong password is waited out");
}

async fn signed_in(etcd: &Etcd) -> Client {
    let options = ConnectOptions::new().with_user("root", "hunter2");
    let client = Client::connect([etcd.endpoint()], Some(options)).await;
    client.unwrap()
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
