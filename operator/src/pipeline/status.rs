//! The status of a `Pipeline`: what its relay reports, in conditions.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use crate::crd::{Pipeline, PipelineStatus, SECRETS_FOLDER, TideDatabase, render};
use crate::database::{Problem, View};
use crate::runtime::conditions::{Finding, Is, conditions};
use crate::sql::observe::Report;
use crate::status::Difference;

/// Pods of a relay group: ready and wanted.
#[must_use]
pub fn pods(database: &TideDatabase, group: &str) -> (i32, i32) {
    let status = database.status.as_ref();
    let group = status.and_then(|s| s.relay_groups.iter().find(|g| g.id == group));
    group.map_or((0, 0), |g| (g.ready_replicas, g.replicas))
}

/// The status that is true now.
#[must_use]
pub fn of(
    pipeline: &Pipeline,
    found: &Result<Arc<View>, Problem>,
    pods: Option<(i32, i32)>,
    now: Timestamp,
) -> PipelineStatus {
    let before = pipeline.status.clone().unwrap_or_default();
    let generation = pipeline.meta().generation;
    let name = pipeline.sql_name();
    let view = found.as_ref().ok();
    let report = view.and_then(|v| v.reports.pipelines.get(name));
    let rendered = render(pipeline).ok();
    let findings = findings(pipeline, found, report, pods);
    let lag = view.and_then(|v| v.amounts.lags.get(name));
    let forward = pipeline.spec.forward.is_some();
    PipelineStatus {
        observed_generation: generation,
        conditions: conditions(&before.conditions, &findings, generation, now),
        pipeline_name: Some(name.to_owned()),
        source: rendered.as_ref().map(|r| r.source_text.clone()).or(before.source),
        sink: rendered.as_ref().map(|r| r.sink_text.clone()).or(before.sink),
        owner: report.and_then(|r| r.owner.clone()),
        lag: match (forward, lag, report) {
            (true, Some((lag, _)), _) => Some(*lag),
            (false, _, Some(report)) => report.source_lag,
            _ => before.lag,
        },
        oldest_pending_at: match (forward, lag) {
            (true, Some((0, _))) | (false, _) => None,
            // To the second, so that it does not differ at every look.
            (true, Some((_, seconds))) => since(now, *seconds, before.oldest_pending_at.as_ref()),
            (true, None) => before.oldest_pending_at,
        },
        rate: report.filter(|r| r.owner.is_some()).map(|r| rate(r.rate)),
        messages: report.map(|r| r.messages).or(before.messages),
        dead_letters: view
            .and_then(|v| v.amounts.dead_letters.get(name).copied())
            .or(before.dead_letters),
        last_error: report.map_or(before.last_error, |r| r.last_error.clone()),
        last_error_at: report.map_or(before.last_error_at, |r| r.last_error_at.map(Time)),
    }
}

/// When something began that is so many seconds old; as it was said before if
/// that is the same to a second.
fn since(now: Timestamp, seconds: f64, before: Option<&Time>) -> Option<Time> {
    #[allow(clippy::cast_possible_truncation)]
    let at = now.as_second() - seconds as i64;
    if let Some(before) = before
        && (before.0.as_second() - at).abs() <= 1
    {
        return Some(before.clone());
    }
    Timestamp::from_second(at).ok().map(Time)
}

fn rate(rate: f64) -> String {
    if rate >= 10.0 || rate == 0.0 {
        format!("{rate:.0}/s")
    } else {
        format!("{rate:.1}/s")
    }
}

fn findings(
    pipeline: &Pipeline,
    found: &Result<Arc<View>, Problem>,
    report: Option<&Report>,
    pods: Option<(i32, i32)>,
) -> Vec<Finding> {
    let enabled = pipeline.spec.enabled;
    let paused = if enabled {
        Finding::new("Paused", false, "Enabled", "spec.enabled is true")
    } else {
        Finding::new(
            "Paused",
            true,
            "Disabled",
            "spec.enabled is false: the position is kept, and messages wait",
        )
    };
    let unknown = |about, reason, message: &str| Finding::new(about, Is::Unknown, reason, message);
    let problem = found.as_ref().err();
    let database = match problem {
        None => Finding::new(
            "DatabaseReachable",
            true,
            "Connected",
            "the operator has a session with the database",
        ),
        Some(p) if p.reason == "Connecting" => unknown("DatabaseReachable", p.reason, &p.message),
        Some(p) if is_of_database(p) => Finding::new("DatabaseReachable", false, p.reason, p.message.clone()),
        Some(_) => unknown(
            "DatabaseReachable",
            "NotAsked",
            "the resource must be mended first",
        ),
    };
    let Some(report) = report.filter(|_| problem.is_none()) else {
        let (is, reason, message) = match problem {
            Some(p) if p.reason == "Connecting" => (Is::Unknown, p.reason, p.message.clone()),
            Some(p) if is_of_database(p) => (
                Is::False,
                "DatabaseUnavailable",
                format!("{}: {}", p.reason, p.message),
            ),
            Some(p) => (Is::False, p.reason, p.message.clone()),
            None => (Is::Unknown, "Starting", "no relay has reported on it yet".into()),
        };
        let reason_unknown = "NoReport";
        return vec![
            Finding::new("Ready", is, reason, message),
            database,
            unknown("RelayAvailable", reason_unknown, "there is no report to tell by"),
            unknown("Delivering", reason_unknown, "there is no report to tell by"),
            paused,
        ];
    };
    let relay = relay(report, pods);
    let delivering = delivering(report);
    let ready = if !enabled {
        Finding::new("Ready", false, "Paused", paused.message.clone())
    } else if relay.is == Is::False {
        Finding::new("Ready", false, relay.reason, relay.message.clone())
    } else {
        Finding::new(
            "Ready",
            delivering.is,
            delivering.reason,
            delivering.message.clone(),
        )
    };
    vec![ready, database, relay, delivering, paused]
}

