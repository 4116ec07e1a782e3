//! Commands of the guide are accepted by helm.

use pg_tide_chart_tests::{Chart, read};

/// Every `--set` of the guide, and of the charts' own words.
#[test]
fn values_that_documents_set_exist() {
    let mut seen = 0;
    for path in [
        "docs/guide/install-kubernetes.md",
        "docs/guide/tutorial-kubernetes.md",
        "config/README.md",
        "charts/README.md",
        "charts/pg-tide-operator/templates/NOTES.txt",
    ] {
        let text = read(path);
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == '`').collect();
        for pair in words.windows(2).filter(|pair| pair[0] == "--set") {
            let quoted = pair[1].starts_with('\'');
            assert!(
                quoted || !pair[1].contains('{') || !pair[1].contains(','),
                "{}: a shell divides it",
                pair[1]
            );
            let value = pair[1].trim_matches(|c| c == '\'' || c == '"');
            Chart::operator().argument("--set").argument(value).objects();
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen}");
}

#[test]
fn values_that_documents_speak_of_exist() {
    let values = read("charts/pg-tide-operator/values.yaml");
    let guide = read("docs/guide/install-kubernetes.md");
    let (_, section) = guide.split_once("## Values").expect("the section");
    let section = section.split("\n## ").next().unwrap();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        for name in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            let leaf = name.rsplit('.').next().unwrap();
            assert!(values.contains(&format!("{leaf}:")), "{name}");
        }
    }
}
