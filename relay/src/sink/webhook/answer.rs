//! What a receiver's answer means. Pure.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;

/// Of an answer's body, as much as is shown.
const EXCERPT: usize = 300;
/// Whatever a receiver asks for, it is tried again after so long.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// An answer as it came.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<String>,
    pub(super) location: Option<String>,
    /// The beginning of the body.
    pub(super) body: Vec<u8>,
}

/// What follows from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    /// This message, or one that was sent with it, will never be taken.
    Refused(String),
    /// To be sent again, not before this time.
    Later(String, Option<Duration>),
}

impl Answer {
    /// `own_url`: each message has a URL of its own, so that what is said of
    /// the URL is said of the message. `secret_url`: the path is not shown.
    pub(super) fn verdict(&self, now: SystemTime, own_url: bool, secret_url: bool) -> Verdict {
        let status = self.status;
        let said = self.said();
        match status.as_u16() {
            200..=299 => Verdict::Accepted,
            300..=399 => Verdict::Later(
                format!(
                    "the receiver answers {status} and points {}; redirects are never followed: set \"url\" to where it leads",
                    self.points_to(secret_url)
                ),
                None,
            ),
            408 | 425 | 429 | 500..=599 => Verdict::Later(
                format!("the receiver answers {status}{said}"),
                self.retry_after(now),
            ),
            401 | 403 | 407 => Verdict::Later(
                format!(
                    "the receiver does not let us in: it answers {status}{said}; check \"headers\" and \"signing_secret\""
                ),
                None,
            ),
            404 | 410 if !own_url => Verdict::Later(
                format!(
                    "the receiver has nothing at \"url\": it answers {status}{said}; change the url, or disable the pipeline"
                ),
                None,
            ),
            405 => Verdict::Later(
                format!("the receiver takes no POST at \"url\": it answers {status}{said}; check the url"),
                None,
            ),
            400..=499 => Verdict::Refused(format!("the receiver refuses it: {status}{said}")),
            _ => Verdict::Later(
                format!("the receiver answers {status}, which HTTP does not know"),
                None,
            ),
        }
    }

    /// The first line of the body, without what does not belong in a log.
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        words.retain(|c| !c.is_control());
        if words.is_empty() {
            return String::new();
        }
        let shown: String = words.chars().take(EXCERPT).collect();
        let rest = if shown.len() < words.len() { "..." } else { "" };
        format!(": {shown}{rest}")
    }

    fn points_to(&self, secret_url: bool) -> String {
        match &self.location {
            None => "nowhere".into(),
            Some(_) if secret_url => "elsewhere".into(),
            Some(location) => {
                let shown: String = location
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(EXCERPT)
                    .collect();
                format!("to {shown}")
            }
        }
    }

    /// Seconds, or a date.
    fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let text = self.retry_after.as_deref()?.trim();
        let wait = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => httpdate::parse_http_date(text)
                .ok()?
                .duration_since(now)
                .unwrap_or_default(),
        };
        Some(wait.min(LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            ..Answer::default()
        }
    }

    fn word(status: u16, own_url: bool) -> &'static str {
        match answer(status).verdict(SystemTime::now(), own_url, false) {
            Verdict::Accepted => "accepted",
            Verdict::Refused(_) => "refused",
            Verdict::Later(..) => "later",
        }
    }

    #[test]
    fn what_is_the_messages_fault_is_refused_and_everything_else_waits() {
        for (want, statuses) in [
            ("accepted", &[200, 201, 202, 204][..]),
            (
                "refused",
                &[400, 402, 406, 409, 411, 413, 414, 415, 422, 431, 451],
            ),
            (
                "later",
                &[
                    301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 408, 410, 425, 429,
                ],
            ),
            ("later", &[500, 501, 502, 503, 504, 599, 700]),
        ] {
            for status in statuses {
                assert_eq!(word(*status, false), want, "{status}");
            }
        }
        assert_eq!((word(404, true), word(410, true)), ("refused", "refused"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let in_a_minute = httpdate::fmt_http_date(now + Duration::from_mins(1));
        for (text, want) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("999999", Some(3_600)),
            (in_a_minute.as_str(), Some(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let asked = Answer {
                retry_after: Some(text.into()),
                ..answer(429)
            };
            let Verdict::Later(_, wait) = asked.verdict(now, false, false) else {
                panic!("{text}");
            };
            assert_eq!(wait.map(|w| w.as_secs()), want, "{text}");
        }
    }

    #[test]
    fn the_reason_says_what_came_back() {
        let mut refused = answer(422);
        refused.body = format!("{{\"error\":\n\t\"no \u{7} amount\"}} {}", "x".repeat(400)).into_bytes();
        let Verdict::Refused(reason) = refused.verdict(SystemTime::now(), false, false) else {
            panic!();
        };
        assert!(
            reason.starts_with(
                "the receiver refuses it: 422 Unprocessable Entity: {\"error\": \"no  amount\"} xxx"
            ),
            "{reason}"
        );
        assert!(reason.ends_with("...") && reason.len() < 400, "{reason}");
        let mut moved = answer(301);
        moved.location = Some("https://b.example/secret".into());
        let said = |secret| format!("{:?}", moved.verdict(SystemTime::now(), false, secret));
        assert!(said(false).contains("to https://b.example/secret"));
        assert!(!said(true).contains("b.example"));
    }
}
