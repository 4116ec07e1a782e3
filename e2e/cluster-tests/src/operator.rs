//! The operator, installed by its charts as a user does it.

use std::path::Path;

use tokio::sync::OnceCell;

use crate::Cluster;

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "pg-tide-system";

static INSTALLED: OnceCell<()> = OnceCell::const_new();

impl Cluster {
    /// Installs or upgrades CRDs and operator, once per test program, and
    /// waits until the operator is ready.
    pub async fn with_operator() -> Self {
        let cluster = Self::from_env();
        INSTALLED
            .get_or_init(async || {
                cluster.install_operator(&[]).await;
            })
            .await;
        cluster
    }

    /// `helm upgrade --install` of both charts; `settings` are more arguments
    /// for that of the operator.
    pub async fn install_operator(&self, settings: &[&str]) {
        let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts");
        let crds = charts.join("pg-tide-crds");
        let operator = charts.join("pg-tide-operator");
        let (repository, tag) = self.image().rsplit_once(':').unwrap();
        let wait = [
            "--wait",
            "--timeout=90s",
            "--create-namespace",
            "--namespace",
            OPERATOR_NAMESPACE,
        ];
        let image = [
            format!("--set=image.repository={repository}"),
            format!("--set=image.tag={tag}"),
            // Loaded into the node, to be had nowhere else.
            "--set=image.pullPolicy=Never".to_owned(),
        ];
        let crds = [
            &["upgrade", "--install", "pg-tide-crds", crds.to_str().unwrap()],
            &wait[..],
        ]
        .concat();
        self.helm(&crds).await.unwrap_or_else(|e| panic!("{e}"));
        let mut install = [
            &[
                "upgrade",
                "--install",
                "pg-tide-operator",
                operator.to_str().unwrap(),
            ],
            &wait[..],
            settings,
        ]
        .concat();
        install.extend(image.iter().map(String::as_str));
        self.helm(&install).await.unwrap_or_else(|e| panic!("{e}"));
    }
}
