//! The network config.

use std::time::Duration;

use flannel_agent::subnet::settings::{read_network, wait_for_network, watch_network};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::node::{network, timing};
use super::server::{Etcd, PATIENCE, PREFIX};

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
