//! A thousand Pipelines. Alone in the cluster, since it measures.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use pg_tide_cluster_tests::{Cluster, OPERATOR_NAMESPACE};
use pg_tide_e2e::{Bed, Database, await_condition, get, unique};
use serde_json::json;

const OUTBOXES: usize = 100;
const PIPELINES: usize = 1_000;

/// A figure of the operator's metrics.
async fn figure(address: &str, name: &str) -> f64 {
    let Ok((_, text)) = get(address.parse().unwrap(), "/metrics").await else {
        return 0.0;
    };
    text.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pipelines_are_ready_within_a_minute() {
    let cluster = Cluster::with_operator().await;
    let namespace = cluster.namespace("scale").await;
    let bed = Bed::from_env();
    let db = Database::empty(&bed.postgres, "scale").await;
    let topic = unique("scale");
    let mut items = vec![
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"uri": db.url()}}),
        json!({
            "apiVersion": "pgtide.dev/v1alpha1", "kind": "TideDatabase", "metadata": {"name": "db"},
            "spec": {"connection": {"secretRef": {"name": "db"}}, "relayGroups": [{"id": "default", "replicas": 1}]},
        }),
    ];
    for n in 0..OUTBOXES {
        items.push(json!({
            "apiVersion": "pgtide.dev/v1alpha1", "kind": "Outbox", "metadata": {"name": format!("o{n}")},
            "spec": {"databaseRef": {"name": "db"}},
        }));
    }
    for n in 0..PIPELINES {
        items.push(json!({
            "apiVersion": "pgtide.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": format!("p{n}")},
            "spec": {
                "databaseRef": {"name": "db"},
                "forward": {
                    "outboxRef": {"name": format!("o{}", n % OUTBOXES)},
                    "sink": {"nats": {"url": bed.nats, "subject": format!("{topic}.{n}"), "stream": topic}},
                },
            },
        }));
    }
    let nats = pg_tide_e2e::nats::Nats::connect(&bed.nats).await;
    nats.create_stream(&topic, &format!("{topic}.>"), |_| {}).await;

    let begun = Instant::now();
    // In several commands: one alone sends at most 50 requests a second.
    let parts = items.chunks(items.len().div_ceil(4)).map(|part| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": part}).to_string();
        let namespace = &namespace;
        async move { namespace.create(&list).await }
    });
    futures::future::join_all(parts).await;
    let applied = begun.elapsed();
    ready(&namespace, PIPELINES, Duration::from_secs(90)).await;
    let took = begun.elapsed();
    println!("kubectl create took {applied:?}; all {PIPELINES} pipelines were ready after {took:?}");

    // An operator that begins anew verifies all of them, and writes nothing.
    let address = |pod: String| format!("{pod}:8080");
    let selector = "--selector=app.kubernetes.io/name=pg-tide-operator";
    let system = ["--namespace", OPERATOR_NAMESPACE];
    cluster
        .kubectl(
            &[
                &system[..],
                &["delete", "pod", selector, "--grace-period=0", "--force"],
            ]
            .concat(),
        )
        .await
        .unwrap();
    let again = Instant::now();
    let ip = await_condition(Duration::from_mins(1), "an operator that leads", async || {
        let ip = cluster
            .kubectl(
                &[
                    &system[..],
                    &[
                        "get",
                        "pods",
                        selector,
                        "--field-selector=status.phase=Running",
                        "--output=jsonpath={.items[0].status.podIP}",
                    ],
                ]
                .concat(),
            )
            .await
            .ok()
            .filter(|ip| !ip.is_empty())?;
        (figure(&address(ip.clone()), "pg_tide_operator_leader").await > 0.0).then_some(ip)
    })
    .await;
    let leading = again.elapsed();
    let address = address(ip);
    await_condition(Duration::from_mins(1), "all pipelines verified", async || {
        let done = figure(&address, r#"pg_tide_operator_reconcile_total{kind="Pipeline""#).await;
        (done >= PIPELINES as f64 && figure(&address, "pg_tide_operator_queue_depth").await == 0.0)
            .then_some(())
    })
    .await;
    println!(
        "operator killed: the next one led after {leading:?}, and had verified all after {:?}; statuses written: {}",
        again.elapsed(),
        figure(&address, "pg_tide_operator_status_writes_total").await
    );

    // At rest: what it costs.
    let node = |what: &str| format!("/proc/{what}");
    let pid = operator_pid();
    let (memory, before) = (
        rss_mib(&node(&format!("{pid}/status"))),
        cpu_ticks(&node(&format!("{pid}/stat"))),
    );
    let requests = api_requests(&cluster).await;
    let rest = Duration::from_mins(1);
    tokio::time::sleep(rest).await;
    let cpu = (cpu_ticks(&node(&format!("{pid}/stat"))) - before) as f64 / rest.as_secs_f64();
    println!(
        "operator at rest: {memory} MiB resident, {cpu:.2} % of a core, {} API requests of all clients in a minute",
        api_requests(&cluster).await - requests
    );
    assert!(
        took <= Duration::from_mins(1),
        "not ready within a minute: {took:?}"
    );
    assert!(memory <= 96, "{memory} MiB");
}

/// Waits until so many pipelines of a namespace are ready.
async fn ready(namespace: &pg_tide_cluster_tests::Namespace, count: usize, within: Duration) {
    let path =
        r#"--output=jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    let mut last = 0;
    let found = pg_tide_e2e::answer(within, async || {
        let text = namespace
            .try_kubectl(&["get", "pipelines", path])
            .await
            .unwrap_or_default();
        last = text.lines().filter(|line| *line == "True").count();
        (last >= count).then_some(())
    })
    .await;
    assert!(found.is_some(), "ready within {within:?}: {last} of {count}");
}

/// The operator's process, as this machine sees it; the newest, since one that
/// was killed may still be going.
fn operator_pid() -> u32 {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "pg-tide-operato")
        })
        .max()
        .expect("no process pg-tide-operator")
}

fn rss_mib(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// Hundredths of a second of CPU.
fn cpu_ticks(stat: &str) -> u64 {
    let text = std::fs::read_to_string(stat).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Requests that the API server has served.
async fn api_requests(cluster: &Cluster) -> u64 {
    let text = cluster.kubectl(&["get", "--raw", "/metrics"]).await.unwrap();
    let sum: f64 = text
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        sum as u64
    }
}
