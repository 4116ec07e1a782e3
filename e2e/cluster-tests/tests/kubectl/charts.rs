//! The charts before the API server: it takes their objects, and grants what
//! the guide lists and no more. No pod of the operator runs here.

use std::process::Command;

use pg_tide_cluster_tests::{Cluster, Namespace};
use pg_tide_e2e::unique;
use serde_json::{Value, json};

fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A release of the operator's chart with no pods, uninstalled by the test.
struct Release {
    cluster: Cluster,
    name: String,
    namespace: String,
}

impl Release {
    async fn install(namespace: &Namespace, values: &[&str]) -> Self {
        let release = Self {
            cluster: namespace.cluster().clone(),
            name: unique("pg-tide-operator").replace('_', "-"),
            namespace: namespace.name().to_owned(),
        };
        release.helm("install", values).await;
        release
    }

    async fn helm(&self, verb: &str, values: &[&str]) -> String {
        let chart = repository("charts/pg-tide-operator");
        let mut arguments = vec![
            verb,
            &self.name,
            &chart,
            "--namespace",
            &self.namespace,
            "--set=replicas=0",
        ];
        arguments.extend(values);
        self.cluster
            .helm(&arguments)
            .await
            .unwrap_or_else(|e| panic!("{e}"))
    }

    async fn uninstall(self) {
        let arguments = ["uninstall", &self.name, "--namespace", &self.namespace];
        self.cluster
            .helm(&arguments)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Whom the operator's pods act for.
    fn user(&self) -> String {
        format!("--as=system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// Whether the operator may do each of these in a namespace (empty:
    /// everywhere): a verb, and `resource.group/subresource`.
    async fn may(&self, namespace: &str, questions: &[(&str, &str)]) -> Vec<bool> {
        let reviews: Vec<Value> = questions
            .iter()
            .map(|(verb, resource)| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
                json!({
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SubjectAccessReview",
                    "spec": {
                        "user": format!("system:serviceaccount:{}:{}", self.namespace, self.name),
                        "groups": ["system:serviceaccounts", "system:authenticated"],
                        "resourceAttributes": {
                            "namespace": namespace, "verb": verb,
                            "group": group, "resource": resource, "subresource": subresource,
                        },
                    },
                })
            })
            .collect();
        let file = std::env::temp_dir().join(unique("reviews"));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": reviews});
        std::fs::write(&file, list.to_string()).unwrap();
        let path = format!("--filename={}", file.display());
        let said = self
            .cluster
            .kubectl(&["create", "--output=jsonpath={.status.allowed}{\"\\n\"}", &path])
            .await;
        std::fs::remove_file(&file).unwrap();
        let said = said.unwrap_or_else(|e| panic!("{e}"));
        let answers: Vec<bool> = said
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        assert_eq!(answers.len(), questions.len(), "{said}");
        answers
    }
}

/// A test that fails leaves no roles in the cluster.
impl Drop for Release {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("helm")
                .args(["uninstall", &self.name, "--namespace", &self.namespace])
                .output();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_of_some_namespaces_can_read_no_secret_elsewhere() {
    let cluster = Cluster::from_env();
    let own = cluster.namespace("rights-own").await;
    let shop = cluster.namespace("rights-shop").await;
    let bank = cluster.namespace("rights-bank").await;
    let watched = format!("--set=watchNamespaces={{{}}}", shop.name());
    let release = Release::install(&own, &[&watched]).await;

    let may = [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "secrets"),
        ("patch", "tidedatabases.pgtide.dev/status"),
        ("update", "pipelines.pgtide.dev/finalizers"),
        ("create", "deployments.apps"),
        ("create", "events.events.k8s.io"),
    ];
    let may_not = [
        ("update", "secrets"),
        ("delete", "pipelines.pgtide.dev"),
        ("get", "pods"),
        ("create", "pods"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("create", "leases.coordination.k8s.io"),
    ];
    let all = [&may[..], &may_not].concat();
    let answers = release.may(shop.name(), &all).await;
    assert_eq!(
        answers,
        [vec![true; may.len()], vec![false; may_not.len()]].concat(),
        "{all:?}"
    );
    for elsewhere in [bank.name(), ""] {
        assert_eq!(
            release.may(elsewhere, &all).await,
            vec![false; all.len()],
            "{elsewhere}: {all:?}"
        );
    }
    let secrets = [("get", "secrets"), ("list", "secrets"), ("create", "secrets")];
    assert_eq!(
        release.may(own.name(), &secrets).await,
        [false; 3],
        "in its own namespace"
    );

    // Not what the API server says it would do, but what it does.
    let user = release.user();
    for (namespace, expected) in [(&own, true), (&shop, true), (&bank, false)] {
        let read = cluster
            .kubectl(&["get", "namespace", namespace.name(), "--output=name", &user])
            .await;
        match read {
            Ok(said) => assert!(expected && said.contains(namespace.name()), "{said}"),
            Err(refusal) => assert!(!expected && refusal.said.contains("is forbidden"), "{refusal}"),
        }
    }
    let refusal = cluster
        .kubectl(&["get", "secrets", "--namespace", bank.name(), &user])
        .await
        .unwrap_err();
    assert!(
        refusal.said.contains("cannot list resource \"secrets\""),
        "{refusal}"
    );
    release.uninstall().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_leader_election_is_the_only_one_it_may_touch() {
    let cluster = Cluster::from_env();
    let own = cluster.namespace("rights-lease").await;
    let release = Release::install(&own, &[]).await;
    let user = release.user();
    let lease = |name: &str| {
        format!(
            r#"{{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {{"name": "{name}"}}, "spec": {{}}}}"#
        )
    };
    own.apply(&lease("pg-tide-operator")).await;
    own.apply(&lease("another")).await;
    let renew = r#"{"spec": {"holderIdentity": "me"}}"#;
    let patch = |name: &'static str| ["patch", "lease", name, "--type=merge", "--patch", renew];
    own.kubectl(&[&patch("pg-tide-operator")[..], &[&user]].concat())
        .await;
    let refusal = own.refusal(&[&patch("another")[..], &[&user]].concat()).await;
    assert!(refusal.contains("\"another\" is forbidden"), "{refusal}");

    // A ClusterRole: everything that it serves, everywhere; and kube-system's UID.
    assert_eq!(
        release.may("", &[("list", "secrets"), ("get", "pods")]).await,
        [true, false]
    );
    cluster
        .kubectl(&["get", "namespace", "kube-system", "--output=name", &user])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    release.uninstall().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_installed_goes_again_and_upgrades_keep_the_values() {
    let cluster = Cluster::from_env();
    let own = cluster.namespace("chart-gone").await;
    let release = Release::install(&own, &["--set=resync=45s"]).await;
    let deployment = format!("deployment/{}", release.name);
    let arguments = "{.spec.template.spec.containers[0].args}";
    assert!(own.field(&deployment, arguments).await.contains("--resync=45s"));
    release
        .helm("upgrade", &["--reset-then-reuse-values", "--set=log.level=debug"])
        .await;
    let after = own.field(&deployment, arguments).await;
    assert!(
        after.contains("--resync=45s") && after.contains("--log-level=debug"),
        "{after}"
    );
    let selector = format!("--selector=app.kubernetes.io/instance={}", release.name);
    let kinds = "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,clusterroles,clusterrolebindings";
    let left = || async { own.kubectl(&["get", kinds, &selector, "--output=name"]).await };
    assert_eq!(left().await.lines().count(), 8, "{}", left().await);
    release.uninstall().await;
    assert_eq!(left().await, "");
}

/// Every object of the chart, with everything switched on that this cluster
/// knows, is taken without a warning, in a namespace with restricted Pod
/// Security.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_each_object_without_a_warning() {
    let cluster = Cluster::from_env();
    let own = cluster.namespace("chart-objects").await;
    own.kubectl(&[
        "label",
        "namespace",
        own.name(),
        "pod-security.kubernetes.io/warn=restricted",
    ])
    .await;
    let name = unique("objects").replace('_', "-");
    let rendered = cluster
        .helm(&[
            "template",
            &name,
            &repository("charts/pg-tide-operator"),
            "--namespace",
            own.name(),
            "--kube-version=1.34.0",
            "--set=replicas=2,grafanaDashboard.enabled=true,priorityClassName=system-cluster-critical",
            "--set-json=extraVolumes=[{\"name\":\"ca\",\"configMap\":{\"name\":\"ca\"}}]",
            "--set-json=extraVolumeMounts=[{\"name\":\"ca\",\"mountPath\":\"/ca\"}]",
            "--set-json=networkPolicy.egress=[{\"to\":[{\"podSelector\":{}}]}]",
            "--set-json=networkPolicy.metricsFrom=[{\"namespaceSelector\":{}}]",
        ])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let said = strictly(&own, &rendered).await;
    assert_eq!(said.lines().count(), 10, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_manifests_are_taken_too() {
    let cluster = Cluster::from_env();
    let own = cluster.namespace("kustomize").await;
    let rendered = cluster
        .kubectl(&["kustomize", &repository("config/default")])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    for kind in [
        "CustomResourceDefinition",
        "Namespace",
        "Deployment",
        "ClusterRole",
    ] {
        assert!(rendered.contains(&format!("\nkind: {kind}\n")), "{kind}");
    }
    // A namespace that is made only for show cannot take the others.
    let said = strictly(&own, &rendered.replace("pg-tide-system", own.name())).await;
    assert!(said.contains("deployment.apps/pg-tide-operator"), "{said}");
    assert!(
        said.contains("customresourcedefinition.apiextensions.k8s.io/pipelines.pgtide.dev"),
        "{said}"
    );
}

/// What the server would do; unknown fields and warnings are errors.
async fn strictly(namespace: &Namespace, manifest: &str) -> String {
    let file = std::env::temp_dir().join(unique("manifest"));
    std::fs::write(&file, manifest).unwrap();
    let path = format!("--filename={}", file.display());
    let said = namespace
        .kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "--warnings-as-errors",
            &path,
        ])
        .await;
    std::fs::remove_file(&file).unwrap();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_notes_are_those_of_this_cluster() {
    let cluster = Cluster::from_env();
    let own = cluster.namespace("chart-notes").await;
    let name = unique("notes").replace('_', "-");
    let chart = repository("charts/pg-tide-operator");
    let said = cluster
        .helm(&[
            "install",
            &name,
            &chart,
            "--namespace",
            own.name(),
            "--dry-run=server",
            "--output=json",
        ])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let release: Value = serde_json::from_str(&said).unwrap();
    let notes = release["info"]["notes"].as_str().unwrap();
    let crds = cluster
        .kubectl(&[
            "get",
            "crd",
            "pipelines.pgtide.dev",
            "--ignore-not-found",
            "--output=name",
        ])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        notes.contains("The CRDs are missing."),
        crds.is_empty(),
        "{notes}"
    );
}
