//! What a sender is told: a status, and a sentence that says what to do.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// An answer. Never has anything in it that the sender did not send, or that
/// tells how this side is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Body,
    /// Seconds.
    retry_after: Option<u32>,
    /// The rest of the request is not read.
    close: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Done(&'static str),
    Error(String),
}

impl Answer {
    fn done(status: StatusCode, word: &'static str) -> Self {
        Self {
            status,
            body: Body::Done(word),
            retry_after: None,
            close: false,
        }
    }

    /// It is in the inbox, now or since before.
    pub(super) fn stored() -> Self {
        Self::done(StatusCode::OK, "stored")
    }

    /// The pipeline's filter does not take it.
    pub(super) fn filtered() -> Self {
        Self::done(StatusCode::OK, "filtered")
    }

    /// It cannot be stored and is kept as a dead letter.
    pub(super) fn set_aside() -> Self {
        Self::done(StatusCode::ACCEPTED, "set aside")
    }

    /// The sender must do something else.
    pub(super) fn refused(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self {
            status,
            body: Body::Error(sentence.into()),
            retry_after: None,
            close: false,
        }
    }

    /// The sender must do the same again, after so many seconds.
    pub(super) fn later(seconds: u32, sentence: impl Into<String>) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::refused(StatusCode::SERVICE_UNAVAILABLE, sentence)
        }
    }

    /// After this one the connection is closed.
    pub(super) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The sentence, when it is no success.
    pub(super) fn error(&self) -> Option<&str> {
        match &self.body {
            Body::Done(_) => None,
            Body::Error(sentence) => Some(sentence),
        }
    }

    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let body = match &self.body {
            Body::Done(word) => serde_json::json!({ "status": word }),
            Body::Error(sentence) => serde_json::json!({ "error": sentence }),
        };
        let mut response = Response::new(Full::from(format!("{body}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
