//! Alert rules and dashboard speak of metrics that there are.

use std::collections::BTreeSet;

use pg_tide_chart_tests::{Chart, Objects, read};
use serde_json::{Value, json};

/// All words of a text that begin as our metrics do.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("pg_tide_"))
        .collect()
}

/// The names of the reference, with the series that a histogram has.
fn known() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in read("docs/reference/metrics.md")
        .lines()
        .filter(|line| line.starts_with("| `pg_tide_"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        names.insert(name.to_owned());
        if cells[2] == "histogram" {
            names.extend(["bucket", "sum", "count"].map(|suffix| format!("{name}_{suffix}")));
        }
    }
    // The operator's, as it registers them: a counter gets _total, build is an information.
    let operator = read("operator/src/runtime/metrics.rs");
    for call in operator.split("registry.register(").skip(1) {
        let name = call.split('"').nth(1).unwrap();
        names.extend(["", "_total", "_info"].map(|suffix| format!("pg_tide_operator_{name}{suffix}")));
    }
    names
}

#[test]
fn metrics_that_are_named_exist() {
    let known = known();
    for path in ["config/prometheus/alerts.yaml", "config/grafana/pg-tide.json"] {
        let text = read(path);
        let named = metrics(&text);
        assert!(named.len() > 5, "{path}: {named:?}");
        for name in named {
            assert!(known.contains(name), "{path}: there is no metric {name}");
        }
    }
}

#[test]
fn alerts_are_a_rule_file_and_a_prometheus_rule_alike() {
    let file = Objects::parse(&read("config/prometheus/alerts.yaml"));
    let groups = &file.all()[0]["groups"];
    let objects = Chart::operator()
        .set("prometheusRule.enabled", &json!(true))
        .objects();
    assert_eq!(&objects.one("PrometheusRule")["spec"]["groups"], groups);
    for rule in groups[0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        for text in [
            &rule["expr"],
            &rule["labels"]["severity"],
            &rule["annotations"]["summary"],
            &rule["annotations"]["description"],
        ] {
            assert!(text.as_str().is_some_and(|t| !t.is_empty()), "{name}");
        }
    }
}

/// Files that alerts and dashboard send the reader to.
#[test]
fn documents_that_alerts_name_exist() {
    let text = read("config/prometheus/alerts.yaml");
    let mut seen = 0;
    for word in text
        .split(|c: char| c.is_whitespace() || c == ';')
        .filter(|word| word.starts_with("docs/"))
    {
        read(word.trim_end_matches('.'));
        seen += 1;
    }
    assert!(seen > 0);
    assert!(read("docs/guide/troubleshooting.md").contains("## A pipeline lags"));
}

#[test]
fn the_dashboard_is_whole() {
    let objects = Chart::operator()
        .set("grafanaDashboard.enabled", &json!(true))
        .objects();
    let text = objects.one("ConfigMap")["data"]["pg-tide.json"].as_str().unwrap();
    assert_eq!(text.trim_end(), read("config/grafana/pg-tide.json").trim_end());
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            assert!(
                target["expr"].as_str().is_some_and(|e| e.contains("pg_tide_")),
                "{panel}"
            );
        }
    }
}
