//! The command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::relay_deployment::PodMonitors;

/// The operator of pg-tide: `TideDatabase`, `Outbox`, `Inbox` and `Pipeline`
/// resources become objects of schema tide and relay Deployments.
#[derive(Debug, Parser)]
#[command(name = "pg-tide-operator", version)]
pub struct Arguments {
    /// What to do; without it the operator runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How the operator runs.
    #[command(flatten)]
    pub run: Run,
}

/// What else it can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
}

/// How the operator runs.
#[derive(Debug, Args)]
pub struct Run {
    /// Namespaces to watch, with commas between them; empty for all.
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_WATCH_NAMESPACES",
        value_name = "NAMES",
        default_value = "",
        hide_default_value = true
    )]
    watch_namespaces: String,

    /// Image of relays whose group names none.
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_RELAY_IMAGE",
        value_name = "IMAGE",
        default_value = concat!("ghcr.io/pg-tide/pg-tide:", env!("CARGO_PKG_VERSION"))
    )]
    pub relay_image: String,

    /// Pull policy of that image: Always, `IfNotPresent` or Never.
    #[arg(long, env = "PG_TIDE_OPERATOR_RELAY_IMAGE_PULL_POLICY", value_name = "POLICY")]
    pub relay_image_pull_policy: Option<String>,

    /// Between two verifications of everything in a database, such as 30s.
    #[arg(long, env = "PG_TIDE_OPERATOR_RESYNC", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub resync: Duration,

    /// Resources that are worked on at the same time.
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_WORKERS",
        value_name = "NUMBER",
        default_value_t = 16
    )]
    pub workers: usize,

    /// Whether only one operator at a time works, the one that has the Lease
    /// pg-tide-operator in its namespace.
    #[arg(long, env = "PG_TIDE_OPERATOR_LEADER_ELECT", num_args = 0..=1, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub leader_elect: bool,

    /// Namespace of the Lease.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "default")]
    pub namespace: String,

    /// Name of this operator in the Lease and in events.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,

    /// Identity of the cluster in databases that several clusters share;
    /// without it the UID of the namespace kube-system.
    #[arg(long, env = "PG_TIDE_OPERATOR_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,

    /// Whether relays get a `NetworkPolicy`.
    #[arg(long, env = "PG_TIDE_OPERATOR_NETWORK_POLICY", num_args = 0..=1, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub network_policy: bool,

    /// Whether relays get a `PodMonitor` (its CRD must be there).
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_MONITORS",
        value_name = "KIND",
        default_value = "none"
    )]
    monitors: Monitors,

    /// Labels of those, by which Prometheus selects them: a=b,c=d.
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_MONITOR_LABELS",
        value_name = "LABELS",
        default_value = "",
        hide_default_value = true,
        value_parser = labels
    )]
    monitor_labels: Labels,

    /// Between two scrapes of a relay, such as 30s; empty for Prometheus's own.
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_MONITOR_INTERVAL",
        value_name = "DURATION",
        default_value = "",
        hide_default_value = true
    )]
    monitor_interval: String,

    /// Where /metrics, /livez and /readyz are served.
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_METRICS_ADDR",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080"
    )]
    pub metrics_addr: SocketAddr,

    /// How log lines are written (to standard error).
    #[arg(long, env = "PG_TIDE_OPERATOR_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter like
    /// `info,pg_tide_operator=debug`.
    #[arg(
        long,
        env = "PG_TIDE_OPERATOR_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_level: String,
}

/// Objects for the Prometheus operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Monitors {
    /// None.
    None,
    /// A `PodMonitor` for each relay Deployment.
    PodMonitor,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Run {
    /// The namespaces to watch; none for all.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let names = self.watch_namespaces.split(',').map(str::trim);
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// How relays are monitored, if they are.
    #[must_use]
    pub fn pod_monitors(&self) -> Option<PodMonitors> {
        (self.monitors == Monitors::PodMonitor).then(|| PodMonitors {
            labels: self.monitor_labels.0.clone(),
            interval: Some(self.monitor_interval.clone()).filter(|i| !i.is_empty()),
        })
    }
}

/// A list of labels. A type of its own, since clap takes a map for several values.
#[derive(Debug, Clone, Default)]
struct Labels(BTreeMap<String, String>);

fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!(
            "expected labels such as release=prometheus, not \"{pair}\""
        )),
    };
    pairs.map(pair).collect::<Result<_, _>>().map(Labels)
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a duration such as 30s or 5m".to_owned())?;
    let seconds = match unit {
        "s" | "" => number,
        "m" => number.saturating_mul(60),
        "h" => number.saturating_mul(3600),
        _ => return Err("expected a duration such as 30s or 5m".into()),
    };
    if seconds == 0 {
        return Err("it must be at least 1s".into());
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_can_set_everything() {
        let arguments = Arguments::try_parse_from([
            "pg-tide-operator",
            "--metrics-addr=0.0.0.0:8080",
            "--watch-namespaces=a, b",
            "--relay-image=pg-tide:1",
            "--resync=2m",
            "--leader-elect=false",
            "--network-policy=false",
            "--monitors=pod-monitor",
            "--monitor-labels=release=prometheus,team=",
            "--monitor-interval=5s",
            "--log-format=json",
        ])
        .unwrap();
        let monitors = arguments.run.pod_monitors().unwrap();
        assert_eq!(monitors.labels["release"], "prometheus");
        assert_eq!(monitors.labels["team"], "");
        assert_eq!(monitors.interval.as_deref(), Some("5s"));
        assert_eq!(arguments.run.namespaces(), ["a", "b"]);
        assert_eq!(arguments.run.resync, Duration::from_mins(2));
        assert!(!arguments.run.leader_elect && !arguments.run.network_policy);
    }

    #[test]
    fn labels_that_cannot_be_read_say_how_they_are_written() {
        for text in ["prometheus", "=prometheus", "a=b,c"] {
            let error = labels(text).unwrap_err();
            assert!(error.contains("release=prometheus"), "{text}: {error}");
        }
        assert!(labels("").unwrap().0.is_empty());
    }

    #[test]
    fn a_duration_that_cannot_be_read_says_how_one_is_written() {
        for text in ["", "x", "5d", "0s", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
