//! What the tests of `charts/` and `config/` share: helm and Argo CD's Lua as
//! real programs, and the files that are generated from others.
//!
//! No cluster is needed: these tests look at what would be applied.

// Helpers of tests fail by panicking, with what was wanted and what was there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::must_use_candidate)]

mod generated;
mod helm;
mod lua;
mod objects;
mod program;

use std::fs;
use std::path::PathBuf;

pub use generated::{Generated, generated};
pub use helm::{Chart, Lint};
pub use lua::{Health, health};
pub use objects::Objects;

/// A path of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// The text of a file of the repository.
///
/// # Panics
/// When it cannot be read.
pub fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All Rust sources below a folder, one after another.
///
/// # Panics
/// When one cannot be read.
pub fn sources(folder: &str) -> String {
    let mut text = String::new();
    let entries = fs::read_dir(repository(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().display());
        if entry.file_type().unwrap().is_dir() {
            text.push_str(&sources(&path));
        } else if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            text.push_str(&read(&path));
        }
    }
    text
}

/// The names of a folder's files that end in `suffix`, sorted.
///
/// # Panics
/// When the folder cannot be read.
pub fn files(folder: &str, suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(repository(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(suffix))
        .collect();
    names.sort();
    names
}
