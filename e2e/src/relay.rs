//! The relay as a process: started, asked over HTTP, signalled, killed.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::process::{self, Signal};
use crate::{Database, Host, await_condition, get, unique};

/// How a relay is started.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    database: [String; 2],
    arguments: Vec<String>,
    stdout: Option<PathBuf>,
    environment: Vec<(String, String)>,
    webhooks: Option<SocketAddr>,
    host: Option<Arc<Host>>,
    log: Option<PathBuf>,
}

impl RelayOptions {
    /// A relay for the database at a URL.
    pub fn for_url(url: &str) -> Self {
        Self {
            database: ["--postgres-url".to_owned(), url.to_owned()],
            arguments: Vec::new(),
            stdout: None,
            environment: Vec::new(),
            webhooks: None,
            host: None,
            log: None,
        }
    }

    /// A relay for the database whose URL is in a file.
    pub fn for_url_file(file: &Path) -> Self {
        Self {
            database: ["--postgres-url-file".to_owned(), file.display().to_string()],
            arguments: Vec::new(),
            stdout: None,
            environment: Vec::new(),
            webhooks: None,
            host: None,
            log: None,
        }
    }

    /// Its standard output goes to this file instead of the log.
    #[must_use]
    pub fn stdout(mut self, path: &Path) -> Self {
        self.stdout = Some(path.to_owned());
        self
    }

    /// Its `--relay-group-id`.
    #[must_use]
    pub fn group(self, group: &str) -> Self {
        self.arguments(&["--relay-group-id", group])
    }

    /// It listens for webhooks, on an address of its own.
    #[must_use]
    pub fn webhooks(self) -> Self {
        let address = free_address();
        Self {
            webhooks: Some(address),
            ..self.arguments(&["--webhook-addr", &address.to_string()])
        }
    }

    /// JSON logs.
    #[must_use]
    pub fn json(self) -> Self {
        self.arguments(&["--log-format", "json"])
    }

    /// Further arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// It runs on a host of its own.
    #[must_use]
    pub fn on(mut self, host: &Arc<Host>) -> Self {
        self.host = Some(Arc::clone(host));
        self
    }

    /// Its log goes into this file, which stays.
    #[must_use]
    pub fn log(mut self, path: &Path) -> Self {
        self.log = Some(path.to_owned());
        self
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(self) -> Relay {
        let mut relay = self.spawn();
        relay.await_ready(Duration::from_secs(15)).await;
        relay
    }

    /// Starts it and waits for nothing.
    pub fn spawn(self) -> Relay {
        let mut address = free_address();
        if let Some(host) = &self.host {
            address.set_ip(host.address().into());
        }
        let keeps_log = self.log.is_some();
        let log = self.log.clone().unwrap_or_else(|| {
            let name = unique("relay");
            std::env::temp_dir().join(format!("pg-tide-e2e-{name}.log"))
        });
        let file = File::create(&log).unwrap();
        let stdout = match &self.stdout {
            Some(path) => File::options().append(true).create(true).open(path).unwrap(),
            None => file.try_clone().unwrap(),
        };
        let mut command = match &self.host {
            Some(host) => host.command(&program()),
            None => Command::new(program()),
        };
        let child = command
            .args(&self.database)
            .args(["--metrics-addr", &address.to_string()])
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            .spawn()
            .unwrap();
        Relay {
            child,
            address,
            webhooks: self.webhooks,
            log,
            keeps_log,
            host: self.host,
        }
    }
}

/// A running relay; killed when dropped. Its log is shown when a test fails.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    address: SocketAddr,
    webhooks: Option<SocketAddr>,
    log: PathBuf,
    keeps_log: bool,
    host: Option<Arc<Host>>,
}

impl Relay {
    /// Starts a relay for a database, in the default group, and waits until
    /// it is ready.
    pub async fn start(database: &Database) -> Self {
        Self::options(database).start().await
    }

    /// A relay for a database, to be started differently.
    pub fn options(database: &Database) -> RelayOptions {
        RelayOptions::for_url(&database.url())
    }

    /// Where its pages are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for webhooks.
    ///
    /// # Panics
    /// When it does not.
    pub fn webhooks(&self) -> SocketAddr {
        self.webhooks.unwrap()
    }