fn is_of_database(problem: &Problem) -> bool {
    matches!(
        problem.reason,
        "TideDatabaseNotFound"
            | "DatabaseNotFound"
            | "ConnectionFailed"
            | "InvalidConnection"
            | "AuthenticationFailed"
            | "TLSFailed"
            | "NotPrimary"
            | "PoolerInBetween"
    ) || problem.reason.starts_with("Schema")
}

fn relay(report: &Report, pods: Option<(i32, i32)>) -> Finding {
    let about = "RelayAvailable";
    match (&report.owner, report.state.as_str()) {
        (Some(owner), _) => Finding::new(about, true, "Owned", format!("relay {owner} has the pipeline")),
        (None, "no live relay") => {
            let pods = pods.map_or_else(String::new, |(ready, wanted)| {
                format!("; {ready} of {wanted} pods of the relay group are ready")
            });
            Finding::new(
                about,
                false,
                if pods.contains(" of 0 pods") {
                    "ScaledToZero"
                } else {
                    "NoLiveRelay"
                },
                format!("no relay of the group reports to the database{pods}"),
            )
        }
        (None, "disabled") => Finding::new(about, true, "NotNeeded", "a paused pipeline needs no relay"),
        (None, _) => Finding::new(
            about,
            Is::Unknown,
            "Unowned",
            "relays of the group live, and none has taken it yet",
        ),
    }
}

fn delivering(report: &Report) -> Finding {
    let about = "Delivering";
    let said = || {
        let error = report.last_error.clone();
        error.unwrap_or_else(|| "the relay has not said why".into())
    };
    if report.owner.is_some() && report.state == "retrying" && awaits_secret(report) {
        return Finding::new(
            about,
            false,
            "Starting",
            format!(
                "the kubelet has yet to bring the Secret into the relay's pod, which takes seconds, a minute or two at most: {}",
                said()
            ),
        );
    }
    match (report.owner.is_some(), report.state.as_str()) {
        (true, "running") => {
            let note = report
                .note
                .as_ref()
                .map_or_else(String::new, |note| format!("; {note}"));
            Finding::new(
                about,
                true,
                "Running",
                format!("messages are moved as they come{note}"),
            )
        }
        (true, "retrying") => Finding::new(about, false, "DeliveryFailing", said()),
        (true, "misconfigured") => Finding::new(about, false, "Misconfigured", said()),
        (true, _) => match &report.last_error {
            Some(error) => Finding::new(about, false, "Starting", format!("starting; last error: {error}")),
            None => Finding::new(
                about,
                Is::Unknown,
                "Starting",
                "the relay is starting the pipeline",
            ),
        },
        (false, "disabled") => Finding::new(about, false, "Paused", "the pipeline is disabled"),
        (false, _) => Finding::new(about, false, "NoOwner", "no relay has the pipeline"),
    }
}

/// Whether the relay lacks a file of its Secret. That the Secrets themselves
/// are there, and are copied into it, was seen before.
fn awaits_secret(report: &Report) -> bool {
    report.last_error.as_ref().is_some_and(|error| {
        error.contains(&format!("cannot read the secret file {SECRETS_FOLDER}/"))
            && error.contains("No such file or directory")
    })
}

/// Events for what is new and bad.
#[must_use]
pub fn warnings(before: Option<&PipelineStatus>, now: &PipelineStatus) -> Vec<(&'static str, String)> {
    let mut warnings = Vec::new();
    let failing = |status: &PipelineStatus| {
        status
            .conditions
            .iter()
            .find(|c| {
                c.type_ == "Delivering" && (c.reason == "DeliveryFailing" || c.reason == "Misconfigured")
            })
            .map(|c| c.message.clone())
    };
    if let Some(message) = failing(now)
        && before.and_then(failing).is_none()
    {
        warnings.push(("DeliveryFailing", message));
    }
    let dead = |status: &PipelineStatus| status.dead_letters.unwrap_or(0);
    if let Some(before) = before
        && dead(now) > dead(before)
    {
        warnings.push((
            "DeadLetters",
            format!(
                "{} messages are dead letters, {} more than before: SELECT * FROM tide.relay_dlq_list('{}')",
                dead(now),
                dead(now) - dead(before),
                now.pipeline_name
                    .as_deref()
                    .unwrap_or_default()
                    .replace('\'', "''")
            ),
        ));
    }
    warnings
}

/// How much it differs from the status that is there.
#[must_use]
pub fn difference(before: Option<&PipelineStatus>, now: &PipelineStatus) -> Difference {
    let Some(before) = before else {
        return Difference::Material;
    };
    if before == now {
        return Difference::None;
    }
    let still = |status: &PipelineStatus| PipelineStatus {
        lag: None,
        oldest_pending_at: None,
        rate: None,
        messages: None,
        last_error_at: None,
        ..status.clone()
    };
    if still(before) == still(now) && (before.lag == Some(0)) == (now.lag == Some(0)) {
        Difference::Figures
    } else {
        Difference::Material
    }
}
