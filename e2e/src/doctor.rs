//! `pg-tide doctor`, run and read.

use serde_json::Value;

use crate::run_pg_tide;

/// What doctor said.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: Option<i32>,
    /// As it printed them.
    pub findings: Vec<Value>,
}

impl Said {
    /// The finding with this code, which must be there.
    pub fn finding(&self, code: &str) -> &Value {
        self.findings
            .iter()
            .find(|f| f["code"] == code)
            .unwrap_or_else(|| panic!("doctor does not say {code}: {self:#?}"))
    }

    /// That this was found, so bad, with these words in message or hint.
    pub fn has(&self, severity: &str, code: &str, words: &[&str]) -> &Self {
        let finding = self.finding(code);
        assert_eq!(finding["severity"], severity, "{finding:#}");
        let text = format!("{} {}", finding["message"], finding["hint"]);
        for word in words {
            assert!(text.contains(word), "no {word} in {finding:#}");
        }
        self
    }

    /// That this was not found.
    pub fn has_not(&self, code: &str) -> &Self {
        assert!(self.findings.iter().all(|f| f["code"] != code), "{self:#?}");
        self
    }

    /// Everything that is not ok, by code.
    pub fn complaints(&self) -> Vec<&str> {
        self.findings
            .iter()
            .filter(|f| f["severity"] != "ok")
            .map(|f| f["code"].as_str().unwrap())
            .collect()
    }
}

/// What doctor says of the database at `url`; its exit code fits its findings.
pub async fn doctor(url: &str, more: &[&str]) -> Said {
    let mut arguments = vec!["doctor", "--postgres-url", url, "--output", "json"];
    arguments.extend(more);
    let output = run_pg_tide(&arguments).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let findings = report["findings"].as_array().unwrap().clone();
    let said = Said {
        code: output.status.code(),
        findings,
    };
    let problems = said
        .findings
        .iter()
        .filter(|f| f["severity"] == "problem")
        .count();
    assert_eq!(report["problems"], problems);
    assert_eq!(said.code, Some(if problems > 0 { 3 } else { 0 }), "{said:#?}");
    said
}
