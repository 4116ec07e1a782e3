//! The cluster, by kubectl and helm.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// More than any command needs that is not broken.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) kubeconfig: PathBuf,
    image: String,
}

impl Cluster {
    /// The cluster that `eval "$(e2e/cluster/up)"` has put into the
    /// environment, with the image that `e2e/image` made.
    ///
    /// # Panics
    /// When there is none.
    pub fn from_env() -> Self {
        let get = |name: &str, how: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: these tests need a cluster. Run: {how} (or e2e/test)")
            })
        };
        Self {
            kubeconfig: get("KUBECONFIG", r#"eval "$(e2e/cluster/up)""#).into(),
            image: get(
                "TIDE_IMAGE",
                r#"eval "$(e2e/image debug)"; e2e/cluster/load-image "$TIDE_IMAGE_ARCHIVE""#,
            ),
        }
    }

    /// The image of the programs under test, in the node.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, Refusal> {
        self.run("kubectl", arguments, None).await
    }

    /// The same, for objects in JSON.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn get(&self, arguments: &[&str]) -> Result<Value, Refusal> {
        let text = self
            .kubectl(&[&["get", "--output=json"], arguments].concat())
            .await?;
        Ok(serde_json::from_str(&text).unwrap_or_else(|e| panic!("kubectl get {arguments:?}: {e}: {text}")))
    }

    /// `kubectl apply` of a manifest, YAML or JSON.
    ///
    /// # Errors
    /// What the API server or kubectl has against it.
    pub async fn apply(&self, manifest: &str) -> Result<String, Refusal> {
        self.run("kubectl", &["apply", "--filename=-"], Some(manifest))
            .await
    }

    /// What helm prints.
    ///
    /// # Errors
    /// When it fails.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String, Refusal> {
        self.run("helm", arguments, None).await
    }

    /// `e2e/cluster/component`: kills, starts or restarts a component such as
    /// the API server. Whoever does that must be alone in the cluster: such
    /// tests are programs of their own.
    pub async fn component(&self, command: &str, name: &str) {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/component");
        self.run(program, &[command, name], None)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }

    pub(crate) async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        input: Option<&str>,
    ) -> Result<String, Refusal> {
        let mut child = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{program} (e2e/cluster/up puts it on the PATH): {e}"));
        let ends = async {
            if let Some(mut stdin) = child.stdin.take() {
                stdin
                    .write_all(input.unwrap_or_default().as_bytes())
                    .await
                    .unwrap();
            }
            child.wait_with_output().await.unwrap()
        };
        let output = tokio::time::timeout(TIMEOUT, ends)
            .await
            .unwrap_or_else(|_| panic!("{program} {arguments:?} does not end within {TIMEOUT:?}"));
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        Err(Refusal {
            command: format!("{program} {}", arguments.join(" ")),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// A command that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The command.
    pub command: String,
    /// Its standard error.
    pub said: String,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.command, self.said)
    }
}
