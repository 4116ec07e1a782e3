//! Kubernetes objects, parsed from YAML.

use serde_json::Value;

/// The objects of a manifest.
#[derive(Debug)]
pub struct Objects(Vec<Value>);

impl Objects {
    /// Parses documents of YAML; empty ones are left out.
    ///
    /// # Panics
    /// When it is not YAML.
    pub fn parse(yaml: &str) -> Self {
        let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        Self(all.into_iter().filter(|object| !object.is_null()).collect())
    }

    /// All of them.
    pub fn all(&self) -> &[Value] {
        &self.0
    }

    /// Those of a kind.
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The only one of its kind.
    ///
    /// # Panics
    /// When there is none, or several.
    pub fn one(&self, kind: &str) -> &Value {
        match self.of(kind)[..] {
            [object] => object,
            ref several => panic!("{} objects of kind {kind}: {:?}", several.len(), self.names()),
        }
    }

    /// The one of this kind and name.
    ///
    /// # Panics
    /// When there is none.
    pub fn named(&self, kind: &str, name: &str) -> &Value {
        self.of(kind)
            .into_iter()
            .find(|object| object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("no {kind} {name}: {:?}", self.names()))
    }

    /// Kind, namespace and name of each, sorted.
    pub fn names(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let mut names: Vec<String> = self
            .0
            .iter()
            .map(|object| {
                let metadata = &object["metadata"];
                format!(
                    "{} {}/{}",
                    text(&object["kind"]),
                    text(&metadata["namespace"]),
                    text(&metadata["name"])
                )
            })
            .collect();
        names.sort();
        names
    }
}
