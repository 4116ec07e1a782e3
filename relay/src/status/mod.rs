//! What the relay says about itself: metrics, health, reports in SQL.

mod intake;
mod metrics;
mod pipeline;

pub(crate) use intake::Intake;
pub(crate) use metrics::Metrics;
pub(crate) use pipeline::{PipelineStatus, State, now_micros};
