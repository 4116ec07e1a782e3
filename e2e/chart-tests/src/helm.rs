//! helm, as its users run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::program::run;
use crate::{Objects, repository};

/// The oldest Kubernetes that the charts accept stands for all.
const KUBERNETES: &str = "1.30.0";

/// A chart with values, not yet rendered. Release `pg-tide-operator` in
/// namespace `pg-tide-system`, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Chart {
    path: PathBuf,
    release: String,
    namespace: String,
    arguments: Vec<String>,
}

/// What `helm lint --strict` says.
#[derive(Debug)]
pub struct Lint {
    /// Nothing is wrong.
    pub passed: bool,
    /// Its output.
    pub said: String,
}

impl Chart {
    /// `charts/pg-tide-operator`
    pub fn operator() -> Self {
        Self::at(repository("charts/pg-tide-operator"))
    }

    /// `charts/pg-tide-crds`
    pub fn crds() -> Self {
        Self::at(repository("charts/pg-tide-crds"))
    }

    fn at(path: PathBuf) -> Self {
        Self {
            path,
            release: "pg-tide-operator".into(),
            namespace: "pg-tide-system".into(),
            arguments: vec![],
        }
    }

    /// Another release name.
    #[must_use]
    pub fn release(mut self, name: &str) -> Self {
        name.clone_into(&mut self.release);
        self
    }

    /// A value, as `--set-json`.
    #[must_use]
    pub fn set(mut self, path: &str, value: &Value) -> Self {
        self.arguments.push(format!("--set-json={path}={value}"));
        self
    }

    /// An argument of helm.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The same chart after `helm package`, in an archive in `folder`.
    ///
    /// # Panics
    /// When helm refuses.
    #[must_use]
    pub fn packaged(mut self, folder: &Path) -> Self {
        let chart = self.path.display().to_string();
        let output = helm(&[
            "package".into(),
            chart,
            format!("--destination={}", folder.display()),
        ]);
        let said = String::from_utf8_lossy(&output.stdout);
        let archive = said.trim().rsplit(": ").next().unwrap();
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.path = archive.into();
        self
    }

    /// `helm template`: the manifest as text.
    ///
    /// # Errors
    /// What helm says against it.
    pub fn text(&self) -> Result<String, String> {
        let mut arguments = vec![
            "template".into(),
            self.release.clone(),
            self.path.display().to_string(),
            format!("--namespace={}", self.namespace),
            format!("--kube-version={KUBERNETES}"),
        ];
        arguments.extend(self.arguments.iter().cloned());
        let output = helm(&arguments);
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// The objects that would be applied.
    ///
    /// # Panics
    /// When helm refuses.
    pub fn objects(&self) -> Objects {
        Objects::parse(
            &self
                .text()
                .unwrap_or_else(|e| panic!("{:?}: {e}", self.arguments)),
        )
    }

    /// Why helm refuses.
    ///
    /// # Panics
    /// When it does not.
    pub fn refusal(&self) -> String {
        match self.text() {
            Err(why) => why,
            Ok(_) => panic!("helm accepts {:?}", self.arguments),
        }
    }

    /// `helm lint --strict`, with these values.
    pub fn lint(&self) -> Lint {
        let mut arguments = vec![
            "lint".into(),
            "--strict".into(),
            self.path.display().to_string(),
            format!("--kube-version={KUBERNETES}"),
        ];
        arguments.extend(self.arguments.iter().cloned());
        let output = helm(&arguments);
        Lint {
            passed: output.status.success(),
            said: format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    /// `NOTES.txt` as a user sees it after the installation. `helm template`
    /// leaves it out, so a copy of the chart has it in a ConfigMap.
    ///
    /// # Panics
    /// When helm refuses.
    pub fn notes(&self) -> String {
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let copy = std::env::temp_dir().join(format!(
            "pg-tide-chart-{}-{}",
            std::process::id(),
            COPIES.fetch_add(1, Ordering::Relaxed)
        ));
        copy_folder(&self.path, &copy);
        fs::rename(copy.join("templates/NOTES.txt"), copy.join("notes")).unwrap();
        fs::write(
            copy.join("templates/notes.yaml"),
            "kind: ConfigMap\ndata:\n  notes: |\n{{ tpl (.Files.Get \"notes\") . | indent 4 }}\n",
        )
        .unwrap();
        let mut chart = self.clone().argument("--show-only=templates/notes.yaml");
        chart.path.clone_from(&copy);
        let rendered = chart.text();
        fs::remove_dir_all(&copy).unwrap();
        let objects = Objects::parse(&rendered.unwrap_or_else(|e| panic!("{e}")));
        objects.one("ConfigMap")["data"]["notes"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn helm(arguments: &[String]) -> Output {
    run("helm", "TIDE_HELM", arguments)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
