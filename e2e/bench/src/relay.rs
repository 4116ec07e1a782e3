//! A relay process under measurement: started, watched, asked for its use of memory and CPU, stopped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Relays started here serve pipelines of this relay group.
pub const RELAY_GROUP: &str = "bench";

/// How long a relay may take to deliver what is in flight and leave after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

const LOG_LINES_SHOWN: usize = 25;

/// A running relay; dropped, it is killed.
pub struct Relay {
    child: Child,
    log: PathBuf,
    started: Instant,
}

/// What a relay has used since its start.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Largest resident memory.
    pub peak_rss_mib: f64,
    /// Resident memory at this moment.
    pub rss_mib: f64,
    /// User and system time of all threads.
    pub cpu_seconds: f64,
}

/// What a relay is started with besides.
#[derive(Debug, Default)]
pub struct Options {
    /// Where its standard output goes; to the log otherwise.
    pub stdout: Option<PathBuf>,
    /// Where it takes webhooks.
    pub webhook_port: Option<u16>,
    /// The relay group whose pipelines it runs, when it is not the usual one.
    pub group: Option<String>,
}

impl Relay {
    /// Starts a relay on a database. Its output goes to `log`.
    pub fn start(program: &Path, postgres_url: &str, log: PathBuf, options: &Options) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let stdout = match &options.stdout {
            Some(path) => File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
            None => output.try_clone()?,
        };
        let webhooks = options
            .webhook_port
            .map(|port| format!("--webhook-addr=127.0.0.1:{port}"));
        let started = Instant::now();
        let child = Command::new(program)
            .args(webhooks)
            .args(["--postgres-url", postgres_url])
            .args(["--metrics-addr", &format!("127.0.0.1:{}", free_port()?)])
            .args([
                "--relay-group-id",
                options.group.as_deref().unwrap_or(RELAY_GROUP),
            ])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log, started })
    }

    /// When the process was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// An error once the process has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the relay ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.child.id().context("the relay has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(Usage {
            peak_rss_mib: kib(&status, "VmHWM:").context("no VmHWM in /proc/PID/status")? / 1024.0,
            rss_mib: kib(&status, "VmRSS:").context("no VmRSS in /proc/PID/status")? / 1024.0,
            cpu_seconds: cpu_seconds(&stat, 2).context("unexpected form of /proc/PID/stat")?,
        })
    }

    /// Asks it to leave in order, and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        kill_process(pid.context("the relay has ended by itself")?, Signal::TERM)?;
        let Ok(ended) = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await else {
            return Err(self.blame(&anyhow!(
                "the relay did not leave within {STOP_TIMEOUT:?} of SIGTERM"
            )));
        };
        match ended? {
            status if status.success() => Ok(()),
            status => Err(self.blame(&anyhow!("the relay failed while stopping: {status}"))),
        }
    }

    /// The error with the end of the relay's log.
    pub fn blame(&self, error: &anyhow::Error) -> anyhow::Error {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  | ");
        anyhow!("{error:#}\n  the end of {}:\n  | {end}", self.log.display())
    }
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn kib(status: &str, field: &str) -> Option<f64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// User and system time of a process: utime and stime; of four fields, with that of its children that have ended.
pub fn cpu_seconds(stat: &str, fields: usize) -> Option<f64> {
    Some(cpu_ticks(stat, fields)? / rustix::param::clock_ticks_per_second() as f64)
}

/// Fields 14 and 15, and those behind them. The name in brackets before them may hold blanks.
fn cpu_ticks(stat: &str, count: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(count)
        .map_while(|field| field.parse().ok())
        .collect();
    (times.len() == count).then(|| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_blanks_and_brackets() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 8 9 20 0 1 0 100 1000 10";
        assert_eq!(cpu_ticks(stat, 2), Some(200.0));
        assert_eq!(cpu_ticks(stat, 4), Some(217.0));
        assert_eq!(cpu_ticks("7 (a", 2), None);
    }

    #[test]
    fn memory_is_read_from_the_status() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(kib(status, "VmHWM:"), Some(2048.0));
        assert_eq!(kib(status, "VmRSS:"), Some(1024.0));
        assert_eq!(kib("Name:\tx\n", "VmHWM:"), None);
    }
}
