//! PgBouncer in front of a database, for what must not go through one.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_postgres::config::Host;

use crate::relay::free_address;
use crate::{Database, await_condition, unique};

/// A pooler; ended when dropped.
#[derive(Debug)]
pub struct Pooler {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
    url: String,
}

impl Pooler {
    /// PgBouncer with this `pool_mode` in front of a database.
    pub async fn start(database: &Database, pool_mode: &str) -> Self {
        let config: tokio_postgres::Config = database.url().parse().unwrap();
        let user = config.get_user().unwrap();
        let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
        let (port, name) = (config.get_ports()[0], config.get_dbname().unwrap());
        let Host::Tcp(host) = &config.get_hosts()[0] else {
            panic!("a bed's PostgreSQL listens on TCP: {config:?}");
        };
        let address = free_address();
        let folder = std::env::temp_dir().join(unique("pooler"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("users"), format!("\"{user}\" \"{password}\"\n")).unwrap();
        let ini = folder.join("pgbouncer.ini");
        std::fs::write(
            &ini,
            format!(
                "[databases]\n{name} = host={host} port={port}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_type = plain\n\
                 auth_file = {}\npool_mode = {pool_mode}\nignore_startup_parameters = extra_float_digits\n",
                address.port(),
                folder.join("users").display()
            ),
        )
        .unwrap();
        let mut command = Command::new("pgbouncer");
        // It refuses to run as root.
        let root =
            std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
        if root {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg(&ini)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("pgbouncer (e2e/setup installs it, bed env puts it on the PATH): {e}")
            });
        let pooler = Self {
            child,
            address,
            folder,
            url: format!("postgres://{user}:{password}@{address}/{name}"),
        };
        await_condition(Duration::from_secs(10), "PgBouncer answers", async || {
            TcpStream::connect(pooler.address).ok()
        })
        .await;
        pooler
    }

    /// The database's URL through the pooler.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
