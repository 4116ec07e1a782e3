//! NATS: a connection that tells when it is lost, and finding streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Auth, AuthError, Client, ConnectOptions, Event};
use futures::TryStreamExt;
use tokio::sync::watch;

use crate::failure::{Failure, with_causes};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection. When it is lost, the pipeline starts its attempt anew, so
/// that what the library still holds is never sent behind our back.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    url: String,
    lost: watch::Receiver<Option<String>>,
}

impl Connection {
    pub(crate) async fn open(url: &str, name: &str) -> Result<Self, Failure> {
        let (tell, lost) = watch::channel(None);
        let servers: Vec<String> = url.split(',').map(|s| s.trim().to_owned()).collect();
        // One connection and no other: the library would reconnect behind our
        // back, also after its last client is dropped, and send what it still
        // queues after all that was lost with the connection.
        let connected = Arc::new(AtomicBool::new(false));
        let before = Arc::clone(&connected);
        let options = ConnectOptions::with_auth_callback(move |_| {
            let again = before.load(Ordering::Relaxed);
            async move {
                if again {
                    Err(AuthError::new("not again"))
                } else {
                    Ok(Auth::new())
                }
            }
        })
        .max_reconnects(servers.len())
        .name(format!("pg-tide {name}"))
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(CONNECT_TIMEOUT))
        .ping_interval(Duration::from_secs(5))
        .client_capacity(4_096)
        .event_callback(move |event| {
            let tell = tell.clone();
            async move {
                match event {
                    Event::Disconnected => {
                        tell.send_replace(Some("the connection was lost".into()));
                    }
                    Event::LameDuckMode => {
                        tell.send_replace(Some("the server is shutting down".into()));
                    }
                    Event::Closed => {
                        tell.send_if_modified(|t| {
                            t.is_none() && t.replace("the connection was closed".into()).is_none()
                        });
                    }
                    other => tracing::debug!("nats: {other}"),
                }
            }
        });
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT * 2, options.connect(servers));
        let client = connecting
            .await
            .map_err(|_| Failure::transient(format!("nats {url}: no answer in time")))?
            .map_err(|e| Failure::transient(format!("nats {url}: {}", with_causes(&e))))?;
        connected.store(true, Ordering::Relaxed);
        Ok(Self {
            client,
            url: url.to_owned(),
            lost,
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Resolves when the connection is lost.
    pub(crate) async fn trouble(&mut self) -> Failure {
        let reason = match self.lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the connection was closed".into(),
        };
        Failure::transient(format!("nats {}: {reason}", self.url))
    }
}

/// Whether the server offers JetStream to this account.
pub(crate) async fn has_jetstream(context: &jetstream::Context, url: &str) -> Result<bool, Failure> {
    use async_nats::jetstream::ErrorCode;
    use async_nats::jetstream::context::AccountErrorKind;
    match context.query_account().await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            AccountErrorKind::JetStreamUnavailable => Ok(false),
            AccountErrorKind::JetStream(e)
                if [
                    ErrorCode::JETSTREAM_NOT_ENABLED,
                    ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
                ]
                .contains(&e.error_code()) =>
            {
                Ok(false)
            }
            _ => Err(Failure::transient(format!(
                "nats {url}: asking for JetStream: {}",
                with_causes(&error)
            ))),
        },
    }
}

/// The streams that take a subject: the named one, else those that cover it,
/// else a new one.
pub(crate) async fn streams_for(
    context: &jetstream::Context,
    url: &str,
    named: Option<&str>,
    subject: &str,
    create: bool,
) -> Result<Vec<String>, Failure> {
    let failed = |what: &str, e: &dyn std::error::Error| {
        Failure::transient(format!("nats {url}: {what}: {}", with_causes(e)))
    };
    if !has_jetstream(context, url).await? {
        return Err(Failure::transient(format!(
            "nats {url}: the server has no JetStream (start it with -js, or enable it for this account)"
        )));
    }
    let mut covering = Vec::new();
    let mut all = context.streams();
    while let Some(info) = all.try_next().await.map_err(|e| failed("listing streams", &e))? {
        let covers = info.config.subjects.iter().any(|s| overlaps(s, subject));
        match named {
            Some(name) if info.config.name == name && !covers => {
                return Err(Failure::transient(format!(
                    "nats {url}: stream \"{name}\" does not take the subject \"{subject}\" (it takes: {})",
                    info.config.subjects.join(", ")
                )));
            }
            Some(name) if info.config.name == name => return Ok(vec![info.config.name]),
            None if covers => covering.push(info.config.name),
            _ => {}
        }
    }
    if !covering.is_empty() {
        return Ok(covering);
    }
    if !create {
        let what = named.map_or_else(
            || format!("no stream takes the subject \"{subject}\""),
            |name| format!("stream \"{name}\" does not exist"),
        );
        return Err(Failure::transient(format!(
            "nats {url}: {what}; create it, or set \"create_stream\" to true"
        )));
    }
    if subject == ">" && named.is_none() {
        return Err(Failure::transient(format!(
            "nats {url}: no stream can be made for a subject that begins with a placeholder; create one and name it in \"stream\""
        )));
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
        .map_err(|e| failed(&format!("creating stream \"{name}\""), &e))?;
    tracing::info!(stream = name, subject, "created a JetStream stream");
    Ok(vec![name])
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
fn overlaps(a: &str, b: &str) -> bool {
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
