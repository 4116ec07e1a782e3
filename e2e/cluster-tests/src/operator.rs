//! The operator, installed by its charts as a user does it.

use std::path::Path;

use tokio::sync::OnceCell;

use crate::Cluster;

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "pg-tide-system";

static CRDS: OnceCell<()> = OnceCell::const_new();
static OPERATOR: OnceCell<()> = OnceCell::const_new();

fn chart(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../charts")
        .join(name);
    folder.to_string_lossy().into_owned()
}

impl Cluster {
    /// Installs the CRDs of this checkout, once per test program.
    pub async fn with_crds() -> Self {
        let cluster = Self::from_env();
        CRDS.get_or_init(async || cluster.install("pg-tide-crds", &[]).await)
            .await;
        cluster
    }

    /// Installs or upgrades CRDs and operator, once per test program, and
    /// waits until the operator is ready.
    pub async fn with_operator() -> Self {
        let cluster = Self::with_crds().await;
        OPERATOR
            .get_or_init(async || cluster.install_operator(&[]).await)
            .await;
        cluster
    }

    /// `helm upgrade --install` of the operator's chart with this image;
    /// `settings` are more arguments.
    pub async fn install_operator(&self, settings: &[&str]) {
        let (repository, tag) = self.image().rsplit_once(':').unwrap();
        let image = [
            format!("--set=image.repository={repository}"),
            format!("--set=image.tag={tag}"),
            // Loaded into the node, to be had nowhere else.
            "--set=image.pullPolicy=Never".to_owned(),
        ];
        let image: Vec<&str> = image.iter().map(String::as_str).collect();
        self.install("pg-tide-operator", &[&image, settings].concat())
            .await;
    }

    async fn install(&self, name: &str, settings: &[&str]) {
        let chart = chart(name);
        let install = ["upgrade", "--install", name, &chart, "--wait", "--timeout=90s"];
        let place = ["--create-namespace", "--namespace", OPERATOR_NAMESPACE];
        self.helm(&[&install, &place[..], settings].concat())
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }
}
