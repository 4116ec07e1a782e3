//! Log lines on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use super::LogFormat;

/// Sets up logging for the process.
///
/// # Errors
/// A filter that cannot be read.
pub(super) fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    // What client libraries say comes back as the pipelines' own lines.
    let filter = if filter.contains(',') || filter.contains('=') {
        filter.to_owned()
    } else {
        format!("{filter},async_nats=off,librdkafka=error")
    };
    let filter = EnvFilter::try_new(&filter).map_err(|e| format!("--log-level \"{filter}\": {e}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .init(),
    }
    Ok(())
}
