//! Files that are made from others: what helm packages must lie in the chart's
//! folder (symbolic links do not survive packaging), and the plain manifests
//! are the chart's.

use crate::{Chart, files, read};

/// A generated file.
#[derive(Debug, PartialEq, Eq)]
pub struct Generated {
    /// Its path in the repository.
    pub path: String,
    /// What belongs into it.
    pub content: String,
}

/// All generated files of `charts/` and `config/`.
///
/// # Panics
/// When one cannot be made.
pub fn generated() -> Vec<Generated> {
    let mut all: Vec<Generated> = crd_files()
        .iter()
        .map(|name| Generated {
            path: format!("charts/pg-tide-crds/files/{name}"),
            content: read(&format!("crds/{name}")),
        })
        .collect();
    all.push(Generated {
        path: "crds/kustomization.yaml".into(),
        content: kustomization(&crd_files()),
    });
    all.push(Generated {
        path: "charts/pg-tide-operator/files/alerts.yaml".into(),
        content: read("config/prometheus/alerts.yaml"),
    });
    all.push(Generated {
        path: "charts/pg-tide-operator/files/pg-tide.json".into(),
        content: read("config/grafana/pg-tide.json"),
    });
    all.push(Generated {
        path: "config/argocd/argocd-cm.yaml".into(),
        content: argocd(),
    });
    all.push(Generated {
        path: "config/default/operator.yaml".into(),
        content: plain_manifests(&Chart::operator()),
    });
    all.push(Generated {
        path: "config/default/aggregate-roles.yaml".into(),
        content: plain_manifests(&Chart::crds().argument("--show-only=templates/aggregate-roles.yaml")),
    });
    all
}

/// The CRDs in `crds/`, which has a kustomization beside them.
fn crd_files() -> Vec<String> {
    let mut names = files("crds", ".yaml");
    names.retain(|name| name != "kustomization.yaml");
    names
}

fn kustomization(resources: &[String]) -> String {
    let mut lines = vec![
        "# Made by `make generate`.".to_owned(),
        "apiVersion: kustomize.config.k8s.io/v1beta1".into(),
        "kind: Kustomization".into(),
        "resources:".into(),
    ];
    lines.extend(resources.iter().map(|name| format!("  - {name}")));
    joined(&lines)
}

fn joined(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

/// What the chart makes, without the labels that say helm did it.
fn plain_manifests(chart: &Chart) -> String {
    let text = chart.text().unwrap_or_else(|e| panic!("{e}"));
    let lines = text.lines().filter(|line| {
        let line = line.trim_start();
        !line.starts_with("helm.sh/chart:")
            && !line.starts_with("app.kubernetes.io/managed-by:")
            && !line.starts_with("# Source:")
    });
    let mut manifest = vec!["# Made from the chart by `make generate`.".to_owned()];
    manifest.extend(lines.map(str::to_owned));
    joined(&manifest)
}

fn argocd() -> String {
    let script = read("config/argocd/health.lua");
    let mut patch = vec![
        "# Made from health.lua by `make generate`. A patch for Argo CD's ConfigMap argocd-cm.".to_owned(),
        "data:".into(),
    ];
    for kind in ["TideDatabase", "Outbox", "Inbox", "Pipeline"] {
        patch.push(format!("  resource.customizations.health.pgtide.dev_{kind}: |"));
        patch.extend(
            script
                .lines()
                .map(|line| format!("    {line}").trim_end().to_owned()),
        );
    }
    joined(&patch)
}
