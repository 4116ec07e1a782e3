//! docs/reference/sql.md and the schema name the same functions, parameters
//! and views.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Database;

/// Function and its parameters with their defaults; overloads make several.
type Signatures = BTreeMap<String, BTreeSet<String>>;

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/sql.md");
    std::fs::read_to_string(path).unwrap()
}

/// The first code spans of the rows of tables: `` | `f(p_a, p_b = 1)`, `g()` → type | ``.
fn documented(page: &str) -> (Signatures, BTreeSet<String>) {
    let mut functions = Signatures::new();
    let mut names = BTreeSet::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        let first = row.split(" | ").next().unwrap();
        for span in first.split('`').skip(1).step_by(2) {
            match span.strip_suffix(')').and_then(|s| s.split_once('(')) {
                Some((name, parameters)) => {
                    functions
                        .entry(name.to_owned())
                        .or_default()
                        .insert(signature(parameters));
                }
                None => drop(names.insert(span.to_owned())),
            }
        }
    }
    (functions, names)
}

/// Names and defaults, without types: of `p_a text DEFAULT 'x'::text` as
/// PostgreSQL writes it and of `p_a = 'x'` as the page does.
fn signature(parameters: &str) -> String {
    let one = |parameter: &str| {
        let name = parameter.split_whitespace().next().unwrap_or_default();
        let default = parameter.split_once(" DEFAULT ").or(parameter.split_once(" = "));
        let Some((_, value)) = default else {
            return name.to_owned();
        };
        let value = match value.split("::").next().unwrap() {
            "'00:00:30'" => "'30 seconds'",
            "'00:00:00'" => "'0'",
            value => value,
        };
        format!("{name} = {value}")
    };
    parameters.split(", ").map(one).collect::<Vec<_>>().join(", ")
}

/// Without the columns that a function returns.
fn inputs(arguments: &str) -> String {
    let all = arguments.split(", ");
    all.filter(|a| !a.starts_with("OUT "))
        .collect::<Vec<_>>()
        .join(", ")
}

#[tokio::test]
async fn the_page_and_the_schema_name_the_same() {
    let (_database, session) = Database::installed().await;
    let rows = session
        .rows(
            "SELECT p.proname || '|' || pg_get_function_arguments(p.oid)
               FROM pg_proc p
              WHERE p.pronamespace = 'tide'::regnamespace AND p.proname NOT LIKE '\\_%'
                AND p.prorettype <> 'trigger'::regtype
              ORDER BY 1",
        )
        .await;
    let mut schema = Signatures::new();
    for line in &rows {
        let (name, parameters) = line.split_once('|').unwrap();
        schema
            .entry(name.to_owned())
            .or_default()
            .insert(signature(&inputs(parameters)));
    }
    let (functions, names) = documented(&page());
    let mut wrong = Vec::new();
    for (name, overloads) in &schema {
        match functions.get(name) {
            None => wrong.push(format!("{name} is not on the page: {overloads:?}")),
            Some(on_page) if on_page.contains("...") => {}
            Some(on_page) if on_page != overloads => {
                wrong.push(format!(
                    "{name}: the page has {on_page:?}, the schema {overloads:?}"
                ));
            }
            Some(_) => {}
        }
    }
    for name in functions.keys().filter(|name| !schema.contains_key(*name)) {
        wrong.push(format!("{name} is on the page and not in the schema"));
    }
    let views = session
        .rows("SELECT relname FROM pg_class WHERE relnamespace = 'tide'::regnamespace AND relkind = 'v'")
        .await;
    for view in views.iter().filter(|view| !names.contains(*view)) {
        wrong.push(format!("view {view} is not on the page"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
