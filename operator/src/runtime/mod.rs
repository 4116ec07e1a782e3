//! What any operator needs: the queue, the lease, conditions, events, metrics.

pub mod conditions;
pub mod events;
pub mod leader;
pub mod metrics;
pub mod queue;
