//! What every way into an inbox does with a message.

use crate::database::inbox::Batch;
use crate::source::Incoming;
use crate::source::identity::Rules;

/// The payload as JSON text, or why it is none. A message without a payload
/// is stored without one.
pub(crate) fn json(message: &Incoming) -> Result<Option<&str>, String> {
    let Some(payload) = &message.payload else {
        return Ok(None);
    };
    serde_json::from_slice::<serde::de::IgnoredAny>(payload).map_err(|e| e.to_string())?;
    std::str::from_utf8(payload).map(Some).map_err(|e| e.to_string())
}

/// Appends a message to a batch, with its position as the inbox knows it.
pub(crate) fn add(
    batch: &mut Batch,
    rules: &Rules,
    position: Option<(i32, i64)>,
    message: &Incoming,
    text: Option<&str>,
) {
    let found = message.identify(rules);
    batch.event_ids.push(found.event_id);
    batch.dedup_keys.push(found.dedup_key);
    batch.source_refs.push(position.map(|(source, _)| source));
    batch.source_seqs.push(position.map(|(_, sequence)| sequence));
    batch.sources.push(message.source());
    batch.payloads.push(text.map(str::to_owned));
    batch.headers.push(message.headers.json());
}
