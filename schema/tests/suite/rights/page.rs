//! docs/reference/rights.md.

use super::{ROLES, Rights};

/// The rows of the page's tables. A first cell of nothing but names stands for
/// a row of each.
fn stated(page: &str) -> Rights {
    let mut rights = Rights::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let mut cells: Vec<String> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect();
        let what = cells.remove(0);
        // Other tables explain.
        if cells.len() != ROLES.len() {
            continue;
        }
        if what.is_empty() {
            let headings: Vec<&str> = ROLES.iter().map(|(heading, _)| *heading).collect();
            assert_eq!(cells, headings);
            continue;
        }
        let only_names = what
            .split('`')
            .step_by(2)
            .all(|between| between.trim_matches([',', ' ']).is_empty());
        let rows: Vec<String> = if only_names {
            let names = what.split('`').skip(1).step_by(2);
            names.map(|name| format!("`{name}`")).collect()
        } else {
            vec![what]
        };
        for row in rows {
            assert!(
                rights.insert(row.clone(), cells.clone()).is_none(),
                "{row} is on the page twice"
            );
        }
    }
    rights
}

/// As the page has it.
fn line(row: &str, cells: &[String]) -> String {
    format!("| {row} | {} |", cells.join(" | "))
}

/// Fails unless the page states what was found, row by row.
pub(super) fn compare(found: &Rights) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/rights.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    let stated = stated(&page);
    let mut wrong = Vec::new();
    for (row, cells) in found
        .iter()
        .filter(|(row, cells)| stated.get(*row) != Some(*cells))
    {
        wrong.push(format!("found  {}", line(row, cells)));
        if let Some(cells) = stated.get(row) {
            wrong.push(format!("stated {}", line(row, cells)));
        }
    }
    for row in stated.keys().filter(|row| !found.contains_key(*row)) {
        wrong.push(format!("{row} is on the page and not in the schema"));
    }
    assert!(
        wrong.is_empty(),
        "docs/reference/rights.md:\n{}",
        wrong.join("\n")
    );
}
