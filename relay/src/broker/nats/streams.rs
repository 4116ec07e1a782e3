//! Streams: whether the server has any, which one takes a subject, making one.

use async_nats::jetstream::context::{AccountErrorKind, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::{Context, ErrorCode, stream};
use futures::TryStreamExt;

use super::Connection;
use crate::failure::Failure;

/// The stream that a pipeline needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Its name, when configured.
    pub(crate) named: Option<&'a str>,
    pub(crate) subject: &'a str,
    /// Whether to make it when there is none.
    pub(crate) create: bool,
    /// Read from, not published to: it may take its messages from elsewhere.
    pub(crate) for_reading: bool,
}

const NO_JETSTREAM: [ErrorCode; 2] = [
    ErrorCode::JETSTREAM_NOT_ENABLED,
    ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
];

/// Why there is no JetStream, or none of it for this account.
pub(crate) async fn lacks_jetstream(
    connection: &Connection,
    context: &Context,
) -> Result<Option<&'static str>, Failure> {
    let Err(error) = context.query_account().await else {
        return Ok(None);
    };
    match error.kind() {
        // An account without JetStream has nobody who would answer, as has a
        // server without; an older server says so.
        AccountErrorKind::JetStreamUnavailable => {
            Ok(Some("the server has no JetStream, or not for this account"))
        }
        AccountErrorKind::JetStream(e) if NO_JETSTREAM.contains(&e.error_code()) => {
            Ok(Some("JetStream is not enabled for this account"))
        }
        _ => Err(connection.failure("asking for JetStream", &error)),
    }
}

/// The streams that take a subject: the named one, else those that cover it,
/// else a new one.
pub(crate) async fn streams_for(
    connection: &Connection,
    context: &Context,
    wanted: Wanted<'_>,
) -> Result<Vec<String>, Failure> {
    connection
        .unless_trouble(find_or_make(connection, context, wanted))
        .await
}

async fn find_or_make(
    connection: &Connection,
    context: &Context,
    wanted: Wanted<'_>,
) -> Result<Vec<String>, Failure> {
    let found = if let Some(name) = wanted.named {
        // Asked for by name alone, for users who may not list all.
        match context.get_stream(name).await {
            Ok(stream) => {
                check_takes(connection, &stream.cached_info().config, wanted)?;
                vec![name.to_owned()]
            }
            Err(error) if is_missing(&error) => Vec::new(),
            Err(error) => {
                need_jetstream(connection, context).await?;
                return Err(connection.failure(&format!("asking for stream \"{name}\""), &error));
            }
        }
    } else {
        need_jetstream(connection, context).await?;
        covering(connection, context, wanted.subject).await?
    };
    if found.is_empty() {
        return make(connection, context, wanted).await.map(|name| vec![name]);
    }
    Ok(found)
}

async fn need_jetstream(connection: &Connection, context: &Context) -> Result<(), Failure> {
    match lacks_jetstream(connection, context).await? {
        None => Ok(()),
        Some(why) => Err(connection.failed(format_args!(
            "{why}: enable it in the server's configuration (jetstream {{}}; per account: jetstream: enabled)"
        ))),
    }
}

fn check_takes(connection: &Connection, config: &stream::Config, wanted: Wanted<'_>) -> Result<(), Failure> {
    let takes = config.subjects.iter().any(|s| overlaps(s, wanted.subject));
    // A mirror has no subjects of its own; sources bring theirs.
    let brought = config.mirror.is_some() || config.sources.as_ref().is_some_and(|s| !s.is_empty());
    if takes || (wanted.for_reading && brought) {
        return Ok(());
    }
    Err(connection.failed(format_args!(
        "stream \"{}\" does not take the subject \"{}\" (it takes: {})",
        config.name,
        wanted.subject,
        config.subjects.join(", ")
    )))
}

async fn covering(connection: &Connection, context: &Context, subject: &str) -> Result<Vec<String>, Failure> {
    let mut covering = Vec::new();
    let mut all = context.streams();
    while let Some(info) = all
        .try_next()
        .await
        .map_err(|e| connection.failure("listing streams (name one in \"stream\" to do without)", &e))?
    {
        if info.config.subjects.iter().any(|s| overlaps(s, subject)) {
            covering.push(info.config.name);
        }
    }
    Ok(covering)
}

async fn make(connection: &Connection, context: &Context, wanted: Wanted<'_>) -> Result<String, Failure> {
    let Wanted {
        named,
        subject,
        create,
        ..
    } = wanted;
    if !create {
        let what = named.map_or_else(
            || format!("no stream takes the subject \"{subject}\""),
            |name| format!("stream \"{name}\" does not exist"),
        );
        return Err(connection.failed(format_args!(
            "{what}; create it, or set \"create_stream\" to true"
        )));
    }
    if subject == ">" && named.is_none() {
        return Err(connection.failed(
            "no stream can be made for a subject that begins with a placeholder; create one and name it in \"stream\"",
        ));
    }
    let name = named.map_or_else(|| stream_name(subject), str::to_owned);
    let config = stream::Config {
        name: name.clone(),
        subjects: vec![subject.to_owned()],
        description: Some("made by pg-tide".into()),
        ..stream::Config::default()
    };
    context
        .create_stream(config)
        .await
        .map_err(|e| connection.failure(&format!("creating stream \"{name}\""), &e))?;
    tracing::info!(stream = name, subject, "created a JetStream stream");
    Ok(name)
}

/// Whether a stream could not be had because there is none of its name.
pub(crate) fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// A stream's name made from its subject.
fn stream_name(subject: &str) -> String {
    let plain: String = subject
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
            '>' => 'N',
            '*' => '1',
            _ => '_',
        })
        .collect();
    format!("tide_{plain}")
}

/// Whether some subject matches both patterns (`*` one part, `>` the rest).
pub(crate) fn overlaps(a: &str, b: &str) -> bool {
    let mut a = a.split('.');
    let mut b = b.split('.');
    loop {
        match (a.next(), b.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_share_a_subject_overlap() {
        for (a, b, want) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.b", "a.b.c", false),
            ("*.b", "a.*", true),
            (">", "x.y", true),
        ] {
            assert_eq!(overlaps(a, b), want, "{a} {b}");
            assert_eq!(overlaps(b, a), want, "{b} {a}");
        }
    }
}
