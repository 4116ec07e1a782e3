//! NATS: a connection that tells when it is lost or refused something, and
//! finding streams.

mod login;
mod streams;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::{
    Auth, AuthError, Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError,
};
use rand::seq::SliceRandom;
use tokio::sync::watch;

use super::tls::ClientTls;
use crate::config::NatsConnection;
use crate::failure::{Failure, with_causes};
use login::Login;

pub(crate) use streams::{Wanted, is_missing, lacks_jetstream, overlaps, streams_for};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection. When it is lost, the pipeline starts its attempt anew, so
/// that what the library still holds is never sent behind our back. What the
/// server refuses without being asked (NATS answers a forbidden publish only
/// on the side) ends the attempt as well, with that as its error.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    servers: String,
    trouble: watch::Receiver<Option<String>>,
}

impl Connection {
    /// Connects to one of the servers; reads the secrets as they are now.
    pub(crate) async fn open(options: &NatsConnection, name: &str) -> Result<Self, Failure> {
        let failed = |reason: String| Failure::transient(format!("nats {options}: {reason}"));
        let login = Arc::new(Login::read(&options.login).map_err(|e| failed(e.to_string()))?);
        let tls = ClientTls::read(&options.tls).map_err(|e| failed(e.to_string()))?;
        // Each alone, so that an error is known to be which server's.
        let mut servers = options.servers.clone();
        servers.shuffle(&mut rand::rng());
        let mut errors = Vec::new();
        for server in &servers {
            match connect(options, server, name, &login, &tls).await {
                Ok((client, trouble)) => {
                    return Ok(Self {
                        client,
                        servers: options.to_string(),
                        trouble,
                    });
                }
                Err(error) if servers.len() == 1 => errors.push(error),
                Err(error) => errors.push(format!("{server}: {error}")),
            }
        }
        Err(failed(errors.join("; ")))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A failure of something that was tried over this connection.
    pub(crate) fn failure(&self, what: &str, error: &dyn std::error::Error) -> Failure {
        self.failed(format_args!("{what}: {}", with_causes(error)))
    }

    /// The same in words; the connection's own trouble, which explains it,
    /// comes first.
    pub(crate) fn failed(&self, reason: impl std::fmt::Display) -> Failure {
        let trouble = self.trouble.borrow().clone();
        let reason = trouble.unwrap_or_else(|| reason.to_string());
        Failure::transient(format!("nats {}: {reason}", self.servers))
    }

    /// Resolves when the connection is lost or the server has refused something.
    pub(crate) async fn trouble(&self) -> Failure {
        let mut trouble = self.trouble.clone();
        // The sender lives as long as the client; its end is the connection's.
        let _ = trouble.wait_for(Option::is_some).await;
        self.failed("the connection was closed")
    }

    /// Waits for what was asked over this connection, but not beyond trouble:
    /// a request that the server forbids is never answered.
    pub(crate) async fn unless_trouble<T>(
        &self,
        asked: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            trouble = self.trouble() => Err(trouble),
            answer = asked => answer,
        }
    }
}

async fn connect(
    options: &NatsConnection,
    server: &str,
    name: &str,
    login: &Arc<Login>,
    tls: &ClientTls,
) -> Result<(Client, watch::Receiver<Option<String>>), String> {
    let (tell, trouble) = watch::channel(None);
    // One connection and no other: the library would reconnect behind our
    // back, also after its last client is dropped, and send what it still
    // queues after all that was lost with the connection.
    let connected = Arc::new(AtomicBool::new(false));
    let before = Arc::clone(&connected);
    let answering = Arc::clone(login);
    let telling = Arc::clone(login);
    let with_certificate = tls.has_certificate();
    let mut connecting = ConnectOptions::with_auth_callback(move |nonce| {
        let auth: Result<Auth, AuthError> = if before.load(Ordering::Relaxed) {
            Err(AuthError::new("not again"))
        } else {
            answering.answer(&nonce).map_err(AuthError::new)
        };
        std::future::ready(auth)
    })
    .max_reconnects(1)
    .ignore_discovered_servers()
    .name(format!("pg-tide {name}"))
    .connection_timeout(CONNECT_TIMEOUT)
    .request_timeout(Some(CONNECT_TIMEOUT))
    .ping_interval(Duration::from_secs(5))
    .client_capacity(4_096)
    .tls_client_config(tls.config.clone())
    .require_tls(options.tls_required)
    .event_callback(move |event| {
        let found = match event {
            Event::Disconnected => Some("the connection was lost".to_owned()),
            Event::LameDuckMode => Some("the server is shutting down".to_owned()),
            Event::Closed => Some("the connection was closed".to_owned()),
            Event::ServerError(ServerError::AuthorizationViolation) => {
                Some(telling.refusal(with_certificate, SystemTime::now()))
            }
            Event::ServerError(ServerError::Other(text)) => Some(words::server_error(&text)),
            Event::SlowConsumer(_) => {
                tracing::warn!("nats: messages came faster than they were stored: some were dropped");
                None
            }
            other => {
                tracing::debug!("nats: {other}");
                None
            }
        };
        // The first is the cause of the others.
        tell.send_if_modified(|told| {
            let news = told.is_none() && found.is_some();
            if news {
                *told = found;
            }
            news
        });
        std::future::ready(())
    });
    if options.tls_first {
        connecting = connecting.tls_first();
    }
    if let Some(prefix) = &options.inbox_prefix {
        connecting = connecting.custom_inbox_prefix(prefix);
    }
    tls.forget_server();
    let client = tokio::time::timeout(CONNECT_TIMEOUT * 2, connecting.connect(server))
        .await
        .map_err(|_| words::NO_ANSWER.to_owned())?
        .map_err(|e| describe(&e, login, tls))?;
    connected.store(true, Ordering::Relaxed);
    Ok((client, trouble))
}

/// Why a connection could not be had.
fn describe(error: &ConnectError, login: &Login, tls: &ClientTls) -> String {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => login.refusal(tls.has_certificate(), SystemTime::now()),
        ConnectErrorKind::TimedOut => words::NO_ANSWER.into(),
        ConnectErrorKind::Dns => format!("the host name cannot be found: {}", with_causes(error)),
        _ => match tls.explain(error) {
            Some(text) => text,
            None => words::connect_error(&with_causes(error)),
        },
    }
}
