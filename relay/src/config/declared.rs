//! A pipeline as a file declares it, before it is in a database.
//!
//! The names are those of `tide.relay_list_configs()`, so that what a database
//! has can be written to a file and set elsewhere.

use serde_json::Value;

use super::options::{OptionError, Options};
use super::pipeline::{PipelineRow, PipelineSpec};

/// See the module's description.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) forward: bool,
    /// Outbox of a forward, inbox of a reverse pipeline.
    pub(crate) store: String,
    pub(crate) connector: String,
    pub(crate) config: Value,
    pub(crate) batch_size: i32,
    pub(crate) enabled: bool,
    pub(crate) relay_group: String,
    pub(crate) max_retries: i32,
    pub(crate) idempotent: bool,
}

impl Declared {
    /// Reads one object of the file.
    ///
    /// # Errors
    /// The first thing that is wrong, by key.
    pub(crate) fn read(value: Value) -> Result<Self, OptionError> {
        let Value::Object(map) = value else {
            return Err(OptionError::Bad {
                key: "pipeline".into(),
                reason: "must be an object".into(),
            });
        };
        let config = map
            .get("config")
            .cloned()
            .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let mut options = Options::new(map);
        let name = options.required_text("name")?;
        let direction = options.one_of("direction", &[("forward", true), ("reverse", false)])?;
        let outbox = options.text("outbox")?;
        let inbox = options.text("inbox")?;
        let (forward, store) = match (outbox, inbox, direction) {
            (Some(outbox), None, None | Some(true)) => (true, outbox),
            (None, Some(inbox), None | Some(false)) => (false, inbox),
            _ => {
                return Err(OptionError::Bad {
                    key: "outbox".into(),
                    reason: "give either \"outbox\" (forward) or \"inbox\" (reverse)".into(),
                });
            }
        };
        let by_role = options.text(if forward { "sink" } else { "source" })?;
        let named = options.text("connector")?;
        let ((Some(connector), None) | (None, Some(connector))) = (by_role, named) else {
            return Err(OptionError::Bad {
                key: if forward { "sink" } else { "source" }.into(),
                reason: "must be given, once".into(),
            });
        };
        let number = |n: Option<u64>, default| n.map_or(default, |n| i32::try_from(n).unwrap_or(i32::MAX));
        let declared = Self {
            name,
            forward,
            store,
            connector,
            config,
            batch_size: number(options.number("batch_size", 1..=100_000)?, 100),
            enabled: options.flag("enabled")?.unwrap_or(true),
            relay_group: options.text("relay_group")?.unwrap_or_else(|| "default".into()),
            max_retries: number(options.number("max_retries", 0..=1_000_000)?, 3),
            idempotent: options.flag("idempotent")?.unwrap_or(true),
        };
        options.object("config", "config.")?;
        // What relay_list_configs shows besides; not for setting.
        for shown in ["consumer_group", "created_at", "updated_at"] {
            options.text(shown)?;
        }
        options.finish()?;
        Ok(declared)
    }

    /// Reads its configuration as the relay does.
    ///
    /// # Errors
    /// The first thing that is wrong, by key.
    pub(crate) fn check(&self) -> Result<PipelineSpec, OptionError> {
        PipelineSpec::read(&PipelineRow {
            pipeline_id: 0,
            name: self.name.clone(),
            direction: if self.forward { "forward" } else { "reverse" }.into(),
            connector: self.connector.clone(),
            config: self.config.clone(),
            batch_size: self.batch_size,
            idempotent: self.idempotent,
            store: self.store.clone(),
            table: String::new(),
            group_id: Some(0),
            inbox_id: Some(0),
            redelivery: None,
            enabled: self.enabled,
            version: 0,
            first_name: self.name.clone(),
            max_retries: self.max_retries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Declared, String> {
        let declared = Declared::read(value).map_err(|e| e.to_string())?;
        declared.check().map_err(|e| e.to_string())?;
        Ok(declared)
    }

    #[test]
    fn a_declaration_is_read_as_the_database_shows_it() {
        let shown = json!({"name": "p", "direction": "forward", "outbox": "orders", "inbox": null, "connector": "kafka",
            "consumer_group": "p", "config": {"brokers": "b:1", "topic": "t"}, "batch_size": 7, "enabled": false,
            "relay_group": "eu", "max_retries": 3, "idempotent": true, "created_at": "x", "updated_at": "y"});
        let declared = read(shown).unwrap();
        assert_eq!(
            (declared.store.as_str(), declared.batch_size, declared.enabled),
            ("orders", 7, false)
        );
        let short = json!({"name": "q", "inbox": "payments", "source": "nats", "config": {"url": "u", "subject": "s"}});
        assert!(!read(short).unwrap().forward);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let kafka = json!({"brokers": "b:1", "topic": "t"});
        for (value, want) in [
            (json!(5), "\"pipeline\": must be an object"),
            (json!({"outbox": "o"}), "\"name\" is missing"),
            (
                json!({"name": "p"}),
                "either \"outbox\" (forward) or \"inbox\" (reverse)",
            ),
            (
                json!({"name": "p", "direction": "reverse", "outbox": "o"}),
                "either \"outbox\"",
            ),
            (json!({"name": "p", "outbox": "o"}), "\"sink\": must be given"),
            (
                json!({"name": "p", "outbox": "o", "sink": "kafka", "config": kafka, "batchsize": 1}),
                "unknown key \"batchsize\"; did you mean \"batch_size\"?",
            ),
            (
                json!({"name": "p", "outbox": "o", "sink": "kafka", "config": {"brokers": "b"}}),
                "\"topic\" is missing",
            ),
            (
                json!({"name": "p", "outbox": "o", "sink": "kafka"}),
                "\"brokers\" is missing",
            ),
            (
                json!({"name": "p", "outbox": "o", "sink": "kafka", "config": []}),
                "\"config\" must be an object",
            ),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert!(error.contains(want), "{value}: {error}");
        }
    }
}
