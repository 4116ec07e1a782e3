//! Programs that `e2e/setup` installs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where a program is: what `variable` says, else the cache, else the PATH.
fn path(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let cache = std::env::var_os("TIDE_CACHE").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/pg-tide"),
        PathBuf::from,
    );
    let installed = cache.join("bin").join(name);
    if installed.exists() {
        installed
    } else {
        name.into()
    }
}

/// Runs it to its end.
pub(crate) fn run(name: &str, variable: &str, arguments: &[String]) -> Output {
    let program = path(name, variable);
    Command::new(&program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "{}: {e}. These tests need {name}, which e2e/setup installs; {variable} names another",
                program.display()
            )
        })
}
