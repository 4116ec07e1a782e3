//! Options that do not depend on the connector.

use super::options::{OptionError, Options};
use crate::encode::{CloudEvent, Encoding, Format, Template};

/// What becomes of a message that is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeadLetterPolicy {
    /// Set aside; else the pipeline waits for somebody to mend the cause.
    pub(crate) enabled: bool,
    /// Further attempts before that.
    pub(crate) max_retries: u32,
}

impl DeadLetterPolicy {
    /// `default_retries` is what the direction has without the option.
    pub(super) fn read(options: &mut Options, default_retries: u32) -> Result<Self, OptionError> {
        let mut inner = options.object("dead_letter", "dead_letter.")?;
        let policy = Self {
            enabled: inner.flag("enabled")?.unwrap_or(true),
            max_retries: inner
                .number("max_retries", 0..=1_000_000)?
                .map_or(default_retries, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        };
        inner.finish()?;
        Ok(policy)
    }
}

/// What a message that is set aside means for later ones of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ordering {
    /// They go on.
    Relaxed,
    /// They are set aside behind it, until it is dealt with.
    Strict,
}

impl Ordering {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let allowed = [("relaxed", Self::Relaxed), ("strict", Self::Strict)];
        Ok(options.one_of("ordering", &allowed)?.unwrap_or(Self::Relaxed))
    }
}

/// Reads the encoding; `prefix` is what the sink's binding puts before the
/// names of CloudEvents attributes.
pub(super) fn encoding(options: &mut Options, prefix: &'static str) -> Result<Encoding, OptionError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Raw,
        Structured,
        Binary,
    }
    let kind = options
        .one_of(
            "encoding",
            &[
                ("raw", Kind::Raw),
                ("cloudevents", Kind::Structured),
                ("cloudevents-binary", Kind::Binary),
            ],
        )?
        .unwrap_or(Kind::Raw);
    let mut inner = options.object("cloudevents", "cloudevents.")?;
    if kind == Kind::Raw && !inner.is_empty() {
        return Err(OptionError::Bad {
            key: "cloudevents".into(),
            reason: "has no meaning with the encoding \"raw\"; set \"encoding\" to \"cloudevents\" or \"cloudevents-binary\""
                .into(),
        });
    }
    let default = || {
        "/pg-tide/{outbox}"
            .parse::<Template>()
            .map_err(|e| OptionError::Bad {
                key: "cloudevents.source".into(),
                reason: e.to_string(),
            })
    };
    let event = CloudEvent {
        source: inner.template("source")?.map_or_else(default, Ok)?,
        kind: inner.template("type")?,
        subject: inner.template("subject")?,
    };
    inner.finish()?;
    Ok(match kind {
        Kind::Raw => Encoding::Raw,
        Kind::Structured => Encoding::Structured(event),
        Kind::Binary => Encoding::Binary(event, prefix),
    })
}

/// Reads encoding and added headers of a sink.
pub(super) fn format(options: &mut Options, connector: &str) -> Result<Format, OptionError> {
    let broker = matches!(connector, "kafka" | "nats");
    Ok(Format {
        encoding: encoding(options, if connector == "kafka" { "ce_" } else { "ce-" })?,
        headers: if broker {
            options.templates("headers")?
        } else {
            Vec::new()
        },
    })
}
