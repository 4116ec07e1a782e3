//! The operator, installed by its charts as a user does it.

use tokio::sync::OnceCell;

use crate::{Cluster, Refusal};

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "pg-tide-system";

/// The charts of this checkout.
pub const CHARTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts");
/// Those of release 0.1.0.
pub const CHARTS_0_1_0: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/charts-0.1.0");

static CRDS: OnceCell<()> = OnceCell::const_new();
static OPERATOR: OnceCell<()> = OnceCell::const_new();

impl Cluster {
    /// Installs the CRDs of this checkout, once per test program.
    pub async fn with_crds() -> Self {
        let cluster = Self::from_env();
        CRDS.get_or_init(async || cluster.install_crds(CHARTS).await)
            .await;
        cluster
    }

    /// Installs or upgrades CRDs and operator, once per test program, and
    /// waits until the operator is ready.
    pub async fn with_operator() -> Self {
        let cluster = Self::with_crds().await;
        OPERATOR
            .get_or_init(async || cluster.install_operator(CHARTS, &[]).await)
            .await;
        cluster
    }

    /// `helm upgrade --install` of the CRDs' chart in a folder of charts.
    pub async fn install_crds(&self, charts: &str) {
        self.install(charts, "pg-tide-crds", &[]).await;
    }

    /// `helm upgrade --install` of the operator's chart with this image;
    /// `settings` are more arguments.
    pub async fn install_operator(&self, charts: &str, settings: &[&str]) {
        let (repository, tag) = self.image().rsplit_once(':').unwrap();
        let image = [
            format!("--set=image.repository={repository}"),
            format!("--set=image.tag={tag}"),
            // Loaded into the node, to be had nowhere else.
            "--set=image.pullPolicy=Never".to_owned(),
        ];
        let image: Vec<&str> = image.iter().map(String::as_str).collect();
        self.install(charts, "pg-tide-operator", &[&image, settings].concat())
            .await;
    }

    /// `helm uninstall` of the operator, where it is installed.
    ///
    /// # Errors
    /// When helm fails.
    pub async fn uninstall_operator(&self) -> Result<String, Refusal> {
        let uninstall = ["uninstall", "pg-tide-operator", "--ignore-not-found", "--wait"];
        self.helm(&[&uninstall[..], &["--namespace", OPERATOR_NAMESPACE]].concat())
            .await
    }

    async fn install(&self, charts: &str, name: &str, settings: &[&str]) {
        let chart = format!("{charts}/{name}");
        let install = ["upgrade", "--install", name, &chart, "--wait", "--timeout=90s"];
        let place = ["--create-namespace", "--namespace", OPERATOR_NAMESPACE];
        self.helm(&[&install, &place[..], settings].concat())
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }
}
