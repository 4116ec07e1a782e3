//! Signals to the relay, by its process id.

use std::process::Command;

/// A signal as the program `kill` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// End in order.
    Term,
    /// End in order, as Ctrl-C asks for it.
    Interrupt,
    /// End without ado, as PostgreSQL's immediate shutdown is asked for.
    Quit,
    /// End at once.
    Kill,
    /// Freeze.
    Stop,
    /// Go on.
    Continue,
    /// What the program makes of it.
    User2,
}

pub(crate) fn send(pid: u32, signal: Signal) {
    let name = match signal {
        Signal::Term => "-TERM",
        Signal::Interrupt => "-INT",
        Signal::Quit => "-QUIT",
        Signal::Kill => "-KILL",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
        Signal::User2 => "-USR2",
    };
    let status = Command::new("kill")
        .arg(name)
        .arg(pid.to_string())
        .status()
        .unwrap();
    assert!(status.success(), "kill {name} {pid}: {status}");
}
