//! Secrets in files as Kubernetes mounts them: the names are links through
//! `..data`, which is swapped as a whole when the Secret changes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::unique;

/// A mounted Secret; removed when dropped.
#[derive(Debug)]
pub struct SecretFiles {
    folder: PathBuf,
    version: AtomicU32,
}

impl SecretFiles {
    /// Mounts a Secret of these names and values.
    pub fn mount(values: &[(&str, &str)]) -> Self {
        let files = Self {
            folder: std::env::temp_dir().join(unique("pg-tide-e2e-secret")),
            version: AtomicU32::new(0),
        };
        files.replace(values);
        files
    }

    /// Replaces all values at once.
    pub fn replace(&self, values: &[(&str, &str)]) {
        let version = format!("..{}", self.version.fetch_add(1, Ordering::Relaxed));
        let data = self.folder.join(&version);
        std::fs::create_dir_all(&data).unwrap();
        for (name, value) in values {
            std::fs::write(data.join(name), value).unwrap();
            let link = self.folder.join(name);
            if !link.exists() && std::fs::symlink_metadata(&link).is_err() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        let new = self.folder.join("..data_tmp");
        symlink(&version, &new).unwrap();
        std::fs::rename(&new, self.folder.join("..data")).unwrap();
    }

    /// The path of a value.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a configuration says to have it read: `${file:...}`.
    pub fn reference(&self, name: &str) -> String {
        format!("${{file:{}}}", self.path(name).display())
    }
}

impl Drop for SecretFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
