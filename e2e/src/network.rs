//! Hosts of one's own on this machine: network namespaces on a bridge.
//!
//! A process in one can be cut off as a host that vanishes is: packets are
//! dropped, nobody is told, and the kernels on both sides go on believing in
//! the connection until their own time-outs. A proxy cannot do that, as its
//! kernel would go on acknowledging in the other's name. Wants root on Linux.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};

const PREFIX: &str = "tide-c";

/// Which packets of a host are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Those that it sends.
    Out,
    /// Those that it should receive.
    In,
    /// All.
    Both,
}

/// A bridge and the namespaces on it; gone when dropped.
#[derive(Debug)]
pub struct Network {
    /// Of the form `tide-c<process id>`: whoever finds it can tell whether it
    /// is still of use.
    name: String,
    subnet: u8,
    hosts: AtomicU8,
}

/// A network namespace with an address; gone when dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    link: String,
    address: Ipv4Addr,
}

impl Network {
    /// Why this machine cannot have one, if so.
    pub fn obstacle() -> Option<String> {
        for tool in ["ip", "iptables", "nsenter", "tc"] {
            match Command::new(tool).arg("-V").output() {
                Ok(_) => {}
                Err(error) => return Some(format!("{tool}: {error}")),
            }
        }
        let tried = Command::new("unshare")
            .args(["--net", "iptables", "-w", "-S"])
            .output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// A bridge of which this machine has address 254.
    pub fn up() -> Self {
        remove_leftovers();
        let name = format!("{PREFIX}{}", std::process::id());
        let subnet = (1..=250)
            .find(|n| {
                let routes = run("ip", &["-o", "route", "show", &format!("10.78.{n}.0/24")]);
                routes.stdout.is_empty()
            })
            .expect("a free network of 10.78.0.0/16");
        must("ip", &["link", "add", "name", &name, "type", "bridge"]);
        let network = Self {
            name,
            subnet,
            hosts: AtomicU8::new(0),
        };
        let address = format!("{}/24", network.address());
        must("ip", &["address", "add", &address, "dev", &network.name]);
        must("ip", &["link", "set", &network.name, "up"]);
        network
    }

    /// This machine's address, for servers.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, self.subnet, 254)
    }

    /// A new host.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(number < 250, "too many hosts");
        let name = format!("{}-{number}", self.name);
        let host = Host {
            link: format!("tc{number}-{}", self.name.trim_start_matches(PREFIX)),
            address: Ipv4Addr::new(10, 78, self.subnet, number),
            name,
        };
        must("ip", &["netns", "add", &host.name]);
        must(
            "ip",
            &[
                "link", "add", &host.link, "type", "veth", "peer", "name", "eth0", "netns", &host.name,
            ],
        );
        must("ip", &["link", "set", &host.link, "master", &self.name, "up"]);
        let address = format!("{}/24", host.address);
        for command in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &address, "dev", "eth0"],
            &["link", "set", "eth0", "up"],
        ] {
            host.inside("ip", command);
        }
        host
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        run("ip", &["link", "delete", &self.name]);
    }
}

impl Host {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs a program there; the program keeps the process id.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(program);
        command
    }

    /// Drops what it exchanges with these TCP ports of servers, without a word
    /// to either side.
    pub fn cut(&self, way: Way, ports: &[u16]) {
        for port in ports.iter().map(ToString::to_string) {
            if way != Way::In {
                self.rule("OUTPUT", "--dport", &port);
            }
            if way != Way::Out {
                self.rule("INPUT", "--sport", &port);
            }
        }
    }

    fn rule(&self, chain: &str, side: &str, port: &str) {
        self.inside(
            "iptables",
            &["-w", "-A", chain, "-p", "tcp", side, port, "-j", "DROP"],
        );
    }

    /// Lets through only so many kbit/s each way, as a bad line does.
    pub fn slow(&self, kbits: u32) {
        let rate = format!("{kbits}kbit");
        let limit = |link| {
            [
                "qdisc", "replace", "dev", link, "root", "tbf", "rate", &rate, "burst", "4kb", "latency",
                "300ms",
            ]
            .map(str::to_owned)
        };
        self.inside("tc", &limit("eth0").each_ref().map(String::as_str));
        must("tc", &limit(&self.link).each_ref().map(String::as_str));
    }

    /// Everything gets through again.
    pub fn mend(&self) {
        self.inside("iptables", &["-w", "-F"]);
        // Without one there is nothing to delete.
        run(
            "nsenter",
            &[&self.entry(), "tc", "qdisc", "delete", "dev", "eth0", "root"],
        );
        run("tc", &["qdisc", "delete", "dev", &self.link, "root"]);
    }

    fn entry(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }

    fn inside(&self, program: &str, arguments: &[&str]) {
        let entry = self.entry();
        let all: Vec<&str> = [entry.as_str(), program]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        must("nsenter", &all);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its end of the link may live on with a socket that is still closing.
        run("ip", &["link", "delete", &self.link]);
        run("ip", &["netns", "delete", &self.name]);
    }
}

/// What a process left behind that was killed.
fn remove_leftovers() {
    let left = |name: &str| {
        let pid = name
            .strip_prefix(PREFIX)?
            .split('-')
            .next()?
            .parse::<u32>()
            .ok()?;
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    };
    let namespaces = run("ip", &["netns", "list"]);
    for name in String::from_utf8_lossy(&namespaces.stdout)
        .lines()
        .filter_map(|l| l.split_whitespace().next())
    {
        if left(name).is_some() {
            run("ip", &["netns", "delete", name]);
        }
    }
    let links = run("ip", &["-brief", "link", "show", "type", "bridge"]);
    for name in String::from_utf8_lossy(&links.stdout)
        .lines()
        .filter_map(|l| l.split_whitespace().next())
    {
        if left(name).is_some() {
            run("ip", &["link", "delete", name]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn must(program: &str, arguments: &[&str]) {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
