//! The servers: the shared bed from the environment, or a bed of one's own
//! for tests that break servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Signal};
use crate::unique;

/// Addresses of a bed's servers.
#[derive(Debug, Clone)]
pub struct Bed {
    /// URL of a database whose role may create databases.
    pub postgres: String,
    /// Bootstrap broker, `host:port`.
    pub kafka: String,
    /// `nats://host:port`.
    pub nats: String,
    /// `http://host:port` of NATS's monitoring.
    pub nats_monitor: String,
}

impl Bed {
    /// The bed that `eval "$(e2e/bed env)"` has put into the environment.
    ///
    /// # Panics
    /// When there is none.
    pub fn from_env() -> Self {
        Self::read(&|name| std::env::var(name).ok())
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            variable(name).unwrap_or_else(|| {
                panic!(
                    "{name} is not set: these tests need a bed. Run: e2e/bed up && eval \"$(e2e/bed env)\" (or make test)"
                )
            })
        };
        Self {
            postgres: get("TIDE_PG_URL"),
            kafka: get("TIDE_KAFKA"),
            nats: get("TIDE_NATS"),
            nats_monitor: get("TIDE_NATS_MONITOR"),
        }
    }
}

/// A bed that belongs to one test; taken down with its data when dropped.
#[derive(Debug)]
pub struct OwnBed {
    name: String,
    /// The folder with its data.
    pub state: PathBuf,
    /// Its addresses; those of servers that were not started answer nobody.
    pub addresses: Bed,
}

impl OwnBed {
    /// Starts servers (`postgres`, `kafka`, `nats`) in a bed of this name,
    /// with settings of `e2e/bed` such as `TIDE_BED_NATS_JETSTREAM`.
    pub async fn up(name: &str, servers: &[&str], settings: &[(&str, &str)]) -> Self {
        // The process id keeps two runs of the tests apart.
        let name = format!("e2e-{name}-{}", std::process::id());
        let arguments: Vec<&str> = std::iter::once("up").chain(servers.iter().copied()).collect();
        // Made first, so that a failed start is cleaned up as well.
        let mut bed = Self {
            name,
            state: PathBuf::new(),
            addresses: Bed {
                postgres: String::new(),
                kafka: String::new(),
                nats: String::new(),
                nats_monitor: String::new(),
            },
        };
        bed.run(&arguments, settings).await;
        let environment = bed.run(&["env"], &[]).await;
        let variable = |name: &str| {
            let line = environment
                .lines()
                .find_map(|l| l.strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('='))?;
            Some(line.to_owned())
        };
        bed.addresses = Bed::read(&variable);
        bed.state = variable("TIDE_BED_STATE").unwrap_or_default().into();
        bed
    }

    /// A NATS server alone, with further configuration.
    pub async fn nats(name: &str, config: &str) -> Self {
        let file = ConfigFile::write(config);
        Self::up(name, &["nats"], &[("TIDE_BED_NATS_CONFIG", file.path())]).await
    }

    /// Ends the NATS server and starts it with another configuration, on its
    /// old port.
    pub async fn restart_nats(&self, config: &str) {
        let file = ConfigFile::write(config);
        self.stop("nats").await;
        self.run(&["start", "nats"], &[("TIDE_BED_NATS_CONFIG", file.path())])
            .await;
    }

    /// SIGKILL to a server, as a crash.
    pub async fn kill(&self, server: &str) {
        self.run(&["kill", server], &[]).await;
    }

    /// Sends a signal to a server's process.
    pub fn signal(&self, server: &str, signal: Signal) {
        let file = self.state.join(server).join("pid");
        let text = std::fs::read_to_string(file).unwrap();
        let pid = text.split_whitespace().next().unwrap().parse().unwrap();
        process::send(pid, signal);
    }

    /// Ends a server in order.
    pub async fn stop(&self, server: &str) {
        self.run(&["stop", server], &[]).await;
    }

    /// Starts a server again, on its old port, and waits until it answers.
    pub async fn start(&self, server: &str) {
        self.run(&["start", server], &[]).await;
    }

    /// The same, with other settings than before.
    pub async fn start_with(&self, server: &str, settings: &[(&str, &str)]) {
        self.run(&["start", server], settings).await;
    }

    /// The same, or why it does not answer within the bed's minute.
    ///
    /// # Errors
    /// What the bed says.
    pub async fn try_start(&self, server: &str) -> Result<(), String> {
        self.try_run(&["start", server], &[]).await.map(drop)
    }

    async fn run(&self, arguments: &[&str], settings: &[(&str, &str)]) -> String {
        let answer = self.try_run(arguments, settings).await;
        answer.unwrap_or_else(|complaint| panic!("{complaint}"))
    }

    async fn try_run(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Result<String, String> {
        let mut command = self.command(arguments);
        command.envs(settings.iter().copied());
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(format!("bed {}: {arguments:?} failed:\n{complaint}", self.name))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(folder().join("bed"));
        command.args(arguments).env("TIDE_BED", &self.name);
        command
    }
}

impl Drop for OwnBed {
    fn drop(&mut self) {
        match self.command(&["down"]).output() {
            Ok(output) if output.status.success() => {}
            failed => eprintln!("bed {}: taking it down failed: {failed:?}", self.name),
        }
    }
}

/// A file of configuration, there until the server has read it.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn write(config: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{}.conf", unique("pg-tide-e2e-nats")));
        std::fs::write(&path, config).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The folder e2e of the checkout.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
