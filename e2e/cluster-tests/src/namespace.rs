//! A namespace of its own for each test: restricted, deleted at the end, and
//! shown with events and logs when the test fails.

use std::time::Duration;

use pg_tide_e2e::unique;
use serde_json::{Value, json};

use crate::watch::condition_path;
use crate::{Cluster, Condition, OPERATOR_NAMESPACE, Refusal};

/// A namespace that enforces the Pod Security level `restricted`.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
    /// Made by the test, and gone with it.
    passing: bool,
}

impl Cluster {
    /// Makes a namespace whose name begins with `stem`.
    pub async fn namespace(&self, stem: &str) -> Namespace {
        let name = unique(stem).replace('_', "-");
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        });
        self.apply(&manifest.to_string())
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        let namespace = Namespace {
            cluster: self.clone(),
            name,
            passing: true,
        };
        // Without it, pods are refused.
        namespace
            .await_field(
                Duration::from_secs(10),
                "serviceaccount/default",
                "{.metadata.name}",
                "default",
            )
            .await;
        namespace
    }

    /// The namespace of the operator, which stays.
    pub fn operator_namespace(&self) -> Namespace {
        Namespace {
            cluster: self.clone(),
            name: OPERATOR_NAMESPACE.to_owned(),
            passing: false,
        }
    }
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What kubectl prints, in this namespace.
    ///
    /// # Errors
    /// When it fails.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Result<String, Refusal> {
        self.cluster.kubectl(&self.inside(arguments)).await
    }

    /// What kubectl prints, in this namespace; panics when it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .await
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The error of a kubectl command that must be refused.
    pub async fn refusal(&self, arguments: &[&str]) -> String {
        match self.try_kubectl(arguments).await {
            Ok(said) => panic!("not refused: kubectl {arguments:?}\n{said}"),
            Err(refusal) => refusal.said,
        }
    }

    /// Applies manifests, YAML or JSON; what names no namespace goes into
    /// this one.
    ///
    /// # Errors
    /// What the API server or kubectl has against one.
    pub async fn try_apply(&self, manifest: &str) -> Result<String, Refusal> {
        let arguments = self.inside(&["apply", "--filename=-"]);
        self.cluster.run("kubectl", &arguments, Some(manifest)).await
    }

    /// The same; panics when one is refused.
    pub async fn apply(&self, manifest: &str) -> String {
        self.try_apply(manifest)
            .await
            .unwrap_or_else(|e| panic!("{e}\n{manifest}"))
    }

    /// Makes objects that are not there yet, with half the requests of
    /// [`Namespace::apply`].
    pub async fn create(&self, manifest: &str) {
        let arguments = self.inside(&["create", "--filename=-"]);
        self.cluster
            .run("kubectl", &arguments, Some(manifest))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// An object such as `pod/relay`.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn get(&self, object: &str) -> Result<Value, Refusal> {
        self.cluster.get(&self.inside(&[object])).await
    }

    /// A part of an object by its JSONPath, such as `{.status.phase}`; empty
    /// when there is no such part or no such object.
    pub async fn field(&self, object: &str, path: &str) -> String {
        let output = format!("--output=jsonpath={path}");
        self.try_kubectl(&["get", object, &output, "--ignore-not-found"])
            .await
            .unwrap_or_default()
    }

    /// An object's condition as it is now.
    pub async fn condition(&self, object: &str, condition: &str) -> Condition {
        Condition::parse(&self.field(object, &condition_path(condition)).await)
    }

    /// A Service of this name that leads to a server outside of the cluster,
    /// such as one of the bed's at `host:port`.
    pub async fn service_to(&self, name: &str, address: &str) {
        let (_, port) = address.rsplit_once(':').unwrap();
        self.service_on(name, port.parse().unwrap(), address).await;
    }

    /// The same, on a port of its own.
    pub async fn service_on(&self, name: &str, port: u16, address: &str) {
        let (host, target) = address.rsplit_once(':').unwrap();
        let target: u16 = target.parse().unwrap();
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"ports": [{"port": port, "targetPort": target}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": target}],
            "endpoints": [{"addresses": [host]}],
        });
        self.apply(&list(&[service, slice])).await;
    }

    fn inside<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--namespace", &self.name], arguments].concat()
    }

    /// What a failed test should show.
    fn report(&self) {
        let commands: [&[&str]; 4] = [
            &["get", "all,secrets,configmaps", "--output=wide"],
            &["get", "pgtide", "--output=wide"],
            &["events"],
            &[
                "logs",
                "--selector=!none",
                "--all-containers",
                "--prefix",
                "--ignore-errors",
                "--tail=60",
                "--max-log-requests=50",
            ],
        ];
        for command in commands {
            let said = self.command(command).output();
            let (out, err) = said.map(|o| (o.stdout, o.stderr)).unwrap_or_default();
            eprintln!(
                "--- kubectl -n {} {}\n{}{}",
                self.name,
                command.join(" "),
                String::from_utf8_lossy(&out),
                String::from_utf8_lossy(&err)
            );
        }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new("kubectl");
        command
            .args(["--request-timeout=10s", "--namespace", &self.name])
            .args(arguments)
            .env("KUBECONFIG", &self.cluster.kubeconfig);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        if !self.passing {
            return;
        }
        // It takes five seconds and more to go.
        match self
            .command(&[
                "delete",
                "namespace",
                &self.name,
                "--wait=false",
                "--ignore-not-found",
            ])
            .output()
        {
            Ok(output) if output.status.success() => {}
            failed => eprintln!("namespace {}: deleting it failed: {failed:?}", self.name),
        }
    }
}

/// Several manifests as one.
fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
