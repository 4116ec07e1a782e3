//! The options of NATS connectors.

use super::options::{OptionError, Options};
use super::sinks::Delivery;
use crate::encode::Template;

/// Options of a NATS sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsSinkSpec {
    pub(crate) url: String,
    pub(crate) subject: Template,
    pub(crate) stream: Option<String>,
    pub(crate) create_stream: bool,
    pub(crate) delivery: Delivery,
}

impl NatsSinkSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            url: options.required_list("url")?.join(","),
            subject: options.required_template("subject")?,
            stream: options.text("stream")?,
            create_stream: options.flag("create_stream")?.unwrap_or(true),
            delivery: Delivery::read(options)?,
        })
    }

    /// The subjects that the template can give, as a NATS wildcard.
    pub(crate) fn subject_pattern(&self) -> String {
        self.subject.literal().unwrap_or_else(|| {
            // A value may contain dots, so everything after the last dot of
            // the fixed beginning is open.
            let fixed = self.subject.literal_prefix();
            match fixed.rfind('.') {
                Some(dot) => format!("{}.>", &fixed[..dot]),
                None => ">".to_owned(),
            }
        })
    }
}

/// Options of a NATS source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatsSourceSpec {
    pub(crate) url: String,
    pub(crate) subject: String,
    pub(crate) stream: Option<String>,
    pub(crate) create_stream: bool,
    pub(crate) durable: Option<String>,
    pub(crate) queue_group: Option<String>,
}

impl NatsSourceSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            url: options.required_list("url")?.join(","),
            subject: options.required_text("subject")?,
            stream: options.text("stream")?,
            create_stream: options.flag("create_stream")?.unwrap_or(true),
            durable: options.text("durable")?,
            queue_group: options.text("queue_group")?,
        })
    }
}
