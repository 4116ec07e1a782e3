//! From a pipeline's row in `tide.pipeline` to a typed specification that
//! cannot be wrong later. No I/O.

mod options;
mod pipeline;
mod sinks;

pub(crate) use pipeline::{ForwardSpec, PipelineRow, PipelineSpec, Retry, ReverseSpec, Work};
pub(crate) use sinks::{Delivery, KafkaSinkSpec, NatsSinkSpec, NatsSourceSpec, SinkSpec};
