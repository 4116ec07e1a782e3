//! The charts as `helm package` makes them.

use std::fs;

use pg_tide_chart_tests::Chart;
use serde_json::json;

/// What is packaged gives the same objects: nothing lies outside of the chart.
#[test]
fn packages_have_everything() {
    let folder = std::env::temp_dir().join(format!("pg-tide-packages-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for chart in [
        Chart::crds(),
        Chart::operator()
            .set("prometheusRule.enabled", &json!(true))
            .set("grafanaDashboard.enabled", &json!(true)),
    ] {
        let packaged = chart.clone().packaged(&folder);
        assert!(packaged.text().unwrap() == chart.text().unwrap(), "{chart:?}");
    }
    fs::remove_dir_all(&folder).unwrap();
}
