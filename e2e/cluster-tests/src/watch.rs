//! Waiting for what an object says, by `kubectl get --watch`: one process
//! that tells of every change, where asking again and again would be a new one
//! each time and take the processors from what is tested.

use std::ops::ControlFlow;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout_at};

use crate::Namespace;

/// Before a watch that has ended, as it does when the API server does, is
/// begun again.
const AGAIN: Duration = Duration::from_millis(200);

/// One of an object's conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// `True`, `False` or `Unknown`; empty when there is no such condition.
    pub status: String,
    /// The reason, for programs.
    pub reason: String,
    /// The message, for people.
    pub message: String,
}

impl Condition {
    pub(crate) fn parse(text: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let part = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Self {
            status: part("status"),
            reason: part("reason"),
            message: part("message"),
        }
    }
}

/// The JSONPath of a condition.
pub(crate) fn condition_path(condition: &str) -> String {
    format!("{{.status.conditions[?(@.type==\"{condition}\")]}}")
}

impl Namespace {
    /// Waits until a part of an object, by its JSONPath such as
    /// `{.status.phase}`, is as it should be; returns it. The object need not
    /// be there yet. Panics when the time is over, saying `what` was awaited
    /// and what was there instead.
    pub async fn await_value(
        &self,
        within: Duration,
        object: &str,
        path: &str,
        what: &str,
        mut is: impl FnMut(&str) -> bool,
    ) -> String {
        let end = Instant::now() + within;
        let mut last = None;
        while Instant::now() < end {
            match self.watch(end, object, path, &mut last, &mut is).await {
                ControlFlow::Break(value) => return value,
                ControlFlow::Continue(()) => sleep(AGAIN).await,
            }
        }
        let was = last.unwrap_or_else(|| "nothing".to_owned());
        panic!(
            "not within {within:?}: {object} in {}: {what}\ngot: {was}",
            self.name()
        );
    }

    /// Until the value is found, the time is over or the watch ends.
    async fn watch(
        &self,
        end: Instant,
        object: &str,
        path: &str,
        last: &mut Option<String>,
        is: &mut impl FnMut(&str) -> bool,
    ) -> ControlFlow<String> {
        let (kind, name) = object.split_once('/').unwrap();
        // By selector: an object that is named must be there from the beginning.
        let mut child = Command::new("kubectl")
            .args(["get", kind, "--watch", "--namespace", self.name()])
            .arg(format!("--field-selector=metadata.name={name}"))
            .arg(format!("--output=jsonpath={path}{{\"\\n\"}}"))
            .env("KUBECONFIG", &self.cluster().kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("kubectl (e2e/cluster/up puts it on the PATH): {e}"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            match timeout_at(end.into(), lines.next_line()).await {
                Ok(Ok(Some(value))) if is(&value) => return ControlFlow::Break(value),
                Ok(Ok(Some(value))) => *last = Some(value),
                Ok(Ok(None) | Err(_)) => break,
                Err(_) => return ControlFlow::Continue(()),
            }
        }
        if let Ok(Ok(output)) = timeout_at(end.into(), child.wait_with_output()).await {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if !complaint.is_empty() {
                *last = Some(complaint);
            }
        }
        ControlFlow::Continue(())
    }

    /// Waits until a part of an object is this.
    pub async fn await_field(&self, within: Duration, object: &str, path: &str, wanted: &str) {
        let what = format!("{path} is {wanted:?}");
        self.await_value(within, object, path, &what, |value| value == wanted)
            .await;
    }

    /// Waits until a condition of an object is as it should be; returns it.
    pub async fn await_condition_as(
        &self,
        within: Duration,
        object: &str,
        condition: &str,
        what: &str,
        mut is: impl FnMut(&Condition) -> bool,
    ) -> Condition {
        let what = format!("{condition} {what}");
        let found = self
            .await_value(within, object, &condition_path(condition), &what, |value| {
                is(&Condition::parse(value))
            })
            .await;
        Condition::parse(&found)
    }

    /// Waits until a condition of an object is this status: `True`, `False`
    /// or `Unknown`.
    pub async fn await_condition(
        &self,
        within: Duration,
        object: &str,
        condition: &str,
        status: &str,
    ) -> Condition {
        self.await_condition_as(within, object, condition, &format!("is {status}"), |c| {
            c.status == status
        })
        .await
    }
}
