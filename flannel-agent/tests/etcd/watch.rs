//! The watch of all leases.

use etcd_client::{CompactionOptions, PutOptions};
use tokio::time::timeout;

use super::node::{value, watch_in_background};
use super::server::{Etcd, PATIENCE, SUBNETS};

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