    /// The host on which it runs, if it has one of its own.
    pub fn host(&self) -> Option<&Arc<Host>> {
        self.host.as_ref()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until /readyz is 200.
    pub async fn await_ready(&mut self, within: Duration) {
        let (address, log) = (self.address, self.log.clone());
        let child = &mut self.child;
        await_condition(within, "the relay is ready", async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!(
                    "the relay ended ({status}):\n{}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            (get(address, "/readyz").await.ok()?.0 == 200).then_some(())
        })
        .await;
    }

    /// A page's status and body.
    pub async fn page(&self, path: &str) -> (u16, String) {
        get(self.address, path)
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The lines of /metrics that begin with this text.
    pub async fn metric_lines(&self, beginning: &str) -> Vec<String> {
        match get(self.address, "/metrics").await {
            Ok((200, body)) => body
                .lines()
                .filter(|l| l.starts_with(beginning))
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Waits until /metrics has this line.
    pub async fn await_metric(&self, within: Duration, line: &str) {
        let name = line.split(['{', ' ']).next().unwrap();
        await_condition(within, line, async || {
            self.metric_lines(name)
                .await
                .contains(&line.to_owned())
                .then_some(())
        })
        .await;
    }

    /// Waits until a pipeline is (1) or is not (0) healthy by the metrics.
    pub async fn await_healthy(&self, within: Duration, pipeline: &str, healthy: u8) {
        let line = format!("pg_tide_relay_pipeline_healthy{{pipeline=\"{pipeline}\"}} {healthy}");
        self.await_metric(within, &line).await;
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until a line of the log contains all of these texts.
    pub async fn await_log(&self, within: Duration, texts: &[&str]) -> String {
        await_condition(within, &format!("a log line with {texts:?}"), async || {
            self.log()
                .lines()
                .find(|line| texts.iter().all(|t| line.contains(t)))
                .map(str::to_owned)
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        process::send(self.pid(), signal);
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns how it ended.
    pub async fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::Term);
        self.await_end(within).await
    }

    /// Waits until it has ended by itself.
    pub async fn await_end(&mut self, within: Duration) -> ExitStatus {
        let child = &mut self.child;
        await_condition(within, "the relay ends", async || child.try_wait().unwrap()).await
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.keeps_log {
            return;
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(60)..];
            eprintln!(
                "--- the end of the log of relay {}:\n{}\n---",
                self.pid(),
                end.join("\n")
            );
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

/// `pg-tide` in the background, for commands that do not end by themselves;
/// killed when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    output: PathBuf,
}

impl Background {
    /// Starts it with its standard output and error in a file.
    pub fn pg_tide(arguments: &[&str]) -> Self {
        Self::start(Command::new(program()).args(arguments).stdin(Stdio::null()))
    }

    /// The same on a terminal of 80 columns and 24 lines, with the terminal's
    /// keys to be typed.
    pub fn pg_tide_on_a_terminal(arguments: &[&str]) -> Self {
        let command = format!(
            "stty cols 80 rows 24; exec '{}' {}",
            program().display(),
            arguments
                .iter()
                .map(|a| format!("'{a}'"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        // script (of util-linux) makes the terminal; -e has it end as the command did.
        Self::start(
            Command::new("script")
                .args(["-q", "-e", "-f", "-c", &command, "/dev/null"])
                .stdin(Stdio::piped()),
        )
    }

    fn start(command: &mut Command) -> Self {
        let output = std::env::temp_dir().join(unique("pg-tide-output"));
        let file = File::create(&output).unwrap();
        let child = command
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written what the condition asks for.
    pub async fn await_output(
        &self,
        within: Duration,
        what: &str,
        condition: impl Fn(&str) -> bool,
    ) -> String {
        await_condition(within, what, async || {
            Some(self.output()).filter(|o| condition(o))
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        process::send(self.child.id(), signal);
    }

    /// Types on its terminal.
    pub fn type_keys(&mut self, keys: &[u8]) {
        use std::io::Write as _;
        self.child.stdin.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn await_end(&mut self, within: Duration) -> ExitStatus {
        let child = &mut self.child;
        await_condition(within, "the command ends", async || child.try_wait().unwrap()).await
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what it wrote:\n{}\n---", self.output());
        }
        let _ = std::fs::remove_file(&self.output);
    }
}

/// Runs `pg-tide` to its end, for at most a minute.
pub async fn run_pg_tide(arguments: &[&str]) -> Output {
    run_pg_tide_in(&[], arguments).await
}

/// The same, with further environment variables.
pub async fn run_pg_tide_in(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let child = Command::new(program())
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let mut ending = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    if let Ok(output) = tokio::time::timeout(Duration::from_mins(1), &mut ending).await {
        return output.unwrap();
    }
    process::send(pid, Signal::Kill);
    panic!("pg-tide {arguments:?} does not end: {:?}", ending.await);
}

/// The relay's program: `PG_TIDE`, or the one built beside the test.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("PG_TIDE") {
        return path.into();
    }
    // target/debug/deps/<test> -> target/debug/pg-tide
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("pg-tide");
    assert!(
        path.exists(),
        "there is no {}: build it with cargo build -p pg-tide, or name it in PG_TIDE (make test does the former)",
        path.display()
    );
    path
}

/// An address on which nobody listens. Below the ports that the kernel gives
/// to outgoing connections and below those of the beds.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 8_000;
    (0..8_000)
        .map(|_| {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                u16::try_from(11_000 + (start + step) % 8_000).unwrap(),
            ))
        })
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap()
}
