//! docs/guarantees.md names tests as proofs: they must be there.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;

use pg_tide_chaos::Kind;

#[test]
fn every_proof_that_is_named_exists() {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(e2e.join("../docs/guarantees.md")).unwrap();
    let mut proofs = 0;
    for name in text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.contains("::"))
    {
        if name == "file::test" {
            continue;
        }
        let (file, function) = name.split_once("::").unwrap();
        let path = e2e.join(format!("tests/{file}.rs"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(
            source.contains(&format!("fn {function}(")),
            "{file}.rs has no test {function}"
        );
        proofs += 1;
    }
    assert!(proofs > 15, "{proofs}");
}

#[test]
fn every_fault_of_the_late_request_window_is_a_fault_of_the_suite() {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(e2e.join("../docs/guarantees.md")).unwrap();
    for kind in [
        Kind::ZombieRelay,
        Kind::SilenceBroker,
        Kind::CutRelay,
        Kind::CutFromBroker,
        Kind::OneWay,
    ] {
        assert!(text.contains(&format!("`{kind}`")), "{kind}");
    }
}
