use super::*;

fn figure(name: &str, compared_to: &[&str], bar: Bar) -> Figure {
    let compared_to = compared_to.iter().map(ToString::to_string).collect();
    Figure {
        name: name.to_owned(),
        unit: "msg/s",
        compared_to,
        bar,
    }
}

fn report(figures: Vec<Figure>, runs: &[&[(&str, f64)]]) -> Report {
    let mut report = Report::new(figures);
    for (run, values) in runs.iter().enumerate() {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        report.add(run, values).expect("the figures are known");
    }
    report
}

#[test]
fn a_share_is_taken_run_by_run() {
    let figures = vec![
        figure("limit", &[], Bar::None),
        figure("product", &["limit"], Bar::Share(0.75)),
    ];
    // The machine was twice as fast in the second run; the share stays what it is.
    let report = report(
        figures,
        &[
            &[("limit", 100.0), ("product", 80.0)],
            &[("limit", 200.0), ("product", 160.0)],
            &[("limit", 100.0), ("product", 70.0)],
        ],
    );
    assert_eq!(report.missed(), 0);
    assert!(report.table().contains("0.800 of limit"), "{}", report.table());
}

#[test]
fn a_run_without_its_limit_has_no_share() {
    let figures = vec![
        figure("limit", &[], Bar::None),
        figure("product", &["limit"], Bar::Share(0.75)),
    ];
    let report = report(
        figures,
        &[&[("product", 1.0)], &[("limit", 100.0), ("product", 80.0)]],
    );
    assert_eq!(report.missed(), 0);
    assert_eq!(report.summary()[2].runs, [0.8]);
}

#[test]
fn bars_are_judged_by_the_median() {
    let figures = vec![
        figure("rate", &[], Bar::AtLeast(10.0)),
        figure("delay", &[], Bar::AtMost(10.0)),
    ];
    let report = report(
        figures,
        &[
            &[("rate", 9.0), ("delay", 9.0)],
            &[("rate", 12.0), ("delay", 12.0)],
            &[("rate", 11.0), ("delay", 11.0)],
        ],
    );
    assert_eq!(report.missed(), 1);
    let table = report.table();
    let line = |name: &str| {
        table
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
    };
    assert!(line("rate").ends_with("ok"), "{table}");
    assert!(line("delay").ends_with("MISSED"), "{table}");
}

#[test]
fn the_summary_has_name_value_unit_and_runs() {
    let report = report(
        vec![figure("rate", &[], Bar::None)],
        &[&[("rate", 9.0)], &[("rate", 12.0)]],
    );
    let json = serde_json::to_value(report.summary()).expect("a summary is JSON");
    assert_eq!(
        json,
        serde_json::json!([{"name": "rate", "value": 10.5, "unit": "msg/s", "runs": [9.0, 12.0]}])
    );
}

#[test]
fn figures_that_were_not_measured_are_in_neither() {
    let report = report(vec![figure("rate", &[], Bar::AtLeast(1.0))], &[]);
    assert!(report.summary().is_empty());
    assert_eq!(report.table().lines().count(), 1);
    assert_eq!(report.missed(), 0);
}

#[test]
fn an_unknown_figure_is_refused() {
    let mut report = Report::new(Vec::new());
    assert!(report.add(0, vec![("rate".to_owned(), 1.0)]).is_err());
}

#[test]
fn numbers_keep_the_digits_that_count() {
    assert_eq!(number(1_234_567.8), "1,234,568");
    assert_eq!(number(1000.0), "1,000");
    assert_eq!(number(123.45), "123.5");
    assert_eq!(number(1.234), "1.23");
}

#[test]
fn a_figure_given_twice_in_a_run_keeps_the_larger() {
    let report = report(
        vec![figure("rss", &[], Bar::None)],
        &[&[("rss", 30.0), ("rss", 20.0)], &[("rss", 10.0)]],
    );
    assert_eq!(report.summary()[0].runs, [30.0, 10.0]);
}
