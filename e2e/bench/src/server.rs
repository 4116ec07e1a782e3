//! What PostgreSQL uses, seen from outside: the processes of the server, which has to be on this machine.

use anyhow::{Context as _, Result};
use tokio_postgres::Client;

use crate::bench::Bench;
use crate::relay::cpu_seconds;

/// The server's processes.
pub struct Server {
    postmaster: u32,
}

impl Server {
    /// Of the bench's database.
    pub async fn find(bench: &Bench) -> Result<Self> {
        Self::of(&bench.database.connect().await?).await
    }

    async fn of(client: &Client) -> Result<Self> {
        let backend: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .await?
            .try_get(0)?;
        let stat = std::fs::read_to_string(format!("/proc/{backend}/stat"))
            .context("what PostgreSQL uses is measured only when it runs on this machine")?;
        Ok(Self {
            postmaster: parent(&stat).context("unexpected form of /proc/PID/stat")?,
        })
    }

    /// User and system time of all its processes, also of those that have ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let own = std::fs::read_to_string(format!("/proc/{}/stat", self.postmaster))?;
        let mut sum = cpu_seconds(&own, 4).context("unexpected form of /proc/PID/stat")?;
        for entry in std::fs::read_dir("/proc")? {
            // A process may end while it is looked at: the postmaster has its time then.
            let Ok(stat) = std::fs::read_to_string(entry?.path().join("stat")) else {
                continue;
            };
            if parent(&stat) == Some(self.postmaster) {
                sum += cpu_seconds(&stat, 2).unwrap_or_default();
            }
        }
        Ok(sum)
    }
}

/// The second field after the name.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_a_name_with_brackets() {
        assert_eq!(parent("7 (postgres: a) b) S 42 7 7 0 -1"), Some(42));
        assert_eq!(parent("7 (postgres"), None);
    }
}
