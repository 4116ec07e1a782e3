//! The API server dies and comes back, with all that it had.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use pg_tide_cluster_tests::{Cluster, restricted_pod};

const SOON: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_goes_on_waiting_when_it_is_back() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace("api-server").await;
    let pod = restricted_pod(
        "version",
        cluster.image(),
        "/usr/local/bin/pg-tide",
        &["--version"],
    );

    let (waiting, other) = (
        namespace.await_field(SOON, "pod/version", "{.status.phase}", "Succeeded"),
        async {
            cluster.component("kill", "apiserver").await;
            let said = namespace.refusal(&["get", "pods"]).await;
            assert!(said.contains("refused"), "{said}");
            cluster.component("start", "apiserver").await;
            namespace.apply(&pod.to_string()).await;
        },
    );
    tokio::join!(waiting, other);
}
